// The worker that owns the WebAssembly module and the GPU; `consistency-sampler.js` is the other end of its messages.
//
// In come { id, method, params } and { method: "cancel" }; out go { id, event } any number of times, then
// { id, result } or { id, error: { code, message } }.

import init, { Device, Loader } from "./pkg/consistency_sampler.js";

/** How often the download is reported, in milliseconds. */
const PROGRESS_INTERVAL = 100;

/** An error with a code of ConsistencySamplerError. */
class Failure extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

let model;
let sampling = false;

const methods = { load, schedule, sample };

self.onmessage = async ({ data: { id, method, params } }) => {
  if (method === "cancel") {
    // It may come too late, and must not stop the run after the one it was meant for.
    if (sampling) model.cancel();
    return;
  }
  const emit = (event, transfer = []) => self.postMessage({ id, event }, transfer);
  try {
    self.postMessage({ id, result: await methods[method](params, emit) });
  } catch (error) {
    self.postMessage({ id, error: { code: codeOf(error), message: error.message ?? String(error) } });
  }
};

async function load({ url }, emit) {
  const [device, configs] = await Promise.all([requestDevice(), fetchConfigs(url)]);
  const weights = `${url}unet/diffusion_pytorch_model.safetensors`;
  const response = await get(weights);
  model = await failing(null, url, async () => {
    const loader = new Loader(device, configs.unet, configs.scheduler);
    const progress = await stream(response, (chunk) => loader.push(chunk), emit);
    emit({ stage: "shaders", ...progress });
    const model = await loader.finish();
    // The browser compiles the GPU's programs when they first run: now, and not at the cost of the first picture.
    await model.sample({ seed: 0, count: 1, numInferenceSteps: 1 }, () => {});
    return model;
  });
  return { device: device.description(), ...model.info() };
}

function schedule({ numInferenceSteps, timesteps }) {
  return model.schedule(numInferenceSteps, timesteps && Uint32Array.from(timesteps));
}

async function sample(options, emit) {
  sampling = true;
  try {
    return await model.sample(options, (step) => emit(step, [step.pixels.buffer]));
  } finally {
    sampling = false;
  }
}

async function requestDevice() {
  await failing("network", "the WebAssembly module", () => init());
  return failing("unsupported", "WebGPU", () => Device.request());
}

/** The texts of the model's two configurations, once its index says that it is a consistency model. */
async function fetchConfigs(url) {
  const index = JSON.parse(await fetchJson(`${url}model_index.json`));
  if (index?._class_name !== "ConsistencyModelPipeline") {
    const found = JSON.stringify(index?._class_name);
    throw new Failure(
      "config",
      `${url}model_index.json: expected _class_name "ConsistencyModelPipeline", found ${found}`,
    );
  }
  const [unet, scheduler] = await Promise.all([
    fetchJson(`${url}unet/config.json`),
    fetchJson(`${url}scheduler/scheduler_config.json`),
  ]);
  return { unet, scheduler };
}

/** The text of a file that holds JSON. */
async function fetchJson(url) {
  const response = await get(url);
  const text = await failing("network", url, () => response.text());
  try {
    JSON.parse(text);
  } catch (error) {
    throw new Failure("config", `${url}: expected JSON, found ${JSON.stringify(text.slice(0, 40))} (${error.message})`);
  }
  return text;
}

/** A successful response that is not a web page; many servers answer a wrong address with one. */
async function get(url) {
  const response = await failing("network", url, () => fetch(url));
  if (!response.ok) {
    throw new Failure("http", `${url}: the server answered ${`${response.status} ${response.statusText}`.trim()}`);
  }
  if (response.headers.get("Content-Type")?.startsWith("text/html")) {
    throw new Failure("http", `${url}: expected a model's file, found an HTML page`);
  }
  return response;
}

/** Hands a response's bytes on as they come, never the whole; returns the last progress. */
async function stream(response, push, emit) {
  const { headers, url } = response;
  const total =
    headers.has("Content-Length") && !headers.has("Content-Encoding") ? Number(headers.get("Content-Length")) : null;
  const reader = response.body.getReader();
  const start = performance.now();
  let reported = -Infinity;
  let bytes = 0;
  const progress = () => ({ bytes, total, bytesPerSecond: (bytes / Math.max(performance.now() - start, 1)) * 1000 });
  for (;;) {
    const { done, value } = await failing("network", `${url}: broken off after ${bytes} bytes`, () => reader.read());
    if (done) return progress();
    push(value);
    bytes += value.length;
    if (performance.now() - reported >= PROGRESS_INTERVAL) {
      reported = performance.now();
      emit({ stage: "weights", ...progress() });
    }
  }
}

/** Does something; its error gets a subject before its message, and a code unless that is null and it brings its own. */
async function failing(code, subject, action) {
  try {
    return await action();
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw new Failure(code ?? codeOf(error), `${subject}: ${error.message ?? error}`);
  }
}

/** The code that this file or the WebAssembly module gave an error; a browser's own errors have numbers or nothing. */
function codeOf(error) {
  return typeof error?.code === "string" ? error.code : "failed";
}
