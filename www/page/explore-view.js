// The tab that explores: what lies around a sample, and on the way from it to another one.
//
// Near a noise lie noises of the same length (slerp), and a consistency model makes of them pictures that are akin.

import { byId, element, paint, roving } from "./dom.js";
import { nameOf, smallWidth, tile } from "./gallery.js";
import { dice, draw, noiseText, parseNoise, pixelsOf } from "./samples.js";
import { offer } from "./share.js";
import { Strip } from "./strip.js";
import { duration, many, noiseWords, percent } from "./words.js";

/** How many variations lie around the sample. */
const VARIATIONS = 8;

const far = byId("far");
const between = byId("between");

/** @typedef {import("./samples.js").Sample} Sample */

export class ExploreView {
  #page;
  /** What is explored. @type {?Sample} */
  #subject = null;
  /** The sample on the way, while a person walks. @type {?Sample} */
  #walked = null;
  /** How far that lies on the way, 0 to 1. */
  #amount = 0;
  /** Where they walk to. @type {?Sample} */
  #end = null;
  /** The seed of the first variation. */
  #seed = 0;
  #strip = new Strip(byId("subject-steps"), 48, (step) => this.#paint(step));

  /** @param {import("./app.js").Page} page */
  constructor(page) {
    this.#page = page;
    byId("vary-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (page.runner.busy) return;
      this.#seed = dice();
      page.foreground((sampler, signal) => this.#vary(sampler, signal));
    });
    far.addEventListener("input", () => {
      byId("far-value").textContent = percent(far.value);
    });
    far.addEventListener("change", () => this.#varySoon());
    between.addEventListener("input", () => this.#walk());
    byId("between-form").addEventListener("submit", (event) => event.preventDefault());
    byId("ends").addEventListener("change", ({ target }) => this.#walkTo(this.#ends()[target.value]));
    byId("keep-between").addEventListener("click", () => {
      if (!this.#walked?.finished) return;
      page.gallery.add([this.#walked]);
      page.choose(this.#walked);
    });
    roving(byId("around"), ".tile:not(:disabled)");
    new ResizeObserver(() => this.#fit()).observe(byId("explore-board"));
    offer(byId("explore-share"), { ...page, samples: () => this.#onScreen(), link: () => page.link() });
  }

  /** Another model is there. */
  use({ name }) {
    if (this.#subject?.model !== name) this.#clear();
  }

  /** The tab is open: without a sample of this model, the latest one is explored. */
  async opened() {
    if (this.#subject) return;
    const { runner, gallery } = this.#page;
    const latest = gallery.latest.find((sample) => this.#isExplorable(sample));
    if (latest) this.choose(latest);
    else if (runner.sampler) byId("explore-empty").hidden = false;
  }

  /** Explores a sample. */
  choose(sample) {
    this.#show(sample);
    this.#seed = dice();
    this.#varySoon();
  }

  /** The gallery keeps other samples than before. */
  keptChanged() {
    this.#offerEnds();
  }

  address() {
    if (!this.#subject) return {};
    const { recipe } = this.#subject;
    const towards = this.#walked && this.#end.recipe;
    return {
      seed: noiseText(recipe.noise),
      steps: recipe.steps,
      class: recipe.label,
      vary: this.#seed,
      far: far.value,
      towards: towards && noiseText(towards.noise),
      "towards-class": towards && towards.label,
      amount: towards && this.#amount,
    };
  }

  /** Draws what the address names; returns what it gets wrong, in words. */
  async restore(address) {
    const refused = [];
    const { numClassEmbeds } = this.#page.runner.sampler.info;
    const take = (name, read, expected) => {
      if (!address.has(name)) return null;
      const value = read(address.get(name));
      if (value === null) refused.push(`${name}=${address.get(name)}, expected ${expected}`);
      return value;
    };
    const label = (text) => (/^\d+$/.test(text) && Number(text) < numClassEmbeds ? Number(text) : null);
    const steps = (text) => (/^([1-9]\d?|\d+(,\d+)*)$/.test(text) ? text : null);
    const share = (text) => (text !== "" && text >= 0 && text <= 1 ? Number(text) : null);
    const seed = (text) => (/^\d{1,10}$/.test(text) ? Number(text) : null);
    const classes = `a class below ${numClassEmbeds}`;
    const needed = (value) => (numClassEmbeds === null ? null : (value ?? 0));
    const recipe = {
      noise: take("seed", parseNoise, "a seed, or (from,to,amount)"),
      steps: take("steps", steps, "a number of steps") ?? "2",
      label: needed(take("class", label, classes)),
    };
    this.#seed = take("vary", seed, "a seed") ?? dice();
    far.value = take("far", share, "0 to 1") ?? far.value;
    byId("far-value").textContent = percent(far.value);
    const towards = {
      noise: take("towards", parseNoise, "a seed, or (from,to,amount)"),
      steps: recipe.steps,
      label: needed(take("towards-class", label, classes)),
    };
    const amount = take("amount", share, "0 to 1") ?? 0;
    if (recipe.noise === null) return refused;
    await this.#page.foreground(async (sampler, signal) => {
      this.#page.say("Drawing the sample of this address…");
      const recipes = towards.noise === null ? [recipe] : [recipe, towards];
      const samples = await draw(sampler, recipes, { signal });
      this.#page.gallery.add(samples);
      samples.toReversed().forEach((sample) => this.#page.gallery.keep(sample));
      this.#show(samples[0]);
      this.#varySoon();
      if (samples[1]) {
        this.#walkTo(samples[1]);
        between.value = amount;
        this.#walk();
      }
    });
    return refused;
  }

  #isExplorable(sample) {
    return !sample.edit && sample.model === this.#page.runner.sampler?.info.name;
  }

  #clear() {
    this.#subject = this.#walked = this.#end = null;
    byId("explore-empty").hidden = false;
    byId("explore-board").hidden = byId("explore-rail").hidden = true;
  }

  #show(sample) {
    this.#subject = sample;
    this.#walked = this.#end = null;
    byId("explore-empty").hidden = true;
    byId("explore-board").hidden = byId("explore-rail").hidden = false;
    this.#strip.show(sample);
    this.#paint();
    this.#offerEnds();
    this.#layAround([]);
    this.#fit();
    for (const button of [byId("vary"), far]) button.disabled = !this.#isExplorable(sample);
  }

  /** What is on the screen, to be taken along. */
  #onScreen() {
    return [this.#walked, this.#subject].filter((sample) => sample?.finished).slice(0, 1);
  }

  #paint(step) {
    const sample = this.#walked ?? this.#subject;
    const canvas = byId("subject");
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

  #varySoon() {
    if (this.#isExplorable(this.#subject))
      this.#page.runner.latest("vary", (sampler, signal) => this.#vary(sampler, signal));
  }

  async #vary(sampler, signal) {
    const subject = this.#subject;
    if (!subject) return;
    const { noise, steps, label } = subject.recipe;
    const amount = Number(far.value);
    const recipes = Array.from({ length: VARIATIONS }, (_, i) => ({
      noise: { from: noise, to: this.#seed + i, amount },
      steps,
      label,
    }));
    this.#page.say(`Drawing ${VARIATIONS} variations…`);
    let laid = false;
    const onStep = (_, samples) => {
      if (subject !== this.#subject) return;
      if (!laid) this.#layAround(samples);
      else this.#paintAround(samples);
      laid = true;
    };
    const samples = await draw(sampler, recipes, { onStep, signal });
    const { milliseconds, networkCalls } = samples[0];
    this.#page.say(`${VARIATIONS} variations in ${duration(milliseconds)} with ${many(networkCalls, "network call")}`);
    this.#page.note();
  }

  /** Lays variations around the sample: a grid of three by three with it in its middle. */
  #layAround(samples) {
    const subject = this.#subject;
    const places = Array.from({ length: VARIATIONS }, (_, i) => samples[i]);
    places.splice(VARIATIONS / 2, 0, subject);
    byId("around").replaceChildren(
      ...places.map((sample) => {
        const made = tile(sample ?? { ...subject, steps: [] });
        made.disabled = !sample || sample === subject;
        if (sample === subject) made.classList.add("middle");
        else if (!sample) {
          made.setAttribute("aria-label", "Not drawn yet");
          made.removeAttribute("title");
          made.querySelector(".seed").textContent = "";
        }
        made.addEventListener("click", () => {
          if (!sample.finished) return;
          this.#page.gallery.add([sample]);
          this.#page.choose(sample);
          byId("around").querySelector(".tile:not(:disabled)")?.focus();
        });
        return element("li", {}, made);
      }),
    );
    this.#fit();
  }

  #paintAround(samples) {
    const canvases = [...byId("around").querySelectorAll(".tile:not(.middle) canvas")];
    samples.forEach((sample, i) => paint(canvases[i], pixelsOf(sample)));
  }

  // On the way to another one.

  /** The kept samples that one can walk to. */
  #ends() {
    return this.#page.gallery.kept.filter((sample) => sample !== this.#subject && this.#isExplorable(sample));
  }

  #offerEnds() {
    if (!this.#subject) return;
    const ends = this.#isExplorable(this.#subject) ? this.#ends() : [];
    const field = byId("ends");
    field.querySelectorAll("label").forEach((label) => label.remove());
    ends.forEach((sample, i) => {
      const canvas = element("canvas");
      paint(canvas, pixelsOf(sample));
      canvas.style.width = `${smallWidth(sample.width, 48)}px`;
      const input = element("input", {
        type: "radio",
        name: "end",
        value: i,
        checked: sample === this.#end,
        "aria-label": nameOf(sample),
      });
      field.append(element("label", { title: nameOf(sample) }, input, element("span", {}, canvas)));
    });
    byId("ends-hint").hidden = ends.length > 0;
    if (!ends.includes(this.#end)) this.#end = this.#walked = null;
    byId("walk").hidden = !this.#end;
  }

  #walkTo(sample) {
    this.#end = sample;
    between.value = 0;
    this.#offerEnds();
    this.#walk();
  }

  /** Shows what lies as far on the way as the slider says. */
  #walk() {
    const [subject, end] = [this.#subject, this.#end];
    const amount = Number(between.value);
    byId("between-value").textContent = percent(amount);
    this.#page.runner.latest("between", async (sampler, signal) => {
      if (subject !== this.#subject || end !== this.#end || !end) return;
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
      this.#page.note();
    });
  }

  /** The sample and the nine around it are equally high, in whole multiples of their pixels. */
  #fit() {
    const board = byId("explore-board");
    if (!this.#subject || board.hidden || !board.clientWidth) return;
    const { width } = this.#subject;
    const well = board.querySelector(".well");
    const { paddingInlineStart } = getComputedStyle(well);
    const room = well.clientWidth - 2 * parseFloat(paddingInlineStart);
    const beside = room >= 560;
    const small = multiple(Math.min(beside ? room / 2 / 3 - 14 : room / 3 - 10, 0.2 * innerHeight), width);
    for (const canvas of byId("around").querySelectorAll("canvas")) canvas.style.width = `${small}px`;
    byId("around").style.width = `${3 * small + 2 * 8}px`;
    byId("subject").style.width =
      `${multiple(beside ? 3 * small + 2 * 28 : Math.min(room, 0.5 * innerHeight), width)}px`;
  }
}

/** The largest whole multiple of a sample's pixels that fits, in CSS pixels. */
function multiple(room, pixels) {
  const scale = Math.floor((room / pixels) * devicePixelRatio) / devicePixelRatio;
  return pixels * (scale || room / pixels);
}
