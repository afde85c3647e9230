// The WebAssembly module for the CPU, which converts models, fetched when it is first used.

import { failing } from "../error.js";

type Module = typeof import("../pkg-cpu/consistency_sampler.js");

let opening: Promise<Module> | null = null;

export function cpuModule(): Promise<Module> {
  opening ??= failing("network", "the WebAssembly module for the CPU", async () => {
    const module = await import("../pkg-cpu/consistency_sampler.js");
    await module.default();
    return module;
  });
  opening.catch(() => {
    opening = null;
  });
  return opening;
}
