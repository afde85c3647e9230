//! The U-Net under its scalings, with gradients: an EDM denoiser D(x, σ) or a consistency function f(x, σ).

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};

use crate::burn::{Labels, Weights, forward};
use crate::checkpoint::folder::ModelFolder;
use crate::consistency::schedule::Scalings;
use crate::cpu::{CpuGraph, Tape};
use crate::error::Result;
use crate::model::config::{SchedulerConfig, UNetConfig};
use crate::model::unet::{UNet, time_features};
use crate::train::losses::column;
use crate::train::optimizer::gradients;

/// The backend of the network and its gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// [`crate::cpu`]; the loss is computed by burn's flex backend.
    Cpu,
    /// burn's autodiff, on the weights' device.
    Burn,
}

/// The layers of a U-Net and its scheduler, without weights.
pub struct Denoiser {
    /// The architecture.
    pub config: UNetConfig,
    /// Noise levels and σ_data.
    pub scheduler: SchedulerConfig,
    unet: UNet,
    graph: Option<CpuGraph>,
}

impl Denoiser {
    /// Makes the layers of a network.
    pub fn new(config: &UNetConfig, scheduler: &SchedulerConfig, engine: Engine) -> Self {
        let unet = UNet::new(config);
        let graph = (engine == Engine::Cpu).then(|| CpuGraph::new(config, &unet));
        Self { config: config.clone(), scheduler: scheduler.clone(), unet, graph }
    }

    /// Reads a model folder: the denoiser, and its weights as tensors on `device`.
    ///
    /// # Errors
    /// Those of [`ModelFolder`].
    pub fn read(folder: &Path, engine: Engine, device: &Device) -> Result<(Self, Weights)> {
        let folder = ModelFolder::open(folder)?;
        let denoiser = Self::new(&folder.unet, &folder.scheduler, engine);
        let mut weights = Weights::new();
        folder.read_weights(&denoiser.unet.parameters(), |_, _| {}, &mut |name, values| {
            let tensor = Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device);
            weights.insert(name.to_owned(), tensor);
            Ok(())
        })?;
        Ok((denoiser, weights))
    }

    /// The layers.
    pub fn unet(&self) -> &UNet {
        &self.unet
    }

    /// c_skip·x + c_out·F(c_in·x, c_noise), one noise level per sample; `scalings` makes it f(x, σ)
    /// ([`Scalings::new`]) or an EDM denoiser D(x, σ) ([`Scalings::edm`]).
    ///
    /// Differentiable in tracked weights with [`Engine::Burn`] alone.
    pub fn call(
        &self,
        weights: &Weights,
        scalings: fn(&SchedulerConfig, f64) -> Scalings,
        x: &Tensor<4>,
        sigma: &[f64],
        labels: &[u32],
    ) -> Tensor<4> {
        self.precondition(scalings, x, sigma, labels, |input, time, labels| match &self.graph {
            None => self.burn_forward(weights, input, time, labels),
            Some(graph) => {
                let output = graph.forward(&flatten(graph, weights), &values(input), time, labels);
                Tensor::from_data(TensorData::new(output, input.dims()), &input.device())
            }
        })
    }

    /// Images clamped to ±1 if the scheduler clips.
    pub(super) fn clip(&self, denoised: Tensor<4>) -> Tensor<4> {
        match self.scheduler.clip_denoised {
            true => denoised.clamp(-1.0, 1.0),
            false => denoised,
        }
    }

    /// [`Self::call`], and what [`Self::gradients`] needs of it.
    pub(super) fn record(
        &self,
        weights: &Weights,
        scalings: fn(&SchedulerConfig, f64) -> Scalings,
        x: &Tensor<4>,
        sigma: &[f64],
        labels: &[u32],
    ) -> (Tensor<4>, Option<Recorded>) {
        let Some(graph) = &self.graph else { return (self.call(weights, scalings, x, sigma, labels), None) };
        let mut recorded = None;
        let output = self.precondition(scalings, x, sigma, labels, |input, time, labels| {
            let weights = flatten(graph, weights);
            let (output, tape) = graph.record(&weights, &values(input), time, labels);
            let output = Tensor::<4>::from_data(TensorData::new(output, input.dims()), &input.device());
            let output = output.autodiff().require_grad();
            recorded = Some(Recorded { weights, tape, output: output.clone() });
            output
        });
        (output, recorded)
    }

    /// ∂loss/∂weights, for each weight that the loss depends on.
    pub(super) fn gradients(&self, loss: &Tensor<1>, weights: &Weights, recorded: Option<Recorded>) -> Weights {
        let (Some(graph), Some(Recorded { weights, tape, output })) = (&self.graph, recorded) else {
            return gradients(loss, weights);
        };
        let last = output.grad_remove(&mut loss.backward()).expect("the loss depends on the network");
        let flat = graph.gradient(&weights, tape, &values(&last));
        let gradient = |name: &str| {
            let values = flat[graph.place(name)].to_vec();
            let length = values.len();
            Tensor::from_data(TensorData::new(values, [length]), &last.device())
        };
        graph.parameters().iter().map(|p| (p.name.clone(), gradient(&p.name))).collect()
    }

    fn burn_forward(&self, weights: &Weights, input: &Tensor<4>, time: &[f32], labels: &[u32]) -> Tensor<4> {
        let device = input.device();
        let batch = input.dims()[0];
        let features = TensorData::new(time.to_vec(), [batch, self.config.block_out_channels[0]]);
        let labels = self.config.num_class_embeds.map(|_| Labels::new(labels, &device));
        let output = forward(&self.unet, weights, input, &Tensor::from_data(features, &device), labels.as_ref());
        // The reshapes prevent a fusion that burn 0.22.1 gets wrong: of a convolution's output of one channel with
        // broadcast sums.
        let dims = output.dims();
        output.flatten::<2>(1, 3).reshape(dims)
    }

    fn precondition(
        &self,
        scalings: fn(&SchedulerConfig, f64) -> Scalings,
        x: &Tensor<4>,
        sigma: &[f64],
        labels: &[u32],
        network: impl FnOnce(&Tensor<4>, &[f32], &[u32]) -> Tensor<4>,
    ) -> Tensor<4> {
        let device = x.device();
        let scalings: Vec<Scalings> = sigma.iter().map(|&s| scalings(&self.scheduler, s)).collect();
        let factor = |of: fn(&Scalings) -> f64| column(&scalings.iter().map(of).collect::<Vec<_>>(), &device);
        let times: Vec<f32> = scalings.iter().map(|s| s.c_noise as f32).collect();
        let output = network(&(x.clone() * factor(|s| s.c_in)), &time_features(&self.config, &times), labels);
        output * factor(|s| s.c_out) + x.clone() * factor(|s| s.c_skip)
    }
}

/// A forward that [`CpuGraph`] recorded for its gradient.
pub(super) struct Recorded {
    weights: Vec<f32>,
    tape: Tape,
    /// F's output, a leaf of the loss's autodiff graph.
    output: Tensor<4>,
}

/// A tensor's values.
fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let data = tensor.clone().without_autodiff().into_data();
    data.try_to_vec().expect("tensors are f32")
}

/// Weights in the order of `CpuGraph`.
fn flatten(graph: &CpuGraph, weights: &Weights) -> Vec<f32> {
    graph.parameters().iter().flat_map(|p| values(&weights[&p.name])).collect()
}
