//! The options of `consistency-sampler train`, their checks, and what of them a run is known by.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use consistency_sampler::checkpoint::folder::holds_model;
use consistency_sampler::model::config::UNetConfig;
use consistency_sampler::train::data_folder::has_class_folders;
use consistency_sampler::train::denoiser::Engine;
use consistency_sampler::train::objective::{CtSchedule, Recipe, Weighting};
use consistency_sampler::train::record::Record;
use consistency_sampler::train::teacher::Guidance;
use consistency_sampler::{Error, Gpu, Result};

use crate::device::HubArguments;
use crate::files::whole;
use crate::guidance::GuidanceArguments;

#[derive(Args, Clone)]
pub struct Arguments {
    /// The objective [default: a denoiser, then its distillation, in --output]
    #[arg(long, value_enum)]
    pub(super) recipe: Option<RecipeName>,

    /// Height and width of the pictures, without --recipe [default: what fits the data, 64 at most]
    #[arg(long, value_name = "PIXELS", conflicts_with = "config")]
    pub(super) size: Option<usize>,

    /// Training data: MNIST's IDX files, PNGs or JPEGs with a sub-folder for each class, or the masks of animals
    #[arg(long, value_name = "DIR")]
    pub(super) data: PathBuf,

    /// Mirror half of the images left to right
    #[arg(long)]
    pub(super) flip: bool,

    /// Folder of the model (diffusers layout, averaged weights), with the run's state, pictures and `report.html` in `training/`
    #[arg(long, value_name = "DIR")]
    pub(super) output: PathBuf,

    /// A model to start from; its configuration is the new model's
    #[arg(long, value_name = "MODEL", conflicts_with = "config", requires = "recipe")]
    pub(super) init: Option<PathBuf>,

    /// A unet/config.json to start from random weights
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,

    /// The text of a configuration in place of a file
    #[arg(skip)]
    pub(super) unet_json: Option<String>,

    /// The EDM denoiser to distil: by its whole trajectories (trajectories), Heun steps (cd), Euler steps in place of those of the data (ect), or its score (dmd)
    #[arg(long, requires = "recipe", value_name = "MODEL")]
    pub(super) teacher: Option<PathBuf>,

    #[command(flatten)]
    pub(super) hub: HubArguments,

    #[command(flatten)]
    pub(super) guidance: GuidanceArguments,

    /// Share of the samples that are trained on without their class; 0.1 is enough for guidance of the denoiser
    #[arg(long, requires = "recipe", value_name = "SHARE", default_value_t = 0.0)]
    pub(super) class_dropout: f64,

    /// Learning rate of the critic (dmd) [default: three times --lr]
    #[arg(long, requires = "recipe", value_name = "LR")]
    pub(super) critic_lr: Option<f64>,

    /// Backend of the network and its gradient
    #[arg(long, value_enum, default_value_t = DeviceName::Cpu)]
    pub(super) device: DeviceName,

    /// Images per iteration
    #[arg(long, requires = "recipe", value_name = "B", default_value_t = 64)]
    pub(super) batch: usize,

    /// Learning rate
    #[arg(long, requires = "recipe", default_value_t = 1e-4)]
    pub(super) lr: f64,

    /// Optimizer of the hidden layers' matrices; RAdam updates the other weights
    #[arg(long, requires = "recipe", value_enum, default_value_t = OptimizerName::Radam)]
    pub(super) optimizer: OptimizerName,

    /// Share of the run over which, at its end, the learning rate falls to 0
    #[arg(long, requires = "recipe", value_name = "SHARE", default_value_t = 0.3)]
    pub(super) decay: f64,

    /// Decay of the averaged weights
    #[arg(long, requires = "recipe", default_value_t = 0.999)]
    pub(super) ema: f64,

    /// Length of the run in minutes of training, summed over interruptions
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "M",
        conflicts_with = "iterations",
        required_unless_present = "iterations"
    )]
    pub(super) minutes: Option<f64>,

    /// Length of the run in iterations
    #[arg(long, value_name = "N")]
    pub(super) iterations: Option<u64>,

    /// Seed of data, noise, noise levels and initial weights
    #[arg(long, default_value_t = 0)]
    pub(super) seed: u64,

    /// Continue the run in --output, with the settings and the data that it was begun with; its length may change
    #[arg(long)]
    pub(super) resume: bool,

    /// Iterations between two grids of samples
    #[arg(long, value_name = "N", default_value_t = 250)]
    pub(super) grid_every: u64,

    /// Mean of ln σ (edm, ect, dmd) [default: -1.2 for edm, -1.1 for ect, 2 for dmd]
    #[arg(long, requires = "recipe", value_name = "P", allow_negative_numbers = true)]
    pub(super) p_mean: Option<f64>,

    /// Standard deviation of ln σ (edm, ect, dmd) [default: 1.2 for edm, 2 for others]
    #[arg(long, requires = "recipe", value_name = "P")]
    pub(super) p_std: Option<f64>,

    /// q of the step mapping (ect)
    #[arg(long, requires = "recipe", default_value_t = 2.0)]
    pub(super) q: f64,

    /// First and last stage of the step mapping (ect) [default: 0,7]
    #[arg(long, requires = "recipe", value_name = "FIRST,LAST", value_delimiter = ',', default_values_t = [0, 7], hide_default_value = true)]
    pub(super) stages: Vec<usize>,

    /// Weight of a noise level in the loss (ect)
    #[arg(long, requires = "recipe", value_enum, default_value_t = WeightingName::Gap)]
    pub(super) weighting: WeightingName,

    /// μ of the target network (cd)
    #[arg(long, requires = "recipe", default_value_t = 0.0)]
    pub(super) mu: f64,

    /// The teacher's calls for a trajectory (trajectories)
    #[arg(long, requires = "recipe", value_name = "N", default_value_t = 16)]
    pub(super) calls: usize,

    /// Iterations that learn from the same trajectories (trajectories)
    #[arg(long, requires = "recipe", value_name = "N", default_value_t = 6)]
    pub(super) uses: usize,

    /// Share of a batch that is noise at σ_max, where sampling begins (trajectories)
    #[arg(long, requires = "recipe", value_name = "SHARE", default_value_t = 0.35)]
    pub(super) first: f64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RecipeName {
    /// Easy consistency tuning: from an EDM denoiser (or another consistency model) to a consistency model
    Ect,
    /// Pretraining of an EDM denoiser
    Edm,
    /// Consistency distillation of an EDM denoiser
    Cd,
    /// Consistency training from nothing
    Ct,
    /// Distribution matching distillation of an EDM denoiser, best from a consistency model
    Dmd,
    /// Regression on whole trajectories of an EDM denoiser: from any state to the end
    Trajectories,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OptimizerName {
    /// RAdam
    Radam,
    /// Muon: momentum with singular values near 1
    Muon,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum WeightingName {
    /// 1/(t − r), as published
    Gap,
    /// √(t² + σ_d²)/(t·σ_d): equal gradients in the U-Net's output at all levels
    Even,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceName {
    /// The CPU, by this crate's kernels
    Cpu,
    /// A GPU through WebGPU, by this crate's kernels
    Gpu,
}

impl DeviceName {
    pub(super) fn open(self) -> Result<Engine> {
        match self {
            Self::Cpu => Ok(Engine::Cpu),
            Self::Gpu => Ok(Engine::Gpu(Box::new(pollster::block_on(Gpu::request())?))),
        }
    }
}

/// A value as the command line takes it.
pub(super) fn value_name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

impl Arguments {
    pub(super) fn recipe_name(&self) -> Result<RecipeName> {
        self.recipe.ok_or_else(|| Error::Input("expected --recipe, found none".into()))
    }

    pub(super) fn recipe(&self) -> Result<Recipe> {
        let (mean, deviation) = (self.p_mean, self.p_std);
        let &[first, last] = self.stages.as_slice() else {
            return Err(Error::Input(format!("--stages: expected two numbers, found {}", self.stages.len())));
        };
        if first > last {
            return Err(Error::Input(format!("--stages: expected the first not above the last, found {first},{last}")));
        }
        let positive = |name: &str, value: f64| match value > 0.0 && value.is_finite() {
            true => Ok(()),
            false => Err(Error::Input(format!("--{name}: expected a positive number, found {value}"))),
        };
        let share = |name: &str, value: f64| match (0.0..=1.0).contains(&value) {
            true => Ok(()),
            false => Err(Error::Input(format!("--{name}: expected 0 to 1, found {value}"))),
        };
        positive("lr", self.lr)?;
        positive("p-std", deviation.unwrap_or(1.0))?;
        positive("minutes", self.minutes.unwrap_or(1.0))?;
        positive("critic-lr", self.critic_lr.unwrap_or(1.0))?;
        positive("q", self.q - 1.0).map_err(|_| Error::Input(format!("--q: expected above 1, found {}", self.q)))?;
        share("decay", self.decay)?;
        share("ema", self.ema)?;
        share("mu", self.mu)?;
        share("class-dropout", self.class_dropout)?;
        share("first", self.first)?;
        if self.calls < 2 {
            return Err(Error::Input(format!("--calls: expected at least 2, found {}", self.calls)));
        }
        for (name, value) in [
            ("batch", self.batch as u64),
            ("iterations", self.iterations.unwrap_or(1)),
            ("grid-every", self.grid_every),
            ("uses", self.uses as u64),
        ] {
            if value == 0 {
                return Err(Error::Input(format!("--{name}: expected at least 1, found 0")));
            }
        }
        Ok(match self.recipe_name()? {
            RecipeName::Edm => Recipe::Edm { mean: mean.unwrap_or(-1.2), deviation: deviation.unwrap_or(1.2) },
            RecipeName::Cd => Recipe::Cd { mu: self.mu },
            RecipeName::Dmd => Recipe::Dmd { mean: mean.unwrap_or(2.0), deviation: deviation.unwrap_or(2.0) },
            RecipeName::Trajectories => Recipe::Trajectories { calls: self.calls, uses: self.uses, first: self.first },
            RecipeName::Ct => Recipe::Ct(CtSchedule { s0: 2.0, s1: 150.0, mu0: 0.9 }),
            RecipeName::Ect => Recipe::Ect {
                mean: mean.unwrap_or(-1.1),
                deviation: deviation.unwrap_or(2.0),
                q: self.q,
                stages: [first, last],
                weighting: match self.weighting {
                    WeightingName::Gap => Weighting::Gap,
                    WeightingName::Even => Weighting::Even,
                },
            },
        })
    }
}

impl Arguments {
    /// A file of the run beside the model.
    pub(super) fn training(&self, name: &str) -> PathBuf {
        self.output.join("training").join(name)
    }

    pub(super) fn state_file(&self) -> PathBuf {
        self.training("state.safetensors")
    }

    /// Parses a configuration, whose errors name the file of `--config` if it is from there.
    pub(super) fn parse(&self, unet_json: &str) -> Result<UNetConfig> {
        UNetConfig::parse(unet_json).map_err(|error| match (&self.config, error) {
            (Some(file), Error::Config(m)) => {
                Error::Config(m.replacen("unet/config.json", &file.display().to_string(), 1))
            }
            (_, error) => error,
        })
    }

    /// Checks the options of a run without a recipe.
    pub(super) fn check_plan(&self) -> Result<()> {
        let bad = |message: String| Err(Error::Input(message));
        match (self.minutes, self.iterations) {
            (Some(m), _) if !(m > 0.0 && m.is_finite()) => {
                return bad(format!("--minutes: expected a positive number, found {m}"));
            }
            (None, Some(n @ ..2)) => {
                return bad(format!("--iterations: expected at least 2 without --recipe, found {n}"));
            }
            _ => {}
        }
        if self.guidance.guidance()? != Guidance::NONE || self.guidance.guide().is_some() {
            return bad("--guidance: expected --recipe too, found none".into());
        }
        Ok(())
    }

    /// Checks that the run overwrites nothing but itself.
    pub(super) fn check_output(&self) -> Result<()> {
        let (output, shown) = (whole(&self.output), self.output.display());
        for name in ["", "training", "unet", "scheduler"] {
            let path = if name.is_empty() { self.output.clone() } else { self.output.join(name) };
            if path.exists() && !path.is_dir() {
                return Err(Error::Input(format!("--output: expected a folder at {}, found a file", path.display())));
            }
        }
        if output.starts_with(whole(&self.data)) && has_class_folders(&self.data)? {
            let m = "would be read as a class: name a folder outside of --data";
            return Err(Error::Input(format!("--output: {shown} {m}")));
        }
        let sources = [("--teacher", self.teacher.as_deref()), ("--guide", self.guidance.guide())];
        let init = ("--init", self.init.as_deref().filter(|_| !self.resume));
        for (name, source) in sources.into_iter().chain([init]) {
            if source.is_some_and(|source| whole(source) == output) {
                let m = format!("is {name}, which would be overwritten: name another folder");
                return Err(Error::Input(format!("--output: {shown} {m}")));
            }
        }
        match (self.state_file().exists(), self.resume) {
            (true, false) => {
                Err(Error::Input(format!("{shown} holds a run: continue it with --resume or name another folder")))
            }
            (false, _) if holds_model(&self.output) => Err(Error::Input(format!(
                "{shown} holds a model that is no run of this trainer: name another folder (--init begins from a model)"
            ))),
            _ => Ok(()),
        }
    }

    /// What makes the run what it is, by the names of the options.
    pub(super) fn record(&self, recipe: &Recipe) -> Record {
        let mut record = Record::default();
        record.push("--recipe", self.recipe.as_ref().map(value_name).unwrap_or_default());
        record.push("--batch", self.batch);
        record.push("--lr", self.lr);
        record.push("--optimizer", value_name(&self.optimizer));
        record.push("--decay", self.decay);
        record.push("--ema", self.ema);
        record.push("--seed", self.seed);
        record.push("--flip", self.flip);
        record.push("--class-dropout", self.class_dropout);
        self.guidance.add_to(&mut record);
        match *recipe {
            Recipe::Edm { mean, deviation } | Recipe::Dmd { mean, deviation } | Recipe::Ect { mean, deviation, .. } => {
                record.push("--p-mean", mean);
                record.push("--p-std", deviation);
            }
            Recipe::Cd { mu } => record.push("--mu", mu),
            Recipe::Ct(_) => {}
            Recipe::Trajectories { calls, uses, first } => {
                record.push("--calls", calls);
                record.push("--uses", uses);
                record.push("--first", first);
            }
        }
        match *recipe {
            Recipe::Ect { q, stages: [first, last], .. } => {
                record.push("--q", q);
                record.push("--stages", format_args!("{first},{last}"));
                record.push("--weighting", value_name(&self.weighting));
            }
            Recipe::Dmd { .. } => record.push("--critic-lr", self.critic_lr.unwrap_or(3.0 * self.lr)),
            _ => {}
        }
        record
    }
}
