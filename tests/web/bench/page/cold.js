// Makes one image as soon as the page is open; what to make stands in the address. `window.done` resolves to times in
// milliseconds since the navigation began, and the pixels.

import { Runtime } from "./client.js";

const { runtime, folder, onnx, shape, labels } = JSON.parse(new URL(location).searchParams.get("case"));

window.done = runtime === "ours" ? byThePagesInterface() : byTheBareNetwork();

async function byThePagesInterface() {
  const { ConsistencySampler } = await import("/consistency-sampler.js");
  const sampler = await ConsistencySampler.load(folder);
  window.kept = sampler;
  const ready_ms = performance.now();
  let pixels;
  await sampler.sample({
    seed: 0,
    count: 1,
    ...(labels && { classLabels: labels }),
    numInferenceSteps: 1,
    onStep: (step) => (pixels = step.pixels),
  });
  return { ready_ms, first_image_ms: performance.now(), pixels: Array.from(pixels) };
}

/** The first step of the sampler around the network: f(x, σ) at σ = 80, where σ_data is ½. */
async function byTheBareNetwork() {
  const worker = new Runtime(runtime);
  window.kept = worker;
  await worker.call("load", { folder, onnx, batch: 1 });
  const ready_ms = performance.now();
  const [cSkip, cOut, cIn, timestep] = [3.90629e-5, 0.499978, 0.0124998, 1095.5067];
  const [channels, height, width] = shape;
  const plane = height * width;
  const x = Float32Array.from({ length: channels * plane }, () => 80 * normal());
  const { output } = await worker.call("forward", {
    sample: x.map((value) => cIn * value),
    shape,
    timestep: Float32Array.of(timestep),
    labels: labels && Uint32Array.from(labels),
  });
  const pixels = new Uint8ClampedArray(4 * plane).fill(255);
  for (let at = 0; at < plane; at++) {
    for (let c = 0; c < 3; c++) {
      const i = (channels === 1 ? 0 : c) * plane + at;
      pixels[4 * at + c] = 127.5 * (cSkip * x[i] + cOut * output[i] + 1);
    }
  }
  return { ready_ms, first_image_ms: performance.now(), pixels: Array.from(pixels) };
}

function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}
