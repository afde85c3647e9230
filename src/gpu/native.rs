//! The device through wgpu, on every platform but the browser; `web/webgpu.rs` offers the same things there.

use super::device::{Fault, Limits, Role, Slice};
use super::kernels::{Access, Kernel};
use crate::error::{Error, Result};

/// A storage, uniform or readback buffer.
pub(crate) use wgpu::Buffer;

/// The order of a kernel's bindings.
pub(crate) use wgpu::BindGroupLayout as Layout;

/// A compiled kernel.
pub(crate) use wgpu::ComputePipeline as Pipeline;

/// The buffers of one launch.
pub(crate) use wgpu::BindGroup as Bindings;

/// A kernel with its buffers and its number of workgroups.
pub(crate) struct Launch {
    pub(crate) pipeline: Pipeline,
    pub(crate) bindings: Bindings,
    pub(crate) workgroups: [u32; 3],
}

/// An adapter's device and queue. Clones share them.
#[derive(Clone)]
pub(crate) struct Device {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    limits: Limits,
}

impl Device {
    /// The fastest adapter's device, with all that the adapter allows; errors outside of any call go to `fault`.
    ///
    /// # Errors
    /// [`Error::Gpu`] when there is no adapter or it refuses a device.
    pub(crate) async fn request(fault: &Fault) -> Result<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..Default::default()
        };
        let adapter = instance
            .request_adapter(&options)
            .await
            .map_err(|e| Error::Gpu(format!("no WebGPU adapter: expected one, found none ({})", one_line(&e))))?;
        let info = adapter.get_info();
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("consistency-sampler"),
            // The default limits would refuse large models that the adapter can hold.
            required_limits: adapter.limits(),
            required_features: adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
            ..Default::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::Gpu(format!("the adapter {} gives no device: {}", info.name, one_line(&e))))?;
        let (uncaptured, lost) = (fault.clone(), fault.clone());
        device.on_uncaptured_error(std::sync::Arc::new(move |e: wgpu::Error| uncaptured.note(&one_line(&e))));
        device.set_device_lost_callback(move |_, message| lost.note_loss(&message));
        let limits = device.limits();
        let limits = Limits {
            buffer: limits.max_buffer_size,
            binding: limits.max_storage_buffer_binding_size,
            workgroups: limits.max_compute_workgroups_per_dimension,
        };
        Ok(Self { device, queue, info, limits })
    }

    /// The adapter's name for people; empty when the platform tells none.
    pub(crate) fn description(&self) -> &str {
        &self.info.name
    }

    /// Whether the adapter is a program that imitates a GPU.
    pub(crate) fn is_software(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// A zeroed buffer.
    pub(crate) fn buffer(&self, label: &str, size: u64, role: Role) -> Buffer {
        use wgpu::BufferUsages as Usage;
        let usage = match role {
            Role::Input => Usage::STORAGE | Usage::COPY_DST,
            Role::Scratch => Usage::STORAGE,
            Role::Result => Usage::STORAGE | Usage::COPY_SRC,
            Role::Readback => Usage::MAP_READ | Usage::COPY_DST,
            Role::Uniform => Usage::UNIFORM | Usage::COPY_DST,
            Role::Clock => Usage::QUERY_RESOLVE | Usage::COPY_SRC,
        };
        let descriptor = wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        self.device.create_buffer(&descriptor)
    }

    /// Queues a write; offset and length are multiples of 4.
    pub(crate) fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) {
        self.queue.write_buffer(buffer, offset, bytes);
    }

    /// Hands queued writes to the device.
    pub(crate) fn flush(&self) {
        self.queue.submit([]);
    }

    /// The layout of a kernel: a uniform at 0, then its storage buffers.
    pub(crate) fn layout(&self, kernel: Kernel) -> Layout {
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
        self.device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.name()),
            entries: &entries,
        })
    }

    /// Compiles a kernel.
    pub(crate) fn pipeline(&self, name: &str, wgsl: String, layout: &Layout) -> Pipeline {
        let label = Some(name);
        let source = wgpu::ShaderSource::Wgsl(wgsl.into());
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor { label, source });
        let layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(layout)],
            immediate_size: 0,
        });
        self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                // Buffers are cleared by WebGPU, and workgroup memory is always written before it is read.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        })
    }

    /// Binds a uniform at 0 and storage after it.
    pub(crate) fn bindings<'a>(&self, name: &str, layout: &Layout, bound: &[Slice<'a>]) -> Bindings {
        let entry = |(binding, slice): (u32, &Slice<'a>)| {
            let size = std::num::NonZeroU64::new(slice.bytes);
            let resource = wgpu::BufferBinding { buffer: slice.buffer, offset: slice.offset, size };
            wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(resource) }
        };
        let entries: Vec<_> = (0..).zip(bound).map(entry).collect();
        let label = Some(name);
        self.device.create_bind_group(&wgpu::BindGroupDescriptor { label, layout, entries: &entries })
    }

    /// Launches one kernel after the other, then copies all of `from` to `to`, in one submit.
    pub(crate) fn submit(&self, launches: &[Launch], from: &Buffer, to: &Buffer) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            launches.iter().for_each(|launch| launch.encode(&mut pass));
        }
        encoder.copy_buffer_to_buffer(from, 0, to, 0, to.size());
        self.queue.submit([encoder.finish()]);
    }

    /// Waits for a [`Role::Readback`] buffer and copies it out.
    pub(crate) async fn read(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        self.read_as(buffer).await
    }

    async fn read_as<T: bytemuck::Pod>(&self, buffer: &Buffer) -> Result<Vec<T>> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver is gone only when the caller no longer wants the answer.
            let _ = sender.send(result);
        });
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| Error::Gpu(one_line(&e)))?;
        match receiver.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(Error::Gpu(format!("the result cannot be read: {}", one_line(&e)))),
            Err(_) => return Err(Error::Gpu("the GPU gave no answer".into())),
        }
        let values = {
            let view = buffer.get_mapped_range(..).map_err(|e| Error::Gpu(one_line(&e)))?;
            bytemuck::cast_slice(&view).to_vec()
        };
        buffer.unmap();
        Ok(values)
    }

    /// Whether the device's clock can be read.
    pub(super) fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Begin and end of each launch in nanoseconds since the first one began, by the device's own clock; reading it
    /// keeps launches from overlapping.
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
        let resolved = self.buffer("clock readings", bytes, Role::Clock);
        let staging = self.buffer("clock readings", bytes, Role::Readback);
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
        encoder.resolve_query_set(&readings, 0..count, &resolved, 0);
        encoder.copy_buffer_to_buffer(&resolved, 0, &staging, 0, bytes);
        self.queue.submit([encoder.finish()]);
        let ticks: Vec<u64> = self.read_as(&staging).await?;
        let period = f64::from(self.queue.get_timestamp_period());
        let first = ticks.first().copied().unwrap_or_default();
        let nanoseconds = |tick: u64| tick.saturating_sub(first) as f64 * period;
        Ok(ticks.as_chunks().0.iter().map(|pair: &[u64; 2]| pair.map(nanoseconds)).collect())
    }
}

impl Launch {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bindings, &[]);
        let [x, y, z] = self.workgroups;
        pass.dispatch_workgroups(x, y, z);
    }
}

fn one_line(e: &impl std::fmt::Display) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
