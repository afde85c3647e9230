//! The CPU in place of a GPU, for browsers without WebGPU: the device and the network that [`super`] uses.

use js_sys::Promise;
use wasm_bindgen::JsCast;
use wasm_bindgen_futures::JsFuture;
use web_sys::WorkerGlobalScope;

use crate::checkpoint::tensor::Arrival;
use crate::consistency::sampler::ConsistencyFunction;
use crate::consistency::schedule::Step;
use crate::cpu::CpuUNet;
use crate::error::{Error, Result};
use crate::model::config::UNetConfig;
use crate::model::unet::UNet;
use crate::network::{ForwardInput, Network};

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

/// The U-Net on the CPU. Its calls let the worker read its messages first, so that a run can be cancelled between them.
pub(super) struct YieldingCpuUNet(CpuUNet);

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
        Ok(Self(CpuUNet::new(config)))
    }

    /// As [`crate::gpu::GpuUNet::warm_up`]: nothing is compiled later.
    #[expect(clippy::unused_async, reason = "a GPU has something to do")]
    pub async fn warm_up(&mut self) -> Result<()> {
        Ok(())
    }
}

impl Network for YieldingCpuUNet {
    fn config(&self) -> &UNetConfig {
        self.0.config()
    }

    fn piece_granularity(&self, name: &str) -> Option<usize> {
        self.0.piece_granularity(name)
    }

    fn load(&mut self, arrival: Arrival<'_>) -> Result<()> {
        self.0.load(arrival)
    }

    async fn forward(&mut self, input: ForwardInput<'_>) -> Result<Vec<f32>> {
        read_messages().await;
        self.0.forward(input).await
    }
}

impl ConsistencyFunction for YieldingCpuUNet {
    async fn denoise(&mut self, x: &[f32], step: &Step, labels: &[u32]) -> Result<Vec<f32>> {
        read_messages().await;
        self.0.denoise(x, step, labels).await
    }
}

/// Lets the worker handle the messages that wait in its queue.
async fn read_messages() {
    let worker: WorkerGlobalScope = js_sys::global().unchecked_into();
    let turn = Promise::new(&mut |resolve, _| {
        // Without arguments beyond the callback it cannot fail.
        let _ = worker.set_timeout_with_callback(&resolve);
    });
    let _ = JsFuture::from(turn).await; // it is never rejected
}
