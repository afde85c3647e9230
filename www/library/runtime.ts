// The one worker of a page and the models in it, each of them once, however many samplers hold it.
//
// The worker begins with the first model and ends with the last; `worker.ts` is the other end of its messages. When it
// ends by itself, or its GPU is lost, another one takes its place, once for each call that was under way.

import { ConsistencySamplerError, type ErrorCode, messageOf } from "./error.js";
import type { Call, FromWorker, LoadEvent, LoadParams, Method, Methods, ToWorker } from "./messages.js";
import { keyOf, type Source } from "./model-source.js";
import type { ModelInfo } from "./types.js";

/** A call under way. */
interface Pending {
  model: SharedModel;
  message: Call;
  resolve: (result: Methods[Method]["result"]) => void;
  reject: (reason: unknown) => void;
  onEvent: ((event: Methods[Method]["event"]) => void) | undefined;
  /** Whether the worker has it. */
  posted: boolean;
  /** Whether it was interrupted before. */
  again: boolean;
}

/** A call's answer, and what takes it back. */
export interface Answer<T> {
  answer: Promise<T>;
  cancel: () => void;
}

const NAME = "consistency-sampler";

/** What to do about a worker that does not start, where its script is of the page's origin and where it is not. */
const PLACES =
  "copy worker.js, pkg/ and pkg-cpu/ beside the bundle or set ConsistencySampler.workerUrl; allow it by worker-src";
const FOREIGN = "allow it by worker-src blob: and by Access-Control-Allow-Origin";

/** What a page may say about where the files are. */
export const place: { workerUrl: string | URL | null } = { workerUrl: null };

/** The page's one policy of Trusted Types, where there are such; null where the page refuses it. */
let policy: TrustedScriptPolicy | null | undefined;

type Holder = (event: LoadEvent) => void;

/** The worker; null when there is no model. */
let worker: Worker | null = null;
/** The models by what identifies them. */
const models = new Map<string | symbol, SharedModel>();
/** Ends the watch over the worker's life. */
let watch: AbortController | null = null;
/** The calls under way by their ids. */
const calls = new Map<number, Pending>();
let lastId = 0;

/** A model in the worker, loaded or on its way. */
export class SharedModel {
  readonly loaded: Promise<ModelInfo>;
  #id = ++lastId;
  #key: string | symbol;
  /** Who holds it, each a function that is told of the load. */
  #holders = new Set<Holder>();
  #lastEvent: LoadEvent | null = null;
  /** What "load" is called with. */
  #params: LoadParams;
  /** Why the worker that had the model is gone, as long as no other one has it. */
  #lost: ConsistencySamplerError | null = null;
  /** The load that brings it back; null when there is none under way. */
  #reloading: Promise<void> | null = null;

  /**
   * The model of a source for one more holder, who leaves it by `leave`. Files are nobody else's.
   *
   * @param options which, but for the device, count when it is not being loaded yet
   * @param holder told of the load's progress and notices
   */
  static hold(source: Source, options: Omit<LoadParams, "source">, holder: Holder): SharedModel {
    const place = keyOf(source);
    const key = place ? `${options.device ?? "any"} ${place}` : Symbol("files");
    const model = models.get(key) ?? new SharedModel(key, { source, ...options });
    models.set(key, model);
    model.#holders.add(holder);
    if (model.#lastEvent) holder(model.#lastEvent);
    return model;
  }

  private constructor(key: string | symbol, params: LoadParams) {
    this.#key = key;
    this.#params = params;
    const onEvent = (event: LoadEvent) => {
      if (!("notice" in event)) this.#lastEvent = event;
      this.#tell(event);
    };
    this.loaded = this.call("load", params, onEvent).answer;
    this.loaded.then(
      () => {
        this.#lastEvent = null;
      },
      // The next who asks shall have another try.
      () => this.#forget(),
    );
  }

  #tell(event: LoadEvent): void {
    for (const holder of this.#holders) holder(event);
  }

  /** Gives the model up; with its last holder it goes, whatever is under way. */
  leave(holder: Holder): void {
    this.#holders.delete(holder);
    if (this.#holders.size) return;
    this.#forget();
    send({ method: "dispose", model: this.#id });
    if (models.size || !worker) return;
    stop();
    calls.clear();
  }

  /**
   * Calls a method of the worker. Calls of the network wait for those before them; `cancel` takes one back, or stops
   * it after the network call under way, whereupon it answers `{ cancelled: true }`.
   */
  call<M extends Method>(
    method: M,
    params: Methods[M]["params"],
    onEvent?: (event: Methods[M]["event"]) => void,
    again = false,
  ): Answer<Methods[M]["result"]> {
    const id = ++lastId;
    // The compiler cannot see that method and parameters belong together, nor results and events to the call's id.
    const message = { method, id, model: this.#id, params } as Call;
    const { promise, resolve, reject } = withResolvers<Methods[Method]["result"]>();
    const call: Pending = {
      model: this,
      message,
      resolve,
      reject,
      onEvent: onEvent as Pending["onEvent"],
      posted: false,
      again,
    };
    calls.set(id, call);
    try {
      this.#post(call);
    } catch (error) {
      calls.delete(id);
      throw error;
    }
    const cancel = () => {
      if (call.posted) send({ method: "cancel", id });
      else if (calls.delete(id)) resolve({ cancelled: true });
    };
    return { answer: promise as Promise<Methods[M]["result"]>, cancel };
  }

  /** Sends a call to the worker, once that has the model. */
  #post(call: Pending): void {
    const { message } = call;
    call.posted = false;
    if (this.#lost && message.method !== "load") {
      this.#reloading ??= this.#reload(this.#lost, call.again).finally(() => {
        this.#reloading = null;
      });
      this.#reloading.then(
        () => calls.has(message.id) && this.#post(call),
        (error) => calls.delete(message.id) && call.reject(error),
      );
      return;
    }
    worker ??= start();
    send(message);
    call.posted = true;
  }

  async #reload(lost: ConsistencySamplerError, again: boolean): Promise<void> {
    this.#tell({ notice: `${lost.message}: the model is loaded again, and what was under way begins anew` });
    await this.call("load", this.#params, (event) => "notice" in event && this.#tell(event), again).answer;
    this.#lost = null;
  }

  /**
   * The worker or its GPU is gone, and every model with it. What was under way is done again in another worker; what is
   * lost for a second time, or not to be tried `again`, rejects with `error`, and the next call brings its model back.
   */
  static restart(error: ConsistencySamplerError, again = true): void {
    stop();
    const interrupted = [...calls.values()];
    const first = new Set(interrupted.filter(({ message }) => message.method === "load").map(({ model }) => model));
    for (const model of models.values()) if (!first.has(model) || model.#lost) model.#lost = error;
    for (const call of interrupted) {
      // What waits for its model to come back has not begun.
      if (!call.posted) continue;
      if (call.again || !again) {
        calls.delete(call.message.id);
        call.reject(error);
      } else {
        call.again = true;
        call.model.#post(call);
        if (first.has(call.model)) call.model.#tell({ notice: `${error.message}: the load begins anew` });
      }
    }
  }

  #forget(): void {
    if (models.get(this.#key) === this) models.delete(this.#key);
  }
}

function send(message: ToWorker): void {
  worker?.postMessage(message);
}

/** Where relative addresses begin: at the page's base or, in a worker, at its script (of a blob, at the site). */
export const baseAddress = () => globalThis.document?.baseURI ?? location.href.replace(/^blob:/, "");

/** Where the files are that are fetched with the first model. */
function files(): { script: URL; modules: Record<ModelInfo["processor"], string> } {
  const { workerUrl } = place;
  // Bundlers know a file by such an expression, and put its address there.
  const script = workerUrl ? new URL(workerUrl, baseAddress()) : new URL("./worker.js", import.meta.url);
  const gpu = workerUrl
    ? new URL("./pkg/consistency_sampler_bg.wasm", script)
    : new URL("./pkg/consistency_sampler_bg.wasm", import.meta.url);
  const cpu = workerUrl
    ? new URL("./pkg-cpu/consistency_sampler_bg.wasm", script)
    : new URL("./pkg-cpu/consistency_sampler_bg.wasm", import.meta.url);
  return { script, modules: { gpu: gpu.href, cpu: cpu.href } };
}

function start(): Worker {
  let address = "worker.js";
  let cure = PLACES;
  const failure = (code: ErrorCode, reason: string) =>
    new ConsistencySamplerError(code, `no worker starts from ${address}: ${reason} (${cure})`);
  try {
    const { script, modules } = files();
    address = script.href;
    // Of a sandboxed frame, every script is another origin's.
    const foreign = script.origin !== self.origin;
    if (foreign) cure = FOREIGN;
    const started = new Worker(trusted(foreign ? importing(address) : address), {
      type: foreign ? "classic" : "module",
      name: NAME,
    });
    const unloaded = () => SharedModel.restart(failure("network", "its script did not load"), false);
    started.onmessage = ({ data }: MessageEvent<FromWorker | null>) => (data ? receive(data) : unloaded());
    // Nothing is known about an error outside a call, least of all whether the worker still works.
    started.onerror = (event) => {
      event.preventDefault();
      if (event.message === undefined) unloaded();
      else SharedModel.restart(new ConsistencySamplerError("failed", `the worker failed: ${event.message}`));
    };
    // The browser may end a worker and say nothing; but then it frees the lock that the worker held.
    const lock = `${NAME} ${crypto.getRandomValues(new Uint32Array(4))}`;
    started.postMessage({ method: "begin", lock, modules } satisfies ToWorker);
    watch = new AbortController();
    return started;
  } catch (error) {
    if (policy === null) cure = `allow it by trusted-types ${NAME}`;
    throw failure("unsupported", messageOf(error));
  }
}

/**
 * The address of a script that imports another origin's. No worker starts from that, but from a script of the page's own,
 * and not from a module in every browser; until it has the other script it keeps the messages that come.
 */
function importing(address: string): string {
  const text = `const early = [];
    onmessage = (event) => early.push(event);
    import(${JSON.stringify(address)}).then(() => early.forEach((event) => onmessage(event)), () => postMessage(null));`;
  return URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
}

/** An address as Trusted Types want it, as far as the page allows the policy. */
function trusted(address: string): string {
  try {
    policy ??= globalThis.trustedTypes?.createPolicy(NAME, { createScriptURL: (address) => address });
  } catch {
    // Perhaps the page needs none.
    policy = null;
  }
  return policy?.createScriptURL(address) ?? address;
}

function stop(): void {
  watch?.abort();
  worker?.terminate();
  worker = watch = null;
}

function receive(message: FromWorker): void {
  if (message.type === "watched") {
    const ended = () => SharedModel.restart(new ConsistencySamplerError("failed", "the worker was ended"));
    if (watch) navigator.locks.request(message.lock, { signal: watch.signal }, ended).catch(() => {});
    return;
  }
  const { id } = message;
  const call = calls.get(id);
  if (message.type === "event") {
    call?.onEvent?.(message.event);
    return;
  }
  if (message.type === "result") {
    calls.delete(id);
    call?.resolve(message.result);
    return;
  }
  const { code, message: text, fatal } = message.error;
  const error = new ConsistencySamplerError(code, text);
  if (fatal) {
    SharedModel.restart(error);
    return;
  }
  calls.delete(id);
  call?.reject(error);
}

/** A promise and what settles it. */
function withResolvers<T>(): { promise: Promise<T>; resolve: (value: T) => void; reject: (reason: unknown) => void } {
  let settle!: Pick<Pending, "reject"> & { resolve: (value: T) => void };
  const promise = new Promise<T>((resolve, reject) => {
    settle = { resolve, reject };
  });
  return { promise, ...settle };
}
