//! The U-Net under its scalings, with gradients: an EDM denoiser D(x, σ) or a consistency function f(x, σ).

#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

#[cfg(not(target_arch = "wasm32"))]
use crate::checkpoint::folder::ModelFolder;
use crate::consistency::rng::Generator;
use crate::consistency::schedule::Scalings;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::model::config::{SchedulerConfig, UNetConfig};
use crate::model::unet::{UNet, time_features};
use crate::train::images::{Images, weighted_sum};
use crate::train::network::{Record, TrainedNetwork};
use crate::train::ode::{karras_levels, multistep};
#[cfg(not(target_arch = "wasm32"))]
use crate::train::weights;

/// The backend of the network and its gradient. Losses and updates are computed on the CPU.
#[derive(Clone)]
pub enum Engine {
    /// [`crate::cpu`].
    Cpu,
    /// [`crate::gpu`].
    Gpu(Box<Gpu>),
}

/// The layers of a U-Net and its scheduler, without weights.
pub struct Denoiser {
    /// The architecture.
    pub config: UNetConfig,
    /// Noise levels and σ_data.
    pub scheduler: SchedulerConfig,
    unet: UNet,
    network: TrainedNetwork,
}

impl Denoiser {
    /// Makes the layers of a network.
    pub fn new(config: &UNetConfig, scheduler: &SchedulerConfig, engine: &Engine) -> Self {
        let unet = UNet::new(config);
        let network = match engine {
            Engine::Cpu => TrainedNetwork::on_cpu(config, &unet),
            Engine::Gpu(gpu) => TrainedNetwork::on_gpu(config, gpu),
        };
        Self { config: config.clone(), scheduler: scheduler.clone(), unet, network }
    }

    /// Reads a model folder: the denoiser and its weights, in the order of [`UNet::parameters`].
    ///
    /// # Errors
    /// Those of [`ModelFolder`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(folder: &Path, engine: &Engine) -> Result<(Self, Vec<f32>)> {
        let folder = ModelFolder::open(folder)?;
        let denoiser = Self::new(&folder.unet, &folder.scheduler, engine);
        let weights = weights::read(&folder, &denoiser.unet.parameters())?;
        Ok((denoiser, weights))
    }

    /// The layers.
    pub fn unet(&self) -> &UNet {
        &self.unet
    }

    /// The shape of `batch` images.
    pub fn shape(&self, batch: usize) -> [usize; 4] {
        let [height, width] = self.config.sample_size;
        [batch, self.config.in_channels, height, width]
    }

    /// c_skip·x + c_out·F(c_in·x, c_noise), one noise level per sample; `scalings` makes it f(x, σ)
    /// ([`Scalings::new`]) or an EDM denoiser D(x, σ) ([`Scalings::edm`]).
    ///
    /// # Errors
    /// [`crate::Error::Gpu`], of a GPU alone.
    pub async fn call(
        &self,
        weights: &[f32],
        scalings: fn(&SchedulerConfig, f64) -> Scalings,
        x: &Images,
        sigma: &[f64],
        labels: &[u32],
    ) -> Result<Images> {
        let scaled = Scaled::new(self, scalings, x, sigma);
        Ok(scaled.output(x, self.network.forward(weights, &scaled.input.values, &scaled.time, labels).await?))
    }

    /// The bare network F(x, t), one time per sample.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`], of a GPU alone.
    pub async fn forward(&self, weights: &[f32], x: &[f32], times: &[f32], labels: &[u32]) -> Result<Vec<f32>> {
        self.network.forward(weights, x, &time_features(&self.config, times), labels).await
    }

    /// σ·z for `batch` images, z normal numbers from `seed`.
    pub(super) fn noise(&self, batch: usize, sigma: f64, seed: u64) -> Images {
        let z = Images::normal(self.shape(batch), &mut Generator::new(seed));
        weighted_sum([(&z, &vec![sigma; batch])])
    }

    /// Draws one sample per label, (B, C, H, W) in about [−1, 1], of an EDM denoiser: its ODE from noise of `seed` on `levels`
    /// Karras levels, one call per level.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`], of a GPU alone.
    pub async fn solve(&self, weights: &[f32], labels: &[u32], seed: u64, levels: usize) -> Result<Vec<f32>> {
        let sigmas = karras_levels(&self.scheduler, levels);
        let x = self.noise(labels.len(), sigmas[0], seed);
        let denoiser =
            async |x: &Images, sigma: &[f64]| Ok(self.clip(self.call(weights, Scalings::edm, x, sigma, labels).await?));
        Ok(multistep(denoiser, x, &sigmas).await?.1.values)
    }

    /// [`Self::call`], and what [`Self::gradient`] needs of it.
    pub(super) async fn record(
        &self,
        weights: &[f32],
        scalings: fn(&SchedulerConfig, f64) -> Scalings,
        x: &Images,
        sigma: &[f64],
        labels: &[u32],
    ) -> Result<(Images, Recorded)> {
        let scaled = Scaled::new(self, scalings, x, sigma);
        let (output, record) = self.network.record(weights, &scaled.input.values, &scaled.time, labels).await?;
        let output = scaled.output(x, output);
        Ok((output, Recorded { record, c_out: scaled.c_out }))
    }

    /// ∂loss/∂weights for ∂loss/∂output, where `recorded` is of the last call of [`Self::record`], with the same weights.
    pub(super) async fn gradient(&self, weights: &[f32], recorded: Recorded, outer: &Images) -> Result<Vec<f32>> {
        // ∂output/∂F is c_out.
        let of_network = weighted_sum([(outer, &recorded.c_out)]);
        self.network.gradient(weights, recorded.record, &of_network.values).await
    }

    /// Images clamped to ±1 if the scheduler clips.
    pub(super) fn clip(&self, denoised: Images) -> Images {
        match self.scheduler.clip_denoised {
            true => denoised.map(|v| v.clamp(-1.0, 1.0)),
            false => denoised,
        }
    }
}

/// A forward that was recorded for its gradient.
pub(super) struct Recorded {
    record: Record,
    c_out: Vec<f64>,
}

/// The network's arguments for x at σ, and the factors of its output.
struct Scaled {
    /// c_in·x.
    input: Images,
    time: Vec<f32>,
    c_out: Vec<f64>,
    c_skip: Vec<f64>,
}

impl Scaled {
    fn new(denoiser: &Denoiser, scalings: fn(&SchedulerConfig, f64) -> Scalings, x: &Images, sigma: &[f64]) -> Self {
        let scalings: Vec<Scalings> = sigma.iter().map(|&s| scalings(&denoiser.scheduler, s)).collect();
        let factors = |of: fn(&Scalings) -> f64| scalings.iter().map(of).collect::<Vec<f64>>();
        let times: Vec<f32> = scalings.iter().map(|s| s.c_noise as f32).collect();
        Self {
            input: weighted_sum([(x, &factors(|s| s.c_in))]),
            time: time_features(&denoiser.config, &times),
            c_out: factors(|s| s.c_out),
            c_skip: factors(|s| s.c_skip),
        }
    }

    /// c_skip·x + c_out·F.
    fn output(&self, x: &Images, network: Vec<f32>) -> Images {
        weighted_sum([(&Images::new(x.shape, network), &self.c_out), (x, &self.c_skip)])
    }
}
