// The gallery: the latest samples, and those that a person keeps. It lasts as long as the page.

import { byId, element, paint, roving } from "./dom.js";
import { pixelsOf } from "./samples.js";
import { many, noiseWords, shortNoise } from "./words.js";

/** How many samples are remembered, and how many can be kept. */
const LATEST = 60;
const KEPT = 24;

/** About how wide a small picture is on the screen, in CSS pixels. */
const SMALL = 60;

/** @typedef {import("./samples.js").Sample} Sample */

export class Gallery {
  /** @type {Sample[]} newest first */
  latest = [];
  /** @type {Sample[]} newest first */
  kept = [];
  #choose;
  #onKept;
  #onAdded;

  /**
   * @param {object} on
   * @param {(sample: Sample) => void} on.choose  a person chose one
   * @param {() => void} on.kept  the kept ones changed
   * @param {(samples: Sample[]) => void} on.added  there are new ones
   */
  constructor({ choose, kept, added }) {
    this.#choose = choose;
    this.#onKept = kept;
    this.#onAdded = added;
    for (const id of ["latest", "kept-samples"]) roving(byId(id), ".tile");
  }

  /** Remembers finished samples, and forgets the oldest. */
  add(samples) {
    this.latest = [...samples, ...this.latest].slice(0, LATEST);
    this.#show();
    this.#onAdded(samples);
  }

  /** Keeps a sample until it is let go of. */
  keep(sample) {
    if (this.kept.includes(sample)) return;
    this.kept = [sample, ...this.kept].slice(0, KEPT);
    this.#show();
    this.#onKept();
  }

  letGo(sample) {
    this.kept = this.kept.filter((other) => other !== sample);
    this.#show();
    this.#onKept();
  }

  #show() {
    byId("latest").replaceChildren(...this.latest.map((sample) => element("li", {}, this.#tile(sample))));
    byId("kept-samples").replaceChildren(
      ...this.kept.map((sample) => {
        const name = `Let go of ${nameOf(sample)}`;
        const away = element("button", {
          type: "button",
          class: "away",
          "aria-label": name,
          title: name,
          textContent: "×",
        });
        away.addEventListener("click", () => {
          this.letGo(sample);
          (byId("kept-samples").querySelector(".tile") ?? byId("latest").querySelector(".tile"))?.focus();
        });
        return element("li", {}, this.#tile(sample), away);
      }),
    );
    byId("kept-samples").hidden = !this.kept.length;
    byId("gallery-hint").textContent = this.latest.length
      ? `The last ${many(this.latest.length, "sample")}, ${this.kept.length} of at most ${KEPT} kept. Choose one to keep it and to explore around it.`
      : "Samples gather here while the page is open.";
  }

  #tile(sample) {
    const made = tile(sample, { kept: this.kept.includes(sample) });
    made.addEventListener("click", () => this.#choose(sample));
    return made;
  }
}

/** A sample's name for those who do not see it. */
export function nameOf({ recipe, className, edit }) {
  const label = recipe.label === null ? "" : `, class ${className ?? recipe.label}`;
  return `${edit ? `${edit}, ` : ""}${noiseWords(recipe.noise)}${label}`;
}

/** A small picture to choose, with its seed. */
export function tile(sample, { kept = false, width = smallWidth(sample.width) } = {}) {
  const canvas = element("canvas");
  if (sample.steps.length) paint(canvas, pixelsOf(sample));
  else Object.assign(canvas, { width: sample.width, height: sample.height });
  canvas.style.width = `${width}px`;
  const caption = element("span", {
    class: "seed",
    "aria-hidden": "true",
    textContent: sample.edit ?? shortNoise(sample.recipe.noise),
  });
  const name = `${kept ? "Kept: " : ""}${nameOf(sample)}`;
  return element(
    "button",
    { type: "button", class: kept ? "tile kept" : "tile", "aria-label": name, title: name },
    canvas,
    caption,
  );
}

/** How wide a small picture of so many pixels is on the screen: a whole multiple, if it fits. */
export function smallWidth(pixels, room = SMALL) {
  return pixels > room * 1.5 ? room * 1.5 : Math.max(1, Math.round(room / pixels)) * pixels;
}
