//! `consistency-sampler train`: what is run, one recipe or a plan of two.

mod options;
mod run;

use std::ops::RangeInclusive;
use std::path::Path;
use std::process::ExitCode;

use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::file::read_text;
use consistency_sampler::model::config::{SchedulerConfig, UNetConfig};
use consistency_sampler::model::unet::UNet;
use consistency_sampler::train::data::Source;
use consistency_sampler::train::data_folder::{check_class_names, check_shape, natural_size, side};
use consistency_sampler::train::denoiser::Denoiser;
use consistency_sampler::train::objective::Recipe;
use consistency_sampler::train::run_folder::{read_record, read_state};
use consistency_sampler::train::teacher::Teacher;
use consistency_sampler::train::trainer::{Settings, State, Trainer};
use consistency_sampler::train::weights::initial_weights;
use consistency_sampler::{Error, Precision, Result};

use crate::console::{note, note_left_out};
use crate::losses::Losses;
use crate::plan;
use crate::report::number;
use crate::signals::Stop;
use options::{OptimizerName, RecipeName};
use run::{Length, Run};

pub use options::Arguments;

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
