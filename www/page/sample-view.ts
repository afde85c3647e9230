// The tab that samples: controls in, a sheet of samples out.

import type { ModelInfo } from "../consistency-sampler.js";
import { codeOf } from "../error.js";
import {
  byId,
  classOptions,
  type Control,
  element,
  innerWidthOf,
  offerSearch,
  paint,
  pixelScale,
  roving,
  setValue,
  targetOf,
} from "./dom.js";
import { duration, many, sigma } from "./format.js";
import { nameOf, notDrawn, tile } from "./gallery.js";
import type { Page, TabView } from "./page.js";
import { timestepsOf } from "./published.js";
import {
  blank,
  draw,
  grid,
  type OnStep,
  pixelsOf,
  type Recipe,
  randomSeed,
  type Sample,
  scheduleOf,
} from "./samples.js";
import { addShareButtons } from "./share.js";
import { StepStrip } from "./step-strip.js";

/** Between two samples on the sheet, in CSS pixels, and the room for the seed below each. */
const GAP = 8;
const CAPTION = 20;

/** What the controls ask for. */
interface Request {
  seed: number;
  /** A number of network calls, or a list of timesteps. */
  steps: string;
  count: number;
  /** A class, or "each"; undefined where the model knows none. */
  class?: string;
}

const form = byId<HTMLFormElement>("controls");
const fields = form.elements as HTMLFormControlsCollection & {
  seed: HTMLInputElement;
  steps: RadioNodeList;
  class: HTMLSelectElement;
  count: RadioNodeList;
};
const sheet = byId("sheet");
const stage = byId("stage");

export class SampleView implements TabView {
  #page: Page;
  /** What is on the sheet; before the first step it has no pixels. */
  #samples: Sample[] = [];
  /** What they were asked for, once they have pixels. */
  #request: Request | null = null;
  /** Which step of them is shown. */
  #shown = 0;
  /** Names of the controls that a person has changed, which a link must not change back. */
  #touched = new Set<string>();
  #strip = new StepStrip(byId("shown"), 112, (step) => {
    this.#shown = step;
    this.#paint();
  });

  constructor(page: Page) {
    this.#page = page;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.generate();
    });
    form.addEventListener("input", (event) => this.#touched.add(targetOf(event).name));
    form.addEventListener("change", (event) => targetOf(event).name === "steps" && this.#showSigmas());
    byId("dice").addEventListener("click", () => {
      if (page.queue.busy) return;
      fields.seed.value = String(randomSeed());
      form.requestSubmit();
    });
    roving(sheet, ".tile");
    new ResizeObserver(() => this.#fit()).observe(stage);
    addShareButtons(byId("sample-share"), { ...page, samples: () => this.#samples });
  }

  get empty(): boolean {
    return !this.#samples.length;
  }

  /** Another model is there: what the controls offer follows it, and the sheet is empty. */
  use(info: ModelInfo): void {
    this.#fillClasses(info);
    this.#offerPublished(info);
    this.#samples = [];
    this.#request = null;
    this.#strip.hide();
    sheet.replaceChildren();
    this.#showSigmas();
  }

  async opened(): Promise<void> {
    if (this.empty && this.#page.queue.sampler) await this.generate();
  }

  /** Draws what the controls ask for. */
  generate(): Promise<void> {
    return this.#page.foreground(async (sampler, signal) => {
      const { numClassEmbeds } = sampler.info;
      const request = this.#asked(numClassEmbeds !== null);
      const { count } = request;
      const recipes = recipesOf(request, numClassEmbeds ?? 0);
      this.#page.say(`Generating ${many(count, "image")}…`);
      if (this.empty) this.#render(recipes.map((recipe) => blank(sampler.info, recipe, count)));
      const onStep: OnStep = ({ index, sigma, steps }, samples) => {
        if (index === 0) {
          this.#request = request;
          this.#render(samples, steps);
        }
        this.#shown = index;
        this.#strip.add(index, sigma, grid(samples, index));
        this.#paint();
      };
      const samples = await draw(sampler, recipes, { onStep, onProgress: this.#page.progress, signal });
      const { milliseconds, networkCalls } = samples[0];
      this.#page.say(`${many(count, "image")} in ${duration(milliseconds)} with ${many(networkCalls, "network call")}`);
      this.#page.gallery.add(samples);
      this.#page.updateAddress();
    });
  }

  /** What is on the sheet, if anything is. */
  async address() {
    const { seed, steps, class: label, count } = this.#request ?? {};
    return { query: { seed, steps, class: label, count } };
  }

  /** Sets the controls from the address; what they cannot take stays at its default. */
  async restore(query: URLSearchParams): Promise<string[]> {
    const refused = [];
    for (const name of ["seed", "steps", "class", "count"] as const) {
      const control = fields[name];
      const value = query.get(name);
      if (value === null || this.#touched.has(name) || (name === "class" && byId("class-field").hidden)) continue;
      if (!setValue(control, value)) refused.push(`${name}=${value}, expected ${choices(control)}`);
    }
    this.#showSigmas();
    return refused;
  }

  #asked(classes: boolean): Request {
    const text = (name: string) => String(data.get(name));
    const data = new FormData(form);
    const request = { seed: Number(text("seed")), steps: text("steps"), count: Number(text("count")) };
    return classes ? { ...request, class: text("class") } : request;
  }

  /** Puts samples on the sheet, of which so many steps are expected; without, nothing of them is there yet. */
  #render(samples: Sample[], steps = 0): void {
    this.#samples = samples;
    if (steps) this.#strip.expect(steps);
    const tiles = () => [...sheet.querySelectorAll<HTMLElement>(".tile")];
    const focused = tiles().indexOf(document.activeElement as HTMLElement);
    sheet.replaceChildren(
      ...samples.map((sample) => {
        const made = steps ? tile(sample, { title: "", name: `Explore ${nameOf(sample)}` }) : notDrawn(sample);
        made.addEventListener("click", () => this.#page.choose(sample));
        return element("li", {}, made);
      }),
    );
    if (focused >= 0) tiles()[Math.min(focused, samples.length - 1)]?.focus();
    this.#fit();
  }

  #paint(): void {
    sheet.querySelectorAll("canvas").forEach((canvas, i) => {
      const sample = this.#samples[i];
      if (sample?.steps[this.#shown]) paint(canvas, pixelsOf(sample, this.#shown));
    });
    sheet.setAttribute("aria-label", this.#describe());
  }

  /** The picture in words, for those who do not see it. */
  #describe(): string {
    const { seed = 0, count = 0 } = this.#request ?? {};
    const parts = [many(count, "image"), count === 1 ? `seed ${seed}` : `seeds ${seed} to ${seed + count - 1}`];
    const labels = [...new Set(this.#samples.map(({ recipe, className }) => className ?? recipe.label))];
    if (labels[0] !== null) parts.push(`${labels.length === 1 ? "class" : "classes"} ${labels.join(", ")}`);
    const level = this.#samples[0]?.steps[this.#shown]?.sigma ?? 0;
    const expected = byId("shown").querySelectorAll("label").length;
    return [...parts, `step ${this.#shown + 1} of ${expected}, from σ ${sigma(level)}`].join(", ");
  }

  /** Gives each pixel of a sample as many whole screen pixels as the stage has room for, in as many columns as suit it. */
  #fit(): void {
    const [first] = this.#samples;
    if (!first || !stage.clientWidth) return;
    const { scale, columns } = arrange(this.#samples.length, first, innerWidthOf(stage), 0.64 * innerHeight);
    const width = first.width * scale;
    sheet.style.maxWidth = `${columns * (width + GAP) - GAP + 1}px`;
    for (const canvas of sheet.querySelectorAll("canvas")) canvas.style.width = `${width}px`;
  }

  #fillClasses(info: ModelInfo): void {
    const { numClassEmbeds } = info;
    byId("class-field").hidden = numClassEmbeds === null;
    const options = fields.class;
    const before = options.value;
    options.length = 1; // "each" stays
    options.append(...classOptions(info));
    if (Number(before) < (numClassEmbeds ?? 0)) options.value = before;
    offerSearch(byId<HTMLInputElement>("class-search"), options);
  }

  /** Offers the timesteps that were published for the model, and chooses them. */
  #offerPublished({ name }: ModelInfo): void {
    const timesteps = timestepsOf(name);
    const label = byId("published");
    const [input, text] = ["input", "span"].map((tag) => label.querySelector(tag)) as [HTMLInputElement, HTMLElement];
    label.hidden = !timesteps;
    if (timesteps) {
      input.value = text.textContent = timesteps;
      input.checked = true;
    } else if (input.checked) {
      fields.steps.value = "2";
    }
  }

  async #showSigmas(): Promise<void> {
    const { sampler } = this.#page.queue;
    if (!sampler) return;
    try {
      const { sigmas } = await sampler.schedule(scheduleOf(fields.steps.value));
      byId("sigmas").textContent = `Noise σ ${sigmas.map(sigma).join(" → ")}`;
    } catch (error) {
      if (codeOf(error) !== "disposed") this.#page.fail(error);
    }
  }
}

function recipesOf({ seed, steps, count, class: label }: Request, classes: number): [Recipe, ...Recipe[]] {
  const recipe = (_: unknown, i: number): Recipe => ({
    // Beyond the largest seed it goes on at 0.
    noise: (seed + i) % Number.MAX_SAFE_INTEGER,
    steps,
    label: label === undefined ? null : label === "each" ? i % classes : Number(label),
  });
  return Array.from({ length: count }, recipe) as [Recipe, ...Recipe[]];
}

/** The number of columns that lets samples be largest, though places that stay empty count against it. */
function arrange(count: number, { width, height }: Sample, room: number, high: number) {
  let best = { worth: 0, scale: 1, columns: 1 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const fits = Math.min((room - (columns - 1) * GAP) / columns / width, (high / rows - CAPTION - GAP) / height);
    const scale = pixelScale(fits, 1);
    const worth = scale * (count / (columns * rows)) ** 2;
    if (worth > best.worth) best = { scale, columns, worth };
  }
  return best;
}

/** What a control takes, in words. */
function choices(control: Control): string {
  if (control instanceof HTMLInputElement) return `a whole number from ${control.min} to ${control.max}`;
  const all: Iterable<{ value: string }> =
    control instanceof HTMLSelectElement ? control.options : ([...control] as HTMLInputElement[]);
  const values = Array.from(all, ({ value }) => value).filter(Boolean);
  return values.length > 6 ? `${values.slice(0, 3).join(", ")}, … ${values.at(-1)}` : values.join(", ");
}
