//! The U-Net under its scalings, with gradients: an EDM denoiser D(x, σ) or a consistency function f(x, σ).

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};

use crate::burn::{Labels, Weights, forward};
use crate::checkpoint::folder::ModelFolder;
use crate::consistency::schedule::Scalings;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::model::config::{SchedulerConfig, UNetConfig};
use crate::model::unet::{Parameter, UNet, time_features};
use crate::train::losses::column;
use crate::train::network::{Record, TrainedNetwork};
use crate::train::optimizer::gradients;

/// The backend of the network and its gradient.
#[derive(Clone)]
pub enum Engine {
    /// [`crate::cpu`]; the loss is computed by burn's flex backend.
    Cpu,
    /// [`crate::gpu`]; the loss is computed by burn's flex backend, where the weights are updated too.
    Gpu(Box<Gpu>),
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
    /// The network where burn does not compute it.
    network: Option<TrainedNetwork>,
}

impl Denoiser {
    /// Makes the layers of a network.
    pub fn new(config: &UNetConfig, scheduler: &SchedulerConfig, engine: &Engine) -> Self {
        let unet = UNet::new(config);
        let network = match engine {
            Engine::Cpu => Some(TrainedNetwork::on_cpu(config, &unet)),
            Engine::Gpu(gpu) => Some(TrainedNetwork::on_gpu(config, gpu)),
            Engine::Burn => None,
        };
        Self { config: config.clone(), scheduler: scheduler.clone(), unet, network }
    }

    /// Reads a model folder: the denoiser, and its weights as tensors on `device`.
    ///
    /// # Errors
    /// Those of [`ModelFolder`].
    pub fn read(folder: &Path, engine: &Engine, device: &Device) -> Result<(Self, Weights)> {
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
        self.precondition(scalings, x, sigma, labels, |input, time, labels| match &self.network {
            None => self.burn_forward(weights, input, time, labels),
            Some(network) => {
                let output = network.forward(&self.flatten(weights), &values(input), time, labels);
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
        let Some(network) = &self.network else { return (self.call(weights, scalings, x, sigma, labels), None) };
        let mut recorded = None;
        let output = self.precondition(scalings, x, sigma, labels, |input, time, labels| {
            let weights = self.flatten(weights);
            let (output, record) = network.record(&weights, &values(input), time, labels);
            let output = Tensor::<4>::from_data(TensorData::new(output, input.dims()), &input.device());
            let output = output.autodiff().require_grad();
            recorded = Some(Recorded { weights, record, output: output.clone() });
            output
        });
        (output, recorded)
    }

    /// ∂loss/∂weights, for each weight that the loss depends on.
    pub(super) fn gradients(&self, loss: &Tensor<1>, weights: &Weights, recorded: Option<Recorded>) -> Weights {
        let (Some(network), Some(Recorded { weights, record, output })) = (&self.network, recorded) else {
            return gradients(loss, weights);
        };
        let last = output.grad_remove(&mut loss.backward()).expect("the loss depends on the network");
        let flat = network.gradient(&weights, record, &values(&last));
        let mut rest = flat.as_slice();
        let gradient = |p: Parameter| {
            let (own, others) = rest.split_at(p.shape.iter().product());
            rest = others;
            (p.name, Tensor::from_data(TensorData::new(own.to_vec(), [own.len()]), &last.device()))
        };
        self.unet.parameters().into_iter().map(gradient).collect()
    }

    /// The first error of the network's device since the last check; what it computed since is not a number.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`], of a GPU alone.
    pub(super) fn check(&self) -> Result<()> {
        self.network.as_ref().map_or(Ok(()), TrainedNetwork::check)
    }

    /// Weights in the order of the parameters.
    fn flatten(&self, weights: &Weights) -> Vec<f32> {
        self.unet.parameters().iter().flat_map(|p| values(&weights[&p.name])).collect()
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

/// A forward that was recorded for its gradient.
pub(super) struct Recorded {
    weights: Vec<f32>,
    record: Record,
    /// F's output, a leaf of the loss's autodiff graph.
    output: Tensor<4>,
}

/// A tensor's values.
fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    let data = tensor.clone().without_autodiff().into_data();
    data.try_to_vec().expect("tensors are f32")
}
