//! `consistency-sampler train`.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use consistency_sampler::checkpoint::folder::{ModelFolder, holds_model};
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::cpu::CpuUNet;
use consistency_sampler::file::{read, read_text};
use consistency_sampler::image::png::write_grid;
use consistency_sampler::model::config::{SchedulerConfig, UNetConfig};
use consistency_sampler::model::unet::{Parameter, UNet};
use consistency_sampler::train::checkpoint::Saved;
use consistency_sampler::train::data::Source;
use consistency_sampler::train::data_folder::{check_class_names, check_shape, has_class_folders, natural_size, side};
use consistency_sampler::train::dataset::Batch;
use consistency_sampler::train::denoiser::{Denoiser, Engine};
use consistency_sampler::train::objective::{CtSchedule, Recipe, Weighting, timesteps};
use consistency_sampler::train::record::Record;
use consistency_sampler::train::run_folder::{read_record, read_state, write_model, write_state};
use consistency_sampler::train::teacher::{Guidance, Teacher};
use consistency_sampler::train::trainer::{Settings, State, Trainer};
use consistency_sampler::train::weights::initial_weights;
use consistency_sampler::{Error, Gpu, Pipeline, Precision, Request, Result};
use indicatif::ProgressBar;

use crate::console::{note, note_left_out, print};
use crate::device::{HubArguments, style};
use crate::files::whole;
use crate::guidance::GuidanceArguments;
use crate::losses::Losses;
use crate::plan;
use crate::report::{Report, number};
use crate::signals::Stop;

/// Time between two checkpoints: the most training that an interruption loses.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(50);

const SCHEDULER: &str = r#"{
  "_class_name": "CMStochasticIterativeScheduler",
  "clip_denoised": true,
  "num_train_timesteps": 40,
  "rho": 7.0,
  "s_noise": 1.0,
  "sigma_data": 0.5,
  "sigma_max": 80.0,
  "sigma_min": 0.002
}
"#;

#[derive(Args, Clone)]
pub struct Arguments {
    /// The objective [default: a denoiser, then its distillation, in --output]
    #[arg(long, value_enum)]
    recipe: Option<RecipeName>,

    /// Height and width of the pictures, without --recipe [default: what fits the data, 64 at most]
    #[arg(long, value_name = "PIXELS", conflicts_with = "config")]
    size: Option<usize>,

    /// Training data: MNIST's IDX files, PNGs or JPEGs with a sub-folder for each class, or the masks of animals
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Mirror half of the images left to right
    #[arg(long)]
    flip: bool,

    /// Folder of the model (diffusers layout, averaged weights), with the run's state, pictures and `report.html` in `training/`
    #[arg(long, value_name = "DIR")]
    output: PathBuf,

    /// A model to start from; its configuration is the new model's
    #[arg(long, value_name = "MODEL", conflicts_with = "config", requires = "recipe")]
    init: Option<PathBuf>,

    /// A unet/config.json to start from random weights
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The text of a configuration in place of a file
    #[arg(skip)]
    unet_json: Option<String>,

    /// The EDM denoiser to distil: by its whole trajectories (trajectories), Heun steps (cd), Euler steps in place of those of the data (ect), or its score (dmd)
    #[arg(long, requires = "recipe", value_name = "MODEL")]
    teacher: Option<PathBuf>,

    #[command(flatten)]
    hub: HubArguments,

    #[command(flatten)]
    guidance: GuidanceArguments,

    /// Share of the samples that are trained on without their class; 0.1 is enough for guidance of the denoiser
    #[arg(long, requires = "recipe", value_name = "SHARE", default_value_t = 0.0)]
    class_dropout: f64,

    /// Learning rate of the critic (dmd) [default: three times --lr]
    #[arg(long, requires = "recipe", value_name = "LR")]
    critic_lr: Option<f64>,

    /// Backend of the network and its gradient
    #[arg(long, value_enum, default_value_t = DeviceName::Cpu)]
    device: DeviceName,

    /// Images per iteration
    #[arg(long, requires = "recipe", value_name = "B", default_value_t = 64)]
    batch: usize,

    /// Learning rate
    #[arg(long, requires = "recipe", default_value_t = 1e-4)]
    lr: f64,

    /// Optimizer of the hidden layers' matrices; RAdam updates the other weights
    #[arg(long, requires = "recipe", value_enum, default_value_t = OptimizerName::Radam)]
    optimizer: OptimizerName,

    /// Share of the run over which, at its end, the learning rate falls to 0
    #[arg(long, requires = "recipe", value_name = "SHARE", default_value_t = 0.3)]
    decay: f64,

    /// Decay of the averaged weights
    #[arg(long, requires = "recipe", default_value_t = 0.999)]
    ema: f64,

    /// Length of the run in minutes of training, summed over interruptions
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "M",
        conflicts_with = "iterations",
        required_unless_present = "iterations"
    )]
    minutes: Option<f64>,

    /// Length of the run in iterations
    #[arg(long, value_name = "N")]
    iterations: Option<u64>,

    /// Seed of data, noise, noise levels and initial weights
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Continue the run in --output, with the settings and the data that it was begun with; its length may change
    #[arg(long)]
    resume: bool,

    /// Iterations between two grids of samples
    #[arg(long, value_name = "N", default_value_t = 250)]
    grid_every: u64,

    /// Mean of ln σ (edm, ect, dmd) [default: -1.2 for edm, -1.1 for ect, 2 for dmd]
    #[arg(long, requires = "recipe", value_name = "P", allow_negative_numbers = true)]
    p_mean: Option<f64>,

    /// Standard deviation of ln σ (edm, ect, dmd) [default: 1.2 for edm, 2 for others]
    #[arg(long, requires = "recipe", value_name = "P")]
    p_std: Option<f64>,

    /// q of the step mapping (ect)
    #[arg(long, requires = "recipe", default_value_t = 2.0)]
    q: f64,

    /// First and last stage of the step mapping (ect) [default: 0,7]
    #[arg(long, requires = "recipe", value_name = "FIRST,LAST", value_delimiter = ',', default_values_t = [0, 7], hide_default_value = true)]
    stages: Vec<usize>,

    /// Weight of a noise level in the loss (ect)
    #[arg(long, requires = "recipe", value_enum, default_value_t = WeightingName::Gap)]
    weighting: WeightingName,

    /// μ of the target network (cd)
    #[arg(long, requires = "recipe", default_value_t = 0.0)]
    mu: f64,

    /// The teacher's calls for a trajectory (trajectories)
    #[arg(long, requires = "recipe", value_name = "N", default_value_t = 16)]
    calls: usize,

    /// Iterations that learn from the same trajectories (trajectories)
    #[arg(long, requires = "recipe", value_name = "N", default_value_t = 6)]
    uses: usize,

    /// Share of a batch that is noise at σ_max, where sampling begins (trajectories)
    #[arg(long, requires = "recipe", value_name = "SHARE", default_value_t = 0.35)]
    first: f64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RecipeName {
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
enum OptimizerName {
    /// RAdam
    Radam,
    /// Muon: momentum with singular values near 1
    Muon,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WeightingName {
    /// 1/(t − r), as published
    Gap,
    /// √(t² + σ_d²)/(t·σ_d): equal gradients in the U-Net's output at all levels
    Even,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DeviceName {
    /// The CPU, by this crate's kernels
    Cpu,
    /// A GPU through WebGPU, by this crate's kernels
    Gpu,
}

impl DeviceName {
    fn open(self) -> Result<Engine> {
        match self {
            Self::Cpu => Ok(Engine::Cpu),
            Self::Gpu => Ok(Engine::Gpu(Box::new(pollster::block_on(Gpu::request())?))),
        }
    }
}

/// A value as the command line takes it.
fn value_name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
}

/// The length of a run.
enum Length {
    Minutes(f64),
    Iterations(u64),
}

impl Length {
    fn progress(&self, state: &State) -> f64 {
        match *self {
            Self::Minutes(m) => state.seconds / (60.0 * m),
            Self::Iterations(n) => state.optimizer.step as f64 / n as f64,
        }
    }
}

impl Arguments {
    fn recipe_name(&self) -> Result<RecipeName> {
        self.recipe.ok_or_else(|| Error::Input("expected --recipe, found none".into()))
    }

    fn recipe(&self) -> Result<Recipe> {
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
    fn training(&self, name: &str) -> PathBuf {
        self.output.join("training").join(name)
    }

    fn state_file(&self) -> PathBuf {
        self.training("state.safetensors")
    }

    /// Parses a configuration, whose errors name the file of `--config` if it is from there.
    fn parse(&self, unet_json: &str) -> Result<UNetConfig> {
        UNetConfig::parse(unet_json).map_err(|error| match (&self.config, error) {
            (Some(file), Error::Config(m)) => {
                Error::Config(m.replacen("unet/config.json", &file.display().to_string(), 1))
            }
            (_, error) => error,
        })
    }

    /// Checks the options of a run without a recipe.
    fn check_plan(&self) -> Result<()> {
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
    fn check_output(&self) -> Result<()> {
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
    fn record(&self, recipe: &Recipe) -> Record {
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

/// Returns the exit status: that of a run that was asked to stop is 128 + the signal.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let stopped = match arguments.recipe {
        Some(_) if arguments.size.is_some() => {
            return Err(Error::Input("--size: expected no --recipe beside it, since the network has a size".into()));
        }
        Some(_) => run_recipe(arguments, None)?,
        None => run_plan(arguments)?,
    };
    Ok(stopped.map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Trains a denoiser in `--output`/denoiser, then distils it into `--output`. Returns the status of a run that was asked to stop.
fn run_plan(arguments: &Arguments) -> Result<Option<u8>> {
    const SIZES: RangeInclusive<usize> = 8..=256;
    arguments.check_plan()?;
    let denoiser_folder = arguments.output.join("denoiser");
    let is_begun = arguments.resume && arguments.state_file().exists();
    // A run that goes on has the network that it was begun with.
    let network = denoiser_folder.join("unet/config.json");
    let config = match (&arguments.config, arguments.resume && network.exists()) {
        (Some(file), _) => Some(read_text(file)?),
        (None, true) => Some(read_text(&network)?),
        (None, false) if is_begun => {
            let m = format!("--resume: expected the denoiser of the run in {}, found none", denoiser_folder.display());
            return Err(Error::Input(m));
        }
        (None, false) => None,
    };
    let size = match (&config, arguments.size) {
        (Some(config), size) => {
            let of_run = arguments.parse(config)?.sample_size[0];
            if let Some(size) = size.filter(|size| *size != of_run) {
                return Err(Error::Input(format!("--size: the run has {of_run}, found {size}")));
            }
            of_run
        }
        (None, None) => natural_size(&arguments.data)?,
        (None, Some(size)) if SIZES.contains(&size) && size.is_multiple_of(4) => size,
        (None, Some(size)) => {
            return Err(Error::Input(format!("--size: expected a multiple of 4 from 8 to 256, found {size}")));
        }
    };
    let data = Source::open(&arguments.data, size)?;
    note_data(&data);
    let minutes = arguments.minutes.unwrap_or(60.0);
    let unet_json = config.unwrap_or_else(|| plan::network(data.shape(), data.classes().len(), minutes));
    let weights = number(UNet::new(&UNetConfig::parse(&unet_json)?).parameter_count() as f64);
    let share = |share: f64| Arguments {
        minutes: arguments.minutes.map(|minutes| share * minutes),
        iterations: arguments.iterations.map(|iterations| ((share * iterations as f64) as u64).max(1)),
        batch: 32,
        optimizer: OptimizerName::Muon,
        decay: 0.5,
        ema: 0.998,
        config: None,
        ..arguments.clone()
    };
    let mut denoiser = Arguments {
        recipe: Some(RecipeName::Edm),
        unet_json: Some(unet_json),
        output: denoiser_folder.clone(),
        lr: 1e-3,
        p_mean: Some(-0.4),
        p_std: Some(1.4),
        ..share(plan::DENOISER_SHARE)
    };
    let mut student = Arguments {
        recipe: Some(RecipeName::Trajectories),
        init: Some(denoiser_folder.clone()),
        teacher: Some(denoiser_folder),
        lr: 5e-4,
        ..share(1.0 - plan::DENOISER_SHARE)
    };
    // What was not begun cannot be resumed. A denoiser whose distillation has begun stays as it is.
    student.resume &= student.state_file().exists();
    denoiser.resume &= denoiser.state_file().exists();
    student.check_output()?;
    if !student.resume {
        denoiser.check_output()?;
    }
    if arguments.resume && !student.resume && !denoiser.resume {
        note("nothing to resume: the run begins");
    }
    let length = |a: &Arguments| match (a.minutes, a.iterations) {
        (Some(minutes), _) => format!("{minutes:.1} minutes"),
        (None, iterations) => format!("{} iterations", iterations.unwrap_or(1)),
    };
    let first = match student.resume {
        true => format!("the denoiser in {}", denoiser.output.display()),
        false => format!("a denoiser for {}, in {}", length(&denoiser), denoiser.output.display()),
    };
    note(format_args!(
        "plan: pictures of {size}×{size}, a network of {weights} weights; {first}; its distillation for {}, in {}",
        length(&student),
        student.output.display()
    ));
    // One for both, so that a request is heard once, between them too.
    let stop = Stop::listen()?;
    if !student.resume
        && let Some(status) = run_recipe(&denoiser, Some((&data, &stop)))?
    {
        return Ok(Some(status));
    }
    run_recipe(&student, Some((&data, &stop)))
}

/// Runs one recipe: on the data and with the requests to stop of a plan, or on its own. Returns the status of a run that was asked
/// to stop.
fn run_recipe(arguments: &Arguments, planned: Option<(&Source, &Stop)>) -> Result<Option<u8>> {
    let recipe = arguments.recipe()?;
    let length = match (arguments.minutes, arguments.iterations) {
        (Some(m), _) => Length::Minutes(m),
        (None, n) => Length::Iterations(n.unwrap_or(1)),
    };
    let settings = Settings {
        recipe,
        batch: arguments.batch,
        learning_rate: arguments.lr,
        decay: arguments.decay,
        ema: arguments.ema,
        seed: arguments.seed,
        muon: arguments.optimizer == OptimizerName::Muon,
        class_dropout: arguments.class_dropout,
        guidance: arguments.guidance.guidance()?,
        critic_learning_rate: arguments.critic_lr.unwrap_or(3.0 * arguments.lr),
    };
    arguments.check_output()?;
    let open = |model: &Path| arguments.hub.open(model, Some(Precision::F32));
    let init = arguments.init.as_deref().map(open).transpose()?;
    let (unet_json, scheduler_json) = match (&init, &arguments.unet_json, &arguments.config) {
        (Some(folder), ..) => (folder.unet_json().to_owned(), folder.scheduler_json().to_owned()),
        (None, Some(text), _) => (text.clone(), SCHEDULER.to_owned()),
        (None, None, Some(file)) => (read_text(file)?, SCHEDULER.to_owned()),
        (None, None, None) => return Err(Error::Input("expected --init or --config, found neither".into())),
    };
    let config = arguments.parse(&unet_json)?;
    let engine = arguments.device.open()?;
    let denoiser = Denoiser::new(&config, &SchedulerConfig::parse(&scheduler_json)?, &engine);
    let opened;
    let data = match planned {
        Some((data, _)) => data,
        None => {
            opened = Source::open(&arguments.data, side(&config))?;
            note_data(&opened);
            &opened
        }
    };
    check_data(data, &config)?;

    let state_file = arguments.state_file();
    let parameters = denoiser.unet().parameters();
    let teacher = arguments.teacher.as_deref().map(open).transpose()?;
    let guide = arguments.guidance.guide().map(open).transpose()?;
    for (option, folder) in [("--teacher", &teacher), ("--guide", &guide)] {
        if let Some(folder) = folder {
            check_class_names(option, folder, &data.classes())?;
        }
    }
    let guide = guide.as_ref().map(ModelFolder::path);
    let read_teacher = |folder: &ModelFolder| Teacher::read(folder.path(), guide, &engine);
    let teacher = teacher.as_ref().map(read_teacher).transpose()?;
    let mut record = arguments.record(&recipe);
    record.push_config("unet/config.json", &unet_json)?;
    record.push_config("scheduler_config.json", &scheduler_json)?;
    record.push_data(data);
    if let Some(teacher) = &teacher {
        record.push_weights("--teacher", &teacher.denoiser.unet().parameters(), &teacher.weights);
        if let Some((guide, weights)) = &teacher.guide {
            record.push_weights("--guide", &guide.unet().parameters(), weights);
        }
    }
    let is_matching = matches!(recipe, Recipe::Dmd { .. });
    let critic = teacher.as_ref().filter(|_| is_matching).map(|t| t.denoiser.unet().parameters());
    let state = if arguments.resume {
        match read_record(&state_file)? {
            Some(run) => run.check(&record)?,
            None => note("the run is of an earlier version: its settings and its data are not compared"),
        }
        read_state(&state_file, &parameters, critic.as_deref())?
    } else {
        let weights = match &init {
            Some(folder) => Denoiser::read(folder.path(), &engine)?.1,
            None => initial_weights(&parameters, arguments.seed),
        };
        State::new(weights, &recipe)
    };
    let mut run = Run {
        arguments,
        length,
        class_names: config.num_class_embeds.map(|_| data.classes()).unwrap_or_default(),
        unet_json,
        scheduler_json,
        record,
        losses: Losses::open(&arguments.training("loss.csv"), state.optimizer.step)?,
        trainer: Trainer::new(denoiser, settings, state, teacher)?,
        parameters,
        critic,
    };
    match planned {
        Some((_, stop)) => run.train(data, stop),
        None => run.train(data, &Stop::listen()?),
    }
}

/// A run with its files.
struct Run<'a> {
    arguments: &'a Arguments,
    length: Length,
    class_names: Vec<String>,
    unet_json: String,
    scheduler_json: String,
    record: Record,
    losses: Losses,
    trainer: Trainer,
    /// Of the network, and of the critic if there is one.
    parameters: Vec<Parameter>,
    critic: Option<Vec<Parameter>>,
}

impl Run<'_> {
    fn train(&mut self, data: &Source, stop: &Stop) -> Result<Option<u8>> {
        let bar = ProgressBar::new(1000).with_style(style("{msg} {wide_bar} {percent}% of the run, {elapsed}"));
        let (begin, first) = (Instant::now(), self.trainer.state.optimizer.step);
        self.show_data(data)?;
        let begun_at = self.length.progress(&self.trainer.state);
        let mut saved = Instant::now();
        let mut smooth = None;
        loop {
            let progress = self.length.progress(&self.trainer.state);
            if progress >= 1.0 {
                break;
            }
            if let Some(status) = stop.status() {
                self.save()?;
                unless_unwritable(self.write_report())?;
                bar.finish_and_clear();
                let (output, step) = (self.arguments.output.display(), self.trainer.state.optimizer.step);
                note(format_args!("{output}: stopped and saved at iteration {step}; --resume continues"));
                return Ok(Some(status));
            }
            let iteration = Instant::now();
            let mut generator = self.trainer.generator();
            let mut batch = data.draw(&mut generator, self.trainer.settings.batch);
            if self.arguments.flip {
                mirror_half(&mut batch, data.shape(), &mut generator);
            }
            let loss = pollster::block_on(self.trainer.step(&batch, &mut generator, progress))?;
            self.trainer.state.seconds += iteration.elapsed().as_secs_f64();

            let step = self.trainer.state.optimizer.step;
            let mean = smooth.map_or(loss, |s: f32| 0.98 * s + 0.02 * loss);
            smooth = Some(mean);
            let stage = self.trainer.settings.recipe.stage(progress);
            self.losses.push(step, self.trainer.state.seconds, loss, stage);
            let rate = (step - first) as f64 * batch.labels.len() as f64 / begin.elapsed().as_secs_f64();
            let now = self.length.progress(&self.trainer.state);
            let left = (1.0 - now).max(0.0) * begin.elapsed().as_secs_f64() / (now - begun_at);
            let losses = match self.trainer.critic_loss {
                Some(critic) => format!("loss {mean:.4}, critic's {critic:.3},"),
                None => format!("loss {mean:.4}"),
            };
            bar.set_message(format!(
                "iteration {step} {losses} {rate:.1} img/s, {} left",
                indicatif::HumanDuration(Duration::from_secs_f64(left.clamp(0.0, 1e7)))
            ));
            bar.set_position((now * 1000.0) as u64);
            if bar.is_hidden() && ((step - first).is_power_of_two() || step.is_multiple_of(50)) {
                note(format_args!("iteration {step} {losses} {rate:.1} img/s, {:.0} s left", left.min(1e7)));
            }
            let (is_grid_due, is_save_due) =
                (step.is_multiple_of(self.arguments.grid_every), saved.elapsed() >= CHECKPOINT_INTERVAL);
            if is_grid_due {
                unless_unwritable(self.write_grids(&format!("samples-{step:06}")))?;
            }
            if is_save_due {
                unless_unwritable(self.save())?;
                saved = Instant::now();
            }
            if is_grid_due || is_save_due {
                unless_unwritable(self.write_report())?;
            }
        }
        self.save()?;
        unless_unwritable(self.write_grids("samples-final"))?;
        unless_unwritable(self.write_report())?;
        bar.finish_and_clear();
        let (output, state) = (self.arguments.output.display(), &self.trainer.state);
        let (steps, seconds) = (state.optimizer.step, state.seconds);
        print(format_args!("{output}: {steps} iterations in {seconds:.0} s of training"))?;
        Ok(None)
    }

    fn save(&mut self) -> Result<()> {
        let state = &self.trainer.state;
        let (parameters, critic) = (&self.parameters, self.critic.as_deref());
        let saved = Saved { state, parameters, critic, record: &self.record, teacher: None };
        write_state(&self.arguments.state_file(), &saved)?;
        let unet = self.trainer.denoiser.unet();
        let (names, unet_json, scheduler_json) = (&self.class_names, &self.unet_json, &self.scheduler_json);
        let removed = write_model(&self.arguments.output, names, unet_json, scheduler_json, unet, &state.ema)?;
        if !removed.is_empty() {
            let removed = removed.join(", ");
            note(format_args!("removed, for it was made of earlier weights: {removed} (convert makes it anew)"));
        }
        self.losses.write()
    }

    /// Writes `training/data.png`: 64 training images.
    fn show_data(&self, data: &Source) -> Result<()> {
        let batch = data.draw(&mut Generator::new(self.trainer.settings.seed), 64);
        let [channels, height, width] = data.shape();
        write_grid(self.arguments.training("data.png"), [64, channels, height, width], 16, &batch.images)
    }

    /// Writes `{name}-1.png` and `{name}-2.png`: samples of the averaged weights in one and two steps, a column per class.
    fn write_grids(&self, name: &str) -> Result<()> {
        let denoiser = &self.trainer.denoiser;
        let network = CpuUNet::with_weights(&denoiser.config, self.trainer.state.ema.clone())?;
        let mut pipeline = Pipeline::new(network, denoiser.scheduler.clone());
        let classes = denoiser.config.num_class_embeds;
        let columns = classes.map_or(8, |c| c.min(10));
        let batch = 4 * columns;
        for calls in [1, 2] {
            let request = Request {
                batch,
                class_labels: classes.map(|_| (0..batch).map(|i| (i % columns) as u32).collect()),
                timesteps: Some(timesteps(&denoiser.scheduler, calls)),
                ..Default::default()
            };
            let samples = pollster::block_on(pipeline.sample(&request))?;
            let [height, width] = denoiser.config.sample_size;
            let path = self.arguments.training(&format!("{name}-{calls}.png"));
            write_grid(&path, [batch, denoiser.config.in_channels, height, width], columns, &samples)?;
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Writes `training/report.html`: how far the run is, its curves, its newest pictures, its settings.
    fn write_report(&self) -> Result<()> {
        let (arguments, trainer) = (self.arguments, &self.trainer);
        let (step, seconds, batch) = (trainer.state.optimizer.step, trainer.state.seconds, trainer.settings.batch);
        let name = arguments.output.file_name().unwrap_or(arguments.output.as_os_str());
        let version = concat!("consistency-sampler ", env!("CARGO_PKG_VERSION"), " train");
        let mut report = Report::new(&name.to_string_lossy(), version);
        let images = (step * batch as u64) as f64;
        let percent = 100.0 * self.length.progress(&trainer.state).min(1.0);
        let mut figures = vec![
            ["iterations".into(), format!("{}, {percent:.0} % of the run", number(step as f64))],
            ["images".into(), number(images)],
            ["time of training".into(), indicatif::HumanDuration(Duration::from_secs_f64(seconds)).to_string()],
            ["images per second".into(), format!("{:.1}", images / seconds.max(1e-9))],
            ["weights of the network".into(), number(trainer.denoiser.unet().parameter_count() as f64)],
        ];
        figures.extend(self.losses.last().map(|loss| ["loss, smoothed".into(), format!("{loss:.4}")]));
        report.table(&[], &figures);

        report.heading("Curves");
        self.losses.report(&mut report, batch);

        report.heading("Samples of the averaged weights");
        let folder = arguments.training("");
        let columns = match self.class_names.get(..self.class_names.len().min(10)) {
            Some(names @ [_, _, ..]) => format!(", a column for each class: {}", names.join(", ")),
            _ => String::new(),
        };
        let grids = newest_grids(&folder).into_iter().flat_map(|name| {
            [("one network call", 1), ("two network calls", 2)].map(|(calls, n)| (calls, format!("{name}-{n}.png")))
        });
        let samples = grids.map(|(calls, file)| (format!("{file}: {calls}{columns}"), file));
        let data = ("data.png: training images as the run sees them".to_owned(), "data.png".to_owned());
        for (caption, file) in samples.chain([data]) {
            if file == "data.png" {
                report.heading("Data");
            }
            let path = folder.join(file);
            if path.is_file() {
                report.picture(&caption, &read(&path)?);
            }
        }

        report.heading("Settings");
        let path = |option: &str, path: Option<&Path>| Some([option.to_owned(), path?.display().to_string()]);
        let length = match self.length {
            Length::Minutes(minutes) => ["--minutes".into(), minutes.to_string()],
            Length::Iterations(iterations) => ["--iterations".into(), iterations.to_string()],
        };
        let places = [
            path("--data", Some(&arguments.data)),
            path("--output", Some(&arguments.output)),
            path("--init", arguments.init.as_deref()),
            path("--config", arguments.config.as_deref()),
            path("--teacher", arguments.teacher.as_deref()),
            path("--guide", arguments.guidance.guide()),
            Some(["--device".into(), value_name(&arguments.device)]),
            Some(length),
        ];
        let row = |(name, value): &(String, String)| [name.clone(), value.clone()];
        let options = arguments.record(&trainer.settings.recipe);
        let settings = places.into_iter().flatten().chain(options.entries().iter().map(row));
        report.table(&[], &settings.collect::<Vec<_>>());
        let rest = self.record.entries().iter().skip(options.entries().len()).map(row);
        report.folded_table("Network, scheduler, data and teacher", &[], &rest.collect::<Vec<_>>());
        report.write(&folder.join("report.html"))
    }
}

/// What the names of the newest grids in a run's folder begin with.
fn newest_grids(folder: &Path) -> Option<String> {
    let grids = fs::read_dir(folder).ok()?.flatten().filter_map(|file| {
        let name = file.file_name().into_string().ok()?.strip_suffix("-1.png")?.to_owned();
        let metadata = file.metadata().ok().filter(|m| m.is_file() && name.starts_with("samples-"))?;
        Some((metadata.modified().ok()?, name))
    });
    grids.max().map(|(_, name)| name)
}

/// Mirrors each image left to right with probability ½.
fn mirror_half(batch: &mut Batch, [channels, height, width]: [usize; 3], generator: &mut Generator) {
    for image in batch.images.chunks_exact_mut(channels * height * width) {
        if generator.next_u32() & 1 == 1 {
            image.chunks_exact_mut(width).for_each(<[f32]>::reverse);
        }
    }
}

/// Says what there is to learn from.
fn note_data(data: &Source) {
    note(format_args!("data: {}", data.summary()));
    note_left_out(data.left_out());
}

fn check_data(data: &Source, config: &UNetConfig) -> Result<()> {
    check_shape(config, data.shape())?;
    match config.num_class_embeds {
        Some(n) if n < data.classes().len() => {
            let found = data.classes().len();
            Err(Error::Input(format!("--data: expected at most {n} classes, found {found}")))
        }
        _ => Ok(()),
    }
}

/// A full disk ends no run: what cannot be written now is said, and perhaps can be next time.
fn unless_unwritable(result: Result<()>) -> Result<()> {
    match result {
        Err(e @ Error::Io(_)) => {
            note(format_args!("the run goes on, but {e}"));
            Ok(())
        }
        other => other,
    }
}
