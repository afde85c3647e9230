// The worker that owns the WebAssembly module, the GPU (or CPU) and every model of the page; `runtime.js` is the other end
// of its messages.
//
// In come { id, model, method, params }, where `id` names the call and `model` the model, { method: "cancel", id } and
// { method: "dispose", model }; out go { id, event } any number of times, then { id, result } or
// { id, error: { code, message } }. A model's calls of the network are run in turn.

import { ByteReader } from "./bytes.js";
import { Download, Failure, RESTART, codeOf, failing } from "./download.js";
import { Shelf } from "./model-cache.js";
import { CONFIGS, describe, isPinned, keyOf } from "./model-source.js";
import { openProcessor } from "./processor.js";

/** How often the download is reported, in milliseconds. */
const PROGRESS_INTERVAL = 100;
/** How long the browser may take to report all that goes with an error of the GPU, in milliseconds. */
const SETTLING = 200;

/** The models by the page's numbers: `{ abort, model, turn }`, see `load`. */
const models = new Map();
/** What cancels a call of the network that waits or runs, by the call's id. */
const cancels = new Map();
/** The GPU's device, which its models share; null when there is none. */
let gpu = null;

const methods = { load, schedule, sample, denoise };

self.onmessage = async ({ data: { id, model, method, params } }) => {
  if (method === "cancel") return cancels.get(id)?.();
  if (method === "dispose") return dispose(model);
  if (method === "watch") return watched(params);
  const emit = (event, transfer = []) => self.postMessage({ id, event }, transfer);
  try {
    self.postMessage({ id, result: await methods[method](model, params, emit, id) });
  } catch (error) {
    self.postMessage({ id, error: await told(error) });
  }
};

/** Holds a lock as long as this worker lives: the page learns of the worker's end by getting it. */
function watched(lock) {
  const forever = () => {
    self.postMessage({ watched: lock });
    return new Promise(() => {});
  };
  // A page without an origin of its own has no locks; it does without.
  navigator.locks?.request(lock, forever).catch(() => {});
}

/** An error as the page is told of it. */
async function told(error) {
  const message = error.message ?? String(error);
  // The module's memory ran out, or it has a defect; its state is not known any more.
  if ((error.cause ?? error) instanceof WebAssembly.RuntimeError) return { code: "failed", message, fatal: true };
  const code = codeOf(error);
  if (code !== "gpu" || !gpu) return { code, message };
  // The browser reports a loss, and errors that follow from another, some time after the call that failed by them.
  await new Promise((resolve) => setTimeout(resolve, SETTLING));
  if (gpu.clearErrors()) return { code, message };
  return { code: "lost", message: /lost/.test(message) ? message : `${message}: the GPU device was lost`, fatal: true };
}

async function load(number, { source, cached, patience, device: wanted }, emit) {
  const abort = new AbortController();
  // `turn` is when the last of its calls of the network will be over.
  const entry = { abort, model: null, turn: Promise.resolve() };
  models.set(number, entry);
  const shelf = await Shelf.open(cached ? keyOf(source) : null, (notice) => emit({ notice }));
  const opening = openProcessor(wanted, (notice) => emit({ notice }));
  const [{ Loader, device, kind }, about] = await Promise.all([opening, describeOrRecall(source, shelf)]);
  if (kind === "gpu") gpu = device;
  const { name, revision, licence, classNames, texts, single, weights } = about;
  const configs = CONFIGS.map((path) => texts[path]);
  const meter = new Meter(weights, emit);
  await failing(null, name, async () => {
    abort.signal.throwIfAborted();
    // What holds the GPU's memory: first the loader, then the model that it becomes.
    let owner = new Loader(device, ...configs, single);
    const loader = owner;
    try {
      await shelf.begin(about);
      for (const file of weights) await receive(file, loader, shelf, meter, { patience, signal: abort.signal });
      meter.report("shaders");
      owner = null;
      owner = loader.finish();
      await shelf.complete();
      await owner.warmUp();
      abort.signal.throwIfAborted();
      entry.model = owner;
    } catch (error) {
      owner?.free();
      // What broke off may be resumed; what is wrong must not be kept.
      if (codeOf(error) === "weights") await shelf.discard();
      throw error;
    }
  });
  return { device: device.description(), processor: kind, ...entry.model.info(), name, revision, licence, classNames, bytes: meter.bytes };
}

/** Frees a model's GPU memory, as soon as nothing uses it. */
function dispose(number) {
  const entry = models.get(number);
  models.delete(number);
  entry?.abort.abort();
  entry?.turn.then(() => entry.model?.free());
}

function schedule(number, options) {
  return models.get(number).model.schedule(options);
}

function sample(number, options, emit, id) {
  return inTurn(number, id, (model) => model.sample(options, (step) => emit(step, [step.pixels.buffer])));
}

function denoise(number, options, emit, id) {
  return inTurn(number, id, (model) => model.denoise(options));
}

/** Lets a call of the network wait for those before it; one that is cancelled meanwhile answers at once. */
function inTurn(number, id, action) {
  const entry = models.get(number);
  let skipped = false;
  const skip = new Promise((resolve) => {
    cancels.set(id, () => resolve({ cancelled: (skipped = true) }));
  });
  const answer = entry.turn.then(() => {
    if (skipped) return null;
    cancels.set(id, () => entry.model.cancel());
    return action(entry.model);
  });
  entry.turn = answer.then(() => {}, () => {});
  return Promise.race([skip, answer]).finally(() => cancels.delete(id));
}

/** What the source says of the model, or, without a connection, what the cache knows of it. */
async function describeOrRecall(source, shelf) {
  const recalled = shelf.recall();
  if (recalled && isPinned(source)) return recalled;
  try {
    return await describe(source);
  } catch (error) {
    if (!recalled || error.code !== "network") throw error;
    shelf.notice(`${recalled.name}: no connection, so the copy in this browser is used`);
    return recalled;
  }
}

/** Loads one file of weights, as far as possible from the cache. */
async function receive(file, loader, shelf, meter, how) {
  meter.file(file);
  const stored = file.file ? 0 : await shelf.usable(file);
  try {
    await receiveFrom(stored, file, loader, shelf, meter, how);
  } catch (error) {
    if (!stored || codeOf(error) !== "weights") throw error;
    // A damaged copy must not stop what the network can give.
    await shelf.forget(file);
    loader.restartFile();
    meter.restart();
    await receiveFrom(0, file, loader, shelf, meter, how);
  }
}

/** Loads one file, of which the first `stored` bytes are in the cache. */
async function receiveFrom(stored, file, loader, shelf, meter, { patience, signal }) {
  for await (const chunk of file.file ? chunksOf(file.file) : stored ? shelf.chunks(file) : []) {
    signal.throwIfAborted();
    loader.push(chunk);
    meter.add(chunk.length);
  }
  if (!file.file && !shelf.isWhole(file, stored)) {
    const known = { at: stored, version: shelf.versionOf(file, stored), size: file.size, hashed: Boolean(file.sha256) };
    const download = new Download(file.url, known, patience);
    const copy = await shelf.appender(file, stored);
    const onVersion = async () => {
      meter.connect(download.size);
      await copy.describe(download);
    };
    const onRetry = (retry) => meter.report("waiting", { retry });
    try {
      for await (const chunk of download.chunks({ onVersion, onRetry, signal })) {
        if (chunk === RESTART) {
          loader.restartFile();
          meter.restart();
          await copy.truncate();
        } else {
          loader.push(chunk);
          await copy.append(chunk);
          meter.add(chunk.length);
        }
      }
    } finally {
      await copy.close();
    }
  }
  const sha256 = loader.endFile();
  const expected = file.sha256 ?? shelf.hashOf(file, stored);
  if (expected && sha256 !== expected) {
    throw new Failure("weights", `${file.url ?? file.path}: expected SHA-256 ${expected}, found ${sha256}`);
  }
  shelf.verified(file, sha256);
}

/** The bytes of a file of one's own. */
async function* chunksOf(file) {
  const reader = new ByteReader(file.stream());
  for (let chunk; (chunk = await failing("input", file.name, () => reader.read())); ) yield chunk;
}

/** Counts bytes and tells how fast they come. */
class Meter {
  bytes = 0;
  #sizes;
  #emit;
  #path;
  /** The count at the start of the current file, and when and where the speed began to be measured. */
  #fileStart = 0;
  #since = { time: performance.now(), bytes: 0 };
  #reported = -Infinity;

  constructor(weights, emit) {
    this.#sizes = new Map(weights.map(({ path, size }) => [path, size]));
    this.#emit = emit;
  }

  file({ path }) {
    this.#path = path;
    this.#fileStart = this.bytes;
  }

  /** The network takes over, with another speed than the disk's. */
  connect(size) {
    this.#sizes.set(this.#path, size);
    this.#since = { time: performance.now(), bytes: this.bytes };
  }

  add(bytes) {
    this.bytes += bytes;
    if (performance.now() - this.#reported >= PROGRESS_INTERVAL) this.report("weights");
  }

  restart() {
    this.bytes = this.#fileStart;
    this.#since = { time: performance.now(), bytes: this.bytes };
  }

  report(stage, more) {
    this.#reported = performance.now();
    const { bytes } = this;
    const sizes = [...this.#sizes.values()];
    const total = sizes.includes(null) ? null : sizes.reduce((sum, size) => sum + size, 0);
    const bytesPerSecond = ((bytes - this.#since.bytes) / Math.max(this.#reported - this.#since.time, 1)) * 1000;
    const secondsLeft = total === null || !bytesPerSecond ? null : Math.max(total - bytes, 0) / bytesPerSecond;
    this.#emit({ stage, bytes, total, bytesPerSecond, secondsLeft, ...more });
  }
}
