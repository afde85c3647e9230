//! The WebGPU device: adapter, limits, pipelines, and what went wrong on it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::kernels::{Access, Kernel, Specialised};
use super::lower::Choice;
#[cfg(not(target_arch = "wasm32"))]
use super::lower::Products;
#[cfg(not(target_arch = "wasm32"))]
use super::tuning;
use crate::error::{Error, Result};

/// A WebGPU device with this crate's pipelines. Clones share it.
#[derive(Clone)]
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    description: String,
    software: bool,
    /// The kernels that suit the device.
    pub(super) choice: Choice,
    /// The first error that the device reported outside of any call, and whether it was lost.
    fault: Arc<Mutex<Option<String>>>,
    pipelines: Rc<RefCell<HashMap<Specialised, wgpu::ComputePipeline>>>,
    layouts: Rc<RefCell<Vec<(Kernel, wgpu::BindGroupLayout)>>>,
}

impl Gpu {
    /// Asks for the fastest adapter and for all that it allows, and finds out which kernels suit it.
    ///
    /// # Errors
    /// [`Error::Gpu`] when there is no adapter or it refuses a device.
    pub async fn request() -> Result<Self> {
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
            #[cfg(not(target_arch = "wasm32"))]
            required_features: adapter.features() & wgpu::Features::TIMESTAMP_QUERY,
            ..Default::default()
        };
        let (device, queue) = adapter
            .request_device(&descriptor)
            .await
            .map_err(|e| Error::Gpu(format!("the adapter {} gives no device: {}", info.name, one_line(&e))))?;
        let fault = Arc::new(Mutex::new(None));
        let first = fault.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| note(&first, one_line(&e))));
        let first = fault.clone();
        device.set_device_lost_callback(move |_, message| note(&first, format!("the GPU device was lost: {message}")));
        let software = info.device_type == wgpu::DeviceType::Cpu;
        let description = if info.name.is_empty() { "WebGPU adapter".to_owned() } else { info.name };
        let (pipelines, layouts) = (Rc::default(), Rc::default());
        let choice = Choice::SAFE;
        let gpu = Self { device, queue, description, software, choice, fault, pipelines, layouts };
        // The page keeps what runs everywhere: the trial is 7 KB of its 150, and no browser on a real GPU has shown yet
        // what it would gain.
        #[cfg(not(target_arch = "wasm32"))]
        let gpu = Self { choice: tuning::choose(&gpu).await?, ..gpu };
        Ok(gpu)
    }

    /// The adapter's name for people, as far as the platform tells it.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Which kernels the trial has chosen for products of few outputs and of many, for people.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn kernels(&self) -> String {
        let name = |products| match products {
            Products::Registers => "registers".to_owned(),
            Products::Tiled(t) => format!("tiles of {} × {}", t.down * t.rows, t.across * 4 * t.vectors),
        };
        format!("{} and {}", name(self.choice.few), name(self.choice.many))
    }

    /// Whether the adapter is a program that imitates a GPU; browsers do not tell.
    pub fn is_software(&self) -> bool {
        self.software
    }

    /// Whether the device's clock can be read.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Forgets the errors that the device has reported, and says whether there were any.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn forgive(&self) -> bool {
        self.fault.lock().unwrap_or_else(|e| e.into_inner()).take().is_some()
    }

    /// An error if the device has reported one.
    pub(super) fn check(&self) -> Result<()> {
        match &*self.fault.lock().unwrap_or_else(|e| e.into_inner()) {
            None => Ok(()),
            Some(message) => Err(Error::Gpu(message.clone())),
        }
    }

    /// A zeroed buffer of `bytes`, which are checked against the device's limits.
    pub(super) fn buffer(&self, what: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let limits = self.device.limits();
        let most = if usage.contains(wgpu::BufferUsages::STORAGE) {
            limits.max_buffer_size.min(limits.max_storage_buffer_binding_size)
        } else {
            limits.max_buffer_size
        };
        if bytes > most {
            return Err(Error::Gpu(format!(
                "{what} needs a buffer of {bytes} bytes, but this GPU's largest is {most}: try fewer samples at once"
            )));
        }
        Ok(self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size: bytes.max(16),
            usage,
            mapped_at_creation: false,
        }))
    }

    /// The pipeline of a specialised kernel, compiled when it is first asked for.
    pub(super) fn pipeline(&self, shader: &Specialised) -> wgpu::ComputePipeline {
        if let Some(pipeline) = self.pipelines.borrow().get(shader) {
            return pipeline.clone();
        }
        let label = Some(shader.kernel.name());
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label,
            source: wgpu::ShaderSource::Wgsl(shader.wgsl().into()),
        });
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
                // Buffers are cleared by WebGPU, and workgroup memory is always written before it is read.
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
        self.pipelines.borrow_mut().insert(shader.clone(), pipeline.clone());
        pipeline
    }

    /// How many pipelines have been compiled.
    pub fn pipeline_count(&self) -> usize {
        self.pipelines.borrow().len()
    }

    /// The bind group layout of a kernel: a uniform at 0, then its storage buffers.
    pub(super) fn layout(&self, kernel: Kernel) -> wgpu::BindGroupLayout {
        let mut layouts = self.layouts.borrow_mut();
        let create = || {
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
        };
        if let Some((_, layout)) = layouts.iter().find(|(of, _)| *of == kernel) {
            return layout.clone();
        }
        let layout = create();
        layouts.push((kernel, layout.clone()));
        layout
    }

    /// Waits for `buffer` (usage MAP_READ) and copies it out.
    pub(super) async fn read<T: bytemuck::Pod>(&self, buffer: &wgpu::Buffer) -> Result<Vec<T>> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        buffer.map_async(wgpu::MapMode::Read, .., move |result| {
            // The receiver is gone only when the caller no longer wants the answer.
            let _ = sender.send(result);
        });
        // In a browser the event loop polls; natively the caller does.
        #[cfg(not(target_arch = "wasm32"))]
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(|e| Error::Gpu(one_line(&e)))?;
        let mapped = receiver.await;
        self.check()?;
        match mapped {
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
}

fn note(fault: &Mutex<Option<String>>, message: String) {
    fault.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(message);
}

fn one_line(e: &impl std::fmt::Display) -> String {
    e.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
