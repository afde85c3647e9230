//! Which interpreter runs the network.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use consistency_sampler::Result;
use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::consistency::sampler::ConsistencyFunction;
use consistency_sampler::consistency::schedule::Step;
use consistency_sampler::cpu::CpuUNet;
use consistency_sampler::gpu::{Gpu, GpuUNet};
use consistency_sampler::model::config::UNetConfig;
use consistency_sampler::network::{ForwardInput, Network, Precision};
use indicatif::{ProgressBar, ProgressStyle};

/// Where a command finds its model, and what runs it.
#[derive(Args)]
pub struct ModelArguments {
    /// The model: a folder in the diffusers layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// What computes; by default the GPU if there is a real one, else the CPU
    #[arg(long, value_enum)]
    device: Option<Device>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Device {
    /// This crate's WebGPU plan, through wgpu
    Gpu,
    /// This crate's kernels on the CPU
    Cpu,
}

/// Either interpreter.
pub enum AnyNetwork {
    Gpu(Box<GpuUNet>),
    Cpu(Box<CpuUNet>),
}

impl ModelArguments {
    /// Where the model is.
    #[cfg(feature = "train")]
    pub fn path(&self) -> &std::path::Path {
        &self.model
    }

    /// Reads the folder's configuration.
    pub fn folder(&self) -> Result<ModelFolder> {
        ModelFolder::open(&self.model)
    }

    /// Loads the folder's weights, with a progress bar, into the network that `config` describes.
    pub fn network(&self, folder: &ModelFolder, config: &UNetConfig) -> Result<AnyNetwork> {
        let cpu = || AnyNetwork::Cpu(Box::new(CpuUNet::new(config)));
        let on_gpu = |gpu: Gpu| {
            eprintln!("device: {}", gpu.description());
            GpuUNet::new(&gpu, config).map(|network| AnyNetwork::Gpu(Box::new(network)))
        };
        let mut network = match self.device {
            Some(Device::Cpu) => cpu(),
            Some(Device::Gpu) => on_gpu(pollster::block_on(Gpu::request())?)?,
            None => match pollster::block_on(Gpu::request()) {
                Ok(gpu) if !gpu.is_software() => on_gpu(gpu)?,
                _ => cpu(),
            },
        };
        let bar = ProgressBar::new(0).with_style(style("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}"));
        bar.set_message("weights");
        let progress = |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        };
        folder.load_into(&mut network, progress)?;
        bar.finish_and_clear();
        Ok(network)
    }
}

/// A progress bar's look.
pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template written here")
}

impl ConsistencyFunction for AnyNetwork {
    fn set_state(&mut self, x: &[f32], labels: &[u32]) -> Result<()> {
        match self {
            Self::Gpu(n) => n.set_state(x, labels),
            Self::Cpu(n) => n.set_state(x, labels),
        }
    }

    async fn step(&mut self, step: &Step, clip: bool, z: &[f32]) -> Result<Vec<f32>> {
        match self {
            Self::Gpu(n) => n.step(step, clip, z).await,
            Self::Cpu(n) => n.step(step, clip, z).await,
        }
    }
}

impl Network for AnyNetwork {
    fn config(&self) -> &UNetConfig {
        match self {
            Self::Gpu(n) => n.config(),
            Self::Cpu(n) => n.config(),
        }
    }

    fn expect(&mut self, name: &str, precision: Precision) -> Result<()> {
        match self {
            Self::Gpu(n) => n.expect(name, precision),
            Self::Cpu(n) => n.expect(name, precision),
        }
    }

    fn load(&mut self, name: &str, values: &[f32]) -> Result<()> {
        match self {
            Self::Gpu(n) => n.load(name, values),
            Self::Cpu(n) => n.load(name, values),
        }
    }

    async fn forward(&mut self, input: ForwardInput<'_>) -> Result<Vec<f32>> {
        match self {
            Self::Gpu(n) => n.forward(input).await,
            Self::Cpu(n) => n.forward(input).await,
        }
    }
}
