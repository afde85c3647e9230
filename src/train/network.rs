//! The network and its gradient, on one of this crate's backends.

use std::cell::RefCell;

use crate::cpu::{CpuGraph, Tape};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, GpuGradient};
use crate::model::config::UNetConfig;
use crate::model::unet::UNet;

/// The operations of a network without weights, which come flat, in the order of `UNet::parameters`.
pub(super) enum TrainedNetwork {
    Cpu(CpuGraph),
    Gpu(Box<OnGpu>),
}

/// What the gradient needs of a forward.
pub(super) enum Record {
    Cpu(Tape),
    /// It is on the device, until the next forward that is recorded.
    Gpu,
}

impl TrainedNetwork {
    pub(super) fn on_cpu(config: &UNetConfig, unet: &UNet) -> Self {
        Self::Cpu(CpuGraph::new(config, unet))
    }

    pub(super) fn on_gpu(config: &UNetConfig, gpu: &Gpu) -> Self {
        let [recorded, plain] = [(); 2].map(|()| RefCell::new(None));
        Self::Gpu(Box::new(OnGpu {
            gpu: gpu.clone(),
            config: config.clone(),
            recorded,
            plain,
            fault: RefCell::new(None),
        }))
    }

    /// The first error that the device has reported since the last call. What was computed since is not a number.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(network) => network.fault.take().map_or(Ok(()), Err),
        }
    }

    /// F(x, t), (B, C, H, W).
    pub(super) fn forward(&self, weights: &[f32], sample: &[f32], time: &[f32], labels: &[u32]) -> Vec<f32> {
        match self {
            Self::Cpu(graph) => graph.forward(weights, sample, time, labels),
            Self::Gpu(network) => network.forward(false, weights, sample, time, labels),
        }
    }

    /// [`Self::forward`] with a record for [`Self::gradient`].
    pub(super) fn record(&self, weights: &[f32], sample: &[f32], time: &[f32], labels: &[u32]) -> (Vec<f32>, Record) {
        match self {
            Self::Cpu(graph) => {
                let (output, tape) = graph.record(weights, sample, time, labels);
                (output, Record::Cpu(tape))
            }
            Self::Gpu(network) => (network.forward(true, weights, sample, time, labels), Record::Gpu),
        }
    }

    /// The gradient of the weights, flat, for ∂L/∂F of the last recorded forward.
    pub(super) fn gradient(&self, weights: &[f32], record: Record, outer: &[f32]) -> Vec<f32> {
        match (self, record) {
            (Self::Cpu(graph), Record::Cpu(tape)) => graph.gradient(weights, tape, outer),
            (Self::Gpu(network), Record::Gpu) => network.gradient(weights.len(), outer),
            _ => unreachable!("a record is of the network that made it"),
        }
    }
}

/// A network on a GPU, with buffers for forwards that are recorded and, apart from those, for others. They are made when they
/// are used.
pub(super) struct OnGpu {
    gpu: Gpu,
    config: UNetConfig,
    recorded: RefCell<Option<GpuGradient>>,
    plain: RefCell<Option<GpuGradient>>,
    fault: RefCell<Option<Error>>,
}

impl OnGpu {
    fn forward(&self, is_recorded: bool, weights: &[f32], sample: &[f32], time: &[f32], labels: &[u32]) -> Vec<f32> {
        let mut slot = if is_recorded { self.recorded.borrow_mut() } else { self.plain.borrow_mut() };
        let made = match slot.take() {
            Some(network) => Ok(network),
            None if is_recorded => GpuGradient::new(&self.gpu, &self.config),
            None => GpuGradient::forward_only(&self.gpu, &self.config),
        };
        let result = made.and_then(|network| {
            let network = slot.insert(network);
            network.load(weights);
            pollster::block_on(network.forward(sample, time, labels))
        });
        self.settle(result, sample.len())
    }

    fn gradient(&self, count: usize, outer: &[f32]) -> Vec<f32> {
        let result = match self.recorded.borrow_mut().as_mut() {
            Some(network) if self.fault.borrow().is_none() => pollster::block_on(network.gradient(outer)),
            _ => Ok(vec![f32::NAN; count]),
        };
        self.settle(result, count)
    }

    /// Keeps an error for the end of the iteration: losses are functions of images, which cannot fail.
    fn settle(&self, result: Result<Vec<f32>>, count: usize) -> Vec<f32> {
        result.unwrap_or_else(|error| {
            self.fault.borrow_mut().get_or_insert(error);
            vec![f32::NAN; count]
        })
    }
}
