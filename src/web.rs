//! The crate for JavaScript.
//!
//! Everything here is meant for a Web Worker. No panic crosses over: a function that fails throws an `Error` whose `message`
//! is one line and whose `code` is [`crate::Error::code`].
//!
//! With feature `web-train` the module trains too (`web/train.rs`).
//!
//! With feature `gpu` this is the page's module; without it, the same API computes on the CPU (`web/cpu.rs`), in a module
//! of its own for browsers without WebGPU.

use std::cell::RefCell;
use std::ops::ControlFlow;

use js_sys::{Array, BigInt, Function, Object, Reflect, Uint8ClampedArray};
use sha2::{Digest, Sha256};
use wasm_bindgen::prelude::*;
use web_time::Instant;

use crate::checkpoint::stream::WeightStream;
use crate::consistency::edit::{Edit, STROKE_SIGMAS};
use crate::consistency::edit_request::{EditRequest, Task};
use crate::consistency::noise::{self, BatchNoise, MAX_NESTING, Noise};
use crate::consistency::sampler::{Progress, Request, add_noise};
use crate::error::Error;
#[cfg(feature = "gpu")]
use crate::gpu::{Gpu as Processor, GpuUNet as Interpreter};
use crate::image::{from_rgba, to_rgba};
use crate::model::config::{SchedulerConfig, UNetConfig};
use crate::model::parse::check_model_index;
use crate::model::unet::UNet;
use crate::network::{ForwardInput, Network, Watch};
use crate::pipeline::Pipeline;
#[cfg(not(feature = "gpu"))]
use cpu::{Cpu as Processor, YieldingCpuUNet as Interpreter};

#[cfg(not(feature = "gpu"))]
mod convert;
#[cfg(not(feature = "gpu"))]
mod cpu;
#[cfg(feature = "web-train")]
mod train;

type JsResult<T> = Result<T, JsValue>;

/// Runs when the module is loaded: a panic, which would be a defect of this crate, is at least readable.
#[wasm_bindgen(start)]
pub fn start() {
    console_error_panic_hook::set_once();
}

/// A WebGPU device, or the CPU.
#[wasm_bindgen]
pub struct Device {
    processor: Processor,
    name: String,
}

#[wasm_bindgen]
impl Device {
    /// Asks the browser for its fastest GPU; throws when there is none. `name` is the adapter's name for people, which
    /// wgpu does not learn from most browsers.
    pub async fn request(name: Option<String>) -> JsResult<Device> {
        let processor = Processor::request().await.map_err(to_js)?;
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| processor.description().to_owned());
        Ok(Device { processor, name })
    }

    /// The adapter's name for people.
    pub fn description(&self) -> String {
        self.name.clone()
    }

    /// Clears the errors so far, of which one failure can bring several over some time. Returns false when the device was
    /// lost: then it and every model on it must be made anew.
    #[wasm_bindgen(js_name = clearErrors)]
    pub fn clear_errors(&self) -> bool {
        self.processor.clear_errors()
    }
}

/// SHA-256 in hexadecimal.
#[wasm_bindgen]
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A model whose weights are arriving.
#[wasm_bindgen]
pub struct Loader {
    network: Interpreter,
    stream: WeightStream,
    hash: Sha256,
    scheduler: SchedulerConfig,
}

#[wasm_bindgen]
impl Loader {
    /// Reads the configuration files, allocates the weights on the GPU and starts compiling the kernels; the weights
    /// will come in one file if `single_file`, else in several.
    #[wasm_bindgen(constructor)]
    pub fn new(
        device: &Device,
        model_index_json: &str,
        unet_config_json: &str,
        scheduler_config_json: &str,
        single_file: bool,
    ) -> JsResult<Loader> {
        check_model_index(model_index_json).map_err(to_js)?;
        let config = UNetConfig::parse(unet_config_json).map_err(to_js)?;
        let scheduler = SchedulerConfig::parse(scheduler_config_json).map_err(to_js)?;
        let network = Interpreter::new(&device.processor, &config).map_err(to_js)?;
        let parameters = UNet::new(&config).parameters();
        let stream = WeightStream::new(&parameters, single_file, |name| network.piece_granularity(name));
        Ok(Loader { network, stream, hash: Sha256::new(), scheduler })
    }

    /// Takes the next bytes of the current safetensors file; complete rows go to the GPU.
    pub fn push(&mut self, chunk: &[u8]) -> JsResult<()> {
        self.hash.update(chunk);
        let network = &mut self.network;
        self.stream.push(chunk, &mut |arrival| network.load(arrival)).map_err(to_js)
    }

    /// Forgets the current file, or the one that was just ended; its bytes will come anew from the first one.
    #[wasm_bindgen(js_name = restartFile)]
    pub fn restart_file(&mut self) {
        self.hash = Sha256::new();
        self.stream.restart_file();
    }

    /// Ends the current file and returns its SHA-256 in hexadecimal; throws when the file was too short.
    #[wasm_bindgen(js_name = endFile)]
    pub fn end_file(&mut self) -> JsResult<String> {
        self.stream.end_file().map_err(to_js)?;
        Ok(hexadecimal(&self.hash.finalize_reset()))
    }

    /// Returns the model; throws when a tensor did not come.
    pub fn finish(self) -> JsResult<Model> {
        self.stream.finish().map_err(to_js)?;
        let watch = self.network.watch();
        Ok(Model {
            config: self.network.config().clone(),
            scheduler: self.scheduler.clone(),
            pipeline: RefCell::new(Some(Pipeline::new(self.network, self.scheduler))),
            watch,
        })
    }
}

/// A model that is ready to sample.
#[wasm_bindgen]
pub struct Model {
    config: UNetConfig,
    scheduler: SchedulerConfig,
    /// Taken out while a call runs, so that a second one is refused instead of disturbing the first.
    pipeline: RefCell<Option<Pipeline<Interpreter>>>,
    watch: Watch,
}

#[wasm_bindgen]
impl Model {
    /// `{parameters, sampleSize: [height, width], channels, numClassEmbeds | null, numTrainTimesteps, sigmaMin,
    /// sigmaMax}`.
    pub fn info(&self) -> JsResult<Object> {
        let [h, w] = self.config.sample_size;
        let number = |n: usize| JsValue::from(n as u32);
        object(&[
            ("parameters", number(UNet::new(&self.config).parameter_count())),
            ("sampleSize", Array::of2(&number(h), &number(w)).into()),
            ("channels", number(self.config.in_channels)),
            ("numClassEmbeds", self.config.num_class_embeds.map_or(JsValue::NULL, number)),
            ("numTrainTimesteps", number(self.scheduler.num_train_timesteps)),
            ("sigmaMin", self.scheduler.sigma_min.into()),
            ("sigmaMax", self.scheduler.sigma_max.into()),
        ])
    }

    /// The cost of a network call on the GPU, at the batch size of the last one: `{batch, dispatches, submits, pipelines,
    /// weightBytes, activationBytes, liveBytes, otherBytes}`, or null before the first call. `liveBytes` is the
    /// largest set of activations that are alive together, which `activationBytes` cannot be less than.
    #[cfg(feature = "gpu")]
    pub fn report(&self) -> JsResult<JsValue> {
        let Some(report) = self.pipeline.borrow_mut().as_mut().and_then(|pipeline| pipeline.network().report()) else {
            return Ok(JsValue::NULL);
        };
        let entries = [
            ("batch", report.batch as f64),
            ("dispatches", report.dispatches as f64),
            ("submits", report.submits as f64),
            ("pipelines", report.pipelines as f64),
            ("weightBytes", report.weight_bytes as f64),
            ("activationBytes", report.activation_bytes as f64),
            ("liveBytes", report.live_bytes as f64),
            ("otherBytes", report.other_bytes as f64),
        ];
        object(&entries.map(|(key, value)| (key, value.into()))).map(Into::into)
    }

    /// `{timesteps, sigmas}` of `options`, a number of evenly spaced steps or an explicit list:
    /// `{numInferenceSteps?, timesteps?}`; throws for bad ones.
    pub fn schedule(&self, options: &Object) -> JsResult<Object> {
        let request = Options(options).request(&self.config)?;
        let schedule = request.schedule(&self.scheduler).map_err(to_js)?;
        let timesteps: Array = schedule.timesteps.iter().map(|&t| JsValue::from(t as u32)).collect();
        let sigmas: Array = schedule.steps.iter().map(|s| JsValue::from(s.sigma)).collect();
        object(&[("timesteps", timesteps.into()), ("sigmas", sigmas.into())])
    }

    /// Makes the device compile every kernel, so that the first picture takes no longer than the next.
    #[wasm_bindgen(js_name = warmUp)]
    pub async fn warm_up(&self) -> JsResult<()> {
        let mut pipeline = self.take()?;
        let result = pipeline.network().warm_up().await;
        self.pipeline.replace(Some(pipeline));
        result.map_err(to_js)
    }

    /// Draws samples; calls `on_step` after each network call with
    /// `{index, steps, sigma, pixels: Uint8ClampedArray (count × height × width RGBA), last}`.
    ///
    /// `options`: `{seed, count, classLabels?, numInferenceSteps?, timesteps?, blend?: {seed, amount}}`. Resolves to
    /// `{cancelled, networkCalls, milliseconds}`.
    ///
    /// With `kind`, it edits a picture instead. Further options are then `image` and, as the kind has them, `mask`,
    /// `patch`, `sigma`, `to`, `amounts`; pictures are `{width, height, data: RGBA}` of the model's size.
    pub async fn sample(&self, options: Object, on_step: Function) -> JsResult<Object> {
        let options = Options(&options);
        let (request, task) = (options.request(&self.config)?, options.task(&self.config)?);
        let begin = Instant::now();
        let mut network_calls = 0;
        let mut thrown = None;
        let mut pipeline = self.take()?;
        let step = |p: Progress<'_>| {
            network_calls += 1;
            let report = object(&[
                ("index", JsValue::from(p.index as u32)),
                ("steps", JsValue::from(p.steps as u32)),
                ("sigma", p.sigma.into()),
                ("pixels", self.rgba(p.denoised)),
                ("last", JsValue::from(p.index + 1 == p.steps)),
            ]);
            thrown = report.and_then(|r| on_step.call1(&JsValue::NULL, &r)).err();
            if thrown.is_some() || self.watch.is_cancelled() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let result = match task {
            None => pipeline.sample_with(&request, step).await,
            Some((task, picture)) => pipeline.edit_with(&EditRequest { task, picture, request }, step).await,
        };
        self.pipeline.replace(Some(pipeline));
        if let Some(error) = thrown {
            return Err(error);
        }
        let cancelled = match result {
            Ok(_) => false,
            Err(Error::Cancelled) => true,
            Err(e) => return Err(to_js(e)),
        };
        object(&[
            ("cancelled", cancelled.into()),
            ("networkCalls", JsValue::from(network_calls)),
            ("milliseconds", (begin.elapsed().as_secs_f64() * 1e3).into()),
        ])
    }

    /// x = image + σ·z, z the seed's noise, and f(x, σ): `{noisy, denoised}`, RGBA pixels. x is shown as long as a
    /// picture is, x/√(1 + σ²).
    ///
    /// `options`: `{image, sigma, seed, classLabels?}`. When it is cancelled, `{cancelled: true}`.
    pub async fn denoise(&self, options: Object) -> JsResult<Object> {
        let options = Options(&options);
        let request = options.request(&self.config)?;
        let (sigma, picture) = (options.number("sigma")?, options.picture("image", &self.config)?);
        let labels = request.labels(&self.config).map_err(to_js)?;
        let mut z = vec![0.0; picture.len()];
        request.noise.generator(1, picture.len()).map_err(to_js)?(&mut z);
        let mut x = picture;
        add_noise(&mut x, sigma, &z);
        let mut pipeline = self.take()?;
        let result = pipeline.denoise(&x, sigma, &labels).await;
        self.pipeline.replace(Some(pipeline));
        let denoised = match result {
            Err(Error::Cancelled) => return object(&[("cancelled", true.into())]),
            other => other.map_err(to_js)?,
        };
        let length = (1.0 + sigma * sigma).sqrt() as f32;
        x.iter_mut().for_each(|x| *x /= length);
        object(&[("noisy", self.rgba(&x)), ("denoised", self.rgba(&denoised))])
    }

    /// Lets the running call stop: on a GPU after the submits under way, on a CPU after the network call.
    pub fn cancel(&self) {
        self.watch.cancel();
    }

    /// How much of the network call under way is done, from 0 to 1.
    pub fn progress(&self) -> f32 {
        self.watch.progress()
    }

    /// The bare network, as `UNet2DModel` is called: `sample` (B × C × H × W), `timestep` (B), `class_labels` (B) if
    /// the model has classes. Resolves to B × C × H × W values.
    pub async fn forward(
        &self,
        sample: Vec<f32>,
        timestep: Vec<f32>,
        class_labels: Option<Vec<u32>>,
    ) -> JsResult<Vec<f32>> {
        let class_labels = class_labels.unwrap_or_default();
        let mut pipeline = self.take()?;
        let input = ForwardInput { sample: &sample, timestep: &timestep, class_labels: &class_labels };
        let result = pipeline.forward(input).await;
        self.pipeline.replace(Some(pipeline));
        result.map_err(to_js)
    }

    fn take(&self) -> JsResult<Pipeline<Interpreter>> {
        let busy = || Error::Input("the model is busy: wait for the running call, or cancel it".into());
        let pipeline = self.pipeline.take().ok_or_else(|| to_js(busy()))?;
        self.watch.reset();
        Ok(pipeline)
    }

    /// Images (B, C, H, W) in [−1, 1] as a Uint8ClampedArray of RGBA.
    fn rgba(&self, images: &[f32]) -> JsValue {
        let [height, width] = self.config.sample_size;
        Uint8ClampedArray::from(to_rgba(images, self.config.in_channels, height * width).as_slice()).into()
    }
}

/// The most values that a batch of images may have; WebAssembly's memory has to hold several such batches.
const MOST_VALUES: usize = 1 << 24;

/// The options of a call. Messages name the option that is wrong.
struct Options<'a>(&'a Object);

impl Options<'_> {
    fn request(&self, config: &UNetConfig) -> JsResult<Request> {
        // A number beyond a type's range is beyond every allowed range.
        let size = |v: u64| usize::try_from(v).unwrap_or(usize::MAX);
        let label = |v: u64| u32::try_from(v).unwrap_or(u32::MAX);
        let [height, width] = config.sample_size;
        let most = (MOST_VALUES / (config.in_channels * height * width)).max(1);
        let count = self.whole("count")?.unwrap_or(1);
        if !(1..=most as u64).contains(&count) {
            return Err(to_js(Error::Input(format!("count: expected 1 to {most}, found {count}"))));
        }
        let noise = match self.get("seed").filter(Array::is_array) {
            Some(seeds) => {
                BatchNoise::PerImage(Array::from(&seeds).iter().map(|seed| noise(&seed, 0)).collect::<JsResult<_>>()?)
            }
            None => {
                let own = Noise::Seed(self.whole("seed")?.unwrap_or(0));
                BatchNoise::Shared(match self.get("blend").map(Object::from) {
                    None => own,
                    Some(blend) => {
                        let blend = Options(&blend);
                        let other = Noise::Seed(blend.whole("seed")?.unwrap_or(0));
                        Noise::between(own, other, blend.number("amount")?)
                    }
                })
            }
        };
        Ok(Request {
            noise,
            batch: size(count),
            class_labels: self.list("classLabels", |v, key| whole_number(v, key).map(label))?,
            timesteps: self.list("timesteps", |v, key| whole_number(v, key).map(size))?,
            num_inference_steps: self.whole("numInferenceSteps")?.map(size),
        })
    }

    /// The edit and its picture; `None` without a `kind`.
    fn task(&self, config: &UNetConfig) -> JsResult<Option<(Task, Vec<f32>)>> {
        let Some(kind) = self.get("kind") else {
            return Ok(None);
        };
        let task = match kind.as_string().as_deref() {
            Some("inpaint") => {
                let grey = UNetConfig { in_channels: 1, ..config.clone() };
                let hole = self.picture("mask", &grey)?.iter().map(|&v| v > 0.0).collect();
                Task::Edit(Edit::Inpaint { hole })
            }
            Some("colorize") => Task::Edit(Edit::Colorize),
            Some("super-resolution") => {
                let patch = self
                    .whole("patch")?
                    .ok_or_else(|| expected("patch", "a whole number from 1", &JsValue::UNDEFINED))?;
                Task::Edit(Edit::SuperResolution { patch: patch as usize })
            }
            Some("stroke") => Task::Edit(Edit::Stroke),
            Some("denoise") => Task::Denoise { sigma: self.number("sigma")? },
            Some("interpolate") => Task::Interpolate {
                to: self.picture("to", config)?,
                sigma: self.get("sigma").map_or(Ok(STROKE_SIGMAS[0]), |_| self.number("sigma"))?,
                amounts: self.list("amounts", |v, key| v.as_f64().ok_or_else(|| expected(key, "numbers", v)))?,
            },
            _ => {
                let kinds = "inpaint, colorize, super-resolution, stroke, denoise or interpolate";
                return Err(expected("kind", kinds, &kind));
            }
        };
        Ok(Some((task, self.picture("image", config)?)))
    }

    /// A picture of the model's size, (C, H, W) in [−1, 1].
    fn picture(&self, key: &str, config: &UNetConfig) -> JsResult<Vec<f32>> {
        let [height, width] = config.sample_size;
        let wanted = || format!("{height}×{width} pixels, {} bytes of RGBA", height * width * 4);
        let value = self.get(key).unwrap_or_default();
        let picture = Object::from(value.clone());
        let picture = Options(&picture);
        let data = picture.get("data").and_then(|data| data.dyn_into::<Uint8ClampedArray>().ok());
        let data = data.ok_or_else(|| expected(key, &wanted(), &value))?.to_vec();
        let found = (picture.whole("height")?, picture.whole("width")?, data.len());
        if found != (Some(height as u64), Some(width as u64), height * width * 4) {
            let (h, w) = (found.0.unwrap_or(0), found.1.unwrap_or(0));
            let found = format!("{h}×{w}, {} bytes", found.2);
            return Err(expected(key, &wanted(), &found.into()));
        }
        Ok(from_rgba(&data, config.in_channels))
    }

    /// The value of an option; `None` for null and undefined.
    fn get(&self, key: &str) -> Option<JsValue> {
        Some(get(self.0, key)).filter(|v| !v.is_undefined() && !v.is_null())
    }

    fn whole(&self, key: &str) -> JsResult<Option<u64>> {
        self.get(key).map(|v| whole_number(&v, key)).transpose()
    }

    fn number(&self, key: &str) -> JsResult<f64> {
        let value = self.get(key).unwrap_or_default();
        value.as_f64().ok_or_else(|| expected(key, "a number", &value))
    }

    fn list<T>(&self, key: &str, item: impl Fn(&JsValue, &str) -> JsResult<T>) -> JsResult<Option<Vec<T>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        // Numbers and strings have no iterator of numbers.
        let values = if value.is_object() { js_sys::try_iter(&value)? } else { None };
        let values = values.ok_or_else(|| expected(key, "a list of numbers", &value))?;
        values.map(|v| item(&v?, key)).collect::<JsResult<_>>().map(Some)
    }
}

/// A seed, or `{from, to, amount}` with such in `from` and `to`.
fn noise(value: &JsValue, depth: usize) -> JsResult<Noise> {
    if !value.is_object() {
        return whole_number(value, "seed").map(Noise::Seed);
    }
    if depth == MAX_NESTING {
        return Err(to_js(noise::too_deep()));
    }
    let object = Object::from(value.clone());
    let options = Options(&object);
    let end = |key: &str| noise(&options.get(key).unwrap_or_default(), depth + 1);
    Ok(Noise::between(end("from")?, end("to")?, options.number("amount")?))
}

/// A number without fraction, or a BigInt, of at most 64 bits.
fn whole_number(value: &JsValue, key: &str) -> JsResult<u64> {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53, beyond which a JavaScript number skips whole numbers
    let whole = |n: f64| (n.fract() == 0.0 && (0.0..EXACT).contains(&n)).then_some(n as u64);
    let big = || value.dyn_ref::<BigInt>().and_then(|b| u64::try_from(b.clone()).ok());
    value.as_f64().map_or_else(big, whole).ok_or_else(|| expected(key, "a whole number from 0", value))
}

/// The error for a wrong option.
fn expected(key: &str, what: &str, found: &JsValue) -> JsValue {
    let found: String = text(found).chars().take(60).collect();
    to_js(Error::Input(format!("{key}: expected {what}, found {found}")))
}

/// A value as JavaScript's `String(value)` writes it.
fn text(value: &JsValue) -> String {
    let string = Reflect::get(&js_sys::global(), &"String".into()).unwrap_or_default().unchecked_into::<Function>();
    // It throws for an object whose own conversion throws.
    let text = string.call1(&JsValue::NULL, value).ok().and_then(|text| text.as_string());
    text.unwrap_or_else(|| "an object".to_owned())
}

fn get(object: &JsValue, key: &str) -> JsValue {
    Reflect::get(object, &key.into()).unwrap_or_default()
}

fn object(entries: &[(&str, JsValue)]) -> JsResult<Object> {
    let object = Object::new();
    for (key, value) in entries {
        Reflect::set(&object, &(*key).into(), value)?;
    }
    Ok(object)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn to_js(e: Error) -> JsValue {
    let error = js_sys::Error::new(&e.to_string());
    // Setting a property of a fresh Error cannot fail.
    let _ = Reflect::set(&error, &"code".into(), &e.code().into());
    error.into()
}
