//! Training in a page: [`Session`] for JavaScript.

use js_sys::Uint8ClampedArray;
use wasm_bindgen::prelude::*;

use super::{JsResult, to_js};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::image::to_rgba;
use crate::train::denoiser::Engine;
use crate::train::session::{DeviceKind, Options, Phase, Session};
use crate::train::weights::WeightReader;

/// A training run.
#[wasm_bindgen]
pub struct Training {
    session: Session,
    device: String,
    /// Weights of the safetensors files that arrive.
    loading: Option<WeightReader>,
}

#[wasm_bindgen]
impl Training {
    /// Opens a device and begins a run from random weights. `settings` is a JSON object: `device` ("gpu" or "cpu"), `unet` and
    /// `scheduler` (the texts of the two configurations), `seed`, `batch`, `learningRate`, `recipe` ("edm" or "ect"), `shift`
    /// (pixels by which each drawn image may be moved along each axis).
    pub async fn create(settings: &str) -> JsResult<Training> {
        Self::open(settings).await.map_err(to_js)
    }

    /// Number of weights of the network.
    #[wasm_bindgen(getter, js_name = weightCount)]
    pub fn weight_count(&self) -> usize {
        self.session.weight_count()
    }

    /// The adapter, or "CPU".
    #[wasm_bindgen(getter)]
    pub fn device(&self) -> String {
        self.device.clone()
    }

    /// Adds images to learn from: `pixels` (n, C, H, W), one label each.
    #[wasm_bindgen(js_name = addImages)]
    pub fn add_images(&mut self, pixels: &[u8], labels: &[u32]) -> JsResult<()> {
        self.session.add_images(pixels, labels).map_err(to_js)
    }

    /// Learns from animals that are composed as they are drawn: `masks` are the grey levels of `masks.png`, of that width,
    /// `parts` is the text of `parts.json`.
    #[wasm_bindgen(js_name = useAnimals)]
    pub fn use_animals(&mut self, masks: &[u8], width: usize, parts: &str) -> JsResult<()> {
        self.session.use_animals(masks, width, parts).map_err(to_js)
    }

    /// Takes the next bytes of the current safetensors file of the initial weights, of one or of several.
    #[wasm_bindgen(js_name = pushWeights)]
    pub fn push_weights(&mut self, chunk: &[u8], single_file: bool) -> JsResult<()> {
        let begin = || WeightReader::new(self.session.parameters(), single_file);
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
        let none = || to_js(Error::Weights("expected a file of weights, found none".into()));
        let reader = self.loading.take().ok_or_else(none)?;
        self.session.begin_with(reader.finish(self.session.parameters()).map_err(to_js)?);
        Ok(())
    }

    /// One iteration at `progress` of the phase, from 0 to 1. Returns the loss. Throws, with the weights as before, when the
    /// loss is not finite or the device fails.
    pub async fn step(&mut self, progress: f64) -> JsResult<f32> {
        self.session.step(progress).await.map_err(to_js)
    }

    /// Begins the next phase, "ect" or "trajectories", from the averaged weights, which for "trajectories" are its teacher too.
    #[wasm_bindgen(js_name = nextPhase)]
    pub fn next_phase(&mut self, recipe: &str, learning_rate: f64) -> JsResult<()> {
        Phase::parse(recipe).and_then(|phase| self.session.next_phase(phase, learning_rate)).map_err(to_js)
    }

    /// Samples of the averaged weights as RGBA bytes, one picture after another, one for each label, which a network without
    /// classes ignores. `calls` is 1 or 2 of a consistency function; a denoiser's ODE is solved on 12 levels.
    pub async fn sample(&mut self, seed: u32, labels: &[u32], calls: usize) -> JsResult<Uint8ClampedArray> {
        let images = self.session.sample(seed.into(), labels, calls).await.map_err(to_js)?;
        let config = self.session.config();
        let pixels = config.sample_size.iter().product();
        Ok(Uint8ClampedArray::from(to_rgba(&images, config.in_channels, pixels).as_slice()))
    }

    /// The averaged weights as a safetensors file in F32.
    #[wasm_bindgen(js_name = weightsFile)]
    pub fn weights_file(&self) -> JsResult<Vec<u8>> {
        self.session.weights_file().map_err(to_js)
    }

    /// Everything but the data that the run needs to go on later, for [`Self::restore`].
    pub fn state(&self) -> JsResult<Vec<u8>> {
        self.session.save().map_err(to_js)
    }

    /// Goes on from a [`Self::state`] of a run with the same settings.
    pub fn restore(&mut self, state: &[u8]) -> JsResult<()> {
        self.session.restore(state).map_err(to_js)
    }

    /// Changes the learning rate.
    #[wasm_bindgen(js_name = setLearningRate)]
    pub fn set_learning_rate(&mut self, learning_rate: f64) {
        self.session.set_learning_rate(learning_rate);
    }
}

impl Training {
    async fn open(settings: &str) -> Result<Self> {
        let options: Options = serde_json::from_str(settings).map_err(|e| Error::Input(format!("settings: {e}")))?;
        let (engine, device) = match options.device {
            DeviceKind::Cpu => (Engine::Cpu, "CPU".to_owned()),
            DeviceKind::Gpu => {
                let gpu = Gpu::request().await?;
                let name = gpu.description().to_owned();
                (Engine::Gpu(Box::new(gpu)), name)
            }
        };
        Ok(Self { session: Session::new(&options, engine)?, device, loading: None })
    }
}
