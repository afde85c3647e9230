//! Where a command finds its model, and the device that runs it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::file::check_writable;
use consistency_sampler::{AnyNetwork, Device, Error, Hub, HubEvent, Pipeline, Precision, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::note;
use crate::files::whole;

/// The model and the device of a command.
#[derive(Args)]
pub struct ModelArguments {
    /// The model: a folder in the diffusers layout, or an id on the hub, owner/name or owner/name@revision
    #[arg(long, value_name = "MODEL")]
    model: PathBuf,

    #[command(flatten)]
    pub hub: HubArguments,

    /// The device that computes; by default the GPU if there is a real one, else the CPU
    #[arg(long, value_enum)]
    device: Option<DeviceName>,
}

/// How models by id are found.
#[derive(Args, Clone)]
pub struct HubArguments {
    /// Ask no hub: a model by id is taken from the cache
    #[arg(long)]
    offline: bool,
}

impl HubArguments {
    /// Opens a folder or a model by id, with a progress bar of its download. Of several precisions of the weights it takes
    /// that one, by default single precision of a folder and half precision of an id.
    pub fn open(&self, model: &Path, precision: Option<Precision>) -> Result<ModelFolder> {
        let bar = ProgressBar::new(0).with_style(style("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}"));
        let folder = Hub::from_env().offline(self.offline).open(model, precision, |event| match event {
            HubEvent::Bytes { file, done, total } => {
                bar.set_message(file.rsplit('/').next().unwrap_or(file).to_owned());
                bar.set_length(total);
                bar.set_position(done);
            }
            HubEvent::Notice(line) => bar.suspend(|| note(line)),
            _ => {}
        });
        bar.finish_and_clear();
        folder
    }
}

/// Which weights are read.
#[derive(Args)]
pub struct PrecisionArguments {
    /// The weights that are read, where the model has several [default: f16 of a model by id, f32 of a folder]
    #[arg(long, value_enum)]
    precision: Option<Bits>,
}

/// How weights are stored.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Bits {
    /// Single precision, as training writes it
    F32,
    /// Half precision, which diffusers reads too
    F16,
    /// 8 bits with a scale for each output channel
    Int8,
}

impl From<Bits> for Precision {
    fn from(bits: Bits) -> Self {
        match bits {
            Bits::F32 => Self::F32,
            Bits::F16 => Self::F16,
            Bits::Int8 => Self::I8,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeviceName {
    /// This crate's WebGPU plan, through wgpu
    Gpu,
    /// This crate's kernels on the CPU
    Cpu,
}

impl ModelArguments {
    /// Reads the model's configuration, after the download of what is missing of a model by id.
    pub fn folder(&self, precision: &PrecisionArguments) -> Result<ModelFolder> {
        self.hub.open(&self.model, precision.precision.map(Precision::from))
    }

    /// [`ModelArguments::folder`] for the weights in single precision, where the model has them.
    pub fn full_precision_folder(&self) -> Result<ModelFolder> {
        self.hub.open(&self.model, Some(Precision::F32))
    }

    /// The folder or the id.
    #[cfg(feature = "train")]
    pub fn name(&self) -> &Path {
        &self.model
    }

    /// Checks, before anything is computed for it, that an option's file of results can be written and is none of the model.
    pub fn check_output(&self, folder: &ModelFolder, option: &str, file: &Path) -> Result<()> {
        if whole(file).starts_with(whole(&folder.path().join("unet"))) {
            let m = "lies among the model's weights: name another place";
            return Err(Error::Input(format!("{option}: {} {m}", file.display())));
        }
        check_writable(file)
    }

    /// Loads the folder's weights, with a progress bar.
    pub fn pipeline(&self, folder: &ModelFolder) -> Result<Pipeline<AnyNetwork>> {
        let device = match self.device {
            None => Device::Auto,
            Some(DeviceName::Gpu) => Device::Gpu,
            Some(DeviceName::Cpu) => Device::Cpu,
        };
        let bar = ProgressBar::new(0).with_style(style("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}"));
        bar.set_message("weights");
        let mut pipeline = Pipeline::load(folder, device, |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        note(format_args!("device: {}", pipeline.network().device()));
        Ok(pipeline)
    }
}

/// A progress bar's look.
pub fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a template written here")
}
