// The tab that explores: what lies around a sample, and on the way from it to another one.
//
// Near a noise lie noises of the same length (slerp), and a consistency model makes of them pictures that are akin.

import type { ConsistencySampler, ModelInfo } from "../consistency-sampler.js";
import { byId, element, innerWidthOf, paint, pixelScale, roving, targetOf } from "./dom.js";
import { duration, many, noiseWords, percent } from "./format.js";
import { choice, nameOf, notDrawn, tile } from "./gallery.js";
import type { Page, TabView } from "./page.js";
import { draw, noiseText, type OnStep, parseNoise, pixelsOf, type Recipe, randomSeed, type Sample } from "./samples.js";
import { addShareButtons } from "./share.js";
import { removeLabels, StepStrip } from "./step-strip.js";

/** How many variations lie around the sample. */
const VARIATIONS = 8;

const far = byId<HTMLInputElement>("far");
const between = byId<HTMLInputElement>("between");

export class ExploreView implements TabView {
  #page: Page;
  /** What is explored. */
  #subject: Sample | null = null;
  /** The sample on the way, while a person walks. */
  #walked: Sample | null = null;
  /** How far that lies on the way, 0 to 1. */
  #amount = 0;
  /** Where they walk to. */
  #end: Sample | null = null;
  /** The seed of the first variation. */
  #seed = 0;
  #strip = new StepStrip(byId("subject-steps"), 48, (step) => this.#paint(step));

  constructor(page: Page) {
    this.#page = page;
    byId("vary-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (page.queue.busy) return;
      this.#seed = randomSeed();
      page.foreground((sampler, signal) => this.#vary(sampler, signal));
    });
    far.addEventListener("input", () => {
      byId("far-value").textContent = percent(Number(far.value));
    });
    far.addEventListener("change", () => this.#varySoon());
    between.addEventListener("input", () => this.#walk());
    byId("between-form").addEventListener("submit", (event) => event.preventDefault());
    byId("ends").addEventListener("change", (event) => this.#walkTo(this.#ends()[Number(targetOf(event).value)]));
    byId("keep-between").addEventListener("click", () => {
      if (!this.#walked?.finished) return;
      page.gallery.add([this.#walked]);
      page.choose(this.#walked);
    });
    roving(byId("around"), ".tile:not(:disabled)");
    new ResizeObserver(() => this.#fit()).observe(byId("explore-board"));
    addShareButtons(byId("explore-share"), { ...page, samples: () => this.#onScreen() });
  }

  /** Another model is there. */
  use({ name }: ModelInfo): void {
    if (this.#subject?.model !== name) this.#clear();
  }

  /** The tab is open: without a sample of this model, the latest one is explored. */
  async opened(): Promise<void> {
    if (this.#subject) return;
    const { queue, gallery } = this.#page;
    const latest = gallery.latest.find((sample) => this.#isExplorable(sample));
    if (latest) this.choose(latest);
    else if (queue.sampler) byId("explore-empty").hidden = false;
  }

  /** Explores a sample. */
  choose(sample: Sample): void {
    this.#show(sample);
    this.#seed = randomSeed();
    this.#varySoon();
  }

  /** The gallery keeps other samples than before. */
  keptChanged(): void {
    this.#offerEnds();
  }

  async address() {
    if (!this.#subject) return { query: {} };
    const { recipe } = this.#subject;
    const towards = this.#walked && this.#end?.recipe;
    const query = {
      seed: noiseText(recipe.noise),
      steps: recipe.steps,
      class: recipe.label,
      vary: this.#seed,
      far: far.value,
      towards: towards && noiseText(towards.noise),
      "towards-class": towards?.label,
      amount: towards && this.#amount,
    };
    return { query };
  }

  /** Draws what the address names; returns what it gets wrong, in words. */
  async restore(query: URLSearchParams): Promise<string[]> {
    const refused: string[] = [];
    const numClassEmbeds = this.#page.queue.sampler?.info.numClassEmbeds ?? null;
    const take = <T>(name: string, read: (text: string) => T | null, expected: string): T | null => {
      const text = query.get(name);
      if (text === null) return null;
      const value = read(text);
      if (value === null) refused.push(`${name}=${text}, expected ${expected}`);
      return value;
    };
    const label = (text: string) => (/^\d+$/.test(text) && Number(text) < (numClassEmbeds ?? 0) ? Number(text) : null);
    const steps = (text: string) => (/^([1-9]\d?|\d+(,\d+)*)$/.test(text) ? text : null);
    const share = (text: string) => (text !== "" && Number(text) >= 0 && Number(text) <= 1 ? Number(text) : null);
    const seed = (text: string) => (/^\d{1,10}$/.test(text) ? Number(text) : null);
    const classes = `a class below ${numClassEmbeds}`;
    const needed = (value: number | null) => (numClassEmbeds === null ? null : (value ?? 0));
    const noise = take("seed", parseNoise, "a seed, or (from,to,amount)");
    const recipe = {
      steps: take("steps", steps, "a number of steps") ?? "2",
      label: needed(take("class", label, classes)),
    };
    this.#seed = take("vary", seed, "a seed") ?? randomSeed();
    far.value = String(take("far", share, "0 to 1") ?? far.value);
    byId("far-value").textContent = percent(Number(far.value));
    const end = take("towards", parseNoise, "a seed, or (from,to,amount)");
    const towards = {
      steps: recipe.steps,
      label: needed(take("towards-class", label, classes)),
    };
    const amount = take("amount", share, "0 to 1") ?? 0;
    if (noise === null) return refused;
    await this.#page.foreground(async (sampler, signal) => {
      this.#page.say("Drawing the sample of this address…");
      const recipes: [Recipe, ...Recipe[]] = [{ noise, ...recipe }];
      if (end !== null) recipes.push({ noise: end, ...towards });
      const samples = await draw(sampler, recipes, { signal });
      this.#page.gallery.add(samples);
      for (const sample of samples.toReversed()) this.#page.gallery.keep(sample);
      this.#show(samples[0]);
      this.#varySoon();
      if (samples[1]) {
        this.#walkTo(samples[1]);
        between.value = String(amount);
        this.#walk();
      }
    });
    return refused;
  }

  #isExplorable(sample: Sample | null): boolean {
    return !sample?.edit && sample?.model === this.#page.queue.sampler?.info.name;
  }

  #clear(): void {
    this.#subject = this.#walked = this.#end = null;
    byId("explore-empty").hidden = false;
    byId("explore-board").hidden = byId("explore-rail").hidden = true;
  }

  #show(sample: Sample): void {
    this.#subject = sample;
    this.#walked = this.#end = null;
    byId("explore-empty").hidden = true;
    byId("explore-board").hidden = byId("explore-rail").hidden = false;
    this.#strip.show(sample);
    this.#paint();
    this.#offerEnds();
    this.#renderVariations([]);
    this.#fit();
    for (const control of [byId<HTMLButtonElement>("vary"), far]) control.disabled = !this.#isExplorable(sample);
  }

  /** What is on the screen, to be taken along. */
  #onScreen(): Sample[] {
    const sample = this.#walked ?? this.#subject;
    return sample?.finished ? [sample] : [];
  }

  #paint(step?: number): void {
    const sample = this.#walked ?? this.#subject;
    if (!sample) return;
    const canvas = byId<HTMLCanvasElement>("subject");
    paint(canvas, pixelsOf(sample, step));
    canvas.setAttribute("aria-label", nameOf(sample));
    byId("subject-caption").textContent = [
      noiseWords(sample.recipe.noise),
      sample.recipe.label === null ? "" : `class ${sample.className ?? sample.recipe.label}`,
      many(sample.networkCalls, "network call"),
      sample.count === 1 ? duration(sample.milliseconds) : `${duration(sample.milliseconds)} for ${sample.count}`,
    ]
      .filter(Boolean)
      .join(" · ");
  }

  // Around it.

  #varySoon(): void {
    if (this.#isExplorable(this.#subject))
      this.#page.queue.latest("vary", (sampler, signal) => this.#vary(sampler, signal));
  }

  async #vary(sampler: ConsistencySampler, signal: AbortSignal): Promise<void> {
    const subject = this.#subject;
    if (!subject) return;
    const { noise, steps, label } = subject.recipe;
    const amount = Number(far.value);
    const recipe = (_: unknown, i: number) => ({ noise: { from: noise, to: this.#seed + i, amount }, steps, label });
    const recipes = Array.from({ length: VARIATIONS }, recipe) as [Recipe, ...Recipe[]];
    this.#page.say(`Drawing ${VARIATIONS} variations…`);
    let laid = false;
    const onStep: OnStep = (_, samples) => {
      if (subject !== this.#subject) return;
      if (!laid) this.#renderVariations(samples);
      else this.#paintVariations(samples);
      laid = true;
    };
    const samples = await draw(sampler, recipes, { onStep, onProgress: this.#page.progress, signal });
    const { milliseconds, networkCalls } = samples[0];
    this.#page.say(`${VARIATIONS} variations in ${duration(milliseconds)} with ${many(networkCalls, "network call")}`);
    this.#page.updateAddress();
  }

  /** Lays variations around the sample: a grid of three by three with it in its middle. */
  #renderVariations(samples: Sample[]): void {
    const subject = this.#subject;
    if (!subject) return;
    const places = Array.from({ length: VARIATIONS }, (_, i) => samples[i]);
    places.splice(VARIATIONS / 2, 0, subject);
    const around = byId("around");
    around.replaceChildren(
      ...places.map((sample) => {
        const made = sample ? tile(sample, { disabled: sample === subject }) : notDrawn({ ...subject, steps: [] });
        if (sample === subject) made.classList.add("middle");
        made.addEventListener("click", () => {
          if (!sample?.finished) return;
          this.#page.gallery.add([sample]);
          this.#page.choose(sample);
          around.querySelector<HTMLElement>(".tile:not(:disabled)")?.focus();
        });
        return element("li", {}, made);
      }),
    );
    this.#fit();
  }

  #paintVariations(samples: Sample[]): void {
    const canvases = byId("around").querySelectorAll<HTMLCanvasElement>(".tile:not(.middle) canvas");
    canvases.forEach((canvas, i) => {
      const sample = samples[i];
      if (sample) paint(canvas, pixelsOf(sample));
    });
  }

  // On the way to another one.

  /** The kept samples that one can walk to. */
  #ends(): Sample[] {
    return this.#page.gallery.kept.filter((sample) => sample !== this.#subject && this.#isExplorable(sample));
  }

  #offerEnds(): void {
    if (!this.#subject) return;
    const ends = this.#isExplorable(this.#subject) ? this.#ends() : [];
    const field = byId("ends");
    removeLabels(field);
    field.append(...ends.map((sample, i) => choice("end", i, sample, sample === this.#end)));
    byId("ends-hint").hidden = ends.length > 0;
    if (!this.#end || !ends.includes(this.#end)) this.#end = this.#walked = null;
    byId("walk").hidden = !this.#end;
  }

  #walkTo(sample: Sample | undefined): void {
    if (!sample) return;
    this.#end = sample;
    between.value = "0";
    this.#offerEnds();
    this.#walk();
  }

  /** Shows what lies as far on the way as the slider says. */
  #walk(): void {
    const [subject, end] = [this.#subject, this.#end];
    const amount = Number(between.value);
    byId("between-value").textContent = percent(amount);
    this.#page.queue.latest("between", async (sampler, signal) => {
      if (!subject || subject !== this.#subject || !end || end !== this.#end) return;
      const nearer = amount < 0.5 ? subject : end;
      const noise =
        amount === 0
          ? subject.recipe.noise
          : amount === 1
            ? end.recipe.noise
            : { from: subject.recipe.noise, to: end.recipe.noise, amount };
      const recipe = { noise, steps: subject.recipe.steps, label: nearer.recipe.label };
      const [walked] = await draw(sampler, [recipe], { signal });
      if (subject !== this.#subject || end !== this.#end) return;
      this.#walked = walked;
      this.#amount = amount;
      this.#strip.show(walked);
      this.#paint();
      this.#page.updateAddress();
    });
  }

  /** The sample and the nine around it are equally high, in whole multiples of their pixels. */
  #fit(): void {
    const board = byId("explore-board");
    if (!this.#subject || board.hidden || !board.clientWidth) return;
    const { width } = this.#subject;
    const room = innerWidthOf(board.querySelector(".well") as HTMLElement);
    const beside = room >= 560;
    const multiple = (room: number) => width * pixelScale(room, width);
    const small = multiple(Math.min(beside ? room / 2 / 3 - 14 : room / 3 - 10, 0.2 * innerHeight));
    for (const canvas of byId("around").querySelectorAll("canvas")) canvas.style.width = `${small}px`;
    byId("around").style.width = `${3 * small + 2 * 8}px`;
    byId("subject").style.width = `${multiple(beside ? 3 * small + 2 * 28 : Math.min(room, 0.5 * innerHeight))}px`;
  }
}
