//! The U-Net on a GPU.

use super::device::{Gpu, Role};
use super::fuse::fuse;
use super::graph::Graph;
use super::memory::MemoryPlan;
use super::plan::{LaunchTime, Plan, Report, StepUniform, image_shaders, padded_rows};
use super::program::{Choice, Products, Program};
use super::weight_buffers::WeightBuffers;
use crate::checkpoint::tensor::Arrival;
use crate::consistency::rng::Generator;
use crate::consistency::sampler::ConsistencyFunction;
use crate::consistency::schedule::Step;
use crate::error::{Error, Result};
use crate::model::config::UNetConfig;
use crate::model::unet::{UNet, time_features};
use crate::network::{ForwardInput, Network, Watch, batch_size};

/// The U-Net as a static plan on a GPU.
pub struct GpuUNet {
    gpu: Gpu,
    config: UNetConfig,
    program: Program,
    memory: MemoryPlan,
    weights: WeightBuffers,
    plan: Option<Plan>,
    watch: Watch,
    /// Whether half precision was compared with single precision.
    is_checked: bool,
}

/// How far outputs in half precision may be from those in single precision, relative to the largest.
pub(super) const HALF_TOLERANCE: f32 = 1e-2;

/// Whether values are those that are expected, within `tolerance` of the largest.
pub(super) fn agrees(found: &[f32], expected: &[f32], tolerance: f32) -> bool {
    let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    // A NaN is close to nothing.
    found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= tolerance * scale)
}

impl GpuUNet {
    /// Plans the network that `config` describes. Weights are allocated, and their kernels compiled, when
    /// [`Network::load`] learns how they are stored.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] when the device fails, or with both numbers when a weight, even in bytes, or the activations
    /// of one image do not fit into its largest buffer.
    pub fn new(gpu: &Gpu, config: &UNetConfig) -> Result<Self> {
        Self::of_graph(gpu, config, &Graph::record(config, &UNet::new(config)), gpu.choice)
    }

    /// A network of any graph from images to images of `config`'s size and channels.
    pub(super) fn of_graph(gpu: &Gpu, config: &UNetConfig, graph: &Graph, choice: Choice) -> Result<Self> {
        let program = fuse(graph, choice);
        let memory = MemoryPlan::within(&program, gpu.longest_binding() / 4);
        let of_program = program.dispatches.iter().filter(|d| d.weight().is_none()).flat_map(|d| d.shaders());
        for shader in image_shaders(config).iter().chain(of_program.map(|s| &s.specialised)) {
            gpu.pipeline(shader);
        }
        gpu.check()?;
        // Before the weights are downloaded, not at the first picture.
        for &floats in &memory.lengths {
            gpu.fits("one image", floats as u64 * 4, Role::Scratch)?;
        }
        let weights = WeightBuffers::new(gpu, &program)?;
        Ok(Self {
            gpu: gpu.clone(),
            config: config.clone(),
            program,
            memory,
            weights,
            plan: None,
            watch: Watch::default(),
            is_checked: false,
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// The cost of a call on the device; `None` before the first call.
    pub fn report(&self) -> Option<Report> {
        let plan = self.plan.as_ref()?;
        let [activation_bytes, live_bytes, other_bytes] = plan.bytes;
        Some(Report {
            batch: plan.batch,
            dispatches: plan.dispatch_count(),
            submits: plan.submits,
            pipelines: self.gpu.pipeline_count(),
            weight_bytes: self.weights.bytes(),
            activation_bytes,
            live_bytes,
            other_bytes,
        })
    }

    /// Calls the bare network as [`Network::forward`] does and returns the time of each of its launches.
    ///
    /// # Errors
    /// [`crate::Error::Input`] for arguments that do not fit, [`crate::Error::Gpu`] when the device fails or its clock
    /// cannot be read.
    pub async fn profile(&mut self, input: ForwardInput<'_>) -> Result<Vec<LaunchTime>> {
        self.forward(input).await?;
        self.times(input.timestep.len()).await
    }

    /// The time of each launch of a call at batch size `batch`, with the inputs of the last call.
    async fn times(&mut self, batch: usize) -> Result<Vec<LaunchTime>> {
        self.make_plan(batch)?;
        self.made_plan().profile(&self.gpu, &self.program, &self.weights).await
    }

    /// Seconds that a layer's launch takes at batch size `batch`, by the clock of the CPU.
    pub(super) async fn seconds(&mut self, layer: &str, batch: usize) -> Result<f64> {
        self.make_plan(batch)?;
        let layer = self.program.dispatches.iter().position(|dispatch| dispatch.label == layer);
        self.made_plan().seconds(&self.gpu, layer.expect("a layer of the network")).await
    }

    /// Compares one output with that of the same network in single precision, where the device's kernels compute in half
    /// precision; they give way when it is far off: large activations are beyond half precision's range.
    async fn check_precision(&mut self) -> Result<()> {
        let choice = self.gpu.choice.map(Products::in_single_precision);
        if self.is_checked || choice == self.gpu.choice {
            return Ok(());
        }
        let [h, w] = self.config.sample_size;
        let mut sample = vec![0.0; self.config.in_channels * h * w];
        Generator::new(0).randn(&mut sample);
        // About the highest noise level, where the whole picture is the network's.
        let (timestep, labels) = ([1000.0], [0]);
        let found = self.call_part(&sample, &timestep, &labels, StepUniform::BARE, [0.0, 0.0]).await?;
        let program = fuse(&Graph::record(&self.config, &UNet::new(&self.config)), choice);
        let in_half = std::mem::replace(&mut self.program, program);
        self.plan = None;
        let expected = self.call_part(&sample, &timestep, &labels, StepUniform::BARE, [0.0, 0.0]).await?;
        if agrees(&found, &expected, HALF_TOLERANCE) {
            self.program = in_half;
            self.plan = None;
        }
        self.is_checked = true;
        Ok(())
    }

    /// Runs one workgroup of each kernel. A browser compiles a kernel when it first runs; this moves that time from the
    /// first picture to the load.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] when the device fails.
    pub async fn warm_up(&mut self) -> Result<()> {
        self.check_precision().await?;
        self.make_plan(1)?;
        let result = self.gpu.read::<f32>(self.made_plan().warm_up(&self.gpu), None).await;
        self.settle(result.map(drop))
    }

    /// Makes the plan for `batch`, unless the last call had that batch size.
    fn make_plan(&mut self, batch: usize) -> Result<()> {
        if self.plan.as_ref().is_none_or(|p| p.batch != batch) {
            self.plan = None; // its memory is released before the next one is made
            self.weights.complete(&self.gpu, &self.program)?;
            self.plan = Some(Plan::new(&self.gpu, &self.config, &self.program, &self.memory, &self.weights, batch)?);
        }
        Ok(())
    }

    /// The plan that [`Self::make_plan`] has made.
    fn made_plan(&self) -> &Plan {
        self.plan.as_ref().expect("make_plan comes first")
    }

    /// Drops the plan after a failure, which may have left it without buffers; the next call makes it anew.
    fn settle<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.plan = None;
        }
        result
    }

    /// The most samples, up to `batch`, whose call the device's limits permit; 1 if even that is too many.
    fn largest_batch(&self, batch: usize) -> usize {
        let [h, w] = self.config.sample_size;
        let longest = self.memory.lengths.iter().copied().fold(self.config.in_channels * h * w, usize::max);
        let fits = |batch: usize| {
            self.gpu.fits("", (batch * longest * 4) as u64, Role::Scratch).is_ok()
                && self.program.dispatches.iter().all(|d| self.gpu.takes(d.at(batch).grid.workgroups(batch)))
        };
        if fits(batch) {
            return batch;
        }
        let [mut fit, mut unfit] = [1, batch];
        while fit + 1 < unfit {
            let middle = fit.midpoint(unfit);
            if fits(middle) { fit = middle } else { unfit = middle }
        }
        fit
    }

    /// One call, in as many parts of the batch as the device's limits ask for. `timestep` has one value for each sample.
    async fn call(&mut self, x: &[f32], timestep: &[f32], labels: &[u32], step: StepUniform) -> Result<Vec<f32>> {
        self.check_precision().await?;
        let batch = timestep.len();
        let parts = batch.div_ceil(self.largest_batch(batch));
        // Of equal size, as far as possible, for each size has a plan of its own.
        let size = batch.div_ceil(parts);
        let mut result = Vec::with_capacity(x.len());
        let mut begin = 0;
        for part in (ForwardInput { sample: x, timestep, class_labels: labels }).parts(size) {
            let end = begin + part.timestep.len();
            let share = [begin, end].map(|samples| samples as f64 / batch as f64);
            result.extend(self.call_part(part.sample, part.timestep, part.class_labels, step, share).await?);
            begin = end;
        }
        Ok(result)
    }

    /// Uploads the inputs, submits, reads the result back. `share` is where in the whole call this part begins and ends.
    async fn call_part(
        &mut self,
        x: &[f32],
        timestep: &[f32],
        labels: &[u32],
        step: StepUniform,
        share: [f64; 2],
    ) -> Result<Vec<f32>> {
        let time = padded_rows(&time_features(&self.config, timestep), self.config.block_out_channels[0]);
        self.make_plan(timestep.len())?;
        let (gpu, plan) = (&self.gpu, self.plan.as_mut().expect("made above"));
        gpu.write(&plan.state, 0, bytemuck::cast_slice(x));
        gpu.write(&plan.labels, 0, bytemuck::cast_slice(labels));
        gpu.write(&plan.time, 0, bytemuck::cast_slice::<f32, u8>(&time));
        gpu.write(&plan.step, 0, bytemuck::bytes_of(&step));
        match plan.run(gpu, &self.watch, share).await {
            // What is under way comes to its end before the next call begins.
            Err(Error::Cancelled) => Err(Error::Cancelled),
            result => self.settle(result),
        }
    }
}

impl Network for GpuUNet {
    fn config(&self) -> &UNetConfig {
        &self.config
    }

    fn watch(&self) -> Watch {
        self.watch.clone()
    }

    fn piece_granularity(&self, name: &str) -> Option<usize> {
        self.program.placement(name)?.order.piece_granularity()
    }

    fn load(&mut self, arrival: Arrival<'_>) -> Result<()> {
        match arrival {
            Arrival::Announced { name, precision } => self.weights.announce(&self.gpu, &self.program, name, precision),
            Arrival::Rows(rows) => self.weights.write(&self.gpu, &self.program, &rows),
        }
    }

    async fn forward(&mut self, input: ForwardInput<'_>) -> Result<Vec<f32>> {
        input.check(&self.config)?;
        self.call(input.sample, input.timestep, input.class_labels, StepUniform::BARE).await
    }
}

impl ConsistencyFunction for GpuUNet {
    async fn denoise(&mut self, x: &[f32], step: &Step, labels: &[u32]) -> Result<Vec<f32>> {
        let s = step.scalings;
        let timestep = vec![s.c_noise as f32; batch_size(x, &self.config)?];
        ForwardInput { sample: x, timestep: &timestep, class_labels: labels }.check(&self.config)?;
        let uniform = StepUniform {
            clip: step.clip_denoised.into(),
            c_in: s.c_in as f32,
            c_skip: s.c_skip as f32,
            c_out: s.c_out as f32,
        };
        self.call(x, &timestep, labels, uniform).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::folder::ModelFolder;
    use crate::checkpoint::tensor::{Rows, f32_bytes};
    use crate::consistency::rng::Generator;
    use crate::gpu::kernels::Shader;
    use crate::gpu::pace::Pace;

    /// A network of 16 × 16 pixels with its weights, and a call of it.
    fn network() -> (GpuUNet, Vec<f32>, Vec<f32>) {
        let folder = ModelFolder::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/no-mid")).unwrap();
        let gpu = pollster::block_on(Gpu::open()).unwrap();
        let mut network = GpuUNet::new(&gpu, &folder.unet).unwrap();
        folder.load_into(&mut network, |_, _| ()).unwrap();
        let [h, w] = folder.unet.sample_size;
        let mut sample = vec![0.0; 16 * folder.unet.in_channels * h * w];
        Generator::new(1).randn(&mut sample);
        (network, sample, vec![100.0; 16])
    }

    fn forward(network: &mut GpuUNet, sample: &[f32], timestep: &[f32]) -> Result<Vec<f32>> {
        pollster::block_on(network.forward(ForwardInput { sample, timestep, class_labels: &[] }))
    }

    /// Has every launch go into a submit of its own.
    fn cut(network: &mut GpuUNet) -> usize {
        let plan = network.plan.as_mut().unwrap();
        let launches = plan.dispatch_count();
        plan.pace = Pace::of(vec![usize::MAX; launches].into_iter());
        launches
    }

    #[test]
    fn a_call_in_many_submits_gives_the_bits_of_one() {
        let (mut network, sample, timestep) = network();
        let whole = forward(&mut network, &sample, &timestep).unwrap();
        let launches = cut(&mut network);
        // The first pieces have one launch each, until their times are known.
        assert_eq!(forward(&mut network, &sample, &timestep).unwrap(), whole);
        let submits = network.report().unwrap().submits;
        assert!((3..=launches).contains(&submits), "{submits} of {launches}");
        assert!((network.watch().progress() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_batch_that_exceeds_the_limits_is_computed_in_parts() {
        let (mut network, sample, timestep) = network();
        let whole = forward(&mut network, &sample, &timestep).unwrap();
        let longest = network.memory.lengths.iter().max().unwrap() * 4;
        // Parts of 6, 6 and 4 samples, then of one.
        for (most, last) in [(7 * longest, 4), (longest, 1)] {
            network.gpu.lower_limits(most as u64, u32::MAX);
            network.plan = None;
            assert_eq!(forward(&mut network, &sample, &timestep).unwrap(), whole);
            assert_eq!(network.report().unwrap().batch, last);
            assert!((network.watch().progress() - 1.0).abs() < 1e-6);
        }
    }

    #[test]
    fn a_batch_with_too_many_workgroups_is_computed_in_parts() {
        let (mut network, sample, timestep) = network();
        let whole = forward(&mut network, &sample, &timestep).unwrap();
        let groups = |batch| network.program.dispatches.iter().flat_map(|d| d.at(batch).grid.workgroups(batch)).max();
        let most = groups(3).unwrap();
        assert!(groups(16).unwrap() > most);
        network.gpu.lower_limits(u64::MAX, most as u32);
        network.plan = None;
        assert_eq!(forward(&mut network, &sample, &timestep).unwrap(), whole);
        assert!(network.report().unwrap().batch <= 3);
    }

    #[test]
    fn a_call_is_cancelled_between_two_submits_and_the_next_one_is_whole() {
        let (mut network, sample, timestep) = network();
        let whole = forward(&mut network, &sample, &timestep).unwrap();
        cut(&mut network);
        let watch = network.watch();
        watch.cancel();
        assert_eq!(forward(&mut network, &sample, &timestep), Err(Error::Cancelled));
        assert_eq!(network.report().unwrap().submits, 0);
        watch.reset();

        let canceller = std::thread::spawn(move || {
            while watch.progress() == 0.0 {
                std::thread::yield_now();
            }
            watch.cancel();
        });
        let mut results = vec![];
        for _ in 0..100 {
            cut(&mut network);
            results.push(forward(&mut network, &sample, &timestep));
            if results.last() == Some(&Err(Error::Cancelled)) {
                break;
            }
        }
        canceller.join().unwrap();
        assert_eq!(results.pop(), Some(Err(Error::Cancelled)));
        network.watch().reset();
        assert_eq!(forward(&mut network, &sample, &timestep).unwrap(), whole);
    }

    /// The network of `network`, its kernels in half precision; with a first bias of `bias` unless that is 0.
    fn in_half_precision(bias: f32) -> (GpuUNet, Vec<f32>) {
        let (mut single, sample, timestep) = network();
        let folder = ModelFolder::open(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/no-mid")).unwrap();
        let expected = forward(&mut single, &sample, &timestep).unwrap();
        let gpu = single.gpu.candidates().into_iter().rfind(|gpu| gpu.kernels().contains("half precision"));
        let mut half = GpuUNet::new(&gpu.expect("Mesa's software device has half precision"), &folder.unet).unwrap();
        folder.load_into(&mut half, |_, _| ()).unwrap();
        if bias != 0.0 {
            let bias = vec![bias; folder.unet.block_out_channels[0]];
            half.load(Arrival::Rows(Rows::whole_f32("conv_in.bias", &f32_bytes(&bias)))).unwrap();
        }
        (half, expected)
    }

    #[test]
    fn half_precision_stays_where_the_model_allows_it() {
        let (mut half, expected) = in_half_precision(0.0);
        let (_, sample, timestep) = network();
        let found = forward(&mut half, &sample, &timestep).unwrap();
        assert!(agrees(&found, &expected, HALF_TOLERANCE));
        assert_ne!(found, expected);
    }

    #[test]
    fn half_precision_gives_way_where_activations_exceed_its_range() {
        let (mut half, _) = in_half_precision(1e6);
        let (_, sample, timestep) = network();
        let found = forward(&mut half, &sample, &timestep).unwrap();
        assert!(found.iter().all(|v| v.is_finite()));
        let is_half = |shader: &Shader| shader.specialised.wgsl().contains("enable f16");
        assert!(!half.program.dispatches.iter().any(|dispatch| dispatch.shaders().any(is_half)));
    }
}
