//! The browser's WebGPU, as much of it as the plan needs; `gpu/native.rs` offers the same things through wgpu.
//!
//! Descriptors are made as plain JavaScript objects. wgpu has all of this and more, which is why it is not used here:
//! BENCHMARKS.md says how many of the page's 150 KB it took.

use js_sys::{Array, Float32Array, Object, Promise};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use super::{get, message, object};
use crate::error::{Error, Result};
use crate::gpu::device::{Fault, Limits, Role, Slice};
use crate::gpu::kernels::{Access, Kernel};

#[wasm_bindgen]
extern "C" {
    type Gpu;
    #[wasm_bindgen(thread_local_v2, js_namespace = navigator, js_name = gpu)]
    static GPU: Option<Gpu>;
    #[wasm_bindgen(method, js_name = requestAdapter)]
    fn request_adapter(this: &Gpu, options: &Object) -> Promise;

    type Adapter;
    #[wasm_bindgen(method, getter)]
    fn info(this: &Adapter) -> JsValue;
    #[wasm_bindgen(method, getter)]
    fn limits(this: &Adapter) -> JsValue;
    #[wasm_bindgen(method, js_name = requestDevice)]
    fn request_device(this: &Adapter, descriptor: &Object) -> Promise;

    #[derive(Clone)]
    type JsDevice;
    #[wasm_bindgen(method, getter)]
    fn queue(this: &JsDevice) -> Queue;
    #[wasm_bindgen(method, getter)]
    fn lost(this: &JsDevice) -> Promise;
    #[wasm_bindgen(method, setter, js_name = onuncapturederror)]
    fn set_onuncapturederror(this: &JsDevice, handler: &JsValue);
    #[wasm_bindgen(method, js_name = createBuffer)]
    fn create_buffer(this: &JsDevice, descriptor: &Object) -> JsBuffer;
    #[wasm_bindgen(method, js_name = createBindGroupLayout)]
    fn create_bind_group_layout(this: &JsDevice, descriptor: &Object) -> JsValue;
    #[wasm_bindgen(method, js_name = createPipelineLayout)]
    fn create_pipeline_layout(this: &JsDevice, descriptor: &Object) -> JsValue;
    #[wasm_bindgen(method, js_name = createShaderModule)]
    fn create_shader_module(this: &JsDevice, descriptor: &Object) -> JsValue;
    #[wasm_bindgen(method, js_name = createComputePipeline)]
    fn create_compute_pipeline(this: &JsDevice, descriptor: &Object) -> JsValue;
    #[wasm_bindgen(method, js_name = createBindGroup)]
    fn create_bind_group(this: &JsDevice, descriptor: &Object) -> JsValue;
    #[wasm_bindgen(method, js_name = createCommandEncoder)]
    fn create_command_encoder(this: &JsDevice) -> Encoder;

    #[derive(Clone)]
    type Queue;
    #[wasm_bindgen(method, js_name = writeBuffer)]
    fn write_buffer(this: &Queue, buffer: &JsBuffer, offset: f64, bytes: &[u8]);
    #[wasm_bindgen(method)]
    fn submit(this: &Queue, commands: &Array);

    type JsBuffer;
    #[wasm_bindgen(method, getter)]
    fn size(this: &JsBuffer) -> f64;
    #[wasm_bindgen(method)]
    fn destroy(this: &JsBuffer);
    #[wasm_bindgen(method, js_name = mapAsync)]
    fn map_async(this: &JsBuffer, mode: u32) -> Promise;
    #[wasm_bindgen(method, catch, js_name = getMappedRange)]
    fn get_mapped_range(this: &JsBuffer) -> std::result::Result<JsValue, JsValue>;
    #[wasm_bindgen(method)]
    fn unmap(this: &JsBuffer);

    type Encoder;
    #[wasm_bindgen(method, js_name = beginComputePass)]
    fn begin_compute_pass(this: &Encoder) -> Pass;
    #[wasm_bindgen(method, js_name = copyBufferToBuffer)]
    fn copy_buffer_to_buffer(
        this: &Encoder,
        from: &JsBuffer,
        from_offset: f64,
        to: &JsBuffer,
        to_offset: f64,
        size: f64,
    );
    #[wasm_bindgen(method)]
    fn finish(this: &Encoder) -> JsValue;

    type Pass;
    #[wasm_bindgen(method, js_name = setPipeline)]
    fn set_pipeline(this: &Pass, pipeline: &JsValue);
    #[wasm_bindgen(method, js_name = setBindGroup)]
    fn set_bind_group(this: &Pass, index: u32, bindings: &JsValue);
    #[wasm_bindgen(method, js_name = dispatchWorkgroups)]
    fn dispatch_workgroups(this: &Pass, x: u32, y: u32, z: u32);
    #[wasm_bindgen(method)]
    fn end(this: &Pass);
}

/// `GPUMapMode.READ`.
const MAP_READ: u32 = 1;

/// `GPUShaderStage.COMPUTE`.
const COMPUTE: u32 = 4;

/// The bits of `GPUBufferUsage`.
impl Role {
    fn usage(self) -> u32 {
        const MAP_READ: u32 = 0x1;
        const COPY_SRC: u32 = 0x4;
        const COPY_DST: u32 = 0x8;
        const UNIFORM: u32 = 0x40;
        const STORAGE: u32 = 0x80;
        match self {
            Role::Input => STORAGE | COPY_DST,
            Role::Scratch => STORAGE,
            Role::Result => STORAGE | COPY_SRC,
            Role::Readback => MAP_READ | COPY_DST,
            Role::Uniform => UNIFORM | COPY_DST,
        }
    }
}

/// A storage, uniform or readback buffer; its memory is free as soon as it is dropped, and not some time later.
pub(crate) struct Buffer(JsBuffer);

impl Buffer {
    pub(crate) fn size(&self) -> u64 {
        self.0.size() as u64
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// The order of a kernel's bindings.
pub(crate) type Layout = JsValue;

/// A compiled kernel.
pub(crate) type Pipeline = JsValue;

/// The buffers of one launch.
pub(crate) type Bindings = JsValue;

/// A kernel with its buffers and its number of workgroups.
pub(crate) struct Launch {
    pub(crate) pipeline: Pipeline,
    pub(crate) bindings: Bindings,
    pub(crate) workgroups: [u32; 3],
}

/// An adapter's device and queue. Clones share them.
#[derive(Clone)]
pub(crate) struct Device {
    device: JsDevice,
    queue: Queue,
    description: String,
    software: bool,
    limits: Limits,
}

impl Device {
    /// The fastest adapter's device, with all that the adapter allows; errors outside of any call go to `fault`.
    ///
    /// # Errors
    /// [`Error::Gpu`] when there is no adapter or it refuses a device.
    pub(crate) async fn request(fault: &Fault) -> Result<Self> {
        let none = |why: &str| Error::Gpu(format!("no WebGPU adapter: expected one, found none ({why})"));
        let gpu = GPU.with(|gpu| {
            gpu.as_ref().map(|gpu| gpu.request_adapter(&record(&[("powerPreference", "high-performance".into())])))
        });
        let asked = gpu.ok_or_else(|| none("this browser has no WebGPU"))?;
        let adapter = JsFuture::from(asked).await.map_err(|e| none(&message(&e)))?;
        if adapter.is_null() {
            return Err(none("the browser offers none"));
        }
        let adapter: Adapter = adapter.unchecked_into();
        let info = adapter.info();
        let [vendor, architecture, description] =
            ["vendor", "architecture", "description"].map(|key| get(&info, key).as_string().unwrap_or_default());
        let description =
            if description.is_empty() { format!("{vendor} {architecture}").trim().to_owned() } else { description };
        let software = get(&info, "isFallbackAdapter").is_truthy();

        // The default limits would refuse large models that the adapter can hold.
        let available = adapter.limits();
        let [buffer, binding, workgroups] =
            ["maxBufferSize", "maxStorageBufferBindingSize", "maxComputeWorkgroupsPerDimension"]
                .map(|key| (key, get(&available, key)));
        let limits = Limits {
            buffer: buffer.1.as_f64().unwrap_or_default() as u64,
            binding: binding.1.as_f64().unwrap_or_default() as u64,
            workgroups: workgroups.1.as_f64().unwrap_or_default() as u32,
        };
        let descriptor = record(&[("requiredLimits", record(&[buffer, binding, workgroups]).into())]);
        let device = JsFuture::from(adapter.request_device(&descriptor))
            .await
            .map_err(|e| Error::Gpu(format!("the adapter {description} gives no device: {}", message(&e))))?;
        let device: JsDevice = device.unchecked_into();

        // Both live as long as the worker: a device may be lost whenever.
        let noted = fault.clone();
        let uncaptured = Closure::<dyn FnMut(JsValue)>::new(move |event| noted.note(&message(&get(&event, "error"))));
        device.set_onuncapturederror(&uncaptured.into_js_value());
        let noted = fault.clone();
        let lost = device.lost();
        wasm_bindgen_futures::spawn_local(async move {
            if let Ok(info) = JsFuture::from(lost).await {
                noted.note_loss(&message(&info));
            }
        });
        Ok(Self { queue: device.queue(), device, description, software, limits })
    }

    /// The adapter's name for people; empty when the browser tells none.
    pub(crate) fn description(&self) -> &str {
        &self.description
    }

    /// Whether the adapter is a program that imitates a GPU, as far as the browser tells.
    pub(crate) fn is_software(&self) -> bool {
        self.software
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// A zeroed buffer.
    pub(crate) fn buffer(&self, label: &str, size: u64, role: Role) -> Buffer {
        Buffer(self.device.create_buffer(&record(&[
            ("label", label.into()),
            ("size", (size as f64).into()),
            ("usage", role.usage().into()),
        ])))
    }

    /// Queues a write; offset and length are multiples of 4.
    pub(crate) fn write(&self, buffer: &Buffer, offset: u64, bytes: &[u8]) {
        self.queue.write_buffer(&buffer.0, offset as f64, bytes);
    }

    /// Hands queued writes to the device.
    pub(crate) fn flush(&self) {
        self.queue.submit(&Array::new());
    }

    /// The layout of a kernel: a uniform at 0, then its storage buffers.
    pub(crate) fn layout(&self, kernel: Kernel) -> Layout {
        let types = kernel.bindings().iter().map(|access| match access {
            Access::Read => "read-only-storage",
            Access::Write => "storage",
        });
        let entries: Array = (0u32..)
            .zip(std::iter::once("uniform").chain(types))
            .map(|(binding, ty)| {
                let buffer = record(&[("type", ty.into())]);
                let entry = [("binding", binding.into()), ("visibility", COMPUTE.into()), ("buffer", buffer.into())];
                JsValue::from(record(&entry))
            })
            .collect();
        self.device.create_bind_group_layout(&record(&[("entries", entries.into())]))
    }

    /// Compiles a kernel.
    pub(crate) fn pipeline(&self, name: &str, wgsl: String, layout: &Layout) -> Pipeline {
        let module = self.device.create_shader_module(&record(&[("label", name.into()), ("code", wgsl.into())]));
        let layouts = record(&[("bindGroupLayouts", Array::of1(layout).into())]);
        let layout = self.device.create_pipeline_layout(&layouts);
        let compute = record(&[("module", module), ("entryPoint", "main".into())]);
        let descriptor = [("label", name.into()), ("layout", layout), ("compute", compute.into())];
        self.device.create_compute_pipeline(&record(&descriptor))
    }

    /// Binds a uniform at 0 and storage after it.
    pub(crate) fn bindings(&self, name: &str, layout: &Layout, bound: &[Slice<'_>]) -> Bindings {
        let entry = |(binding, slice): (u32, &Slice<'_>)| {
            let [offset, size] = [slice.offset, slice.bytes].map(|n| JsValue::from(n as f64));
            let resource = record(&[("buffer", (*slice.buffer.0).clone()), ("offset", offset), ("size", size)]);
            JsValue::from(record(&[("binding", binding.into()), ("resource", resource.into())]))
        };
        let entries: Array = (0..).zip(bound).map(entry).collect();
        let descriptor = [("label", name.into()), ("layout", layout.clone()), ("entries", entries.into())];
        self.device.create_bind_group(&record(&descriptor))
    }

    /// Launches one kernel after the other, then copies all of `from` to `to`, in one submit.
    pub(crate) fn submit(&self, launches: &[Launch], from: &Buffer, to: &Buffer) {
        let encoder = self.device.create_command_encoder();
        let pass = encoder.begin_compute_pass();
        for Launch { pipeline, bindings, workgroups: [x, y, z] } in launches {
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, bindings);
            pass.dispatch_workgroups(*x, *y, *z);
        }
        pass.end();
        encoder.copy_buffer_to_buffer(&from.0, 0.0, &to.0, 0.0, to.0.size());
        self.queue.submit(&Array::of1(&encoder.finish()));
    }

    /// Waits for a [`Role::Readback`] buffer and copies it out.
    pub(crate) async fn read(&self, buffer: &Buffer) -> Result<Vec<f32>> {
        let unreadable = |e: JsValue| Error::Gpu(format!("the result cannot be read: {}", message(&e)));
        JsFuture::from(buffer.0.map_async(MAP_READ)).await.map_err(unreadable)?;
        let values = Float32Array::new(&buffer.0.get_mapped_range().map_err(unreadable)?).to_vec();
        buffer.0.unmap();
        Ok(values)
    }
}

/// An object of these entries.
fn record(entries: &[(&str, JsValue)]) -> Object {
    // Setting a property of a fresh object cannot fail.
    object(entries).unwrap_or_default()
}
