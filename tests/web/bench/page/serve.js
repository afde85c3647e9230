// The worker's side of one runtime: the same three requests for each, answered one after another.

import { adapterName, gpuMemory, take } from "./count.js";

/**
 * Answers { id, method, params } with { id, result } or { id, error }.
 *
 * `load({ folder, onnx, batch })` makes the network ready; `forward({ sample, timestep, labels })` calls it as
 * `UNet2DModel` is called, on Float32Arrays (B × C × H × W and B) and a Uint32Array (B) or null, and returns
 * B × C × H × W values.
 */
export function serve({ load, forward }) {
  const methods = {
    async load(params) {
      const begin = performance.now();
      await load(params);
      return { ms: performance.now() - begin, ...take() };
    },
    async forward(input) {
      take();
      const begin = performance.now();
      const output = await forward(input);
      return { ms: performance.now() - begin, output, ...take() };
    },
    async state() {
      return { gpu: await gpuMemory(), adapter: adapterName() };
    },
  };
  self.onmessage = async ({ data: { id, method, params } }) => {
    try {
      self.postMessage({ id, result: await methods[method](params) });
    } catch (error) {
      self.postMessage({ id, error: error?.stack ?? String(error) });
    }
  };
}

/** The text of a file. */
export async function text(url) {
  return (await get(url)).text();
}

/** Hands on a file's bytes as they come. */
export async function stream(url, push) {
  const reader = (await get(url)).body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    push(value);
  }
}

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: the server answered ${response.status}`);
  return response;
}
