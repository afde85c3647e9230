//! `consistency-sampler forward`.

use std::path::PathBuf;

use clap::Args;
use consistency_sampler::network::ForwardInput;
use consistency_sampler::{Error, Result};
use safetensors::Dtype;

use crate::device::{ModelArguments, PrecisionArguments};
use crate::files::{Tensor, read_tensors, write_tensor};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    precision: PrecisionArguments,

    /// A safetensors file: `sample` [B,C,H,W] f32, `timestep` [B] or [1] f32, `class_labels` [B] i64 if the model has
    /// classes
    #[arg(long, value_name = "FILE")]
    input: PathBuf,

    /// The safetensors file to write: `sample` [B,C,H,W] f32
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let mut folder = arguments.model.folder(&arguments.precision)?;
    let names = ["sample", "timestep", "class_labels"];
    let [sample, timestep, class_labels] = read_tensors(&arguments.input, names)?;
    let in_file = |m: String| Error::Input(format!("{}: {m}", arguments.input.display()));
    let required = |name: &str, tensor: Option<Tensor>| {
        tensor.ok_or_else(|| in_file(format!("expected a tensor \"{name}\", found none")))
    };
    let sample = required("sample", sample)?;
    let &[batch, channels, height, width] = sample.shape.as_slice() else {
        return Err(in_file(format!("sample: expected shape [B, C, H, W], found {:?}", sample.shape)));
    };
    folder.unet = folder.unet.with_sample_size([height, width])?;
    let config = &folder.unet;
    if channels != config.in_channels {
        return Err(in_file(format!("sample: expected {} channels, found {channels}", config.in_channels)));
    }
    let values = floats("sample", &sample).map_err(in_file)?;
    let timestep = required("timestep", timestep)?;
    let mut timesteps = floats("timestep", &timestep).map_err(in_file)?;
    if timesteps.len() == 1 {
        timesteps = vec![timesteps[0]; batch];
    }
    if timesteps.len() != batch {
        return Err(in_file(format!("timestep: expected {batch} values or one, found {}", timesteps.len())));
    }
    let labels = class_labels.map(|t| labels(&t)).transpose().map_err(in_file)?.unwrap_or_default();
    let input = ForwardInput { sample: &values, timestep: &timesteps, class_labels: &labels };
    input.check(config)?;
    arguments.model.check_output(&folder, "--output", &arguments.output)?;

    let mut pipeline = arguments.model.pipeline(&folder)?;
    let output = pollster::block_on(pipeline.forward(input))?;
    write_tensor(&arguments.output, "sample", &sample.shape, &output)
}

fn floats(name: &str, tensor: &Tensor) -> Result<Vec<f32>, String> {
    match tensor.dtype {
        Dtype::F32 => Ok(tensor.bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()),
        other => Err(format!("{name}: expected dtype F32, found {other:?}")),
    }
}

fn labels(tensor: &Tensor) -> Result<Vec<u32>, String> {
    let numbers: Vec<i64> = match tensor.dtype {
        Dtype::I64 => tensor.bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b)).collect(),
        Dtype::I32 => tensor.bytes.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b).into()).collect(),
        other => return Err(format!("class_labels: expected dtype I64, found {other:?}")),
    };
    let label = |&n: &i64| u32::try_from(n).map_err(|_| format!("class_labels: expected 0 or more, found {n}"));
    numbers.iter().map(label).collect()
}
