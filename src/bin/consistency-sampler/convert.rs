//! `consistency-sampler convert`.

use std::path::PathBuf;

use clap::Args;
use consistency_sampler::checkpoint::convert;
use consistency_sampler::checkpoint::folder::{ModelFolder, weights_file};
use consistency_sampler::image::to_unit;
use consistency_sampler::{Request, Result};
use indicatif::ProgressBar;

use crate::console::print;
use crate::device::{Bits, ModelArguments, style};

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    /// The folder to write
    #[arg(long, value_name = "DIR")]
    output: PathBuf,

    /// How the weights are stored
    #[arg(long, value_enum)]
    precision: Bits,

    /// Compare so many pictures of both models, of one call each; 0: only the weights
    #[arg(long, value_name = "N", default_value_t = 8)]
    samples: usize,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let precision = arguments.precision.into();
    let folder = arguments.model.full_precision_folder()?;
    let bar = ProgressBar::new(0).with_style(style("converting {wide_bar} {bytes}/{total_bytes}"));
    let mut read = 0;
    let report = convert::convert(&folder, &arguments.output, precision, |done, total| {
        read = total;
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let (worst, error) = &report.worst;
    let (file, bytes) = (arguments.output.join(weights_file(precision)), report.bytes);
    print(format_args!("{}: {bytes} bytes, before {read}", file.display()))?;
    let all = report.relative_error;
    print(format_args!("error of the weights: {all:.2e} of their size; the largest {error:.2e}, of {worst}"))?;
    if arguments.samples > 0 {
        let before = pictures(arguments, &folder)?;
        let after = pictures(arguments, &ModelFolder::open(&arguments.output)?.preferring(precision))?;
        let psnr = psnr(&before, &after);
        let count = arguments.samples;
        print(format_args!("{count} pictures of one call each: PSNR {psnr:.1} dB against the model before"))?;
    }
    Ok(())
}

/// Samples in [0, 1], the same noise and classes for both models.
fn pictures(arguments: &Arguments, folder: &ModelFolder) -> Result<Vec<f32>> {
    let request = Request { batch: arguments.samples, ..Default::default() };
    let mut pipeline = arguments.model.pipeline(folder)?;
    Ok(pollster::block_on(pipeline.sample(&request))?.iter().map(|&v| to_unit(v)).collect())
}

/// 10·log₁₀(1 / mean square difference), in decibels, of values in [0, 1].
fn psnr(a: &[f32], b: &[f32]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    10.0 * (a.len() as f64 / squares).log10()
}
