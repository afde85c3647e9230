//! A program made ready for one batch size: buffers, bind groups, and the encoding of one call.

use std::ops::Range;

use web_time::Instant;

use super::device::{Buffer, Gpu, Launch, Role, Slice};
use super::kernels::{Kernel, Shader, Specialised};
use super::memory::{MemoryPlan, largest_live_set};
use super::pace::Pace;
use super::program::{Dispatch, Program, Storage, Variant};
use super::weight_buffers::WeightBuffers;
use crate::checkpoint::tensor::Precision;
use crate::error::{Error, Result};
use crate::model::config::UNetConfig;
use crate::network::Watch;

/// Uniform bindings must begin at multiples of this on every adapter.
const UNIFORM_STRIDE: usize = 256;

/// Bytes of the longest `Params`; all are bound at this length.
const PARAMS_BYTES: u64 = 80;

/// The sampler's scalars for one call, as step.wgsl declares them.
#[derive(Debug, Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(super) struct StepUniform {
    pub(super) clip: u32,
    pub(super) c_in: f32,
    pub(super) c_skip: f32,
    pub(super) c_out: f32,
}

impl StepUniform {
    /// c_skip·x + c_out·F(c_in·x) is F(x).
    pub(super) const BARE: Self = Self { clip: 0, c_in: 1.0, c_skip: 0.0, c_out: 1.0 };
}

/// The cost of one call of the network, at the batch size of the last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Samples in a call.
    pub batch: usize,
    /// Kernel launches of a call, the sampler's arithmetic included.
    pub dispatches: usize,
    /// Submits of the last call.
    pub submits: usize,
    /// Compute pipelines that the device holds.
    pub pipelines: usize,
    /// Bytes of the packed weights.
    pub weight_bytes: u64,
    /// Bytes of the buffers that activations share.
    pub activation_bytes: u64,
    /// Bytes of the activations that are alive together, at the launch where they are most: what
    /// `activation_bytes` cannot be less than.
    pub live_bytes: u64,
    /// Bytes of the rest: images, time features, labels and parameters.
    pub other_bytes: u64,
}

/// Everything that one call of the network at one batch size needs; nothing is created while it runs.
pub(super) struct Plan {
    pub(super) batch: usize,
    /// As in [`Report`]: activations, live and other bytes.
    pub(super) bytes: [u64; 3],
    launches: Vec<Launch>,
    pub(super) pace: Pace,
    /// Submits of the last call.
    pub(super) submits: usize,
    /// The noisy batch x, (B, C, H, W).
    pub(super) state: Buffer,
    /// The sinusoidal features, (B, C padded to 4).
    pub(super) time: Buffer,
    pub(super) labels: Buffer,
    pub(super) step: Buffer,
    denoised: Buffer,
    staging: Buffer,
    /// What tells that a submit is done, of the two that are under way at most.
    fences: [Buffer; 2],
    /// Buffers that only launches use. They live here because a dropped buffer is destroyed, bound or not.
    _rest: Vec<Buffer>,
}

/// The time that one kernel launch took on the device.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchTime {
    /// The layer's name in the checkpoint.
    pub label: String,
    /// The kernel's file, without its ending.
    pub kernel: &'static str,
    /// Multiply-adds of its product over the whole batch; 0 for other kernels.
    pub multiply_adds: usize,
    /// Bytes of the activations and weights that it reads and writes, each counted once.
    pub bytes: u64,
    /// When it began, since the first launch began, by the device's own clock.
    pub begin_nanoseconds: f64,
    /// How long it took.
    pub nanoseconds: f64,
}

impl Plan {
    /// # Errors
    /// [`Error::Gpu`] when the batch does not fit the device's limits.
    pub(super) fn new(
        gpu: &Gpu,
        config: &UNetConfig,
        program: &Program,
        memory: &MemoryPlan,
        weights: &WeightBuffers,
        batch: usize,
    ) -> Result<Self> {
        let [h, w] = config.sample_size;
        let pixels = h * w;
        let floats = |what: &str, count: usize, role| batch_buffer(gpu, what, batch, count, role);
        let image = config.in_channels * pixels;
        let state = floats("the noisy batch", image, Role::Input)?;
        let denoised = floats("the denoised batch", image, Role::Result)?;
        let staging = floats("the result", image, Role::Readback)?;
        let time_floats = config.block_out_channels[0].next_multiple_of(4);
        let time = floats("the time features", time_floats, Role::Input)?;
        let labels = floats("the class labels", 1, Role::Input)?;
        let step = gpu.buffer("the step", size_of::<StepUniform>() as u64, Role::Uniform)?;
        let fence = || gpu.buffer("the end of a submit", 16, Role::Readback);
        let fences = [fence()?, fence()?];
        let unused = gpu.buffer("an unused input", 16, Role::Scratch)?;

        let buffers = activation_buffers(gpu, memory, batch)?;
        let slice = |storage: Storage| match storage {
            Storage::Activation(i) => activation(&buffers, memory, program, batch, i),
            Storage::Weight(i) => Slice::whole(weights.get(i).0),
            Storage::Time => Slice::whole(&time),
            Storage::Labels => Slice::whole(&labels),
            Storage::Unused => Slice::whole(&unused),
            #[cfg(feature = "gradient")]
            Storage::Outer | Storage::Fixed(_) => unreachable!("the forward has no storage of the reverse pass"),
        };

        let precision =
            |dispatch: &Dispatch| dispatch.weight().map_or_else(Precision::default, |buffer| weights.get(buffer).1);
        let [precondition, denoise] = image_shaders(config);
        let per_pixel = [pixels.div_ceil(64), batch, 1];
        let whole_step = Slice::whole(&step);
        let [sample, result] =
            [program.sample, program.result].map(|s| slice(s.expect("a lowered program has both ends")));
        let first = [whole_step, sample, Slice::whole(&state)];
        let mut launches = vec![gpu.launch(&precondition, &first, per_pixel)?];
        let params = bind(gpu, &program.dispatches, batch, slice, precision, &mut launches)?;
        let last = [whole_step, Slice::whole(&denoised), result, Slice::whole(&state)];
        launches.push(gpu.launch(&denoise, &last, per_pixel)?);
        let held = |buffers: &[&Buffer]| buffers.iter().map(|b| b.size()).sum();
        let [even, odd] = &fences;
        let others = [&state, &denoised, &staging, &time, &labels, &step, &unused, &params, even, odd];
        let live = (largest_live_set(program) * batch * 4) as u64;
        let bytes = [held(&buffers.iter().collect::<Vec<_>>()), live, held(&others)];
        let mut rest = buffers;
        rest.extend([unused, params]);
        let of_program = program.dispatches.iter().map(|dispatch| batch * dispatch.multiply_adds);
        let pace = Pace::of([0].into_iter().chain(of_program).chain([0]));
        Ok(Self {
            batch,
            bytes,
            launches,
            pace,
            submits: 0,
            state,
            time,
            labels,
            step,
            denoised,
            staging,
            fences,
            _rest: rest,
        })
    }

    /// One call, in as many submits as it takes for each to be short, at most two of them under way; returns x₀,
    /// (B, C, H, W). `watch` is told of progress between the two numbers of `share`.
    ///
    /// # Errors
    /// [`Error::Cancelled`] between two submits, [`Error::Gpu`] when the device fails.
    pub(super) async fn run(&mut self, gpu: &Gpu, watch: &Watch, share: [f64; 2]) -> Result<Vec<f32>> {
        let [from, to] = share;
        watch.report(from);
        self.submits = 0;
        let mut first = 0;
        let mut under_way = None;
        // Since when the GPU computes what is under way, as far as can be told.
        let mut begin = Instant::now();
        let mut done = |pace: &mut Pace, piece: Range<usize>| {
            let end = Instant::now();
            let done = from + (to - from) * pace.share(piece.end);
            pace.measure(piece, (end - begin).as_secs_f64());
            // Better estimates must not take back what was said.
            watch.report(done.max(watch.progress().into()));
            begin = end;
        };
        while first < self.launches.len() {
            if watch.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let piece = self.pace.piece(first);
            first = piece.end;
            let fence = &self.fences[self.submits % 2];
            let to = if first == self.launches.len() { &self.staging } else { fence };
            let index = gpu.submit(&self.launches[piece.clone()], &self.denoised, to);
            self.submits += 1;
            if let Some((piece, index, fence)) = under_way.replace((piece, index, fence)) {
                gpu.read::<f32>(fence, Some(index)).await?;
                done(&mut self.pace, piece);
            }
        }
        let result = gpu.read(&self.staging, None).await?;
        if let Some((piece, ..)) = under_way {
            done(&mut self.pace, piece);
        }
        Ok(result)
    }

    /// Submits one workgroup of each pipeline; returns a buffer that can be read when they have run.
    pub(super) fn warm_up(&self, gpu: &Gpu) -> &Buffer {
        let mut once: Vec<Launch> = Vec::new();
        for launch in &self.launches {
            if once.iter().all(|seen| seen.pipeline != launch.pipeline) {
                once.push(Launch { workgroups: [1; 3], ..launch.clone() });
            }
        }
        gpu.submit(&once, &self.denoised, &self.staging);
        &self.staging
    }

    /// Seconds that launch `dispatch` of the program takes, as a part of a submit of many where it is short.
    pub(super) async fn seconds(&self, gpu: &Gpu, dispatch: usize) -> Result<f64> {
        /// A submit and the answer to it take about a tenth of this.
        const ENOUGH: f64 = 4e-3;
        // Before those of the program there is one launch more. The first submit compiles it.
        let launch = &self.launches[dispatch + 1];
        let mut one = f64::INFINITY;
        for (round, times) in [1, 1, 8, 64, 64].into_iter().enumerate() {
            let launches: Vec<Launch> = std::iter::repeat_n(launch, times).cloned().collect();
            let begin = Instant::now();
            gpu.submit(&launches, &self.denoised, &self.staging);
            gpu.read::<f32>(&self.staging, None).await?;
            let seconds = begin.elapsed().as_secs_f64();
            one = one.min(seconds / times as f64);
            if round > 0 && seconds > ENOUGH {
                break;
            }
        }
        Ok(one)
    }

    /// Does one call with a clock reading around every launch, which keeps launches from overlapping.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device has no clock that can be read.
    pub(super) async fn profile(
        &self,
        gpu: &Gpu,
        program: &Program,
        weights: &WeightBuffers,
    ) -> Result<Vec<LaunchTime>> {
        let times = gpu.time(&self.launches).await?;
        // The launches of the program lie between two that are not in it.
        let of_program = program.dispatches.iter().map(|d| {
            let kernel = d.at(self.batch).shader.specialised.kernel.name();
            let bytes = program.bytes(d, self.batch, |weight| weights.get(weight).0.size());
            (d.label.as_str(), kernel, self.batch * d.multiply_adds, bytes)
        });
        let [first, last] = [Kernel::Precondition, Kernel::Denoise].map(|kernel| (kernel.name(), kernel.name(), 0, 0));
        let about = std::iter::once(first).chain(of_program).chain([last]);
        let timed =
            times.into_iter().zip(about).map(|([begin, end], (label, kernel, multiply_adds, bytes))| LaunchTime {
                label: label.to_owned(),
                kernel,
                multiply_adds,
                bytes,
                begin_nanoseconds: begin,
                nanoseconds: end - begin,
            });
        Ok(timed.collect())
    }

    /// Kernel launches of one call.
    pub(super) fn dispatch_count(&self) -> usize {
        self.launches.len()
    }
}

/// A buffer of `count` floats for each sample of a batch.
///
/// # Errors
/// [`Error::Gpu`] when the device has none so long; of several samples it says that fewer may do.
pub(super) fn batch_buffer(gpu: &Gpu, what: &str, batch: usize, count: usize, role: Role) -> Result<Buffer> {
    // One sample fits, or the network would not have been made.
    let fewer = |e| match e {
        Error::Gpu(message) if batch > 1 => Error::Gpu(format!("{message}: try fewer samples at once")),
        other => other,
    };
    gpu.buffer(what, (batch * count * 4) as u64, role).map_err(fewer)
}

/// The buffers that activations share, at a batch size.
///
/// # Errors
/// Those of [`batch_buffer`].
pub(super) fn activation_buffers(gpu: &Gpu, memory: &MemoryPlan, batch: usize) -> Result<Vec<Buffer>> {
    memory.lengths.iter().map(|&count| batch_buffer(gpu, "the activations", batch, count, Role::Scratch)).collect()
}

/// Where activation `i` lies in these buffers.
pub(super) fn activation<'a>(
    buffers: &'a [Buffer],
    memory: &MemoryPlan,
    program: &Program,
    batch: usize,
    i: usize,
) -> Slice<'a> {
    let place = &memory.places[i];
    let [offset, bytes] = [place.offset, program.activations[i]].map(|n| (batch * n * 4) as u64);
    Slice { buffer: &buffers[place.pool], offset, bytes }
}

/// Rows of `dim` values, each padded with zeros to whole vec4s.
pub(super) fn padded_rows(values: &[f32], dim: usize) -> Vec<f32> {
    let padded = dim.next_multiple_of(4);
    let mut rows = vec![0.0; values.len() / dim * padded];
    for (row, values) in rows.chunks_exact_mut(padded).zip(values.chunks_exact(dim)) {
        row[..dim].copy_from_slice(values);
    }
    rows
}

/// Adds the launches of `dispatches` over the buffers that `slice` finds; returns the buffer of their parameters.
pub(super) fn bind<'a>(
    gpu: &Gpu,
    dispatches: &[Dispatch],
    batch: usize,
    slice: impl Fn(Storage) -> Slice<'a>,
    precision: impl Fn(&Dispatch) -> Precision,
    launches: &mut Vec<Launch>,
) -> Result<Buffer> {
    let mut uniforms = vec![0u32; dispatches.len() * UNIFORM_STRIDE / 4];
    for (row, dispatch) in uniforms.chunks_exact_mut(UNIFORM_STRIDE / 4).zip(dispatches) {
        let sizes = &dispatch.at(batch).shader.sizes;
        row[..3].copy_from_slice(&[batch as u32, dispatch.time[0], dispatch.time[1]]);
        row[3..3 + sizes.len()].copy_from_slice(sizes);
    }
    let bytes = (uniforms.len() * 4) as u64;
    let params = gpu.buffer("the parameters", bytes, Role::Uniform)?;
    gpu.write(&params, 0, bytemuck::cast_slice(&uniforms));

    for (i, dispatch) in dispatches.iter().enumerate() {
        let uniform = Slice { buffer: &params, offset: (i * UNIFORM_STRIDE) as u64, bytes: PARAMS_BYTES };
        let mut bound = vec![uniform, slice(dispatch.output)];
        bound.extend(dispatch.inputs.iter().map(|&input| slice(input)));
        let Variant { shader, grid, .. } = dispatch.at(batch);
        launches.push(gpu.launch(&shader.specialised.at(precision(dispatch)), &bound, grid.workgroups(batch))?);
    }
    Ok(params)
}

/// The kernels before and after the network.
pub(super) fn image_shaders(config: &UNetConfig) -> [Specialised; 2] {
    let [h, w] = config.sample_size;
    [Kernel::Precondition, Kernel::Denoise]
        .map(|kernel| Shader::new(kernel).u32("CHANNELS", config.in_channels).u32("PIXELS", h * w).specialised)
}
