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
            Self::Gpu(network) => {
                let plain = network.plain.take().map_or_else(|| network.forward_only(), Ok)?;
                let mut plain = Returned { network: Some(plain), to: &network.plain };
                plain.forward(weights, sample, time, labels).await
            }
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
                let recorded = network.recorded.take().map_or_else(|| network.with_gradient(), Ok)?;
                let mut recorded = Returned { network: Some(recorded), to: &network.recorded };
                Ok((recorded.forward(weights, sample, time, labels).await?, Record::Gpu))
            }
        }
    }

    /// The gradient of the weights, flat, for ∂L/∂F of the last recorded forward.
    pub(super) async fn gradient(&self, weights: &[f32], record: Record, outer: &[f32]) -> Result<Vec<f32>> {
        match (self, record) {
            (Self::Cpu(graph), Record::Cpu(tape)) => Ok(graph.gradient(weights, tape, outer)),
            (Self::Gpu(network), Record::Gpu) => {
                let recorded = network.recorded.take().expect("a forward was recorded");
                let mut recorded = Returned { network: Some(recorded), to: &network.recorded };
                recorded.network.as_mut().expect("taken at the end").gradient(outer).await
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
    fn forward_only(&self) -> Result<GpuGradient> {
        GpuGradient::forward_only(&self.gpu, &self.config)
    }

    fn with_gradient(&self) -> Result<GpuGradient> {
        GpuGradient::new(&self.gpu, &self.config)
    }
}

/// A network that goes back to its place at the end of a call.
struct Returned<'a> {
    network: Option<GpuGradient>,
    to: &'a Cell<Option<GpuGradient>>,
}

impl Returned<'_> {
    async fn forward(&mut self, weights: &[f32], sample: &[f32], time: &[f32], labels: &[u32]) -> Result<Vec<f32>> {
        let network = self.network.as_mut().expect("taken at the end");
        network.load(weights);
        network.forward(sample, time, labels).await
    }
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        self.to.set(self.network.take());
    }
}
