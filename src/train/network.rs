//! The network and its gradient, on one of this crate's backends.

use std::cell::Cell;

use crate::cpu::{CpuGraph, Tape};
use crate::error::Result;
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
        let [recorded, plain] = [(); 2].map(|()| Cell::new(None));
        Self::Gpu(Box::new(OnGpu { gpu: gpu.clone(), config: config.clone(), recorded, plain }))
    }

    /// F(x, t), (B, C, H, W).
    pub(super) async fn forward(
        &self,
        weights: &[f32],
        sample: &[f32],
        time: &[f32],
        labels: &[u32],
    ) -> Result<Vec<f32>> {
        match self {
            Self::Cpu(graph) => Ok(graph.forward(weights, sample, time, labels)),
            Self::Gpu(network) => network.forward(false, weights, sample, time, labels).await,
        }
    }

    /// [`Self::forward`] with a record for [`Self::gradient`].
    pub(super) async fn record(
        &self,
        weights: &[f32],
        sample: &[f32],
        time: &[f32],
        labels: &[u32],
    ) -> Result<(Vec<f32>, Record)> {
        match self {
            Self::Cpu(graph) => {
                let (output, tape) = graph.record(weights, sample, time, labels);
                Ok((output, Record::Cpu(tape)))
            }
            Self::Gpu(network) => {
                let output = network.forward(true, weights, sample, time, labels).await?;
                Ok((output, Record::Gpu))
            }
        }
    }

    /// The gradient of the weights, flat, for ∂L/∂F of the last recorded forward.
    pub(super) async fn gradient(&self, weights: &[f32], record: Record, outer: &[f32]) -> Result<Vec<f32>> {
        match (self, record) {
            (Self::Cpu(graph), Record::Cpu(tape)) => Ok(graph.gradient(weights, tape, outer)),
            (Self::Gpu(network), Record::Gpu) => {
                let mut recorded = network.recorded.take().expect("a forward was recorded");
                let gradient = recorded.gradient(outer).await;
                network.recorded.set(Some(recorded));
                gradient
            }
            _ => unreachable!("a record is of the network that made it"),
        }
    }
}

/// A network on a GPU, with buffers for forwards that are recorded and, apart from those, for others. They are made when they
/// are used.
pub(super) struct OnGpu {
    gpu: Gpu,
    config: UNetConfig,
    recorded: Cell<Option<GpuGradient>>,
    plain: Cell<Option<GpuGradient>>,
}

impl OnGpu {
    /// F(x, t), recorded or not; the buffers are out of their place meanwhile.
    async fn forward(
        &self,
        is_recorded: bool,
        weights: &[f32],
        sample: &[f32],
        time: &[f32],
        labels: &[u32],
    ) -> Result<Vec<f32>> {
        let place = if is_recorded { &self.recorded } else { &self.plain };
        let mut network = match place.take() {
            Some(network) => network,
            None if is_recorded => GpuGradient::new(&self.gpu, &self.config)?,
            None => GpuGradient::forward_only(&self.gpu, &self.config)?,
        };
        network.load(weights);
        let output = network.forward(sample, time, labels).await;
        place.set(Some(network));
        output
    }
}
