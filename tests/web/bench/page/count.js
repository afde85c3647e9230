// Counts what a runtime asks of WebGPU. Imported before the runtime, so that nothing escapes.

const zero = { dispatches: 0, submits: 0, pipelines: 0 };
const counts = { ...zero };
const memory = { bytes: 0, peak: 0 };
let adapter = null;

/** Calls `before` on every call of a method, then the method. */
function observe(type, method, before) {
  const original = type.prototype[method];
  type.prototype[method] = function (...args) {
    before.apply(this, args);
    return original.apply(this, args);
  };
}

observe(GPUQueue, "submit", () => counts.submits++);
observe(GPUComputePassEncoder, "dispatchWorkgroups", () => counts.dispatches++);
observe(GPUComputePassEncoder, "dispatchWorkgroupsIndirect", () => counts.dispatches++);
observe(GPUDevice, "createComputePipeline", () => counts.pipelines++);
observe(GPUDevice, "createComputePipelineAsync", () => counts.pipelines++);

// A buffer's memory is free when it is destroyed, or when nobody can reach it any more.
const sizes = new WeakMap();
const collected = new FinalizationRegistry((size) => (memory.bytes -= size));
const createBuffer = GPUDevice.prototype.createBuffer;
GPUDevice.prototype.createBuffer = function (descriptor) {
  const buffer = createBuffer.call(this, descriptor);
  const size = Number(descriptor.size);
  memory.bytes += size;
  memory.peak = Math.max(memory.peak, memory.bytes);
  sizes.set(buffer, size);
  collected.register(buffer, size, buffer);
  return buffer;
};
observe(GPUBuffer, "destroy", function () {
  memory.bytes -= sizes.get(this) ?? 0;
  sizes.delete(this);
  collected.unregister(this);
});

const requestAdapter = GPU.prototype.requestAdapter;
GPU.prototype.requestAdapter = async function (...args) {
  const found = await requestAdapter.apply(this, args);
  if (found) adapter = [found.info.vendor, found.info.architecture, found.info.description].filter(Boolean).join(" ");
  return found;
};

/** The counts since the last call of this function. */
export function take() {
  const taken = { ...counts };
  Object.assign(counts, zero);
  return taken;
}

/** Bytes of the GPU buffers that exist, and the most that there were at once; unreachable ones do not count. */
export async function gpuMemory() {
  self.gc?.();
  await new Promise((resolve) => setTimeout(resolve, 50));
  return { ...memory };
}

/** The adapter that the runtime was given, in the browser's words. */
export function adapterName() {
  return adapter;
}
