// The custom element's class; `define.ts` registers it under its name.

import { ConsistencySampler, ConsistencySamplerError } from "./consistency-sampler.js";
import { many } from "./display.js";
import { style } from "./element-style.js";
import { View } from "./element-view.js";
import { codeOf, messageOf } from "./error.js";
import type { EditOptions, LoadProgress, ModelInfo, Run, RunOptions, SampleOptions, Step } from "./types.js";

const TEXTS = ["model", "revision", "hub", "poster", "alt", "loading"];
const LOADING = ["lazy", "eager", "manual"] as const;
/** Attributes that hold a whole number, with the least one. */
const NUMBERS = { seed: 0, steps: 1, count: 1, columns: 1 };
/** Attributes that hold whole numbers separated by commas. */
const LISTS = ["class-label", "timesteps"];

/** What another one of means another model, or another picture of it. */
const SOURCE = ["model", "revision", "hub"];
const REQUEST = ["seed", "steps", "count", ...LISTS];

/** How far from the view a lazy element begins to load. */
const NEAR = "200px";

type Whole = number | bigint;

/** What was asked for, what it cost and what it came to. */
export interface SampleResult extends Run, Partial<Omit<EditOptions, "onStep" | "signal">> {
  images: ImageData[];
}

/** What was asked for. */
type RunRequest = Omit<SampleResult, keyof Run | "images">;

export interface ConsistencySamplerElementEventMap {
  progress: CustomEvent<LoadProgress>;
  step: CustomEvent<Step>;
  sample: CustomEvent<SampleResult>;
  error: CustomEvent<ConsistencySamplerError>;
}

/** An element that has these events besides its own. */
interface EventElement extends HTMLElement {
  addEventListener<K extends keyof ConsistencySamplerElementEventMap>(
    type: K,
    listener: (this: ConsistencySamplerElement, event: ConsistencySamplerElementEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

/** Where there is no DOM the class can be imported all the same. */
const Base = (globalThis.HTMLElement ?? Object) as unknown as { new (): EventElement; prototype: EventElement };

/** A load under way or done. */
interface Loading {
  abort: AbortController;
  info: Promise<ModelInfo>;
}

/**
 * Samples of a consistency model, in a page by one tag. Its attributes say what to draw; a change of them draws anew.
 * Each attribute has a property, which null and undefined take away with it. docs/element.md describes attributes,
 * properties, methods, events, parts, slots and custom properties.
 */
export class ConsistencySamplerElement extends Base {
  static observedAttributes: string[] = [...TEXTS, ...Object.keys(NUMBERS), ...LISTS, "controls"];

  #view: View;
  #sampler: ConsistencySampler | null = null;
  #load: Loading | null = null;
  #ready = deferred<ModelInfo>();
  /** What aborts the runs that wait or are under way, and when the last of them will be over. */
  #runs = new Set<AbortController>();
  #turn: Promise<void> = Promise.resolve();
  /** Aborts the last run that a change of attributes asked for. */
  #automatic: AbortController | null = null;
  /** Whether the element draws by itself by now. */
  #started = false;
  #scheduled = false;
  #observer: IntersectionObserver | null = null;

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
    // No change of an attribute is told of as long as this runs.
    queueMicrotask(() => this.#upgrade());
  }

  /** Properties that were set before the element was defined hide the accessors: takes them over. */
  #upgrade(): void {
    for (const [name, value] of Object.entries(this)) {
      if (!(name in ConsistencySamplerElement.prototype)) continue;
      Reflect.deleteProperty(this, name);
      // Of one that can only be read, nothing comes.
      Reflect.set(this, name, value);
    }
  }

  /** @internal */
  connectedCallback(): void {
    this.#upgrade();
    style(this.shadowRoot as ShadowRoot);
    if (this.loading === "eager") this.#begin();
    else if (this.loading === "lazy" && !this.#started) this.#watch();
  }

  /** @internal */
  disconnectedCallback(): void {
    this.#observer?.disconnect();
    // An element that is only moved is back by then.
    queueMicrotask(() => {
      if (this.isConnected) return;
      this.#started = false;
      this.#unload();
    });
  }

  /** @internal */
  attributeChangedCallback(name: string, before: string | null, value: string | null): void {
    if (before === value) return;
    const view = this.#view;
    if (name === "poster") view.poster = value;
    if (name === "controls") view.controls = value !== null;
    if (name === "alt") view.alt = value ?? "";
    if (name === "columns") view.columns = this.#columns();
    if (name === "alt" || name === "columns") view.draw();
    if (name === "loading" && this.isConnected) this.connectedCallback();
    if (SOURCE.includes(name)) this.#unload();
    if (this.#started && [...SOURCE, ...REQUEST].includes(name)) this.#schedule();
  }

  /** The address of a folder, or a hub id. */
  get model(): string {
    return this.#text("model");
  }
  set model(value: string | null | undefined) {
    this.#reflect("model", value);
  }

  /** Of a hub's repository. */
  get revision(): string {
    return this.#text("revision");
  }
  set revision(value: string | null | undefined) {
    this.#reflect("revision", value);
  }

  /** The hub's address, for mirrors. */
  get hub(): string {
    return this.#text("hub");
  }
  set hub(value: string | null | undefined) {
    this.#reflect("hub", value);
  }

  /** The address of a picture to show while the weights stream. */
  get poster(): string {
    return this.#text("poster");
  }
  set poster(value: string | null | undefined) {
    this.#reflect("poster", value);
  }

  /** What the images show, in words. */
  get alt(): string {
    return this.#text("alt");
  }
  set alt(value: string | null | undefined) {
    this.#reflect("alt", value);
  }

  get loading(): "lazy" | "eager" | "manual" {
    return LOADING.find((loading) => loading === this.#text("loading")) ?? "lazy";
  }
  set loading(value: "lazy" | "eager" | "manual" | null | undefined) {
    this.#reflect("loading", value);
  }

  /** NaN when the attribute is no whole number; so are the others. */
  get seed(): number | bigint {
    return valid(() => this.#number("seed", 0));
  }
  set seed(value: number | bigint | string | null | undefined) {
    this.#reflect("seed", value);
  }

  get steps(): number | bigint {
    return valid(() => this.#number("steps", 1));
  }
  set steps(value: number | null | undefined) {
    this.#reflect("steps", value);
  }

  get count(): number | bigint {
    return valid(() => this.#number("count", 1));
  }
  set count(value: number | null | undefined) {
    this.#reflect("count", value);
  }

  /** How many images a row has; null: as many as make the grid about square. */
  get columns(): number | bigint | null {
    return valid(() => this.#number("columns", null));
  }
  set columns(value: number | null | undefined) {
    this.#reflect("columns", value);
  }

  /** One class for all, or one for each; null: drawn by the seed. */
  get classLabel(): number | bigint | (number | bigint)[] | null {
    const list = valid(() => this.#list("class-label"));
    return Array.isArray(list) && list.length === 1 ? (list[0] as Whole) : list;
  }
  set classLabel(value: number | number[] | null | undefined) {
    this.#reflect("class-label", value);
  }

  /** In place of `steps`. */
  get timesteps(): number | (number | bigint)[] | null {
    return valid(() => this.#list("timesteps"));
  }
  set timesteps(value: number[] | null | undefined) {
    this.#reflect("timesteps", value);
  }

  /** Whether there are buttons: Generate and Cancel. */
  get controls(): boolean {
    return this.hasAttribute("controls");
  }
  set controls(value: boolean) {
    this.toggleAttribute("controls", Boolean(value));
  }

  /** What the model is, once it is loaded; null before. */
  get info(): ModelInfo | null {
    return this.#sampler?.info ?? null;
  }

  /** Resolves to `info` as soon as the model is loaded. */
  get ready(): Promise<ModelInfo> {
    return this.#ready.promise;
  }

  /** Loads the model, unless that is done or under way. */
  load(): Promise<ModelInfo> {
    if (this.#load) return this.#load.info;
    const { promise, resolve } = deferred<ModelInfo>();
    const load = { abort: new AbortController(), info: promise };
    this.#load = load;
    // Whoever else asks in the same go gets this load, and its error is one event.
    queueMicrotask(() => resolve(this.#fetch(load)));
    return told(promise);
  }

  /** Draws samples: what the attributes ask for, unless `options`, those of `ConsistencySampler.sample`, say otherwise. */
  sample(options: SampleOptions = {}): Promise<SampleResult> {
    return told(this.#run("sample", options ?? {}));
  }

  /** Changes a picture and shows the results; `options` are those of `ConsistencySampler.edit`. */
  edit(options: EditOptions): Promise<SampleResult> {
    return told(this.#run("edit", options ?? {}));
  }

  /** Stops the load and every run; their promises reject with an AbortError. */
  cancel(): void {
    for (const abort of this.#runs) abort.abort();
    if (!this.#sampler) this.#load?.abort.abort();
  }

  /** Loads and draws as soon as the element comes near the view. */
  #watch(): void {
    this.#observer ??= new IntersectionObserver(
      (entries, observer) => {
        if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
        observer.disconnect();
        this.#begin();
      },
      { rootMargin: NEAR },
    );
    this.#observer.observe(this);
  }

  #begin(): void {
    this.#started = true;
    this.#schedule();
  }

  /** Draws once, however many attributes change in one go. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      if (!this.#started) return;
      this.#automatic?.abort();
      this.#automatic = new AbortController();
      this.sample({ signal: this.#automatic.signal });
    });
  }

  /** Gives the model up, for another or for good. */
  #unload(): void {
    for (const abort of this.#runs) abort.abort();
    this.#load?.abort.abort();
    this.#load = null;
    this.#sampler?.dispose();
    if (this.#sampler) this.#ready = deferred();
    this.#sampler = null;
  }

  async #fetch(load: Loading): Promise<ModelInfo> {
    const current = () => this.#load === load;
    const view = this.#view;
    const { signal } = load.abort;
    try {
      const { model, revision, hub } = this;
      if (!model) throw input("model: expected the address of a folder or a hub id, found none");
      view.notices.clear();
      view.progress({ stage: "weights", bytes: 0, total: null });
      const sampler = await ConsistencySampler.load(model, {
        revision: revision || undefined,
        hub: hub || undefined,
        sameOrigin: this.hasAttribute("same-origin"),
        signal,
        onNotice: (notice) => view.notices.add(notice),
        onProgress: (progress) => {
          view.progress(progress);
          this.#emit("progress", progress);
        },
      });
      if (!current()) sampler.dispose();
      signal.throwIfAborted();
      this.#sampler = sampler;
      this.#ready.resolve(sampler.info);
      return sampler.info;
    } catch (error) {
      if (current()) this.#load = null;
      throw this.#report(error, signal);
    } finally {
      if (current() || !this.#load) view.progress(null);
    }
  }

  async #run(
    method: "sample" | "edit",
    { signal, onStep, onProgress, ...options }: Partial<EditOptions>,
  ): Promise<SampleResult> {
    const view = this.#view;
    const abort = new AbortController();
    const pass = () => abort.abort(signal?.reason);
    signal?.addEventListener("abort", pass);
    this.#runs.add(abort);
    const before = this.#turn;
    const turn = deferred<void>();
    this.#turn = turn.promise;
    try {
      signal?.throwIfAborted();
      const request = this.#request(method, options);
      view.busy(true);
      view.fail(null);
      if (!this.#sampler) view.say("Loading the model");
      const { sampleSize } = await this.load();
      await before;
      abort.signal.throwIfAborted();
      view.say("Generating");
      const sampler = this.#sampler as ConsistencySampler;
      let images: ImageData[] = [];
      const run: RunOptions = {
        signal: abort.signal,
        onStep: (step) => {
          images = split(step.pixels, sampleSize);
          view.show(images, describe(request, step));
          this.#emit("step", step);
          onStep?.(step);
        },
        onProgress: (call) => {
          view.call(call);
          onProgress?.(call);
        },
      };
      // What a caller without types leaves out, the sampler names.
      const all = { ...request, ...run } as EditOptions;
      const result = await (method === "edit" ? sampler.edit(all) : sampler.sample(all));
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
      turn.resolve();
    }
  }

  /** What the attributes ask for, with what a call says instead. */
  #request(method: "sample" | "edit", { numInferenceSteps, timesteps, ...options }: RunRequest): RunRequest {
    // Numbers beyond 2⁵³ are for the sampler to refuse, where it takes none.
    const list = (name: string) => (this.#list(name) ?? undefined) as number[] | undefined;
    const request: RunRequest = { seed: this.#number("seed", 0), classLabels: list("class-label") };
    if (method === "sample") {
      request.count = this.#number("count", 1) as number;
      request.timesteps = list("timesteps");
      if (!request.timesteps) request.numInferenceSteps = this.#number("steps", 1) as number;
    }
    if (numInferenceSteps !== undefined || timesteps !== undefined) {
      Object.assign(request, { numInferenceSteps, timesteps });
    }
    const given = Object.entries({ ...request, ...options }).filter(([, value]) => value !== undefined);
    return Object.fromEntries(given);
  }

  /** Tells of an error, once, unless it is what was asked for; returns it. */
  #report(error: unknown, signal?: AbortSignal): unknown {
    if (signal?.aborted) {
      // Unless a newer run has taken its place.
      if (this.#runs.size <= 1) this.#view.say("Cancelled");
      return error;
    }
    const typed =
      error instanceof ConsistencySamplerError ? error : new ConsistencySamplerError(codeOf(error), messageOf(error));
    if (reported.has(typed)) return typed;
    reported.add(typed);
    this.#view.say("");
    this.#view.fail(typed);
    this.#emit("error", typed);
    return typed;
  }

  #emit<K extends keyof ConsistencySamplerElementEventMap>(
    name: K,
    detail: ConsistencySamplerElementEventMap[K]["detail"],
  ): void {
    this.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
  }

  #text(name: string): string {
    return this.getAttribute(name) ?? "";
  }

  /** Sets an attribute, or takes it away. */
  #reflect(name: string, value: unknown): void {
    if (value === null || value === undefined) this.removeAttribute(name);
    else this.setAttribute(name, String(value));
  }

  #number<D>(name: keyof typeof NUMBERS, without: D): Whole | D {
    const text = this.getAttribute(name);
    return text === null ? without : whole(name, text, NUMBERS[name]);
  }

  /** Nothing is drawn anew for another number of columns, so what is wrong with it is told at once. */
  #columns(): number | null {
    try {
      const columns = this.#number("columns", null);
      return columns === null ? null : Number(columns);
    } catch (error) {
      this.#report(error);
      return null;
    }
  }

  #list(name: string): Whole[] | null {
    return (
      this.getAttribute(name)
        ?.split(",")
        .map((text) => whole(name, text.trim(), 0)) ?? null
    );
  }
}

declare global {
  interface HTMLElementTagNameMap {
    "consistency-sampler": ConsistencySamplerElement;
  }
}

/** The errors that an event has told of. */
const reported = new WeakSet<ConsistencySamplerError>();

const input = (message: string) => new ConsistencySamplerError("input", message);

/** A promise whose rejection nobody has to handle, for an error is also an event and to be read. */
function told<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

/** What an attribute should not hold is an error when it is used, and no number until then. */
function valid<T>(get: () => T): T | number {
  try {
    return get();
  } catch {
    return NaN;
  }
}

/** An attribute's whole number, of at most 64 bits. */
function whole(name: string, text: string, least: number): Whole {
  const value = /^\d{1,20}$/.test(text) ? BigInt(text) : -1n;
  if (value < least || value >= 1n << 64n) {
    throw input(`${name}: expected a whole number from ${least}, found ${JSON.stringify(text.slice(0, 40))}`);
  }
  return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

/** RGBA bytes, one image after another, as images. */
function split(pixels: Step["pixels"], [height, width]: ModelInfo["sampleSize"]): ImageData[] {
  const bytes = width * height * 4;
  return Array.from({ length: pixels.length / bytes }, (_, i) => {
    return new ImageData(pixels.slice(i * bytes, (i + 1) * bytes), width, height);
  });
}

/** What made a picture, in words. */
function describe({ seed, classLabels, kind }: RunRequest, { index, steps }: Step): string {
  const labels = [...new Set(classLabels ?? [])];
  const parts = [
    kind,
    !Array.isArray(seed) && `seed ${seed}`,
    labels.length && `class ${labels.join(", ")}`,
    `step ${index + 1} of ${steps}`,
  ];
  return parts.filter(Boolean).join(", ");
}

function deferred<T>(): { promise: Promise<T>; resolve: (value: T | PromiseLike<T>) => void } {
  let resolve!: (value: T | PromiseLike<T>) => void;
  const promise = new Promise<T>((r) => {
    resolve = r;
  });
  return { promise, resolve };
}
