// The one worker of a page and the models in it, each of them once, however many samplers hold it.
//
// The worker begins with the first model and ends with the last; `worker.js` is the other end of its messages. When it
// ends by itself, or its GPU is lost, another one takes its place, once for each call that was under way.

import { ConsistencySamplerError } from "./error.js";
import { keyOf } from "./model-source.js";

/** The worker; null when there is no model. */
let worker = null;
/** The models by what identifies them. */
const models = new Map();
/** Ends the watch over the worker's life. */
let watch = null;
/** The calls under way by their ids: `{ model, message, resolve, reject, onEvent, posted, again }`. */
const calls = new Map();
let lastId = 0;

/** A model in the worker, loaded or on its way. */
export class SharedModel {
  /** @type {Promise<import("./consistency-sampler.js").ModelInfo>} */
  loaded;
  #id = ++lastId;
  #key;
  /** Who holds it, each a function that is told of the load. */
  #holders = new Set();
  #lastEvent = null;
  /** What "load" is called with. */
  #source;
  /** Why the worker that had the model is gone, as long as no other one has it. */
  #lost = null;
  /** The load that brings it back; null when there is none under way. */
  #reloading = null;

  /**
   * The model of a source for one more holder, who leaves it by `leave`. Files are nobody else's.
   *
   * @param {object} source  as `sourceOf` makes it
   * @param {{ cached: boolean, device?: string, patience?: object }} options  which, but for the device, count when it is
   *   not being loaded yet
   * @param {(event: object) => void} holder  told of the load's progress and notices
   */
  static hold(source, options, holder) {
    const place = keyOf(source);
    const key = place ? `${options.device ?? "any"} ${place}` : Symbol("files");
    if (!models.has(key)) models.set(key, new SharedModel(key, source, options));
    const model = models.get(key);
    model.#holders.add(holder);
    if (model.#lastEvent) holder(model.#lastEvent);
    return model;
  }

  constructor(key, source, options) {
    this.#key = key;
    this.#source = { source, ...options };
    this.loaded = this.call("load", this.#source, (event) => {
      if (!event.notice) this.#lastEvent = event;
      this.#tell(event);
    }).answer;
    this.loaded.then(
      () => (this.#lastEvent = null),
      // The next who asks shall have another try.
      () => this.#forget(),
    );
  }

  #tell(event) {
    this.#holders.forEach((holder) => holder(event));
  }

  /** Gives the model up; with its last holder it goes, whatever is under way. */
  leave(holder) {
    this.#holders.delete(holder);
    if (this.#holders.size) return;
    this.#forget();
    worker?.postMessage({ method: "dispose", model: this.#id });
    if (models.size || !worker) return;
    stop();
    calls.clear();
  }

  /**
   * Calls a method of the worker. Calls of the network wait for those before them; `cancel` takes one back, or stops
   * it after the network call under way, whereupon it answers `{ cancelled: true }`.
   */
  call(method, params, onEvent, again = false) {
    const id = ++lastId;
    const message = { id, model: this.#id, method, params };
    const call = { model: this, message, onEvent, posted: false, again };
    const answer = new Promise((resolve, reject) => Object.assign(call, { resolve, reject }));
    calls.set(id, call);
    try {
      this.#post(call);
    } catch (error) {
      calls.delete(id);
      throw error;
    }
    const cancel = () => {
      if (call.posted) worker?.postMessage({ method: "cancel", id });
      else if (calls.delete(id)) call.resolve({ cancelled: true });
    };
    return { answer, cancel };
  }

  /** Sends a call to the worker, once that has the model. */
  #post(call) {
    call.posted = false;
    if (this.#lost && call.message.method !== "load") {
      this.#reloading ??= this.#reload(call.again).finally(() => (this.#reloading = null));
      this.#reloading.then(
        () => calls.has(call.message.id) && this.#post(call),
        (error) => calls.delete(call.message.id) && call.reject(error),
      );
      return;
    }
    worker ??= start();
    worker.postMessage(call.message);
    call.posted = true;
  }

  async #reload(again) {
    this.#tell({ notice: `${this.#lost.message}: the model is loaded again, and what was under way begins anew` });
    await this.call("load", this.#source, (event) => event.notice && this.#tell(event), again).answer;
    this.#lost = null;
  }

  /**
   * The worker or its GPU is gone, and every model with it. What was under way is done again in another worker; what is
   * lost for a second time rejects with `error`, and the next call brings its model back.
   */
  static restart(error) {
    stop();
    const interrupted = [...calls.values()];
    const first = new Set(interrupted.filter(({ message }) => message.method === "load").map(({ model }) => model));
    for (const model of models.values()) if (!first.has(model) || model.#lost) model.#lost = error;
    for (const call of interrupted) {
      // What waits for its model to come back has not begun.
      if (!call.posted) continue;
      if (call.again) {
        calls.delete(call.message.id);
        call.reject(error);
      } else {
        call.again = true;
        call.model.#post(call);
        if (first.has(call.model)) call.model.#tell({ notice: `${error.message}: the load begins anew` });
      }
    }
  }

  #forget() {
    if (models.get(this.#key) === this) models.delete(this.#key);
  }
}

function start() {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module", name: "consistency-sampler" });
  worker.onmessage = ({ data }) => receive(data);
  // Nothing is known about an error outside a call, least of all whether the worker still works.
  worker.onerror = (event) => {
    event.preventDefault();
    const reason = event.message ?? "its script did not load";
    SharedModel.restart(new ConsistencySamplerError("failed", `the worker failed: ${reason}`));
  };
  // The browser may end a worker without an event, but then it frees the lock that the worker held. Pages that are not
  // secure or have no origin of their own have no locks; there a worker that ends so is not noticed.
  const name = crypto.getRandomValues(new Uint32Array(4)).join("-");
  worker.postMessage({ method: "watch", params: `consistency-sampler ${name}` });
  watch = new AbortController();
  return worker;
}

function stop() {
  watch?.abort();
  worker?.terminate();
  worker = watch = null;
}

function receive({ id, event, error, result, watched }) {
  if (watched) {
    const ended = () => SharedModel.restart(new ConsistencySamplerError("failed", "the worker was ended"));
    navigator.locks.request(watched, { signal: watch.signal }, ended).catch(() => {});
    return;
  }
  const call = calls.get(id);
  if (event) return call?.onEvent?.(event);
  const failure = error && new ConsistencySamplerError(error.code, error.message);
  if (error?.fatal) return SharedModel.restart(failure);
  calls.delete(id);
  if (error) call?.reject(failure);
  else call?.resolve(result);
}
