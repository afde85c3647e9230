// The tab that samples: controls in, a sheet of samples out.

import { byId, element, paint, roving } from "./dom.js";
import { nameOf } from "./gallery.js";
import { dice, draw, grid, pixelsOf, scheduleOf } from "./samples.js";
import { offer } from "./share.js";
import { Strip } from "./strip.js";
import { duration, many, sigma } from "./words.js";

/** The published timesteps for two steps, by the name that follows "openai/diffusers-". */
const PUBLISHED = {
  cd_imagenet64_l2: "22,0",
  cd_imagenet64_lpips: "22,0",
  ct_imagenet64: "106,0",
  cd_bedroom256_l2: "18,0",
  cd_bedroom256_lpips: "17,0",
  ct_bedroom256: "67,0",
  ct_cat256: "62,0",
};

/** Between two samples on the sheet, in CSS pixels, and the room for the seed below each. */
const GAP = 8;
const CAPTION = 20;

const form = byId("controls");
const sheet = byId("sheet");
const stage = byId("stage");

export class SampleView {
  #page;
  /** What is on the sheet: the request, its samples and which step of them is shown. */
  #picture = { samples: [], shown: 0 };
  /** Names of the controls that a person has changed, which a link must not change back. */
  #touched = new Set();
  #strip = new Strip(byId("shown"), 112, (step) => {
    this.#picture.shown = step;
    this.#paint();
  });

  /** @param {import("./app.js").Page} page */
  constructor(page) {
    this.#page = page;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.generate();
    });
    form.addEventListener("input", ({ target }) => this.#touched.add(target.name));
    form.addEventListener("change", ({ target }) => target.name === "steps" && this.#showSigmas());
    byId("dice").addEventListener("click", () => {
      if (page.runner.busy) return;
      form.elements.seed.value = dice();
      form.requestSubmit();
    });
    roving(sheet, ".tile");
    new ResizeObserver(() => this.#fit()).observe(stage);
    offer(byId("sample-share"), { ...page, samples: () => this.#picture.samples, link: () => page.link() });
  }

  get empty() {
    return !this.#picture.samples.length;
  }

  /** Another model is there: what the controls offer follows it, and the sheet is empty. */
  use(info) {
    this.#fillClasses(info);
    this.#offerPublished(info);
    this.#picture = { samples: [], shown: 0 };
    this.#strip.hide();
    sheet.replaceChildren();
    this.#showSigmas();
  }

  /** The tab is open. */
  async opened() {
    if (this.empty && this.#page.runner.sampler) await this.generate();
  }

  /** Draws what the controls ask for. */
  generate() {
    return this.#page.foreground(async (sampler, signal) => {
      const request = this.#request(sampler.info);
      this.#page.say(`Generating ${many(request.count, "image")}…`);
      if (this.empty) this.#lay(request, placeholders(sampler.info, request.count));
      const onStep = (step, samples) => {
        if (step.index === 0) this.#lay(request, samples, step.steps);
        this.#picture.shown = step.index;
        this.#strip.land(step.index, step.sigma, grid(samples, step.index));
        this.#paint();
      };
      const samples = await draw(sampler, this.#recipes(request), { onStep, signal });
      const { milliseconds, networkCalls } = samples[0];
      this.#page.say(
        `${many(request.count, "image")} in ${duration(milliseconds)} with ${many(networkCalls, "network call")}`,
      );
      this.#page.gallery.add(samples);
      this.#page.note();
    });
  }

  /** What the address says of this tab; of what is on the sheet, if anything is. */
  address() {
    const { seed, steps, class: label, count } = this.#picture.request ?? {};
    return { seed, steps, class: label, count };
  }

  /** Sets the controls from the address; returns what they cannot take, in words, which stays at its default. */
  restore(address) {
    const refused = [];
    for (const name of ["seed", "steps", "class", "count"]) {
      const control = form.elements[name];
      const value = address.get(name);
      if (value === null || this.#touched.has(name) || (name === "class" && byId("class-field").hidden)) continue;
      const initial = control.value;
      control.value = value;
      // An input empties itself, a choice stays where it was, when they are given what they do not know.
      if (control.value === value && control.validity?.valid !== false) continue;
      control.value = initial;
      refused.push(`${name}=${value}, expected ${choices(control)}`);
    }
    this.#showSigmas();
    return refused;
  }

  /** What the controls ask for; `class` is a label or "each", `steps` a number or a list of timesteps. */
  #request({ numClassEmbeds }) {
    const data = new FormData(form);
    const request = { seed: Number(data.get("seed")), steps: data.get("steps"), count: Number(data.get("count")) };
    return numClassEmbeds === null ? request : { ...request, class: data.get("class"), classes: numClassEmbeds };
  }

  #recipes({ seed, steps, count, class: label, classes }) {
    return Array.from({ length: count }, (_, i) => ({
      // Beyond the largest seed it goes on at 0.
      noise: (seed + i) % Number.MAX_SAFE_INTEGER,
      steps,
      label: label === undefined ? null : label === "each" ? i % classes : Number(label),
    }));
  }

  /** Puts samples on the sheet that may have no pixels yet. */
  #lay(request, samples, steps = 0) {
    this.#picture = { request: steps ? request : undefined, samples, shown: 0 };
    if (steps) this.#strip.expect(steps);
    const focused = [...sheet.querySelectorAll(".tile")].indexOf(document.activeElement);
    sheet.replaceChildren(
      ...samples.map((sample) => {
        const { width, height } = sample;
        const canvas = element("canvas", { width, height });
        const seed = element("span", { class: "seed", "aria-hidden": "true", textContent: sample.recipe.noise ?? "" });
        const name = steps ? `Explore ${nameOf(sample)}` : "Not drawn yet";
        const tile = element(
          "button",
          { type: "button", class: "tile", "aria-label": name, disabled: !steps },
          canvas,
          seed,
        );
        tile.addEventListener("click", () => this.#page.choose(sample));
        return element("li", {}, tile);
      }),
    );
    if (focused >= 0) sheet.querySelectorAll(".tile")[Math.min(focused, samples.length - 1)].focus();
    this.#fit();
  }

  #paint() {
    const { samples, shown } = this.#picture;
    const canvases = sheet.querySelectorAll("canvas");
    samples.forEach((sample, i) => sample.steps[shown] && paint(canvases[i], pixelsOf(sample, shown)));
    sheet.setAttribute("aria-label", this.#describe());
  }

  /** The picture in words, for those who do not see it. */
  #describe() {
    const { request, samples, shown } = this.#picture;
    const { seed, count } = request;
    const parts = [many(count, "image"), count === 1 ? `seed ${seed}` : `seeds ${seed} to ${seed + count - 1}`];
    const labels = [...new Set(samples.map(({ recipe }) => recipe.label))];
    if (labels[0] !== null) parts.push(`${labels.length === 1 ? "class" : "classes"} ${labels.join(", ")}`);
    const { steps } = samples[0];
    const expected = byId("shown").querySelectorAll("label").length;
    return [...parts, `step ${shown + 1} of ${expected}, from σ ${sigma(steps[shown].sigma)}`].join(", ");
  }

  /** Gives each pixel of a sample as many whole screen pixels as the stage has room for, in as many columns as suit it. */
  #fit() {
    const { samples } = this.#picture;
    if (!samples.length || !stage.clientWidth) return;
    const { paddingInlineStart, paddingInlineEnd } = getComputedStyle(stage);
    const room = stage.clientWidth - parseFloat(paddingInlineStart) - parseFloat(paddingInlineEnd);
    const { scale, columns } = arrange(samples.length, samples[0], room, 0.64 * innerHeight);
    const width = samples[0].width * scale;
    sheet.style.maxWidth = `${columns * (width + GAP) - GAP + 1}px`;
    for (const canvas of sheet.querySelectorAll("canvas")) canvas.style.width = `${width}px`;
  }

  #fillClasses({ numClassEmbeds, classNames }) {
    byId("class-field").hidden = numClassEmbeds === null;
    const options = byId("class");
    const before = options.value;
    options.length = 1; // "each" stays
    for (let label = 0; label < numClassEmbeds; label++)
      options.append(new Option(classNames?.[label] ?? label, label));
    if (Number(before) < numClassEmbeds) options.value = before;
  }

  /** Offers the timesteps that were published for the model, and chooses them. */
  #offerPublished({ name }) {
    const timesteps = PUBLISHED[name.split("openai/diffusers-")[1]];
    const label = byId("published");
    const input = label.querySelector("input");
    label.hidden = !timesteps;
    if (timesteps) {
      input.value = label.querySelector("span").textContent = timesteps;
      input.checked = true;
    } else if (input.checked) {
      form.elements.steps.value = "2";
    }
  }

  async #showSigmas() {
    const { sampler } = this.#page.runner;
    if (!sampler) return;
    try {
      const { sigmas } = await sampler.schedule(scheduleOf(form.elements.steps.value));
      byId("sigmas").textContent = `Noise σ ${sigmas.map(sigma).join(" → ")}`;
    } catch (error) {
      if (error.code !== "disposed") this.#page.fail(error);
    }
  }
}

/** The places of samples that are not there yet. */
function placeholders({ sampleSize: [height, width] }, count) {
  return Array.from({ length: count }, () => ({ recipe: {}, steps: [], width, height }));
}

/** The number of columns that lets samples be largest, though places that stay empty count against it. */
function arrange(count, { width, height }, room, high) {
  let best = { worth: 0 };
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const fits = Math.min((room - (columns - 1) * GAP) / columns / width, (high / rows - CAPTION - GAP) / height);
    const scale = (Math.floor(fits * devicePixelRatio) || fits * devicePixelRatio) / devicePixelRatio;
    const worth = scale * (count / (columns * rows)) ** 2;
    if (worth > best.worth) best = { scale, columns, worth };
  }
  return best;
}

/** What a control takes, in words. */
function choices(control) {
  if (control.type === "number") return `a whole number from ${control.min} to ${control.max}`;
  const values = Array.from(control.options ?? control, ({ value }) => value).filter(Boolean);
  return values.length > 6 ? `${values.slice(0, 3).join(", ")}, … ${values.at(-1)}` : values.join(", ");
}
