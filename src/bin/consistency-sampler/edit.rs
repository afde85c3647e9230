//! `consistency-sampler edit`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use consistency_sampler::config::UNetConfig;
use consistency_sampler::consistency::Schedule;
use consistency_sampler::edit::{Edit, denoise, edit, from_sigmas, slerp};
use consistency_sampler::folder::ModelFolder;
use consistency_sampler::rng::Generator;
use consistency_sampler::sampler::{Progress, Request};
use consistency_sampler::{Error, Result};

use crate::device::{AnyNetwork, ModelArguments};
use crate::files::{PictureFile, read_picture};
use crate::sample::seed;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    /// What to do
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
    let folder = arguments.model.folder()?;
    let config = &folder.unet;
    let picture = read_picture(&arguments.input, config)?;
    arguments.check_options()?;
    let plan = arguments.plan(&folder)?;
    let default = if arguments.kind == Kind::Interpolate { 8 } else { 1 };
    let batch = arguments.batch.unwrap_or(default);
    let request =
        Request { seed: arguments.seed, batch, class_labels: arguments.class_labels.clone(), ..Request::default() };
    let labels = request.labels(config)?;

    let mut network = arguments.model.network(&folder, config)?;
    let images = pollster::block_on(plan.run(&mut network, &folder, &picture, &labels, batch, arguments.seed))?;

    let [height, width] = config.sample_size;
    let shape = [batch, config.in_channels, height, width];
    // From one end to the other in one row; other results in a square.
    let square = (1..).find(|n| n * n >= batch).expect("some square is large enough");
    let columns = if arguments.kind == Kind::Interpolate { batch } else { square };
    file.write(&arguments.output, shape, columns, &images)?;
    println!("{}: {batch} × {height}×{width}", arguments.output.display());
    Ok(())
}

/// What is to be run, checked before the weights are read.
enum Plan {
    Edit(Edit, Schedule),
    Denoise(f64),
    Interpolate { to: Vec<f32>, schedule: Schedule },
}

impl Plan {
    /// The pictures, (B, C, H, W) in [−1, 1].
    async fn run(
        &self,
        network: &mut AnyNetwork,
        folder: &ModelFolder,
        picture: &[f32],
        labels: &[u32],
        batch: usize,
        seed: u64,
    ) -> Result<Vec<f32>> {
        let repeated = picture.repeat(batch);
        let mut generator = Generator::new(seed);
        let config = &folder.unet;
        match self {
            Self::Edit(kind, schedule) => {
                let next = |_: Progress<'_>| ControlFlow::Continue(());
                let noise = |z: &mut [f32]| generator.randn(z);
                let mut x = edit(network, config, kind, schedule, &repeated, labels, noise, next).await?;
                kind.into_range(&mut x, &repeated, config);
                Ok(x)
            }
            Self::Denoise(sigma) => denoise(network, &folder.scheduler, *sigma, &repeated, labels).await,
            Self::Interpolate { to, schedule } => {
                // Both ends under the same noise, so that only the pictures differ.
                let mut z = vec![0.0; picture.len()];
                generator.randn(&mut z);
                let sigma = schedule.steps[0].sigma as f32;
                let noisy = |y: &[f32]| y.iter().zip(&z).map(|(y, z)| y + sigma * z).collect::<Vec<f32>>();
                let (a, b) = (noisy(picture), noisy(to));
                let share = |i: usize| i as f64 / (batch - 1).max(1) as f64;
                let x: Vec<f32> = (0..batch).flat_map(|i| slerp(&a, &b, share(i))).collect();
                denoise(network, &folder.scheduler, schedule.steps[0].sigma, &x, labels).await
            }
        }
    }
}

impl Arguments {
    /// An option of another kind is a mistake that must not pass unseen.
    fn check_options(&self) -> Result<()> {
        let kind = self.kind.to_possible_value().expect("no kind is hidden");
        let kind = kind.get_name();
        let steps = self.num_inference_steps.is_some() || self.timesteps.is_some();
        let options = [
            ("--mask", self.mask.is_some(), [Some(Kind::Inpaint), None]),
            ("--patch", self.patch.is_some(), [Some(Kind::SuperResolution), None]),
            ("--sigma", self.sigma.is_some(), [Some(Kind::Denoise), Some(Kind::Interpolate)]),
            ("--to", self.to.is_some(), [Some(Kind::Interpolate), None]),
        ];
        if let Some((name, ..)) = options.iter().find(|(_, given, of)| *given && !of.contains(&Some(self.kind))) {
            return Err(Error::Input(format!("{name}: --kind {kind} has no such option")));
        }
        if steps && matches!(self.kind, Kind::Denoise | Kind::Interpolate) {
            return Err(Error::Input(format!(
                "--kind {kind} is one network call: expected no list of steps, found one"
            )));
        }
        Ok(())
    }

    fn plan(&self, folder: &ModelFolder) -> Result<Plan> {
        let (config, scheduler) = (&folder.unet, &folder.scheduler);
        let missing = |option: &str| Error::Input(format!("--{option} is needed, found none"));
        let kind = match self.kind {
            Kind::Inpaint => {
                let mask = read_mask(self.mask.as_deref().ok_or_else(|| missing("mask"))?, config)?;
                Edit::Inpaint { hole: mask }
            }
            Kind::Colorize => Edit::Colorize,
            Kind::SuperResolution => Edit::SuperResolution { patch: self.patch.ok_or_else(|| missing("patch"))? },
            Kind::Stroke => Edit::Stroke,
            Kind::Denoise => {
                let sigma = self.sigma.ok_or_else(|| missing("sigma"))?;
                from_sigmas(scheduler, &[sigma])?;
                return Ok(Plan::Denoise(sigma));
            }
            Kind::Interpolate => {
                let to = read_picture(self.to.as_deref().ok_or_else(|| missing("to"))?, config)?;
                let schedule = from_sigmas(scheduler, &[self.sigma.unwrap_or(5.38)])?;
                return Ok(Plan::Interpolate { to, schedule });
            }
        };
        kind.check(config)?;
        let schedule = match (&self.timesteps, self.num_inference_steps) {
            (Some(list), _) => Schedule::from_timesteps(scheduler, list)?,
            (None, Some(n)) => Schedule::evenly_spaced(scheduler, n)?,
            (None, None) => kind.schedule(scheduler)?,
        };
        Ok(Plan::Edit(kind, schedule))
    }
}

/// White is the hole: a pixel whose mean is above one half.
fn read_mask(path: &Path, config: &UNetConfig) -> Result<Vec<bool>> {
    let grey = UNetConfig { in_channels: 1, ..config.clone() };
    Ok(read_picture(path, &grey)?.iter().map(|&v| v > 0.0).collect())
}
