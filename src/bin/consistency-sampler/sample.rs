//! `consistency-sampler sample`.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use consistency_sampler::{BatchNoise, Noise, Request, Result};
use indicatif::ProgressBar;

use crate::console::print;
use crate::device::{ModelArguments, PrecisionArguments, style};
use crate::files::PictureFile;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    precision: PrecisionArguments,

    /// Seed of all noise, with the meaning of torch.manual_seed
    #[arg(long, default_value = "0", allow_hyphen_values = true, value_parser = seed)]
    seed: u64,

    /// Number of samples
    #[arg(long, value_name = "B", default_value_t = 1)]
    batch: usize,

    /// Class of each sample, or one for all; by default drawn from the seed
    #[arg(long, value_name = "L,…", value_delimiter = ',')]
    class_labels: Option<Vec<u32>>,

    /// Number of evenly spaced network calls [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "timesteps")]
    num_inference_steps: Option<usize>,

    /// Explicit timesteps as diffusers takes them: descending, 0 (σ_max) last, e.g. 22,0
    #[arg(long, value_name = "T,…", value_delimiter = ',')]
    timesteps: Option<Vec<usize>>,

    /// Another seed, whose noise is mixed in: variations of a sample, or interpolation between two
    #[arg(long, value_name = "S", allow_hyphen_values = true, value_parser = seed, requires = "blend_amount")]
    blend_seed: Option<u64>,

    /// How much of the other seed's noise, from 0 (none) to 1 (nothing else)
    #[arg(long, value_name = "A", allow_hyphen_values = true, requires = "blend_seed")]
    blend_amount: Option<f64>,

    /// Samples in a row of the PNG [default: as many as make it about square]
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    columns: Option<usize>,

    /// A .png (a grid of the samples) or a .safetensors (`images` [B,C,H,W] in [0,1]) [default: samples-SEED.png, or the next
    /// such name that is free]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// The first of `samples-7.png`, `samples-7-2.png`, … that is not there.
fn free_name(seed: u64) -> PathBuf {
    let names = (2..).map(|n| format!("samples-{seed}-{n}.png"));
    let mut names = std::iter::once(format!("samples-{seed}.png")).chain(names).map(PathBuf::from);
    names.find(|name| !name.exists()).expect("some name is free")
}

/// PyTorch takes seeds from −2⁶³ to 2⁶⁴ − 1 and lets negative ones wrap around.
pub fn seed(text: &str) -> std::result::Result<u64, String> {
    let wrapped = || text.parse::<i64>().map(|s| s as u64);
    text.parse().or_else(|_| wrapped()).map_err(|_| "expected a whole number of at most 64 bits".into())
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let output = arguments.output.clone().unwrap_or_else(|| free_name(arguments.seed));
    let file = PictureFile::of(&output)?;
    let folder = arguments.model.folder(&arguments.precision)?;
    let own = Noise::Seed(arguments.seed);
    let noise = match arguments.blend_seed.zip(arguments.blend_amount) {
        Some((seed, amount)) => Noise::between(own, Noise::Seed(seed), amount),
        None => own,
    };
    let request = Request {
        noise: BatchNoise::Shared(noise),
        batch: arguments.batch,
        class_labels: arguments.class_labels.clone(),
        timesteps: arguments.timesteps.clone(),
        num_inference_steps: arguments.num_inference_steps,
    };
    // A wrong request is refused before the weights are read.
    let schedule = request.schedule(&folder.scheduler)?;
    let labels = request.labels(&folder.unet)?;
    drop(request.noise.generator(1, 1)?);
    arguments.model.check_output(&folder, "--output", &output)?;

    let mut pipeline = arguments.model.pipeline(&folder)?;
    let bar = ProgressBar::new(schedule.steps.len() as u64)
        .with_style(style("sampling {wide_bar} {pos}/{len} network calls, {elapsed}"));
    bar.tick();
    let begin = Instant::now();
    let samples = pollster::block_on(pipeline.sample_with(&request, |_| {
        bar.inc(1);
        ControlFlow::Continue(())
    }))?;
    bar.finish_and_clear();

    let [height, width] = folder.unet.sample_size;
    let shape = [request.batch, folder.unet.in_channels, height, width];
    let square = || (1..).find(|n| n * n >= request.batch).expect("some square is large enough");
    let columns = arguments.columns.unwrap_or_else(square);
    file.write(&output, shape, columns, &samples)?;
    let classes = if labels.is_empty() { String::new() } else { format!(", classes {labels:?}") };
    let (calls, seconds) = (schedule.steps.len(), begin.elapsed().as_secs_f64());
    let (output, batch) = (output.display(), request.batch);
    print(format_args!("{output}: {batch} × {calls} network calls in {seconds:.2} s{classes}"))
}
