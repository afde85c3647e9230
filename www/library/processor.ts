// What computes: the GPU or, in browsers without WebGPU, the CPU, whose module is fetched only then.

import { codeOf, ConsistencySamplerError, failing, messageOf } from "./error.js";
import init, * as gpu from "./pkg/consistency_sampler.js";
import type { ToHelper } from "./messages.js";
import type { Device, Helper, Loader, Model, sha256 } from "./pkg-cpu/consistency_sampler.js";

// The CPU's module has what both have.
export type { Device, Loader, Model };

/** A WebAssembly module and its device. */
export interface Processor {
  Loader: typeof Loader;
  /** SHA-256 in hexadecimal; the browser's own is for secure pages alone. */
  sha256: typeof sha256;
  device: Device;
  kind: "gpu" | "cpu";
}

/** Why there is no WebGPU, and what to do where that is known. */
function withoutGpu(): string {
  if (isSecureContext) return "this browser offers no WebGPU";
  if (self.origin === "null") return "a sandboxed frame has no WebGPU (with allow-same-origin it has)";
  return (
    "WebGPU is for secure pages alone, and this one came over plain http " +
    "(open it over https, or on the machine that serves it by http://localhost)"
  );
}

/** The one processor of each kind that all models share, once it was asked for. */
const opened = new Map<Processor["kind"], Promise<Processor>>();

/**
 * Opens what is wanted; by default the GPU where there is one, else the CPU, of which `notice` is then told.
 *
 * @param wanted what a caller gave, which may be anything
 * @param modules the modules' addresses
 */
export async function openProcessor(
  wanted: unknown,
  modules: Record<Processor["kind"], string>,
  notice: (notice: string) => void,
): Promise<Processor> {
  if (!["gpu", "cpu", null, undefined].includes(wanted as null)) {
    throw new ConsistencySamplerError("input", `device: expected "gpu" or "cpu", found ${JSON.stringify(wanted)}`);
  }
  if (wanted !== "cpu") {
    try {
      return await once("gpu", () => openGpu(modules.gpu));
    } catch (error) {
      if (wanted === "gpu" || codeOf(error) !== "unsupported") throw error;
      notice(`${messageOf(error)}: the CPU computes in place of the GPU, which takes longer`);
    }
  }
  return once("cpu", () => openCpu(modules.cpu));
}

/** What was opened before, or a new try after a failure. */
function once(kind: Processor["kind"], open: () => Promise<Omit<Processor, "kind">>): Promise<Processor> {
  let opening = opened.get(kind);
  if (!opening) {
    opening = open().then((processor) => ({ ...processor, kind }));
    opening.catch(() => opened.delete(kind));
    opened.set(kind, opening);
  }
  return opening;
}

async function openGpu(address: string) {
  // Asked before anything is fetched that only a GPU can use.
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) throw new ConsistencySamplerError("unsupported", withoutGpu());
  await failing("network", `the WebAssembly module: ${address}`, () => init({ module_or_path: address }));
  const { vendor, architecture, description } = adapter.info;
  const name = description || [vendor, architecture].filter(Boolean).join(" ");
  const device = await failing("unsupported", "WebGPU", () => gpu.Device.request(name));
  // Its models share no batches with other workers; nothing else is missing.
  return { Loader: gpu.Loader as unknown as typeof Loader, sha256: gpu.sha256, device };
}

async function openCpu(address: string) {
  const { Loader, sha256, Device } = await cpuModule(address);
  return { Loader, sha256, device: await Device.request() };
}

async function cpuModule(address: string) {
  const subject = `the WebAssembly module for the CPU: ${address}`;
  const cpu = await failing("network", subject, () => import("./pkg-cpu/consistency_sampler.js"));
  await failing("network", subject, () => cpu.default({ module_or_path: address }));
  return cpu;
}

/** Bytes of weights that helpers may have together, and how many helpers there are at most. */
const HELPERS_BYTES = 2 ** 29;
const MOST_HELPERS = 7;

/** The workers that compute parts of a model's batches on other cores. They start with the first batch of several samples. */
export class Helpers {
  #workers: Worker[] = [];

  constructor(model: Model, config: string, module: string) {
    model.shareWith((weights: Float32Array) => {
      const room = Math.floor(HELPERS_BYTES / weights.byteLength);
      const count = Math.min(navigator.hardwareConcurrency - 1, room, MOST_HELPERS);
      return Array.from({ length: Math.max(count, 0) }, () => this.#start({ method: "help", module, config, weights }));
    });
  }

  /** Starts a worker of the same script; returns what has it compute. */
  #start(network: ToHelper) {
    const { href, protocol } = location as Location;
    const worker = new Worker(href, { type: protocol === "blob:" ? "classic" : "module" });
    this.#workers.push(worker);
    worker.postMessage(network);
    const failure = new Promise<never>((_, reject) => {
      worker.onerror = (event) => {
        // It must not go on to the page, for which this worker would have failed.
        event.preventDefault();
        reject(event);
      };
    });
    failure.catch(() => {});
    return (...input: [Float32Array, Float32Array, Uint32Array]) => {
      const answer = new Promise((resolve) => (worker.onmessage = ({ data }) => resolve(data)));
      worker.postMessage({ method: "share", input } satisfies ToHelper);
      return Promise.race([answer, failure]);
    };
  }

  dismiss(): void {
    for (const worker of this.#workers) worker.terminate();
  }
}

/** In a helper: the network. */
let helper: Promise<Helper>;

/** Does what the worker asks that this one helps; answers with null when that fails. */
export async function help(message: ToHelper): Promise<void> {
  if (message.method === "help") {
    const { module, config, weights } = message;
    helper = cpuModule(module).then(({ Helper }) => new Helper(config, weights));
    helper.catch(() => {});
  } else {
    self.postMessage(await helper.then((helper) => helper.forward(...message.input)).catch(() => null));
  }
}
