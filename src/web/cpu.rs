//! The CPU in place of a GPU, for browsers without WebGPU: the device and the network that [`super`] uses.

use js_sys::{Array, Float32Array, Function, Promise, Uint32Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::WorkerGlobalScope;
use web_time::Instant;

use super::{JsResult, Model, to_js};
use crate::checkpoint::tensor::Arrival;
use crate::consistency::sampler::ConsistencyFunction;
use crate::consistency::schedule::Step;
use crate::cpu::CpuUNet;
use crate::error::{Error, Result};
use crate::model::config::UNetConfig;
use crate::model::unet::UNet;
use crate::network::{self, ForwardInput, Network};

/// The processor that the worker runs on.
pub(super) struct Cpu;

impl Cpu {
    /// There always is one.
    #[expect(clippy::unused_async, reason = "a GPU has to be waited for")]
    pub async fn request() -> Result<Self> {
        Ok(Self)
    }

    /// It is never lost.
    #[expect(clippy::unused_self, reason = "a GPU may be")]
    pub fn clear_errors(&self) -> bool {
        true
    }

    /// The name that takes the place of a GPU's.
    pub fn description(&self) -> &'static str {
        "CPU"
    }
}

/// The U-Net on the CPU. Its calls let the worker read its messages first, so that a run can be cancelled between them, and
/// share a batch with other workers.
pub(super) struct YieldingCpuUNet {
    network: CpuUNet,
    /// Starts the helpers; none when that is not wanted or was done.
    recruit: Option<Function>,
    /// Each has a [`Helper`] in another worker: `(sample, timestep, classLabels) => Promise<Float32Array>`.
    helpers: Vec<Function>,
}

/// What a helper may take beyond four times as long as this worker takes for its own share, in milliseconds: it has to start.
const PATIENCE: f64 = 10_000.0;

impl YieldingCpuUNet {
    /// Makes room for the weights.
    ///
    /// # Errors
    /// [`Error::Input`] when the browser does not give the module that much memory.
    pub fn new(_: &Cpu, config: &UNetConfig) -> Result<Self> {
        let parameters = UNet::new(config).parameter_count();
        // A trial allocation, released at once: a failed allocation later would abort the module.
        let mut room: Vec<f32> = Vec::new();
        room.try_reserve_exact(parameters).map_err(|_| {
            Error::Input(format!(
                "the model needs {} MB of memory, which this browser refuses",
                parameters * 4 / 1_000_000
            ))
        })?;
        drop(room);
        Ok(Self { network: CpuUNet::new(config), recruit: None, helpers: Vec::new() })
    }

    /// As [`crate::gpu::GpuUNet::warm_up`]: nothing is compiled later.
    #[expect(clippy::unused_async, reason = "a GPU has something to do")]
    pub async fn warm_up(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Network for YieldingCpuUNet {
    fn config(&self) -> &UNetConfig {
        self.network.config()
    }

    fn piece_granularity(&self, name: &str) -> Option<usize> {
        self.network.piece_granularity(name)
    }

    fn load(&mut self, arrival: Arrival<'_>) -> Result<()> {
        self.network.load(arrival)
    }

    /// Samples of a batch are independent: each worker computes some of them, with the bits that one alone gives.
    async fn forward(&mut self, input: ForwardInput<'_>) -> Result<Vec<f32>> {
        read_messages().await;
        input.check(self.config())?;
        let batch = input.timestep.len();
        if batch > 1
            && let Some(recruit) = self.recruit.take()
            && let Ok(helpers) = recruit.call1(&JsValue::NULL, &Float32Array::from(self.network.weights()))
        {
            self.helpers = Array::from(&helpers).iter().map(JsCast::unchecked_into).collect();
        }
        let mut shares = input.parts(batch.div_ceil(self.helpers.len() + 1));
        let own = shares.next().expect("a batch has samples");
        let rest: Vec<_> = shares.collect();
        let answers: Vec<_> = rest.iter().zip(&self.helpers).map(|(share, helper)| asked(helper, share)).collect();
        let begin = Instant::now();
        let mut output = self.network.forward(own).await?;
        let patience = PATIENCE + 4e3 * begin.elapsed().as_secs_f64();
        for (share, answer) in rest.into_iter().zip(answers) {
            match in_time(answer, patience).await {
                Some(values) => output.extend(values),
                None => {
                    self.helpers.clear();
                    output.extend(self.network.forward(share).await?);
                }
            }
        }
        Ok(output)
    }
}

impl ConsistencyFunction for YieldingCpuUNet {
    async fn denoise(&mut self, x: &[f32], step: &Step, labels: &[u32]) -> Result<Vec<f32>> {
        network::denoise(self, x, step, labels).await
    }
}

/// Asks a helper for its share.
fn asked(helper: &Function, share: &ForwardInput<'_>) -> Promise {
    let [sample, timestep] = [share.sample, share.timestep].map(Float32Array::from);
    let labels = Uint32Array::from(share.class_labels);
    helper
        .call3(&JsValue::NULL, &sample, &timestep, &labels)
        .map_or_else(|error| Promise::reject(&error), JsCast::unchecked_into)
}

/// A helper's values; none when it fails or answers too late.
async fn in_time(answer: Promise, milliseconds: f64) -> Option<Vec<f32>> {
    let first = Promise::race(&Array::of2(&answer, &after(milliseconds as i32)));
    let values = JsFuture::from(first).await.ok()?.dyn_into::<Float32Array>().ok()?;
    Some(values.to_vec())
}

#[wasm_bindgen]
impl Model {
    /// Lets other workers compute parts of batches. `recruit` is called once, before the first batch of several samples,
    /// with the weights (Float32Array); it returns an array of functions `(sample, timestep, classLabels) =>
    /// Promise<Float32Array>`, each of which has a `Helper` in a worker of its own compute them.
    #[wasm_bindgen(js_name = shareWith)]
    pub fn share_with(&self, recruit: Function) {
        if let Some(pipeline) = self.pipeline.borrow_mut().as_mut() {
            pipeline.network().recruit = Some(recruit);
        }
    }
}

/// The network in another worker, which computes parts of batches.
#[wasm_bindgen]
pub struct Helper(CpuUNet);

#[wasm_bindgen]
impl Helper {
    /// A network of this configuration and the weights that `recruit` was called with.
    #[wasm_bindgen(constructor)]
    pub fn new(unet_config_json: &str, weights: Vec<f32>) -> JsResult<Helper> {
        let config = UNetConfig::parse(unet_config_json).map_err(to_js)?;
        CpuUNet::with_weights(&config, weights).map(Self).map_err(to_js)
    }

    /// F(x, t), as `Model.forward` computes it.
    pub async fn forward(
        &mut self,
        sample: Vec<f32>,
        timestep: Vec<f32>,
        class_labels: Vec<u32>,
    ) -> JsResult<Vec<f32>> {
        let input = ForwardInput { sample: &sample, timestep: &timestep, class_labels: &class_labels };
        self.0.forward(input).await.map_err(to_js)
    }
}

/// Lets the worker handle the messages that wait in its queue.
async fn read_messages() {
    let _ = JsFuture::from(after(0)).await; // it is never rejected
}

/// A promise that is kept after so many milliseconds.
fn after(milliseconds: i32) -> Promise {
    let worker: WorkerGlobalScope = js_sys::global().unchecked_into();
    Promise::new(&mut |resolve, _| {
        // Without arguments beyond the callback it cannot fail.
        let _ = worker.set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, milliseconds);
    })
}
