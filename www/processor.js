// What computes: the GPU or, in browsers without WebGPU, the CPU, whose module is fetched only then.

import { Failure, failing } from "./download.js";
import init, * as gpu from "./pkg/consistency_sampler.js";

/** The one processor of each kind that all models share, once it was asked for. */
const opened = new Map();

/**
 * The WebAssembly module and its device.
 *
 * @param {"gpu" | "cpu" | null} [wanted]  null: the GPU where there is one, else the CPU
 * @param {(notice: string) => void} [notice]  told that it is the CPU though nobody asked for it
 * @returns {Promise<{ Loader: typeof gpu.Loader, device: gpu.Device, kind: "gpu" | "cpu" }>}
 */
export async function openProcessor(wanted, notice) {
  if (![null, undefined, "gpu", "cpu"].includes(wanted)) {
    throw new Failure("input", `device: expected "gpu" or "cpu", found ${JSON.stringify(wanted)}`);
  }
  if (wanted !== "cpu") {
    try {
      return await once("gpu", openGpu);
    } catch (error) {
      if (wanted === "gpu" || error.code !== "unsupported") throw error;
      notice?.(`${error.message}: the CPU computes in place of the GPU, which takes longer`);
    }
  }
  return once("cpu", openCpu);
}

/** What was opened before, or a new try after a failure. */
function once(kind, open) {
  if (!opened.has(kind)) {
    const opening = open().then((processor) => ({ ...processor, kind }));
    opening.catch(() => opened.delete(kind));
    opened.set(kind, opening);
  }
  return opened.get(kind);
}

async function openGpu() {
  // Asked before anything is fetched that only a GPU can use.
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) {
    const reason = isSecureContext
      ? "this browser offers no WebGPU"
      : "browsers offer no WebGPU to pages that are not secure: open this one by https";
    throw new Failure("unsupported", reason);
  }
  await failing("network", "the WebAssembly module", () => init());
  const { vendor, architecture, description } = adapter.info;
  const name = description || [vendor, architecture].filter(Boolean).join(" ");
  return { Loader: gpu.Loader, device: await failing("unsupported", "WebGPU", () => gpu.Device.request(name)) };
}

async function openCpu() {
  const subject = "the WebAssembly module for the CPU";
  const cpu = await failing("network", subject, () => import("./pkg-cpu/consistency_sampler.js"));
  await failing("network", subject, () => cpu.default());
  return { Loader: cpu.Loader, device: await cpu.Device.request() };
}
