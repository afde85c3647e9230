// The worker that owns the WebAssembly module, the GPU (or CPU) and every model of the page; `runtime.ts` is the other end
// of its messages, `messages.ts` says what they are. A model's calls of the network are run in turn.

import { ByteReader, type Bytes } from "./bytes.js";
import { Download, RESTART } from "./download.js";
import { codeOf, ConsistencySamplerError, failing, messageOf } from "./error.js";
import { HttpClient, isUnavailable } from "./http-client.js";
import type {
  Call,
  FromWorker,
  LoadEvent,
  Method,
  Methods,
  RunResult,
  ToHelper,
  ToWorker,
  WorkerError,
} from "./messages.js";
import { CachedModel } from "./model-cache.js";
import { type Description, describe, isPinned, keyOf, type Weights } from "./model-source.js";
import { type Device, help, Helpers, type Loader, type Model, openProcessor, type Processor } from "./processor.js";
import type { LoadProgress, ModelInfo, Step } from "./types.js";

/** How often a download or a network call is reported, in milliseconds. */
const PROGRESS_INTERVAL = 100;
/** How long the browser may take to report all that goes with an error of the GPU, in milliseconds. */
const SETTLING = 200;

/** A model, or one that is being loaded. */
interface LoadedModel {
  abort: AbortController;
  model: Model | null;
  helpers: Helpers | null;
  /** When the last of its calls of the network will be over. */
  turn: Promise<unknown>;
}

/** The models by the page's numbers. */
const models = new Map<number, LoadedModel>();
/** What cancels a call of the network that waits or runs, by the call's id. */
const cancels = new Map<number, () => void>();
/** The GPU's device, which its models share; null when there is none. */
let gpu: Device | null = null;
/** Where the WebAssembly modules are. */
let modules: Record<ModelInfo["processor"], string>;

self.onmessage = async ({ data }: MessageEvent<ToWorker | ToHelper>) => {
  if (data.method === "help" || data.method === "share") return help(data);
  if (data.method === "cancel") return cancels.get(data.id)?.();
  if (data.method === "dispose") return dispose(data.model);
  if (data.method === "begin") {
    modules = data.modules;
    return hold(data.lock);
  }
  const { id } = data;
  try {
    post({ type: "result", id, result: await run(data) });
  } catch (error) {
    post({ type: "error", id, error: await told(error) });
  }
};

function post(message: FromWorker, transfer: Transferable[] = []): void {
  self.postMessage(message, { transfer });
}

function run(call: Call): Methods[Method]["result"] | Promise<Methods[Method]["result"]> {
  const { id } = call;
  switch (call.method) {
    case "load":
      return load(call, (event) => post({ type: "event", id, event }));
    case "schedule":
      return loaded(call).schedule(call.params) as Methods["schedule"]["result"];
    case "sample": {
      return inTurn(call, (model) => sample(call, model));
    }
    case "denoise":
      return inTurn(call, (model) => model.denoise(call.params) as Promise<Methods["denoise"]["result"]>);
  }
}

/** Samples, or edits; tells of each network call, and within those that take their time. */
function sample({ id, params }: Call<"sample">, model: Model): Promise<RunResult> {
  let index = 0;
  let told = 0;
  const timer = setInterval(() => {
    const done = model.progress();
    if (done !== told && done > 0 && done < 1) post({ type: "event", id, event: { index, done } });
    told = done;
  }, PROGRESS_INTERVAL);
  const onStep = (event: Step) => {
    index++;
    post({ type: "event", id, event }, [event.pixels.buffer]);
  };
  return (model.sample(params, onStep) as Promise<RunResult>).finally(() => clearInterval(timer));
}

/** Holds a lock as long as this worker lives: the page learns of the worker's end by getting it. */
function hold(lock: string): void {
  const forever = () => {
    post({ type: "watched", lock });
    return new Promise(() => {});
  };
  // A page that is not secure, or without an origin of its own, has no locks; it does without.
  navigator.locks?.request(lock, forever).catch(() => {});
}

/** An error as the page is told of it. */
async function told(error: unknown): Promise<WorkerError> {
  const message = messageOf(error);
  // The module's memory ran out, or it has a defect; its state is not known any more.
  if (((error as Error).cause ?? error) instanceof WebAssembly.RuntimeError) {
    return { code: "failed", message, fatal: true };
  }
  const code = codeOf(error);
  if (code !== "gpu" || !gpu) return { code, message };
  // The browser reports a loss, and errors that follow from another, some time after the call that failed by them.
  await new Promise((resolve) => setTimeout(resolve, SETTLING));
  if (gpu.clearErrors()) return { code, message };
  return { code: "lost", message: /lost/.test(message) ? message : `${message}: the GPU device was lost`, fatal: true };
}

async function load({ model: number, params }: Call<"load">, emit: (event: LoadEvent) => void): Promise<ModelInfo> {
  const { source, cached, patience, origin, device: wanted } = params;
  const abort = new AbortController();
  const { signal } = abort;
  const entry: LoadedModel = { abort, model: null, helpers: null, turn: Promise.resolve() };
  models.set(number, entry);
  const notice = (notice: string) => emit({ notice });
  const meter = new Meter(emit);
  const client = new HttpClient({ patience, origin, signal, onRetry: (retry) => meter.report("waiting", { retry }) });
  const opening = openProcessor(wanted, modules, notice);
  // What it brings is asked for later, and an error that comes before must not count as one that nobody takes.
  opening.catch(() => {});
  const cache = await CachedModel.open(cached ? keyOf(source) : null, notice);
  const sha256 = async (bytes: Bytes) => (await opening).sha256(bytes);
  const kept = cache.recall();
  const take = async (about: Description) => {
    const { model, info } = await assemble({ about, processor: await opening, cache, client, meter, signal });
    entry.model = model;
    if (info.processor === "cpu") entry.helpers = new Helpers(model, about.texts["unet/config.json"], modules.cpu);
    return info;
  };
  if (kept && isPinned(source)) return take(kept);
  try {
    return await take(await describe(source, { client: kept ? client.hasty() : client, sha256 }));
  } catch (error) {
    if (!kept || !isUnavailable(error)) throw error;
    cache.notice(`${kept.name}: cannot be loaded now (${messageOf(error)}), so the copy in this browser is used`);
    cache.recall();
    return take(kept);
  }
}

/** What a model is made with. */
interface Assembling {
  about: Description;
  processor: Processor;
  cache: CachedModel;
  client: HttpClient;
  meter: Meter;
  signal: AbortSignal;
}

/** Makes the model that a description is of, with weights from the cache and the network. */
async function assemble(assembling: Assembling): Promise<{ model: Model; info: ModelInfo }> {
  const { about, processor, cache, client, meter, signal } = assembling;
  const { name, revision, licence, classNames, texts, single, weights } = about;
  const { Loader, device, kind } = processor;
  if (kind === "gpu") gpu = device;
  meter.begin(weights);
  return failing(null, name, async () => {
    signal.throwIfAborted();
    const [index, unet, scheduler] = [
      texts["model_index.json"],
      texts["unet/config.json"],
      texts["scheduler/scheduler_config.json"],
    ];
    const loader = new Loader(device, index, unet, scheduler, single);
    // What holds the GPU's memory: first the loader, then the model that it becomes.
    let owner: Loader | Model | null = loader;
    try {
      await cache.begin(about);
      for (const file of weights) await receive({ file, loader, cache, client, meter, signal });
      meter.report("shaders");
      owner = null;
      const model = loader.finish();
      owner = model;
      await cache.complete();
      await model.warmUp();
      signal.throwIfAborted();
      const facts = model.info() as Omit<ModelInfo, "name" | "processor" | "device">;
      const { bytes } = meter;
      const info = {
        device: device.description(),
        processor: kind,
        ...facts,
        name,
        revision,
        licence,
        classNames,
        bytes,
      };
      return { model, info };
    } catch (error) {
      owner?.free();
      // What broke off may be resumed; what is wrong must not be kept.
      if (codeOf(error) === "weights") await cache.discard();
      throw error;
    }
  });
}

/** Frees a model's GPU memory, as soon as nothing uses it. */
function dispose(number: number): void {
  const entry = models.get(number);
  models.delete(number);
  entry?.abort.abort();
  entry?.turn.then(() => {
    entry.helpers?.dismiss();
    entry.model?.free();
  });
}

/** The model of a call. */
function loaded({ model: number }: Call): Model {
  const model = models.get(number)?.model;
  if (!model) throw new ConsistencySamplerError("failed", "the model is not loaded");
  return model;
}

/** Lets a call of the network wait for those before it; one that is cancelled meanwhile answers at once. */
function inTurn<T>(call: Call, action: (model: Model) => Promise<T>): Promise<T | { cancelled: true }> {
  const model = loaded(call);
  const entry = models.get(call.model) as LoadedModel;
  const { id } = call;
  let skipped = false;
  const skip = new Promise<{ cancelled: true }>((resolve) => {
    cancels.set(id, () => {
      skipped = true;
      resolve({ cancelled: true });
    });
  });
  const answer = entry.turn.then((): Promise<T | { cancelled: true }> => {
    if (skipped) return skip;
    cancels.set(id, () => model.cancel());
    return action(model);
  });
  entry.turn = answer.catch(() => {});
  return Promise.race([skip, answer]).finally(() => cancels.delete(id));
}

/** What a file of weights passes on its way. */
interface Receiving {
  file: Weights;
  loader: Loader;
  cache: CachedModel;
  client: HttpClient;
  meter: Meter;
  signal: AbortSignal;
}

/** Loads one file of weights, as far as possible from the cache. */
async function receive(receiving: Receiving): Promise<void> {
  const { file, loader, cache, meter } = receiving;
  meter.file(file);
  const stored = file.file ? 0 : await cache.usable(file);
  try {
    await receiveFrom(stored, receiving);
  } catch (error) {
    if (!stored || codeOf(error) !== "weights") throw error;
    // A damaged copy must not stop what the network can give.
    await cache.forget(file);
    loader.restartFile();
    meter.restart();
    await receiveFrom(0, receiving);
  }
}

/** Loads one file, of which the first `stored` bytes are in the cache. */
async function receiveFrom(stored: number, { file, loader, cache, client, meter, signal }: Receiving): Promise<void> {
  for await (const chunk of file.file ? chunksOf(file.file) : stored ? cache.chunks(file) : []) {
    signal.throwIfAborted();
    loader.push(chunk);
    meter.add(chunk.length);
  }
  if (!file.file && !cache.isWhole(file, stored)) {
    const known = { at: stored, version: cache.versionOf(file, stored), size: file.size, hashed: Boolean(file.sha256) };
    const download = new Download(file.url, known, client);
    const copy = await cache.appender(file, stored);
    const onVersion = async () => {
      meter.connect(download.size);
      await copy.describe(download);
    };
    try {
      for await (const chunk of download.chunks(onVersion)) {
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
  const expected = file.sha256 ?? cache.hashOf(file, stored);
  if (expected && sha256 !== expected) {
    const name = file.file ? file.path : file.url;
    throw new ConsistencySamplerError("weights", `${name}: expected SHA-256 ${expected}, found ${sha256}`);
  }
  cache.verified(file, sha256);
}

/** The bytes of a file of one's own. */
async function* chunksOf(file: File): AsyncGenerator<Bytes> {
  const reader = new ByteReader(file.stream());
  for (let chunk: Bytes | null; (chunk = await failing("input", file.name, () => reader.read())); ) yield chunk;
}

/** Counts bytes and tells how fast they come. */
class Meter {
  bytes = 0;
  /** The lengths of the files; no file is known at first. */
  #sizes = new Map<string, number | null>([["", null]]);
  #emit: (progress: LoadProgress) => void;
  #path = "";
  /** The count at the start of the current file, and when and where the speed began to be measured. */
  #fileStart = 0;
  #since = { time: performance.now(), bytes: 0 };
  #reported = -Infinity;

  constructor(emit: (progress: LoadProgress) => void) {
    this.#emit = emit;
  }

  /** The files that are going to come. */
  begin(weights: Weights[]): void {
    this.bytes = 0;
    this.#sizes = new Map(weights.map(({ path, size }) => [path, size]));
  }

  file({ path }: Weights): void {
    this.#path = path;
    this.#fileStart = this.bytes;
  }

  /** The network takes over, with another speed than the disk's. */
  connect(size: number | null): void {
    this.#sizes.set(this.#path, size);
    this.#since = { time: performance.now(), bytes: this.bytes };
  }

  add(bytes: number): void {
    this.bytes += bytes;
    if (performance.now() - this.#reported >= PROGRESS_INTERVAL) this.report("weights");
  }

  restart(): void {
    this.bytes = this.#fileStart;
    this.#since = { time: performance.now(), bytes: this.bytes };
  }

  report(stage: LoadProgress["stage"], more: Pick<LoadProgress, "retry"> = {}): void {
    this.#reported = performance.now();
    const { bytes } = this;
    let total: number | null = 0;
    for (const size of this.#sizes.values()) total = total === null || size === null ? null : total + size;
    const bytesPerSecond = ((bytes - this.#since.bytes) / Math.max(this.#reported - this.#since.time, 1)) * 1000;
    const secondsLeft = total === null || !bytesPerSecond ? null : Math.max(total - bytes, 0) / bytesPerSecond;
    this.#emit({ stage, bytes, total, bytesPerSecond, secondsLeft, ...more });
  }
}
