// The one worker of a page and the models in it, each of them once, however many samplers hold it.
//
// The worker begins with the first model and ends with the last; `worker.js` is the other end of its messages.

import { ConsistencySamplerError } from "./error.js";
import { keyOf } from "./model-source.js";

/** The worker; null when there is no model. */
let worker = null;
/** The models by what identifies them. */
const models = new Map();
/** What is done with the worker's answers, by the calls' ids. */
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
  /** What ended the worker that had this model; null while all is well. */
  #failure = null;

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
    this.loaded = this.call("load", { source, ...options }, (event) => {
      if (!event.notice) this.#lastEvent = event;
      this.#holders.forEach((holder) => holder(event));
    }).answer;
    this.loaded.then(
      () => (this.#lastEvent = null),
      // The next who asks shall have another try.
      () => this.#forget(),
    );
  }

  /** Gives the model up; with its last holder it goes, whatever is under way. */
  leave(holder) {
    this.#holders.delete(holder);
    if (this.#holders.size) return;
    this.#forget();
    worker?.postMessage({ method: "dispose", model: this.#id });
    if (models.size || !worker) return;
    worker.terminate();
    worker = null;
    calls.clear();
  }

  /**
   * Calls a method of the worker. Calls of the network wait for those before them; `cancel` takes one back, or stops
   * it after the network call under way, whereupon it answers `{ cancelled: true }`.
   */
  call(method, params, onEvent) {
    if (this.#failure) return { answer: Promise.reject(this.#failure), cancel() {} };
    const id = ++lastId;
    worker ??= start();
    worker.postMessage({ id, model: this.#id, method, params });
    const answer = new Promise((resolve, reject) => calls.set(id, { resolve, reject, onEvent }));
    return { answer, cancel: () => worker?.postMessage({ method: "cancel", id }) };
  }

  /** The worker failed, and every model with it. */
  static fail(error) {
    worker.terminate();
    worker = null;
    for (const model of models.values()) model.#failure = error;
    models.clear();
    calls.forEach(({ reject }) => reject(error));
    calls.clear();
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
    SharedModel.fail(new ConsistencySamplerError("failed", `the worker failed: ${event.message ?? "its script did not load"}`));
  };
  return worker;
}

function receive({ id, event, error, result }) {
  const call = calls.get(id);
  if (event) return call?.onEvent?.(event);
  calls.delete(id);
  if (error) call?.reject(new ConsistencySamplerError(error.code, error.message));
  else call?.resolve(result);
}
