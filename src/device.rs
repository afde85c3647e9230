//! Pipelines from folders on disk, on the device that a caller chooses.

use std::path::Path;

use crate::checkpoint::folder::ModelFolder;
use crate::checkpoint::tensor::Arrival;
use crate::consistency::sampler::ConsistencyFunction;
use crate::consistency::schedule::Step;
#[cfg(feature = "cpu")]
use crate::cpu::CpuUNet;
use crate::error::Result;
#[cfg(feature = "gpu")]
use crate::gpu::{Gpu, GpuUNet};
use crate::model::config::UNetConfig;
use crate::network::{ForwardInput, Network, Watch};
use crate::pipeline::Pipeline;

/// The device that computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Device {
    /// The GPU if there is a real one, else the CPU. Without feature `cpu`, any GPU, be it a software one.
    #[default]
    Auto,
    /// The fastest GPU, through WebGPU.
    #[cfg(feature = "gpu")]
    Gpu,
    /// The CPU, on all its cores.
    #[cfg(feature = "cpu")]
    Cpu,
}

/// The network of a pipeline that [`Pipeline::open`] makes.
pub enum AnyNetwork {
    /// On a GPU.
    #[cfg(feature = "gpu")]
    Gpu(Box<GpuUNet>),
    /// On the CPU.
    #[cfg(feature = "cpu")]
    Cpu(Box<CpuUNet>),
}

impl Pipeline<AnyNetwork> {
    /// Opens a folder in the diffusers layout (`model_index.json`, `unet/`, `scheduler/`) and loads its weights.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::Config`] and [`crate::Error::Weights`] for what is missing or wrong in the
    /// folder, [`crate::Error::Gpu`] when the device is missing or too small.
    pub fn open(path: impl AsRef<Path>, device: Device) -> Result<Self> {
        Self::load(&ModelFolder::open(path.as_ref())?, device, |_, _| {})
    }

    /// Opens a folder, if there is one with that path, else the model with that id on the hub, `owner/name` or
    /// `owner/name@revision`, and loads its weights. What the cache lacks is downloaded; [`crate::Hub`] has the rules.
    ///
    /// # Errors
    /// Those of [`Pipeline::open`] and of [`crate::Hub::open`].
    #[cfg(feature = "hub")]
    pub fn from_pretrained(model: impl AsRef<Path>, device: Device) -> Result<Self> {
        Self::load(&crate::hub::Hub::from_env().open(model, None, |_| {})?, device, |_, _| {})
    }

    /// [`Pipeline::open`] for a folder that was opened before. `progress` gets the bytes of weights read so far and the
    /// total.
    ///
    /// # Errors
    /// Those of [`Pipeline::open`].
    pub fn load(folder: &ModelFolder, device: Device, progress: impl FnMut(u64, u64)) -> Result<Self> {
        let mut network = AnyNetwork::new(&folder.unet, device)?;
        folder.load_into(&mut network, progress)?;
        Ok(Self::new(network, folder.scheduler.clone()))
    }
}

impl AnyNetwork {
    /// A network without weights.
    fn new(config: &UNetConfig, device: Device) -> Result<Self> {
        #[cfg(feature = "gpu")]
        let on = |gpu: Gpu| GpuUNet::new(&gpu, config).map(|network| Self::Gpu(Box::new(network)));
        #[cfg(feature = "gpu")]
        let request = || pollster::block_on(Gpu::request());
        #[cfg(feature = "cpu")]
        let on_cpu = || Ok(Self::Cpu(Box::new(CpuUNet::new(config))));
        match device {
            #[cfg(feature = "gpu")]
            Device::Gpu => on(request()?),
            #[cfg(feature = "cpu")]
            Device::Cpu => on_cpu(),
            #[cfg(all(feature = "gpu", feature = "cpu"))]
            Device::Auto => match request() {
                Ok(gpu) if !gpu.is_software() => on(gpu),
                _ => on_cpu(),
            },
            #[cfg(all(feature = "gpu", not(feature = "cpu")))]
            Device::Auto => on(request()?),
            #[cfg(all(feature = "cpu", not(feature = "gpu")))]
            Device::Auto => on_cpu(),
        }
    }

    /// The name of the device, for people.
    pub fn device(&self) -> &str {
        match self {
            #[cfg(feature = "gpu")]
            Self::Gpu(network) => network.gpu().description(),
            #[cfg(feature = "cpu")]
            Self::Cpu(_) => "CPU",
        }
    }
}

/// Calls the same method of whichever network it is.
macro_rules! either {
    ($self:expr, $network:ident => $call:expr) => {
        match $self {
            #[cfg(feature = "gpu")]
            AnyNetwork::Gpu($network) => $call,
            #[cfg(feature = "cpu")]
            AnyNetwork::Cpu($network) => $call,
        }
    };
}

impl ConsistencyFunction for AnyNetwork {
    async fn denoise(&mut self, x: &[f32], step: &Step, labels: &[u32]) -> Result<Vec<f32>> {
        either!(self, network => network.denoise(x, step, labels).await)
    }
}

impl Network for AnyNetwork {
    fn config(&self) -> &UNetConfig {
        either!(self, network => network.config())
    }

    fn watch(&self) -> Watch {
        either!(self, network => network.watch())
    }

    fn piece_granularity(&self, name: &str) -> Option<usize> {
        either!(self, network => network.piece_granularity(name))
    }

    fn load(&mut self, arrival: Arrival<'_>) -> Result<()> {
        either!(self, network => network.load(arrival))
    }

    async fn forward(&mut self, input: ForwardInput<'_>) -> Result<Vec<f32>> {
        either!(self, network => network.forward(input).await)
    }
}
