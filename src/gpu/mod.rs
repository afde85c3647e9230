//! The WebGPU interpreter: records the forward once, then runs it as a static plan.
//!
//! [`graph`] records what the forward does, [`fuse`] decides what one kernel launch does, [`program`] is what comes of
//! that, [`plan`] gives the launches buffers for one batch size, [`memory`] lets activations share them, [`device`] is the
//! GPU, through wgpu or the browser. The kernels are under `kernels/`, one file each; [`pack`] knows the order in which
//! they want the weights, [`weight_buffers`] holds those, [`tuning`] finds out which of them suit a device.

pub(crate) mod device;
mod fuse;
mod graph;
pub(crate) mod kernels;
mod memory;
#[cfg(not(target_arch = "wasm32"))]
mod native;
mod pack;
mod plan;
mod program;
#[cfg(all(test, feature = "burn"))]
mod tests;
#[cfg(not(target_arch = "wasm32"))]
mod tuning;
mod weight_buffers;

pub use device::Gpu;
#[cfg(not(target_arch = "wasm32"))]
pub use plan::LaunchTime;
pub use plan::Report;

use crate::consistency::sampler::ConsistencyFunction;
use crate::consistency::schedule::Step;
use crate::error::{Error, Result};
use crate::model::config::UNetConfig;
use crate::model::unet::{UNet, time_features};
use crate::network::{ForwardInput, Network, Precision};
#[cfg(target_arch = "wasm32")]
use crate::web::webgpu as backend;
use fuse::fuse;
use graph::Graph;
use memory::MemoryPlan;
#[cfg(not(target_arch = "wasm32"))]
use native as backend;
use plan::{Plan, StepUniform, image_shaders};
use program::{Choice, Program};
use weight_buffers::WeightBuffers;

/// The U-Net as a static plan on a GPU.
pub struct GpuUNet {
    gpu: Gpu,
    config: UNetConfig,
    program: Program,
    memory: MemoryPlan,
    weights: WeightBuffers,
    plan: Option<Plan>,
}

impl GpuUNet {
    /// Plans the network that `config` describes. Weights are allocated, and their kernels compiled, as they arrive:
    /// [`Network::expect`] says how they are stored.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device fails, or with both numbers when a weight, even in bytes, or what one image takes does
    /// not fit into its largest buffer.
    pub fn new(gpu: &Gpu, config: &UNetConfig) -> Result<Self> {
        Self::of_graph(gpu, config, &Graph::record(config, &UNet::new(config)), gpu.choice)
    }

    /// A network of any graph from images to images of `config`'s size and channels.
    fn of_graph(gpu: &Gpu, config: &UNetConfig, graph: &Graph, choice: Choice) -> Result<Self> {
        let program = fuse(graph, choice);
        let memory = MemoryPlan::of(&program);
        let of_program = program.dispatches.iter().filter(|d| d.weight().is_none()).flat_map(|d| d.shaders());
        for shader in image_shaders(config).iter().chain(of_program.map(|s| &s.specialised)) {
            gpu.pipeline(shader);
        }
        gpu.check()?;
        // What would fail at the first picture should fail before the weights come.
        for &floats in &memory.lengths {
            gpu.fits("one image", floats as u64 * 4, device::Role::Scratch)?;
        }
        let weights = WeightBuffers::new(gpu, &program)?;
        Ok(Self { gpu: gpu.clone(), config: config.clone(), program, memory, weights, plan: None })
    }

    /// What a call costs the device; `None` before the first call.
    pub fn report(&self) -> Option<Report> {
        let plan = self.plan.as_ref()?;
        let [activation_bytes, live_bytes, other_bytes] = plan.bytes;
        Some(Report {
            batch: plan.batch,
            dispatches: plan.dispatch_count(),
            submits: 1,
            pipelines: self.gpu.pipeline_count(),
            weight_bytes: self.weights.bytes(),
            activation_bytes,
            live_bytes,
            other_bytes,
        })
    }

    /// Calls the bare network as [`Network::forward`] does, but answers with the time of each of its launches.
    ///
    /// # Errors
    /// [`Error::Input`] for arguments that do not fit, [`Error::Gpu`] when the device fails or its clock cannot be read.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn profile(&mut self, input: ForwardInput<'_>) -> Result<Vec<LaunchTime>> {
        self.forward(input).await?;
        self.plan.as_ref().expect("the call has made it").profile(&self.gpu, &self.program).await
    }

    /// Of how many rows each piece that [`GpuUNet::load_rows`] takes of a parameter must be a multiple, the last one
    /// excepted; `None`: it takes that parameter whole.
    pub fn piece_granularity(&self, name: &str) -> Option<usize> {
        self.program.placement(name)?.order.piece_granularity()
    }

    /// Takes the rows `first ..` of a parameter, slices along the first axis of its checkpoint shape.
    ///
    /// # Errors
    /// As [`Network::load`].
    pub fn load_rows(&mut self, name: &str, first: usize, values: &[f32]) -> Result<()> {
        self.weights.write(&self.gpu, &self.program, name, first, values)
    }

    /// Runs each kernel once, on as little as can be: a browser compiles one when it first runs, which the first picture
    /// should not have to wait for.
    ///
    /// # Errors
    /// [`Error::Weights`] when some are missing, [`Error::Gpu`] when the device fails.
    pub async fn warm_up(&mut self) -> Result<()> {
        self.plan(1)?;
        let plan = self.plan.as_ref().expect("just made");
        let result = self.gpu.read(plan.warm_up(&self.gpu)).await;
        self.settle(result.map(drop))
    }

    /// The plan for `batch`, made anew when the last call had another batch size.
    fn plan(&mut self, batch: usize) -> Result<()> {
        if self.plan.as_ref().is_none_or(|p| p.batch != batch) {
            self.plan = None; // its memory is free before the next one is made
            self.weights.complete(&self.gpu, &self.program)?;
            self.plan = Some(Plan::new(&self.gpu, &self.config, &self.program, &self.memory, &self.weights, batch)?);
        }
        Ok(())
    }

    /// After a failure the plan's buffers may be none: the next call makes them anew.
    fn settle<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.plan = None;
        }
        result
    }

    /// One call with the plan's state: uploads the small inputs, submits once, reads x₀ back.
    async fn call(&self, timestep: &[f32], step: StepUniform, z: &[f32]) -> Result<Vec<f32>> {
        let plan = self.plan.as_ref().ok_or_else(|| Error::Input("the state must be set before a step".into()))?;
        let dim = self.config.block_out_channels[0];
        let mut time = vec![0.0; plan.batch * dim.next_multiple_of(4)];
        for (row, features) in
            time.chunks_exact_mut(dim.next_multiple_of(4)).zip(time_features(&self.config, timestep).chunks_exact(dim))
        {
            row[..dim].copy_from_slice(features);
        }
        let write = |buffer, bytes: &[u8]| self.gpu.device.write(buffer, 0, bytes);
        write(&plan.time, bytemuck::cast_slice(&time));
        write(&plan.step, bytemuck::bytes_of(&step));
        if !z.is_empty() {
            write(&plan.noise, bytemuck::cast_slice(z));
        }
        self.gpu.read(plan.submit(&self.gpu)).await
    }
}

impl Network for GpuUNet {
    fn config(&self) -> &UNetConfig {
        &self.config
    }

    fn expect(&mut self, name: &str, precision: Precision) -> Result<()> {
        self.weights.expect(&self.gpu, &self.program, name, precision)
    }

    fn load(&mut self, name: &str, values: &[f32]) -> Result<()> {
        self.load_rows(name, 0, values)
    }

    async fn forward(&mut self, input: ForwardInput<'_>) -> Result<Vec<f32>> {
        input.check(&self.config)?;
        self.set_state(input.sample, input.class_labels)?;
        // The bare network: nothing of x passes by, nothing is scaled, no noise follows.
        let step = StepUniform { clip: 0, c_in: 1.0, c_skip: 0.0, c_out: 1.0, noise_scale: 0.0, padding: [0; 3] };
        let result = self.call(input.timestep, step, &[]).await;
        self.settle(result)
    }
}

impl ConsistencyFunction for GpuUNet {
    fn set_state(&mut self, x: &[f32], labels: &[u32]) -> Result<()> {
        let [h, w] = self.config.sample_size;
        self.plan(x.len() / (self.config.in_channels * h * w))?;
        let plan = self.plan.as_ref().expect("just made");
        self.gpu.device.write(&plan.state, 0, bytemuck::cast_slice(x));
        self.gpu.device.write(&plan.labels, 0, bytemuck::cast_slice(labels));
        Ok(())
    }

    async fn step(&mut self, step: &Step, clip: bool, z: &[f32]) -> Result<Vec<f32>> {
        let batch = self.plan.as_ref().map_or(0, |p| p.batch);
        let s = step.scalings;
        let uniform = StepUniform {
            clip: clip.into(),
            c_in: s.c_in as f32,
            c_skip: s.c_skip as f32,
            c_out: s.c_out as f32,
            noise_scale: if z.is_empty() { 0.0 } else { step.noise_scale as f32 },
            padding: [0; 3],
        };
        let result = self.call(&vec![s.c_noise as f32; batch], uniform, z).await;
        self.settle(result)
    }
}
