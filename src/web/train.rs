//! Training in a page: a network that learns from pictures in memory, in two phases.
//!
//! The first phase is a denoiser (EDM), the second a consistency function, by consistency training (ECT) or by the
//! trajectories of the denoiser that the first has made. A model that is fine-tuned begins with the second.

use js_sys::Uint8ClampedArray;
use serde::Deserialize;
use wasm_bindgen::prelude::*;
use web_time::Instant;

use super::{JsResult, to_js};
use crate::checkpoint::tensor::Arrival;
use crate::consistency::sampler::{ConsistencyFunction, Request};
use crate::consistency::schedule::{Step, karras_sigma};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::image::to_rgba;
use crate::model::config::{SchedulerConfig, UNetConfig};
use crate::model::unet::Parameter;
use crate::network::{self, ForwardInput, Network};
use crate::pipeline::Pipeline;
use crate::train::checkpoint::{Saved, record_of, state_file, state_of, teacher_of, weights_file};
use crate::train::data::{Animals, Source};
use crate::train::dataset::Dataset;
use crate::train::denoiser::{Denoiser, Engine};
use crate::train::objective::{Recipe, Weighting};
use crate::train::record::Record;
use crate::train::teacher::{Guidance, Teacher};
use crate::train::trainer::{Settings, State, Trainer};
use crate::train::weights::{WeightReader, count, initial_weights};

/// What a run is begun with.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Options {
    device: Device,
    /// The texts of `unet/config.json` and `scheduler_config.json`.
    unet: String,
    scheduler: String,
    seed: u64,
    batch: usize,
    learning_rate: f64,
    recipe: Phase,
    /// Pixels by which each drawn image may be moved along each axis.
    shift: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Device {
    Gpu,
    Cpu,
}

/// What is learnt.
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Edm,
    Ect,
    Trajectories,
}

impl Phase {
    fn parse(name: &str) -> Result<Self> {
        serde_json::from_value(name.into())
            .map_err(|_| Error::Input(format!("recipe: expected edm, ect or trajectories, found {name}")))
    }

    fn name(self) -> &'static str {
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

/// A training run.
#[wasm_bindgen]
pub struct Training {
    trainer: Trainer,
    engine: Engine,
    device: String,
    source: Option<Source>,
    parameters: Vec<Parameter>,
    phase: Phase,
    /// The weights of the denoiser that is distilled.
    teacher: Option<Vec<f32>>,
    shift: usize,
    /// Weights of the safetensors files that arrive.
    loading: Option<WeightReader>,
}

#[wasm_bindgen]
impl Training {
    /// Opens a device and begins a run from random weights. `settings` is a JSON object: `device` ("gpu" or "cpu"), `unet` and
    /// `scheduler` (the texts of the two configurations), `seed`, `batch`, `learningRate`, `recipe` ("edm" or "ect"), `shift`
    /// (pixels by which each drawn image may be moved along each axis).
    pub async fn create(settings: &str) -> JsResult<Training> {
        let options: Options =
            serde_json::from_str(settings).map_err(|e| to_js(Error::Input(format!("settings: {e}"))))?;
        let (engine, device) = match options.device {
            Device::Cpu => (Engine::Cpu, "CPU".to_owned()),
            Device::Gpu => {
                let gpu = Gpu::request().await.map_err(to_js)?;
                let name = gpu.description().to_owned();
                (Engine::Gpu(Box::new(gpu)), name)
            }
        };
        Self::begin(&options, engine, device).map_err(to_js)
    }

    /// Number of weights of the network.
    #[wasm_bindgen(getter, js_name = weightCount)]
    pub fn weight_count(&self) -> usize {
        count(&self.parameters)
    }

    /// Iterations of the phase.
    #[wasm_bindgen(getter)]
    pub fn iteration(&self) -> f64 {
        self.trainer.state.optimizer.step as f64
    }

    /// Seconds of training in the phase.
    #[wasm_bindgen(getter)]
    pub fn seconds(&self) -> f64 {
        self.trainer.state.seconds
    }

    /// The name of the phase's recipe.
    #[wasm_bindgen(getter)]
    pub fn recipe(&self) -> String {
        self.phase.name().to_owned()
    }

    /// The adapter, or "CPU".
    #[wasm_bindgen(getter)]
    pub fn device(&self) -> String {
        self.device.clone()
    }

    /// Adds images to learn from: `pixels` (n, C, H, W), one label each.
    #[wasm_bindgen(js_name = addImages)]
    pub fn add_images(&mut self, pixels: &[u8], labels: &[u32]) -> JsResult<()> {
        let [_, channels, height, width] = self.trainer.denoiser.shape(1);
        let size = channels * height * width;
        if pixels.len() != labels.len() * size {
            let (found, expected) = (pixels.len(), labels.len() * size);
            return Err(to_js(Error::Input(format!("images: expected {expected} bytes, found {found}"))));
        }
        let classes = self.trainer.denoiser.config.num_class_embeds.unwrap_or(1);
        if let Some(bad) = labels.iter().find(|&&label| label as usize >= classes) {
            return Err(to_js(Error::Input(format!("labels: expected below {classes}, found {bad}"))));
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
    #[wasm_bindgen(js_name = useAnimals)]
    pub fn use_animals(&mut self, masks: &[u8], width: usize, parts: &str) -> JsResult<()> {
        let [_, channels, height, size] = self.trainer.denoiser.shape(1);
        let animals = Animals::new(parts.as_bytes(), masks, width, size).map_err(to_js)?;
        let kinds = animals.classes().len();
        let classes = self.trainer.denoiser.config.num_class_embeds;
        if channels != 3 || height != size || classes.is_some_and(|n| n < kinds) {
            let classes = classes.map_or("none".into(), |n| n.to_string());
            let found = format!("{channels} channels of {height}×{size} and {classes}");
            return Err(to_js(Error::Input(format!(
                "animals: expected a square network of 3 channels, without classes or with {kinds}, found {found}"
            ))));
        }
        self.source = Some(Source::Animals(Box::new(animals)));
        Ok(())
    }

    /// Takes the next bytes of the current safetensors file of the initial weights, of one or of several.
    #[wasm_bindgen(js_name = pushWeights)]
    pub fn push_weights(&mut self, chunk: &[u8], single_file: bool) -> JsResult<()> {
        let begin = || WeightReader::new(&self.parameters, single_file);
        self.loading.get_or_insert_with(begin).push(chunk).map_err(to_js)
    }

    /// Ends the current safetensors file; throws when it was too short.
    #[wasm_bindgen(js_name = endFile)]
    pub fn end_file(&mut self) -> JsResult<()> {
        self.loading.as_mut().map_or(Ok(()), WeightReader::end_file).map_err(to_js)
    }

    /// Begins the run from the weights that arrived; throws when some are missing.
    #[wasm_bindgen(js_name = finishWeights)]
    pub fn finish_weights(&mut self) -> JsResult<()> {
        let Some(reader) = self.loading.take() else {
            return Err(to_js(Error::Weights("expected a file of weights, found none".into())));
        };
        let weights = reader.finish(&self.parameters).map_err(to_js)?;
        self.trainer.state = State::new(weights, &self.trainer.settings.recipe);
        Ok(())
    }

    /// One iteration at `progress` of the phase, from 0 to 1. Returns the loss. Throws, with the weights as before, when the
    /// loss is not finite or the device fails.
    pub async fn step(&mut self, progress: f64) -> JsResult<f32> {
        self.iterate(progress).await.map_err(to_js)
    }

    /// Begins the next phase, "ect" or "trajectories", from the averaged weights, which for "trajectories" are its teacher too.
    #[wasm_bindgen(js_name = nextPhase)]
    pub fn next_phase(&mut self, recipe: &str, learning_rate: f64) -> JsResult<()> {
        let phase = Phase::parse(recipe).map_err(to_js)?;
        let weights = self.trainer.state.ema.clone();
        let teacher = (phase == Phase::Trajectories).then(|| weights.clone());
        self.begin_phase(phase, learning_rate, teacher, weights).map_err(to_js)
    }

    /// Samples of the averaged weights as RGBA bytes, one picture after another, one for each label, which a network without
    /// classes ignores. `calls` is 1 or 2 of a consistency function; a denoiser's ODE is solved on 12 levels.
    pub async fn sample(&mut self, seed: u32, labels: &[u32], calls: usize) -> JsResult<Uint8ClampedArray> {
        let images = self.draw(seed.into(), labels, calls).await.map_err(to_js)?;
        let [_, channels, height, width] = self.trainer.denoiser.shape(1);
        Ok(Uint8ClampedArray::from(to_rgba(&images, channels, height * width).as_slice()))
    }

    /// The averaged weights as a safetensors file in F32.
    #[wasm_bindgen(js_name = weightsFile)]
    pub fn weights_file(&self) -> JsResult<Vec<u8>> {
        weights_file(&self.parameters, &self.trainer.state.ema, None).map_err(to_js)
    }

    /// Everything but the data that the run needs to go on later, for [`Self::restore`].
    pub fn state(&self) -> JsResult<Vec<u8>> {
        let mut record = Record::default();
        record.push("recipe", self.phase.name());
        record.push("learningRate", self.trainer.settings.learning_rate);
        let (state, parameters, teacher) = (&self.trainer.state, &self.parameters, self.teacher.as_deref());
        state_file(&Saved { state, parameters, critic: None, record: &record, teacher }).map_err(to_js)
    }

    /// Goes on from a [`Self::state`] of a run with the same settings.
    pub fn restore(&mut self, state: &[u8]) -> JsResult<()> {
        self.resume(state).map_err(to_js)
    }

    /// Changes the learning rate.
    #[wasm_bindgen(js_name = setLearningRate)]
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.trainer.settings.learning_rate = learning_rate;
    }
}

impl Training {
    fn begin(options: &Options, engine: Engine, device: String) -> Result<Self> {
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
            device,
            source: None,
            parameters,
            phase: options.recipe,
            teacher: None,
            shift: options.shift,
            loading: None,
        })
    }

    /// Replaces the run by one of another phase with the same network.
    fn begin_phase(
        &mut self,
        phase: Phase,
        learning_rate: f64,
        teacher: Option<Vec<f32>>,
        weights: Vec<f32>,
    ) -> Result<()> {
        let Trainer { denoiser, settings, .. } = &self.trainer;
        let again = || Denoiser::new(&denoiser.config, &denoiser.scheduler, &self.engine);
        let settings = Settings { recipe: phase.recipe(), learning_rate, ..settings.clone() };
        let state = State::new(weights, &settings.recipe);
        let of = |weights: &Vec<f32>| Teacher { denoiser: again(), weights: weights.clone(), guide: None };
        self.trainer = Trainer::new(again(), settings, state, teacher.as_ref().map(of))?;
        (self.phase, self.teacher) = (phase, teacher);
        Ok(())
    }

    async fn iterate(&mut self, progress: f64) -> Result<f32> {
        let begin = Instant::now();
        let Some(source) = &self.source else {
            return Err(Error::Input("expected images to learn from, found none".into()));
        };
        let mut generator = self.trainer.generator();
        let mut batch = source.draw(&mut generator, self.trainer.settings.batch);
        if self.shift > 0 {
            batch.shift(source.shape(), self.shift, &mut generator);
        }
        if self.trainer.denoiser.config.num_class_embeds.is_none() {
            batch.labels.fill(0);
        }
        let loss = self.trainer.step(&batch, &mut generator, progress).await?;
        self.trainer.state.seconds += begin.elapsed().as_secs_f64();
        Ok(loss)
    }

    async fn draw(&self, seed: u64, labels: &[u32], calls: usize) -> Result<Vec<f32>> {
        let Trainer { denoiser, state, .. } = &self.trainer;
        let average = Average { denoiser, weights: &state.ema };
        if self.phase == Phase::Edm {
            return average.solve(labels, seed).await;
        }
        let has_classes = denoiser.config.num_class_embeds.is_some();
        // The second call begins at ECT's middle level, σ = 0.821 at σ_data = 0.5.
        let middle = 1.642 * denoiser.scheduler.sigma_data;
        let distance = |i: &usize| (karras_sigma(&denoiser.scheduler, *i).ln() - middle.ln()).abs();
        let nearest = (1..denoiser.scheduler.num_train_timesteps).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        let request = Request {
            noise: seed.into(),
            batch: labels.len(),
            class_labels: has_classes.then(|| labels.to_vec()),
            timesteps: Some(if calls > 1 { vec![nearest.unwrap_or(1), 0] } else { vec![0] }),
            ..Request::default()
        };
        Pipeline::new(average, denoiser.scheduler.clone()).sample(&request).await
    }

    fn resume(&mut self, bytes: &[u8]) -> Result<()> {
        let state = state_of(bytes, &self.parameters, None)?;
        let teacher = teacher_of(bytes, &self.parameters)?;
        let record = record_of(bytes)?.unwrap_or_default();
        let entry = |name: &str| record.entries().iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let phase = Phase::parse(entry("recipe").unwrap_or_default())?;
        let rate = entry("learningRate").and_then(|rate| rate.parse().ok());
        let rate = rate.unwrap_or(self.trainer.settings.learning_rate);
        self.begin_phase(phase, rate, teacher, state.weights.clone())?;
        self.trainer.state = state;
        Ok(())
    }
}

/// The network with its averaged weights, to sample from.
struct Average<'a> {
    denoiser: &'a Denoiser,
    weights: &'a [f32],
}

impl Average<'_> {
    /// The ends of the ODE of an EDM denoiser, from noise of `seed`.
    async fn solve(&self, labels: &[u32], seed: u64) -> Result<Vec<f32>> {
        let scheduler = &self.denoiser.scheduler;
        let levels = SchedulerConfig { num_train_timesteps: LEVELS, ..scheduler.clone() };
        let sigmas: Vec<f64> = (0..LEVELS).map(|i| karras_sigma(&levels, i)).collect();
        self.denoiser.solve(self.weights, labels, seed, &sigmas).await
    }
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
