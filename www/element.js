// The custom element's class; `define.js` registers it under its name.

import { ConsistencySampler, ConsistencySamplerError } from "./consistency-sampler.js";
import { View, many } from "./element-view.js";

const TEXTS = ["model", "revision", "hub", "poster", "alt", "loading"];
const LOADING = ["lazy", "eager", "manual"];
/** Attributes that hold a whole number, with the least one and the one that counts when there is none. */
const NUMBERS = { seed: [0, 0], steps: [1, 1], count: [1, 1], columns: [1, null] };
/** Attributes that hold whole numbers separated by commas, and their properties. */
const LISTS = { "class-label": "classLabel", timesteps: "timesteps" };

/** What another one of means another model, or another picture of it. */
const SOURCE = ["model", "revision", "hub"];
const REQUEST = ["seed", "steps", "count", ...Object.keys(LISTS)];

/** How far from the view a lazy element begins to load. */
const NEAR = "200px";

/**
 * Samples of a consistency model, in a page by one tag. Its attributes say what to draw; a change of them draws anew.
 * docs/element.md describes attributes, properties, methods, events, parts, slots and custom properties.
 */
export class ConsistencySamplerElement extends (globalThis.HTMLElement ?? Object) {
  static observedAttributes = [...TEXTS, ...Object.keys(NUMBERS), ...Object.keys(LISTS), "controls"];

  #view;
  #sampler = null;
  /** The load under way or done: `{ abort, info }`; null when there is none. */
  #load = null;
  #ready = deferred();
  /** What aborts the runs that wait or are under way, and when the last of them will be over. */
  #runs = new Set();
  #turn = Promise.resolve();
  /** Aborts the last run that a change of attributes asked for. */
  #automatic = null;
  /** Whether the element draws by itself by now. */
  #started = false;
  #scheduled = false;
  #observer = null;

  constructor() {
    super();
    const generate = () => {
      this.seed = crypto.getRandomValues(new Uint32Array(1))[0];
      this.#begin();
    };
    this.#view = new View(this.attachShadow({ mode: "open" }), {
      generate,
      cancel: () => this.cancel(),
      retry: () => this.#begin(),
    });
  }

  connectedCallback() {
    if (this.loading === "eager") this.#begin();
    else if (this.loading === "lazy" && !this.#started) this.#watch();
  }

  disconnectedCallback() {
    this.#observer?.disconnect();
    // An element that is only moved is back by then.
    queueMicrotask(() => {
      if (this.isConnected) return;
      this.#started = false;
      this.#unload();
    });
  }

  attributeChangedCallback(name, before, value) {
    if (before === value) return;
    const view = this.#view;
    if (name === "poster") view.poster = value && new URL(value, this.baseURI).href;
    if (name === "controls") view.controls = value !== null;
    if (name === "alt") view.alt = value ?? "";
    if (name === "columns") view.columns = this.#columns();
    if (name === "alt" || name === "columns") view.draw();
    if (name === "loading" && this.isConnected) this.connectedCallback();
    if (SOURCE.includes(name)) this.#unload();
    if (this.#started && [...SOURCE, ...REQUEST].includes(name)) this.#schedule();
  }

  /** What the model is, once it is loaded; null before. */
  get info() {
    return this.#sampler?.info ?? null;
  }

  /** Resolves to `info` as soon as the model is loaded. */
  get ready() {
    return this.#ready.promise;
  }

  /** Loads the model, unless that is done or under way. */
  load() {
    if (!this.#load) {
      const load = { abort: new AbortController() };
      this.#load = load;
      load.info = this.#fetch(load);
    }
    return this.#load.info;
  }

  /** Draws samples: what the attributes ask for, unless `options`, those of `ConsistencySampler.sample`, say otherwise. */
  sample(options = {}) {
    return this.#run("sample", options);
  }

  /** Changes a picture and shows the results; `options` are those of `ConsistencySampler.edit`. */
  edit(options = {}) {
    return this.#run("edit", options);
  }

  /** Stops the load and every run; their promises reject with an AbortError. */
  cancel() {
    this.#runs.forEach((abort) => abort.abort());
    if (!this.#sampler) this.#load?.abort.abort();
  }

  /** Loads and draws as soon as the element comes near the view. */
  #watch() {
    this.#observer ??= new IntersectionObserver(
      (entries) => {
        if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
        this.#observer.disconnect();
        this.#begin();
      },
      { rootMargin: NEAR },
    );
    this.#observer.observe(this);
  }

  #begin() {
    this.#started = true;
    this.#schedule();
  }

  /** Draws once, however many attributes change in one go. */
  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      if (!this.#started) return;
      this.#automatic?.abort();
      const abort = (this.#automatic = new AbortController());
      // Its errors are events.
      this.sample({ signal: abort.signal }).catch(() => {});
    });
  }

  /** Gives the model up, for another or for good. */
  #unload() {
    this.#runs.forEach((abort) => abort.abort());
    this.#load?.abort.abort();
    this.#load = null;
    this.#sampler?.dispose();
    if (this.#sampler) this.#ready = deferred();
    this.#sampler = null;
  }

  async #fetch(load) {
    const current = () => this.#load === load;
    const view = this.#view;
    try {
      const { model, revision, hub } = this;
      if (!model) throw input("model: expected the address of a folder or a hub id, found none");
      view.clearNotices();
      view.progress({ stage: "weights", bytes: 0, total: null });
      const sampler = await ConsistencySampler.load(model, {
        revision: revision || undefined,
        hub: hub || undefined,
        signal: load.abort.signal,
        onNotice: (notice) => view.notice(notice),
        onProgress: (progress) => {
          view.progress(progress);
          this.#emit("progress", progress);
        },
      });
      if (!current()) sampler.dispose();
      load.abort.signal.throwIfAborted();
      this.#sampler = sampler;
      this.#ready.resolve(sampler.info);
      return sampler.info;
    } catch (error) {
      if (current()) this.#load = null;
      throw this.#report(error, load.abort.signal);
    } finally {
      if (current() || !this.#load) view.progress(null);
    }
  }

  async #run(method, { signal, onStep, ...options }) {
    const view = this.#view;
    const abort = new AbortController();
    const pass = () => abort.abort(signal.reason);
    signal?.addEventListener("abort", pass);
    this.#runs.add(abort);
    const before = this.#turn;
    let over;
    this.#turn = new Promise((resolve) => (over = resolve));
    try {
      signal?.throwIfAborted();
      const request = this.#request(method, options);
      view.busy(true);
      view.fail(null);
      if (!this.#sampler) view.say("Loading the model");
      await this.load();
      await before;
      abort.signal.throwIfAborted();
      view.say("Generating");
      const [height, width] = this.info.sampleSize;
      let images = [];
      const result = await this.#sampler[method]({
        ...request,
        signal: abort.signal,
        onStep: (step) => {
          images = split(step.pixels, width, height);
          view.show(images, describe(request, step));
          this.#emit("step", step);
          onStep?.(step);
        },
      });
      view.say(`${many(images.length, "image")} in ${(result.milliseconds / 1000).toFixed(2)} s`);
      const detail = { ...request, ...result, images };
      this.#emit("sample", detail);
      return detail;
    } catch (error) {
      throw this.#report(error, abort.signal);
    } finally {
      signal?.removeEventListener("abort", pass);
      this.#runs.delete(abort);
      if (!this.#runs.size) view.busy(false);
      over();
    }
  }

  /** What the attributes ask for, with what a call says instead. */
  #request(method, { numInferenceSteps, timesteps, ...options }) {
    const request = { seed: this.#number("seed"), classLabels: this.#list("class-label") ?? undefined };
    if (method === "sample") {
      request.count = this.#number("count");
      request.timesteps = this.#list("timesteps") ?? undefined;
      if (!request.timesteps) request.numInferenceSteps = this.#number("steps");
    }
    if (numInferenceSteps !== undefined || timesteps !== undefined) {
      Object.assign(request, { numInferenceSteps, timesteps });
    }
    const given = Object.entries({ ...request, ...options }).filter(([, value]) => value !== undefined);
    return Object.fromEntries(given);
  }

  /** Tells of an error, once, unless it is what was asked for; returns it. */
  #report(error, signal) {
    if (signal.aborted) {
      // Unless a newer run has taken its place.
      if (this.#runs.size <= 1) this.#view.say("Cancelled");
      return error;
    }
    const { code } = error;
    const typed = error instanceof ConsistencySamplerError ? error : new ConsistencySamplerError("failed", error.message);
    if (reported.has(typed)) return typed;
    reported.add(typed);
    this.#view.say("");
    this.#view.fail(typed);
    this.#emit("error", typed);
    return code ? error : typed;
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }

  #number(name) {
    const text = this.getAttribute(name);
    return text === null ? NUMBERS[name][1] : whole(name, text, NUMBERS[name][0]);
  }

  /** Nothing is drawn anew for another number of columns, so what is wrong with it is told at once. */
  #columns() {
    try {
      const columns = this.#number("columns");
      return columns && Number(columns);
    } catch (error) {
      this.#report(error, { aborted: false });
      return null;
    }
  }

  #list(name) {
    return this.getAttribute(name)?.split(",").map((text) => whole(name, text.trim(), 0)) ?? null;
  }

  /** A property for each attribute; `element.d.ts` has their types. */
  static {
    const reflect = (property, attribute, get) =>
      Object.defineProperty(this.prototype, property, {
        configurable: true,
        enumerable: true,
        get,
        set(value) {
          if (value === null || value === undefined) this.removeAttribute(attribute);
          else this.setAttribute(attribute, value);
        },
      });
    // What an attribute should not hold is an error when it is used, and no number until then.
    const valid = (get) => {
      try {
        return get();
      } catch {
        return NaN;
      }
    };
    for (const name of TEXTS) {
      reflect(name, name, function () {
        const text = this.getAttribute(name) ?? "";
        return name === "loading" && !LOADING.includes(text) ? "lazy" : text;
      });
    }
    for (const name of Object.keys(NUMBERS)) {
      reflect(name, name, function () {
        return valid(() => this.#number(name));
      });
    }
    for (const [name, property] of Object.entries(LISTS)) {
      reflect(property, name, function () {
        const list = valid(() => this.#list(name));
        return name === "class-label" && list?.length === 1 ? list[0] : list;
      });
    }
    Object.defineProperty(this.prototype, "controls", {
      configurable: true,
      enumerable: true,
      get() {
        return this.hasAttribute("controls");
      },
      set(value) {
        this.toggleAttribute("controls", Boolean(value));
      },
    });
  }
}

/** The errors that an event has told of. */
const reported = new WeakSet();

const input = (message) => new ConsistencySamplerError("input", message);

/** An attribute's whole number, of at most 64 bits. */
function whole(name, text, least) {
  const value = /^\d{1,20}$/.test(text) ? BigInt(text) : -1n;
  if (value < least || value >= 1n << 64n) {
    throw input(`${name}: expected a whole number from ${least}, found ${JSON.stringify(text.slice(0, 40))}`);
  }
  return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

/** RGBA bytes, one image after another, as images. */
function split(pixels, width, height) {
  const bytes = width * height * 4;
  return Array.from({ length: pixels.length / bytes }, (_, i) => {
    return new ImageData(pixels.slice(i * bytes, (i + 1) * bytes), width, height);
  });
}

/** What made a picture, in words. */
function describe({ seed, classLabels, kind }, { index, steps }) {
  const labels = [...new Set(classLabels ?? [])];
  const parts = [kind, !Array.isArray(seed) && `seed ${seed}`, labels.length && `class ${labels.join(", ")}`, `step ${index + 1} of ${steps}`];
  return parts.filter(Boolean).join(", ");
}

function deferred() {
  let resolve;
  const promise = new Promise((r) => (resolve = r));
  return { promise, resolve };
}
