//! Where a command finds its model, and the device that runs it.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::file::check_writable;
use consistency_sampler::{AnyNetwork, Device, Error, Pipeline, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::console::note;
use crate::files::whole;

/// The model and the device of a command.
#[derive(Args)]
pub struct ModelArguments {
    /// The model: a folder in the diffusers layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,

    /// The device that computes; by default the GPU if there is a real one, else the CPU
    #[arg(long, value_enum)]
    device: Option<DeviceName>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DeviceName {
    /// This crate's WebGPU plan, through wgpu
    Gpu,
    /// This crate's kernels on the CPU
    Cpu,
}

impl ModelArguments {
    /// Where the model is.
    #[cfg(feature = "train")]
    pub fn path(&self) -> &Path {
        &self.model
    }

    /// Reads the folder's configuration.
    pub fn folder(&self) -> Result<ModelFolder> {
        ModelFolder::open(&self.model)
    }

    /// Checks, before anything is computed for it, that a file of results can be written and is none of the model.
    pub fn check_output(&self, file: &Path) -> Result<()> {
        if whole(file).starts_with(whole(&self.model.join("unet"))) {
            let m = "lies among the model's weights: name another place";
            return Err(Error::Input(format!("--output: {} {m}", file.display())));
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
