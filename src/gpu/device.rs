//! The GPU through wgpu, natively and in the browser: buffers, pipelines, submits, clock readings, and its errors.

use std::sync::{Arc, Mutex};

use super::kernels::{Access, Kernel, Specialised};
use super::program::{Choice, Products, SAFE};
use crate::error::{Error, Result, collapse_whitespace};

pub(super) use wgpu::ComputePipeline as Pipeline;

/// The use of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Kernels read it, the CPU writes it.
    Input,
    /// Kernels read and write it.
    Scratch,
    /// Kernels write it, then it is copied.
    Result,
    /// It is copied to and read by the CPU.
    Readback,
    /// A kernel's parameters.
    Uniform,
    /// Timestamps.
    Clock,
    /// Kernels read or write parts of it, each of which is bound alone.
    #[cfg(feature = "gradient")]
    Parts,
}

/// A buffer whose memory is released when it is dropped. Left alone, a browser releases it when it collects garbage.
pub(super) struct Buffer(wgpu::Buffer);

impl Buffer {
    pub(super) fn size(&self) -> u64 {
        self.0.size()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// A part of a buffer that is bound to a kernel; it begins at a multiple of 256 bytes.
#[derive(Clone, Copy)]
pub(super) struct Slice<'a> {
    pub(super) buffer: &'a Buffer,
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

impl<'a> Slice<'a> {
    pub(super) fn whole(buffer: &'a Buffer) -> Self {
        Self { buffer, offset: 0, bytes: buffer.size() }
    }
}

/// A pipeline with its bind group and its number of workgroups.
#[derive(Clone)]
pub(super) struct Launch {
    pub(super) pipeline: Pipeline,
    pub(super) bindings: wgpu::BindGroup,
    pub(super) workgroups: [u32; 3],
}

impl Launch {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        let [x, y, z] = self.workgroups;
        pass.dispatch_workgroups(x, y, z);
    }
}

/// The errors that a device reports outside of any call. Clones share them.
#[derive(Clone, Default)]
struct Fault(Arc<Mutex<FaultState>>);

#[derive(Default)]
struct FaultState {
    /// The first error since the last one was taken.
    error: Option<String>,
    /// Whether the device was lost; then every call on it fails.
    lost: bool,
}

impl Fault {
    fn state(&self) -> std::sync::MutexGuard<'_, FaultState> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Records `message` unless an earlier one is still there.
    fn note(&self, message: &str) {
        self.state().error.get_or_insert_with(|| message.to_owned());
    }

    /// Records that the device was lost, with the platform's reason.
    fn note_loss(&self, reason: &str) {
        *self.state() = FaultState { error: Some(format!("the GPU device was lost: {reason}")), lost: true };
    }

    /// Returns the error and clears it; the error of a lost device stays.
    fn take(&self) -> Option<String> {
        let mut state = self.state();
        if state.lost { state.error.clone() } else { state.error.take() }
    }
}

/// A WebGPU device with this crate's pipelines. Clones share it.
///
/// Natively it is `Send` and `Sync`; in a browser, where wgpu's handles belong to one thread, it is neither.
#[derive(Clone)]
pub struct Gpu {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    limits: wgpu::Limits,
    /// The kernels that suit the device.
    pub(super) choice: Choice,
    fault: Fault,
    // A network has some twenty pipelines: a list is searched as fast as a table.
    pipelines: Arc<Mutex<Vec<(Specialised, Pipeline)>>>,
    layouts: Arc<Mutex<Vec<(Kernel, wgpu::BindGroupLayout)>>>,
}

impl Gpu {
    /// The device of the fastest adapter, with all limits that the adapter allows and the kernels that run everywhere.
    ///
    /// # Errors
    /// [`Error::Gpu`] when there is no adapter or it refuses a device.
    pub(crate) async fn open() -> Result<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let adapter = instance
            .request_adapter(&options)
            .await
            .map_err(|e| Error::Gpu(format!("no WebGPU adapter: expected one, found none ({})", one_line(&e))))?;
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("consistency-sampler"),
            // The default limits would refuse large models that the adapter can hold.
            required_limits: limits.clone(),
            required_features: adapter.features() & (wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SHADER_F16),
            ..Default::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::Gpu(format!("the adapter {} gives no device: {}", info.name, one_line(&e))))?;
        let fault = Fault::default();
        let (uncaptured, lost) = (fault.clone(), fault.clone());
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| uncaptured.note(&one_line(&e))));
        device.set_device_lost_callback(move |_, message| lost.note_loss(&message));
        let (pipelines, layouts) = (Arc::default(), Arc::default());
        Ok(Self { device, queue, info, limits, choice: SAFE, fault, pipelines, layouts })
    }

    /// The adapter's name for people. Browsers usually withhold it.
    pub fn description(&self) -> &str {
        match self.info.name.as_str() {
            "" => "WebGPU adapter",
            name => name,
        }
    }

    /// The kernels that were chosen for products, from those with few outputs to those with many, for people.
    pub fn kernels(&self) -> String {
        let name = |products| match products {
            Products::Registers => "registers".to_owned(),
            Products::Tiled(t) => {
                let teams = if t.slices > 1 { format!(" by {} teams", t.slices) } else { String::new() };
                let half = if t.is_half { " in half precision" } else { "" };
                format!("tiles of {} × {}{teams}{half}", t.down * t.rows, t.across * 4 * t.vectors)
            }
        };
        self.choice.map(name).join(", ")
    }

    /// Whether the adapter computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Clears the errors so far, of which one failure can bring several. Returns false when the device was lost: then it
    /// and everything on it must be made anew.
    pub fn clear_errors(&self) -> bool {
        self.fault.take();
        !self.fault.state().lost
    }

    /// An error if the device has reported one since the last check. Only a loss is reported again: after a failed
    /// allocation a smaller call can succeed.
    pub(super) fn check(&self) -> Result<()> {
        self.fault.take().map_or(Ok(()), |message| Err(Error::Gpu(message)))
    }

    /// A zeroed buffer of `bytes`, which are checked against the device's limits.
    pub(super) fn buffer(&self, what: &str, bytes: u64, role: Role) -> Result<Buffer> {
        use wgpu::BufferUsages as Usage;
        self.fits(what, bytes, role)?;
        let usage = match role {
            Role::Input => Usage::STORAGE | Usage::COPY_DST,
            Role::Scratch => Usage::STORAGE,
            Role::Result => Usage::STORAGE | Usage::COPY_SRC,
            Role::Readback => Usage::MAP_READ | Usage::COPY_DST,
            Role::Uniform => Usage::UNIFORM | Usage::COPY_DST,
            Role::Clock => Usage::QUERY_RESOLVE | Usage::COPY_SRC,
            #[cfg(feature = "gradient")]
            Role::Parts => Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST,
        };
        let size = bytes.max(16);
        let descriptor = wgpu::BufferDescriptor { label: Some(what), size, usage, mapped_at_creation: false };
        Ok(Buffer(self.device.create_buffer(&descriptor)))
    }

    /// The bytes of the longest buffer that a kernel can read or write.
    pub(super) fn longest_binding(&self) -> usize {
        let limits = &self.limits;
        usize::try_from(limits.max_buffer_size.min(limits.max_storage_buffer_binding_size)).unwrap_or(usize::MAX)
    }

    /// An error if the device has no buffers of `bytes`.
    pub(super) fn fits(&self, what: &str, bytes: u64, role: Role) -> Result<()> {
        let most = match role {
            Role::Input | Role::Scratch | Role::Result => self.longest_binding() as u64,
            _ => self.limits.max_buffer_size,
        };
        if bytes > most {
            let message = format!("{what} needs a buffer of {bytes} bytes, but this GPU's largest is {most}");
            return Err(Error::Gpu(message));
        }
        Ok(())
    }

    /// Whether the device takes so many workgroups in a launch.
    pub(super) fn takes(&self, workgroups: [usize; 3]) -> bool {
        let most = self.limits.max_compute_workgroups_per_dimension as usize;
        workgroups.iter().all(|&n| n <= most)
    }

    /// Has this handle act as one of a device with lower limits.
    #[cfg(test)]
    pub(super) fn lower_limits(&mut self, largest_binding: u64, most_workgroups: u32) {
        self.limits.max_storage_buffer_binding_size = largest_binding;
        self.limits.max_compute_workgroups_per_dimension = most_workgroups;
    }

    /// Queues a write; offset and length are multiples of 4.
    pub(super) fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) {
        self.queue.write_buffer(&buffer.0, offset, bytes);
    }

    /// Submits the queued writes.
    pub(super) fn flush(&self) {
        self.queue.submit([]);
    }

    /// The pipeline of a specialised kernel, compiled at its first use.
    pub(super) fn pipeline(&self, shader: &Specialised) -> Pipeline {
        let mut pipelines = locked(&self.pipelines);
        if let Some((_, pipeline)) = pipelines.iter().find(|(of, _)| of == shader) {
            return pipeline.clone();
        }
        let label = Some(shader.kernel.name());
        let source = wgpu::ShaderSource::Wgsl(shader.wgsl().into());
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&self.layout(shader.kernel))],
            immediate_size: 0,
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Every kernel writes workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        pipelines.push((shader.clone(), pipeline.clone()));
        pipeline
    }

    /// How many pipelines have been compiled.
    pub(super) fn pipeline_count(&self) -> usize {
        locked(&self.pipelines).len()
    }

    /// The bind group layout of a kernel: a uniform at 0, then its storage buffers.
    fn layout(&self, kernel: Kernel) -> wgpu::BindGroupLayout {
        let mut layouts = locked(&self.layouts);
        if let Some((_, layout)) = layouts.iter().find(|(of, _)| *of == kernel) {
            return layout.clone();
        }
        let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        };
        let storage = kernel.bindings().iter().enumerate().map(|(i, access)| {
            entry(i as u32 + 1, wgpu::BufferBindingType::Storage { read_only: *access == Access::Read })
        });
        let entries: Vec<_> = std::iter::once(entry(0, wgpu::BufferBindingType::Uniform)).chain(storage).collect();
        let descriptor = wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name()), entries: &entries };
        let layout = self.device.create_bind_group_layout(&descriptor);
        layouts.push((kernel, layout.clone()));
        layout
    }

    /// A launch of `shader` over a uniform at binding 0 and storage buffers after it.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device takes no such number of workgroups.
    pub(super) fn launch<'a>(
        &self,
        shader: &Specialised,
        bound: &[Slice<'a>],
        workgroups: [usize; 3],
    ) -> Result<Launch> {
        let most = self.limits.max_compute_workgroups_per_dimension;
        let name = shader.kernel.name();
        let workgroups = workgroups.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        if let Some(n) = workgroups.iter().find(|&&n| n > most) {
            return Err(Error::Gpu(format!(
                "{name} needs {n} workgroups, but this GPU takes {most}: try fewer samples"
            )));
        }
        let entry = |(binding, slice): (u32, &Slice<'a>)| {
            let size = std::num::NonZeroU64::new(slice.bytes);
            let resource = wgpu::BufferBinding { buffer: &slice.buffer.0, offset: slice.offset, size };
            wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(resource) }
        };
        let entries: Vec<_> = (0..).zip(bound).map(entry).collect();
        let layout = &self.layout(shader.kernel);
        let descriptor = wgpu::BindGroupDescriptor { label: Some(name), layout, entries: &entries };
        let bindings = self.device.create_bind_group(&descriptor);
        Ok(Launch { pipeline: self.pipeline(shader), bindings, workgroups })
    }

    /// Launches one kernel after the other, then copies the beginning of one buffer to all of another, in one submit.
    pub(super) fn submit(&self, launches: &[Launch], from: &Buffer, to: &Buffer) -> wgpu::SubmissionIndex {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            launches.iter().for_each(|launch| launch.encode(&mut pass));
        }
        encoder.copy_buffer_to_buffer(&from.0, 0, &to.0, 0, to.size());
        self.queue.submit([encoder.finish()])
    }

    /// Waits for a [`Role::Readback`] buffer that a submit writes, by default the last one, and copies it out. Natively the
    /// calling thread waits.
    ///
    /// # Errors
    /// [`Error::Gpu`] with the first error that the device has reported since the last check.
    pub(super) async fn read<T: bytemuck::Pod>(
        &self,
        buffer: &Buffer,
        submission_index: Option<wgpu::SubmissionIndex>,
    ) -> Result<Vec<T>> {
        let values = self.mapped(buffer, submission_index).await;
        self.check()?;
        values
    }

    async fn mapped<T: bytemuck::Pod>(
        &self,
        buffer: &Buffer,
        submission_index: Option<wgpu::SubmissionIndex>,
    ) -> Result<Vec<T>> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        buffer.0.map_async(wgpu::MapMode::Read, .., move |result| {
            // Sending fails only when the caller has dropped the future.
            let _ = sender.send(result);
        });
        let wait = wgpu::PollType::Wait { submission_index, timeout: None };
        self.device.poll(wait).map_err(|e| Error::Gpu(one_line(&e)))?;
        let unreadable = |e: &dyn std::fmt::Display| Error::Gpu(format!("the result cannot be read: {}", one_line(&e)));
        match receiver.await {
            Ok(result) => result.map_err(|e| unreadable(&e))?,
            Err(_) => return Err(Error::Gpu("the GPU gave no answer".into())),
        }
        let values = {
            let view = buffer.0.get_mapped_range(..).map_err(|e| unreadable(&e))?;
            // A browser's copy of the mapped memory has no alignment beyond 1.
            bytemuck::pod_collect_to_vec(&view)
        };
        buffer.0.unmap();
        Ok(values)
    }

    /// Whether kernels can compute in half precision.
    pub(super) fn has_half(&self) -> bool {
        self.device.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Whether the device's clock can be read.
    pub(super) fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Begin and end of each launch in nanoseconds since the first one began, by the device's own clock; reading it
    /// keeps launches from overlapping. Browsers round it to 100 µs.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device has no clock that can be read.
    pub(super) async fn time(&self, launches: &[Launch]) -> Result<Vec<[f64; 2]>> {
        if !self.has_timestamps() {
            return Err(Error::Gpu("expected a device with timestamp-query, found one without".into()));
        }
        let count = 2 * launches.len() as u32;
        let readings = self.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count,
        });
        let bytes = u64::from(count) * 8;
        let resolved = self.buffer("clock readings", bytes, Role::Clock)?;
        let staging = self.buffer("clock readings", bytes, Role::Readback)?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        for (i, launch) in (0..).zip(launches) {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &readings,
                    beginning_of_pass_write_index: Some(2 * i),
                    end_of_pass_write_index: Some(2 * i + 1),
                }),
            });
            launch.encode(&mut pass);
        }
        encoder.resolve_query_set(&readings, 0..count, &resolved.0, 0);
        encoder.copy_buffer_to_buffer(&resolved.0, 0, &staging.0, 0, bytes);
        self.queue.submit([encoder.finish()]);
        let ticks: Vec<u64> = self.read(&staging, None).await?;
        let period = f64::from(self.queue.get_timestamp_period());
        let first = ticks.first().copied().unwrap_or_default();
        let nanoseconds = |tick: u64| tick.saturating_sub(first) as f64 * period;
        Ok(ticks.as_chunks().0.iter().map(|pair: &[u64; 2]| pair.map(nanoseconds)).collect())
    }
}

fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|e| e.into_inner())
}

/// A message of wgpu in one line. In a browser it may hold a JavaScript error as `JsValue(Name: message\nstack)`, of
/// which the message is taken.
fn one_line(e: &impl std::fmt::Display) -> String {
    let text = e.to_string();
    let text = match text.strip_prefix("JsValue(") {
        // The first line of the error, behind its name.
        Some(error) => {
            error.lines().next().map_or("", |line| line.split_once(':').map_or(line, |(_, message)| message))
        }
        None => &text,
    };
    collapse_whitespace(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_reported_once_and_a_loss_each_time() {
        let fault = Fault::default();
        fault.note("no memory");
        fault.note("because of it");
        assert_eq!(fault.take().as_deref(), Some("no memory"));
        assert_eq!(fault.take(), None);
        fault.note("no memory");
        fault.note_loss("a reason");
        for _ in 0..2 {
            assert_eq!(fault.take().as_deref(), Some("the GPU device was lost: a reason"));
        }
    }

    #[test]
    fn messages_are_one_line_without_a_javascript_stack() {
        assert_eq!(one_line(&"a\n  b"), "a b");
        assert_eq!(one_line(&"JsValue(TypeError: not today\nTypeError: not today\n    at x)"), "not today");
    }
}
