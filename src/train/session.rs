//! A run on pictures in memory, in two phases, as a page trains.
//!
//! The first phase is a denoiser (EDM), the second a consistency function, by consistency training (ECT) or by the
//! trajectories of the denoiser that the first has made. A model that is fine-tuned begins with the second.

use serde::Deserialize;

use crate::checkpoint::tensor::Arrival;
use crate::consistency::sampler::{ConsistencyFunction, Request};
use crate::consistency::schedule::Step;
use crate::error::{Error, Result};
use crate::model::config::{SchedulerConfig, UNetConfig};
use crate::model::unet::Parameter;
use crate::network::{self, ForwardInput, Network};
use crate::pipeline::Pipeline;
use crate::train::checkpoint::{Saved, record_of, state_file, state_of, teacher_of, weights_file};
use crate::train::data::{Animals, Source};
use crate::train::dataset::Dataset;
use crate::train::denoiser::{Denoiser, Engine};
use crate::train::objective::{Recipe, Weighting, timesteps};
use crate::train::record::Record;
use crate::train::teacher::{Guidance, Teacher};
use crate::train::trainer::{Settings, State, Trainer};
use crate::train::weights::initial_weights;

/// What a session is begun with.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    /// The backend.
    pub device: DeviceKind,
    /// The text of `unet/config.json`.
    pub unet: String,
    /// The text of `scheduler_config.json`.
    pub scheduler: String,
    /// Seed of data, noise, noise levels and initial weights.
    pub seed: u64,
    /// Images per iteration.
    pub batch: usize,
    /// Learning rate of the first phase.
    pub learning_rate: f64,
    /// The first phase.
    pub recipe: Phase,
    /// Pixels by which each drawn image may be moved along each axis.
    pub shift: usize,
}

/// A backend by its name.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// [`Engine::Gpu`].
    Gpu,
    /// [`Engine::Cpu`].
    Cpu,
}

/// What is learnt.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A denoiser.
    Edm,
    /// A consistency function, by consistency training.
    Ect,
    /// A consistency function, from the trajectories of the denoiser so far.
    Trajectories,
}

impl Phase {
    /// By its name: edm, ect or trajectories.
    ///
    /// # Errors
    /// [`Error::Input`] for another name.
    pub fn parse(name: &str) -> Result<Self> {
        serde_json::from_value(name.into())
            .map_err(|_| Error::Input(format!("recipe: expected edm, ect or trajectories, found {name}")))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Edm => "edm",
            Self::Ect => "ect",
            Self::Trajectories => "trajectories",
        }
    }

    fn recipe(self) -> Recipe {
        match self {
            Self::Edm => Recipe::Edm { mean: -0.4, deviation: 1.4 },
            Self::Ect => {
                let weighting = Weighting::Even;
                Recipe::Ect { mean: -0.4, deviation: 1.6, q: 2.0, stages: [1, 5], weighting }
            }
            Self::Trajectories => Recipe::Trajectories { calls: 12, uses: 4, first: 0.5 },
        }
    }
}

/// Levels of the ODE that samples of a denoiser are solved on.
const LEVELS: usize = 12;

/// A training run on pictures in memory.
pub struct Session {
    trainer: Trainer,
    engine: Engine,
    source: Option<Source>,
    parameters: Vec<Parameter>,
    phase: Phase,
    shift: usize,
}

impl Session {
    /// A run from random weights.
    ///
    /// # Errors
    /// Those of the two configurations; [`Error::Input`] for the other options.
    pub fn new(options: &Options, engine: Engine) -> Result<Self> {
        let config = UNetConfig::parse(&options.unet)?;
        let denoiser = Denoiser::new(&config, &SchedulerConfig::parse(&options.scheduler)?, &engine);
        let parameters = denoiser.unet().parameters();
        if options.recipe == Phase::Trajectories {
            return Err(Error::Input("recipe: expected edm or ect to begin with, found trajectories".into()));
        }
        if options.batch == 0 || !(options.learning_rate > 0.0 && options.learning_rate.is_finite()) {
            return Err(Error::Input("settings: expected a batch and a learning rate above 0".into()));
        }
        let settings = Settings {
            recipe: options.recipe.recipe(),
            batch: options.batch,
            learning_rate: options.learning_rate,
            decay: 0.5,
            ema: 0.99,
            seed: options.seed,
            muon: true,
            class_dropout: 0.0,
            guidance: Guidance::NONE,
            critic_learning_rate: options.learning_rate,
        };
        let state = State::new(initial_weights(&parameters, options.seed), &settings.recipe);
        Ok(Self {
            trainer: Trainer::new(denoiser, settings, state, None)?,
            engine,
            source: None,
            parameters,
            phase: options.recipe,
            shift: options.shift,
        })
    }

    /// The configuration of the network.
    pub fn config(&self) -> &UNetConfig {
        &self.trainer.denoiser.config
    }

    /// The parameters of the network.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of weights of the network.
    pub fn weight_count(&self) -> usize {
        self.trainer.denoiser.unet().parameter_count()
    }

    /// The averaged weights, iteration and time of the phase.
    pub fn state(&self) -> &State {
        &self.trainer.state
    }

    /// What is learnt now.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Adds images to learn from: `pixels` (n, C, H, W), one label each.
    ///
    /// # Errors
    /// [`Error::Input`] for another number of bytes or a label that is not below the number of classes.
    pub fn add_images(&mut self, pixels: &[u8], labels: &[u32]) -> Result<()> {
        let [_, channels, height, width] = self.trainer.denoiser.shape(1);
        let size = channels * height * width;
        if pixels.len() != labels.len() * size {
            let (found, expected) = (pixels.len(), labels.len() * size);
            return Err(Error::Input(format!("images: expected {expected} bytes, found {found}")));
        }
        let classes = self.config().num_class_embeds.unwrap_or(1);
        if let Some(bad) = labels.iter().find(|&&label| label as usize >= classes) {
            return Err(Error::Input(format!("labels: expected below {classes}, found {bad}")));
        }
        let mut images = match self.source.take() {
            Some(Source::Images(images)) => images,
            _ => Dataset::new([channels, height, width], (0..classes).map(|c| c.to_string()).collect()),
        };
        for (image, &label) in pixels.chunks_exact(size).zip(labels) {
            images.push(image.iter().copied(), label);
        }
        self.source = Some(Source::Images(images));
        Ok(())
    }

    /// Learns from animals that are composed as they are drawn: `masks` are the grey levels of `masks.png`, of that width,
    /// `parts` is the text of `parts.json`.
    ///
    /// # Errors
    /// Those of [`Animals::new`]; [`Error::Input`] for a network of other pictures.
    pub fn use_animals(&mut self, masks: &[u8], width: usize, parts: &str) -> Result<()> {
        let [_, channels, height, size] = self.trainer.denoiser.shape(1);
        let animals = Animals::new(parts.as_bytes(), masks, width, size)?;
        let kinds = animals.classes().len();
        let classes = self.config().num_class_embeds;
        if channels != 3 || height != size || classes.is_some_and(|n| n < kinds) {
            let classes = classes.map_or("none".into(), |n| n.to_string());
            let found = format!("{channels} channels of {height}×{size} and {classes}");
            return Err(Error::Input(format!(
                "animals: expected a square network of 3 channels, without classes or with {kinds}, found {found}"
            )));
        }
        self.source = Some(Source::Animals(Box::new(animals)));
        Ok(())
    }

    /// Begins the phase anew from these weights.
    pub fn begin_with(&mut self, weights: Vec<f32>) {
        self.trainer.state = State::new(weights, &self.trainer.settings.recipe);
    }

    /// Begins another phase from the averaged weights, which for [`Phase::Trajectories`] are its teacher too.
    ///
    /// # Errors
    /// [`Error::Gpu`], of a GPU alone.
    pub fn next_phase(&mut self, phase: Phase, learning_rate: f64) -> Result<()> {
        let weights = self.trainer.state.ema.clone();
        let teacher = (phase == Phase::Trajectories).then(|| weights.clone());
        self.enter(phase, learning_rate, teacher, State::new(weights, &phase.recipe()))
    }

    /// Changes the learning rate.
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.trainer.settings.learning_rate = learning_rate;
    }

    /// The averaged weights as a safetensors file in F32.
    ///
    /// # Errors
    /// [`Error::Io`] when they are too many for one.
    pub fn weights_file(&self) -> Result<Vec<u8>> {
        weights_file(&self.parameters, &self.trainer.state.ema, None)
    }

    /// Everything but the data that the run needs to go on later, for [`Self::restore`].
    ///
    /// # Errors
    /// [`Error::Io`] when it is too much for one file.
    pub fn save(&self) -> Result<Vec<u8>> {
        let mut record = Record::default();
        record.push("recipe", self.phase.name());
        record.push("learningRate", self.trainer.settings.learning_rate);
        let (state, parameters) = (&self.trainer.state, self.parameters.as_slice());
        let teacher = self.trainer.teacher().map(|teacher| teacher.weights.as_slice());
        state_file(&Saved { state, parameters, critic: None, record: &record, teacher })
    }

    /// Replaces the run by one of a phase with the same network, in `state`; `teacher` are the weights of what is distilled.
    fn enter(&mut self, phase: Phase, learning_rate: f64, teacher: Option<Vec<f32>>, state: State) -> Result<()> {
        let Trainer { denoiser, settings, .. } = &self.trainer;
        let again = || Denoiser::new(&denoiser.config, &denoiser.scheduler, &self.engine);
        let settings = Settings { recipe: phase.recipe(), learning_rate, ..settings.clone() };
        let teacher = teacher.map(|weights| Teacher { denoiser: again(), weights, guide: None });
        self.trainer = Trainer::new(again(), settings, state, teacher)?;
        self.phase = phase;
        Ok(())
    }

    /// One iteration at `progress` of the phase, from 0 to 1. Returns the loss.
    ///
    /// # Errors
    /// [`Error::Input`] when there are no images or the loss is not finite, [`Error::Gpu`] when the device fails; the weights are
    /// then as before.
    pub async fn step(&mut self, progress: f64) -> Result<f32> {
        let Some(source) = &self.source else {
            return Err(Error::Input("expected images to learn from, found none".into()));
        };
        let mut generator = self.trainer.generator();
        let mut batch = source.draw(&mut generator, self.trainer.settings.batch);
        if self.shift > 0 {
            batch.shift(source.shape(), self.shift, &mut generator);
        }
        self.trainer.step(&batch, &mut generator, progress).await
    }

    /// Samples of the averaged weights, (B, C, H, W) in [−1, 1], one for each label, which a network without classes ignores: by 1 or
    /// 2 `calls` of a consistency function; of a denoiser the ODE's ends on [`LEVELS`] levels.
    ///
    /// # Errors
    /// Those of [`Pipeline::sample`].
    pub async fn sample(&self, seed: u64, labels: &[u32], calls: usize) -> Result<Vec<f32>> {
        let Trainer { denoiser, state, .. } = &self.trainer;
        if self.phase == Phase::Edm {
            return denoiser.solve(&state.ema, labels, seed, LEVELS).await;
        }
        let has_classes = denoiser.config.num_class_embeds.is_some();
        let request = Request {
            noise: seed.into(),
            batch: labels.len(),
            class_labels: has_classes.then(|| labels.to_vec()),
            timesteps: Some(timesteps(&denoiser.scheduler, calls)),
            ..Request::default()
        };
        let average = Average { denoiser, weights: &state.ema };
        Pipeline::new(average, denoiser.scheduler.clone()).sample(&request).await
    }

    /// Goes on from what [`Self::save`] made of a run with the same options.
    ///
    /// # Errors
    /// [`Error::Weights`] for a run of another network.
    pub fn restore(&mut self, bytes: &[u8]) -> Result<()> {
        let state = state_of(bytes, &self.parameters, None)?;
        let teacher = teacher_of(bytes, &self.parameters)?;
        let record = record_of(bytes)?.unwrap_or_default();
        let entry = |name: &str| record.entries().iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let phase = Phase::parse(entry("recipe").unwrap_or_default())?;
        let rate = entry("learningRate").and_then(|rate| rate.parse().ok());
        let rate = rate.unwrap_or(self.trainer.settings.learning_rate);
        self.enter(phase, rate, teacher, state)
    }
}

/// The network with its averaged weights, to sample from.
struct Average<'a> {
    denoiser: &'a Denoiser,
    weights: &'a [f32],
}

impl Network for Average<'_> {
    fn config(&self) -> &UNetConfig {
        &self.denoiser.config
    }

    fn piece_granularity(&self, _: &str) -> Option<usize> {
        None
    }

    fn load(&mut self, _: Arrival<'_>) -> Result<()> {
        Ok(())
    }

    async fn forward(&mut self, input: ForwardInput<'_>) -> Result<Vec<f32>> {
        input.check(&self.denoiser.config)?;
        self.denoiser.forward(self.weights, input.sample, input.timestep, input.class_labels).await
    }
}

impl ConsistencyFunction for Average<'_> {
    async fn denoise(&mut self, x: &[f32], step: &Step, labels: &[u32]) -> Result<Vec<f32>> {
        network::denoise(self, x, step, labels).await
    }
}
