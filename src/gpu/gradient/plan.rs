//! Both passes made ready for one batch size: buffers, bind groups, and the encoding of a step.

use web_time::Instant;

use super::super::device::{Buffer, Gpu, Launch, Role, Slice};
use super::super::memory::MemoryPlan;
use super::super::pace::Pace;
use super::super::plan::{LaunchTime, StepUniform, activation, activation_buffers, batch_buffer, bind, image_shaders};
use super::super::program::{Dispatch, Program, Storage};
use super::flat::Flat;
use super::reverse::Fixed;
use crate::checkpoint::tensor::Precision;
use crate::error::Result;
use crate::model::config::UNetConfig;

/// The launches of both passes.
pub(super) struct Passes<'a> {
    pub(super) program: &'a Program,
    /// Launches of the forward, which come first.
    pub(super) forward: usize,
    /// As in [`Fixed`].
    pub(super) lengths: &'a [usize],
}

/// Everything that a step at one batch size needs.
pub(super) struct Plan {
    pub(super) batch: usize,
    /// Bytes of the buffers that values and gradients share.
    pub(super) activation_bytes: u64,
    /// Bytes of the gradients and of what they are made of.
    pub(super) weight_bytes: u64,
    forward: Pass,
    reverse: Pass,
    /// The batch, (B, C, H, W).
    pub(super) state: Buffer,
    /// The sinusoidal features, (B, C padded to 4).
    pub(super) time: Buffer,
    pub(super) labels: Buffer,
    /// The loss's gradient in the network's result, (B, C, H, W).
    pub(super) outer: Buffer,
    result: Buffer,
    gradients: Buffer,
    result_staging: Buffer,
    gradient_staging: Buffer,
    /// Buffers that only launches use. They live here because a dropped buffer is destroyed, bound or not.
    _rest: Vec<Buffer>,
}

/// Launches with their times.
struct Pass {
    launches: Vec<Launch>,
    pace: Pace,
    /// What tells that a submit is done.
    fence: Buffer,
}

impl Pass {
    fn new(gpu: &Gpu, launches: Vec<Launch>, multiply_adds: impl Iterator<Item = usize>) -> Result<Self> {
        let fence = gpu.buffer("the end of a submit", 16, Role::Readback)?;
        Ok(Self { launches, pace: Pace::of(multiply_adds), fence })
    }

    /// Runs all launches, in submits that are short, one after the other; returns what is then in `from`.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device fails.
    async fn run(&mut self, gpu: &Gpu, from: &Buffer, staging: &Buffer) -> Result<Vec<f32>> {
        let mut first = 0;
        loop {
            let piece = self.pace.piece(first);
            first = piece.end;
            let is_last = first == self.launches.len();
            let to = if is_last { staging } else { &self.fence };
            let begin = Instant::now();
            let index = gpu.submit(&self.launches[piece.clone()], from, to);
            let values = gpu.read(to, Some(index)).await?;
            self.pace.measure(piece, begin.elapsed().as_secs_f64());
            if is_last {
                return Ok(values);
            }
        }
    }
}

impl Plan {
    /// # Errors
    /// [`Error::Gpu`] when the batch does not fit the device's limits.
    pub(super) fn new(
        gpu: &Gpu,
        config: &UNetConfig,
        passes: &Passes<'_>,
        flat: &Flat,
        weights: &Buffer,
        batch: usize,
    ) -> Result<Self> {
        let [h, w] = config.sample_size;
        let pixels = h * w;
        let program = passes.program;
        let floats = |what: &str, count: usize, role| batch_buffer(gpu, what, batch, count, role);
        let image = config.in_channels * pixels;
        let state = floats("the batch", image, Role::Input)?;
        let outer = floats("the outer gradient", image, Role::Input)?;
        let result = floats("the result", image, Role::Result)?;
        let result_staging = floats("the result", image, Role::Readback)?;
        let time = floats("the time features", config.block_out_channels[0].next_multiple_of(4), Role::Input)?;
        let labels = floats("the class labels", 1, Role::Input)?;
        let step = gpu.buffer("the step", size_of::<StepUniform>() as u64, Role::Uniform)?;
        gpu.write(&step, 0, bytemuck::bytes_of(&StepUniform::BARE));
        let unused = gpu.buffer("an unused input", 16, Role::Scratch)?;
        let bytes = if passes.forward < program.dispatches.len() { flat.bytes() } else { 0 };
        let gradients = gpu.buffer("the gradients", bytes, Role::Parts)?;
        let gradient_staging = gpu.buffer("the gradients", bytes, Role::Readback)?;
        let fixed = passes.lengths[..Fixed::GRADIENTS].iter();
        let fixed: Vec<Buffer> = fixed
            .map(|&count| gpu.buffer("what gradients are made of", count as u64 * 4, Role::Scratch))
            .collect::<Result<_>>()?;

        let most = gpu.longest_binding() / (4 * batch);
        let memory = MemoryPlan::within(program, most);
        let buffers = activation_buffers(gpu, &memory, batch)?;
        let slice = |storage: Storage| match storage {
            Storage::Activation(i) => activation(&buffers, &memory, program, batch, i),
            Storage::Weight(i) => flat.slice(weights, i),
            Storage::Time => Slice::whole(&time),
            Storage::Labels => Slice::whole(&labels),
            Storage::Unused => Slice::whole(&unused),
            Storage::Outer => Slice::whole(&outer),
            Storage::Fixed(i) if i >= Fixed::GRADIENTS => flat.slice(&gradients, i - Fixed::GRADIENTS),
            Storage::Fixed(i) => Slice::whole(&fixed[i]),
        };
        let [precondition, denoise] = image_shaders(config);
        let per_pixel = [pixels.div_ceil(64), batch, 1];
        let whole_step = Slice::whole(&step);
        let [first, last] =
            [program.sample, program.result].map(|s| slice(s.expect("a lowered program has both ends")));
        let mut forward = vec![gpu.launch(&precondition, &[whole_step, first, Slice::whole(&state)], per_pixel)?];
        let params = bind(gpu, &program.dispatches, batch, slice, |_| Precision::F32, &mut forward)?;
        let reverse = forward.split_off(1 + passes.forward);
        let end = [whole_step, Slice::whole(&result), last, Slice::whole(&state)];
        forward.push(gpu.launch(&denoise, &end, per_pixel)?);
        gpu.check()?;

        let multiply_adds = |dispatches: &[Dispatch]| -> Vec<usize> {
            dispatches.iter().map(|dispatch| batch * dispatch.multiply_adds).collect()
        };
        let (of_forward, of_reverse) = program.dispatches.split_at(passes.forward);
        let of_forward = [0].into_iter().chain(multiply_adds(of_forward)).chain([0]);
        let forward = Pass::new(gpu, forward, of_forward)?;
        let reverse = Pass::new(gpu, reverse, multiply_adds(of_reverse).into_iter())?;
        let bytes = |buffers: &[Buffer]| buffers.iter().map(Buffer::size).sum::<u64>();
        let (activation_bytes, weight_bytes) = (bytes(&buffers), bytes(&fixed) + gradients.size());
        let mut rest = buffers;
        rest.extend(fixed);
        rest.extend([unused, params, step]);
        Ok(Self {
            batch,
            activation_bytes,
            weight_bytes,
            forward,
            reverse,
            state,
            time,
            labels,
            outer,
            result,
            gradients,
            result_staging,
            gradient_staging,
            _rest: rest,
        })
    }

    /// Runs the forward; returns F, (B, C, H, W).
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device fails.
    pub(super) async fn forward(&mut self, gpu: &Gpu) -> Result<Vec<f32>> {
        self.forward.run(gpu, &self.result, &self.result_staging).await
    }

    /// Runs the reverse pass of the last forward; returns the gradients in the order of [`Flat`].
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device fails.
    pub(super) async fn reverse(&mut self, gpu: &Gpu) -> Result<Vec<f32>> {
        self.reverse.run(gpu, &self.gradients, &self.gradient_staging).await
    }

    /// Does a step with a clock reading around every launch, with the inputs of the last one.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device has no clock that can be read.
    pub(super) async fn profile(&self, gpu: &Gpu, program: &Program) -> Result<Vec<LaunchTime>> {
        // The first launch and the last one of the forward are not in the program.
        let forward = &self.forward.launches;
        let mut times = gpu.time(&forward[1..forward.len() - 1]).await?;
        let end = times.last().map_or(0.0, |[_, end]| *end);
        times.extend(gpu.time(&self.reverse.launches).await?.iter().map(|time| time.map(|t| end + t)));
        let timed = program.dispatches.iter().zip(times).map(|(dispatch, [begin, end])| LaunchTime {
            label: dispatch.label.clone(),
            kernel: dispatch.at(self.batch).shader.specialised.kernel.name(),
            multiply_adds: self.batch * dispatch.multiply_adds,
            bytes: program.bytes(dispatch, self.batch, |weight| (program.weights[weight] * 4) as u64),
            begin_nanoseconds: begin,
            nanoseconds: end - begin,
        });
        Ok(timed.collect())
    }

    /// Kernel launches of the forward and of the reverse pass.
    pub(super) fn launches(&self) -> [usize; 2] {
        [self.forward.launches.len(), self.reverse.launches.len()]
    }
}
