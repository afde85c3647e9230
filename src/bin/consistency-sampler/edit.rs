//! `consistency-sampler edit`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use consistency_sampler::consistency::edit::STROKE_SIGMAS;
use consistency_sampler::model::config::UNetConfig;
use consistency_sampler::{Edit, EditRequest, Error, Request, Result, Task};

use crate::console::print;
use crate::device::{ModelArguments, PrecisionArguments};
use crate::files::{PictureFile, read_picture};
use crate::sample::seed;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    precision: PrecisionArguments,

    /// The kind of edit
    #[arg(long, value_enum)]
    kind: Kind,

    /// The picture, a PNG of the model's size
    #[arg(long, value_name = "PNG")]
    input: PathBuf,

    /// inpaint: white where pixels are to be generated, a PNG of the model's size
    #[arg(long, value_name = "PNG")]
    mask: Option<PathBuf>,

    /// super-resolution: pixels along a side of the patches whose means are kept
    #[arg(long, value_name = "P")]
    patch: Option<usize>,

    /// denoise: standard deviation of the noise in the picture, whose range is [−1, 1]. interpolate: of the noise under which
    /// the two pictures are mixed [default: 5.38]
    #[arg(long, value_name = "S")]
    sigma: Option<f64>,

    /// interpolate: the picture at the other end
    #[arg(long, value_name = "PNG")]
    to: Option<PathBuf>,

    /// Seed of all noise, with the meaning of torch.manual_seed
    #[arg(long, default_value = "0", allow_hyphen_values = true, value_parser = seed)]
    seed: u64,

    /// Number of different results; interpolate: of pictures from one end to the other [default: 1; interpolate: 8]
    #[arg(long, value_name = "B")]
    batch: Option<usize>,

    /// Class of each result, or one for all; by default drawn from the seed
    #[arg(long, value_name = "L,…", value_delimiter = ',')]
    class_labels: Option<Vec<u32>>,

    /// Number of evenly spaced network calls [default: 8; stroke: two, at σ 5.38 and 2.24]
    #[arg(long, value_name = "N", conflicts_with = "timesteps")]
    num_inference_steps: Option<usize>,

    /// Explicit timesteps as diffusers takes them: descending, the most noise last
    #[arg(long, value_name = "T,…", value_delimiter = ',')]
    timesteps: Option<Vec<usize>>,

    /// A .png (a grid of the results) or a .safetensors (`images` [B,C,H,W] in [0,1])
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Generate what a mask covers
    Inpaint,
    /// Generate colours, keep the luma
    Colorize,
    /// Generate detail, keep the means of patches
    SuperResolution,
    /// Generate a picture that follows rough strokes
    Stroke,
    /// Remove noise of a known level
    Denoise,
    /// Generate pictures between two
    Interpolate,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let file = PictureFile::of(&arguments.output)?;
    let folder = arguments.model.folder(&arguments.precision)?;
    let config = &folder.unet;
    let picture = read_picture(&arguments.input, config)?;
    arguments.check_options()?;
    let default = if arguments.kind == Kind::Interpolate { 8 } else { 1 };
    let batch = arguments.batch.unwrap_or(default);
    let request = Request {
        noise: arguments.seed.into(),
        batch,
        class_labels: arguments.class_labels.clone(),
        timesteps: arguments.timesteps.clone(),
        num_inference_steps: arguments.num_inference_steps,
    };
    let edit = EditRequest { task: arguments.task(config)?, picture, request };
    // A wrong request is refused before the weights are read.
    edit.schedule(config, &folder.scheduler)?;
    edit.request.labels(config)?;
    arguments.model.check_output(&folder, "--output", &arguments.output)?;

    let mut pipeline = arguments.model.pipeline(&folder)?;
    let images = pollster::block_on(pipeline.edit(&edit))?;

    let [height, width] = config.sample_size;
    let shape = [batch, config.in_channels, height, width];
    // From one end to the other in one row; other results in a square.
    let square = (1..).find(|n| n * n >= batch).expect("some square is large enough");
    let columns = if arguments.kind == Kind::Interpolate { batch } else { square };
    file.write(&arguments.output, shape, columns, &images)?;
    print(format_args!("{}: {batch} × {height}×{width}", arguments.output.display()))
}

impl Arguments {
    /// An option of another kind is a mistake that must not pass unseen.
    fn check_options(&self) -> Result<()> {
        let kind = self.kind.to_possible_value().expect("no kind is hidden");
        let kind = kind.get_name();
        let options = [
            ("--mask", self.mask.is_some(), [Some(Kind::Inpaint), None]),
            ("--patch", self.patch.is_some(), [Some(Kind::SuperResolution), None]),
            ("--sigma", self.sigma.is_some(), [Some(Kind::Denoise), Some(Kind::Interpolate)]),
            ("--to", self.to.is_some(), [Some(Kind::Interpolate), None]),
        ];
        if let Some((name, ..)) = options.iter().find(|(_, given, of)| *given && !of.contains(&Some(self.kind))) {
            return Err(Error::Input(format!("{name}: --kind {kind} has no such option")));
        }
        Ok(())
    }

    fn task(&self, config: &UNetConfig) -> Result<Task> {
        let missing = |option: &str| Error::Input(format!("--{option} is needed, found none"));
        Ok(match self.kind {
            Kind::Inpaint => {
                let hole = read_mask(self.mask.as_deref().ok_or_else(|| missing("mask"))?, config)?;
                Task::Edit(Edit::Inpaint { hole })
            }
            Kind::Colorize => Task::Edit(Edit::Colorize),
            Kind::SuperResolution => {
                Task::Edit(Edit::SuperResolution { patch: self.patch.ok_or_else(|| missing("patch"))? })
            }
            Kind::Stroke => Task::Edit(Edit::Stroke),
            Kind::Denoise => Task::Denoise { sigma: self.sigma.ok_or_else(|| missing("sigma"))? },
            Kind::Interpolate => Task::Interpolate {
                to: read_picture(self.to.as_deref().ok_or_else(|| missing("to"))?, config)?,
                sigma: self.sigma.unwrap_or(STROKE_SIGMAS[0]),
                amounts: None,
            },
        })
    }
}

/// White is the hole: a pixel whose mean is above one half.
fn read_mask(path: &Path, config: &UNetConfig) -> Result<Vec<bool>> {
    let grey = UNetConfig { in_channels: 1, ..config.clone() };
    Ok(read_picture(path, &grey)?.iter().map(|&v| v > 0.0).collect())
}
