// The gallery: the latest samples, and those that a person keeps. It lasts as long as the page.

import { byId, element, paint, resize, roving } from "./dom.js";
import { many, noiseWords, shortNoise } from "./format.js";
import { pixelsOf, type Sample } from "./samples.js";

/** How many samples are remembered, and how many can be kept. */
const LATEST = 60;
const KEPT = 24;

/** About how wide a small picture is on the screen, in CSS pixels. */
const SMALL = 60;

/** Who is told of what happens here. */
interface Listeners {
  /** A person chose a sample. */
  choose: (sample: Sample) => void;
  /** The kept ones changed. */
  kept: () => void;
  /** There are new ones. */
  added: (samples: Sample[]) => void;
}

export class Gallery {
  /** Newest first. */
  latest: Sample[] = [];
  /** Newest first. */
  kept: Sample[] = [];
  #on: Listeners;

  constructor(on: Listeners) {
    this.#on = on;
    for (const id of ["latest", "kept-samples"]) roving(byId(id), ".tile");
  }

  /** Remembers finished samples, and forgets the oldest. */
  add(samples: Sample[]): void {
    this.latest = [...samples, ...this.latest].slice(0, LATEST);
    this.#show();
    this.#on.added(samples);
  }

  /** Keeps a sample until it is let go of. */
  keep(sample: Sample): void {
    if (this.kept.includes(sample)) return;
    this.kept = [sample, ...this.kept].slice(0, KEPT);
    this.#show();
    this.#on.kept();
  }

  letGo(sample: Sample): void {
    this.kept = this.kept.filter((other) => other !== sample);
    this.#show();
    this.#on.kept();
  }

  #show(): void {
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
          const next = (id: string) => byId(id).querySelector<HTMLElement>(".tile");
          (next("kept-samples") ?? next("latest"))?.focus();
        });
        return element("li", {}, this.#tile(sample), away);
      }),
    );
    byId("kept-samples").hidden = !this.kept.length;
    byId("gallery-hint").textContent = this.latest.length
      ? `The last ${many(this.latest.length, "sample")}, ${this.kept.length} of at most ${KEPT} kept. Choose one to keep it and to explore around it.`
      : "Samples gather here while the page is open.";
  }

  #tile(sample: Sample): HTMLButtonElement {
    const kept = this.kept.includes(sample);
    const made = tile(sample, kept ? { kept, title: `Kept: ${nameOf(sample)}` } : {});
    made.addEventListener("click", () => this.#on.choose(sample));
    return made;
  }
}

/** A sample's name for those who do not see it. */
export function nameOf({ recipe, className, edit }: Pick<Sample, "recipe" | "className" | "edit">): string {
  const label = recipe.label === null ? "" : `, class ${className ?? recipe.label}`;
  return `${edit ? `${edit}, ` : ""}${noiseWords(recipe.noise)}${label}`;
}

/** How a tile is called and shown. */
interface Look {
  title?: string;
  /** For those who do not see it; the title by default. */
  name?: string;
  caption?: string;
  kept?: boolean;
  disabled?: boolean;
}

/** A small picture to choose, with its seed. */
export function tile(sample: Sample, look: Look = {}): HTMLButtonElement {
  const { title = nameOf(sample), name = title, kept, disabled = false } = look;
  const { caption: textContent = sample.edit ?? shortNoise(sample.recipe.noise) } = look;
  return element(
    "button",
    { type: "button", class: kept ? "tile kept" : "tile", "aria-label": name, title, disabled },
    thumbnail(sample),
    element("span", { class: "seed", "aria-hidden": "true", textContent }),
  );
}

/** The place of a sample that has no pixels yet. */
export function notDrawn(sample: Sample): HTMLButtonElement {
  return tile(sample, { title: "", name: "Not drawn yet", caption: "", disabled: true });
}

/** A small picture of a sample, which may have no pixels yet. */
export function thumbnail(sample: Sample, room = SMALL): HTMLCanvasElement {
  const canvas = element("canvas");
  if (sample.steps.length) paint(canvas, pixelsOf(sample));
  else resize(canvas, sample);
  canvas.style.width = `${smallWidth(sample.width, room)}px`;
  return canvas;
}

/** A sample to choose with a radio button, in a form's field. */
export function choice(name: string, value: number, sample: Sample, checked = false): HTMLLabelElement {
  const title = nameOf(sample);
  const input = element("input", { type: "radio", name, value, checked, "aria-label": title });
  return element("label", { title }, input, element("span", {}, thumbnail(sample, 48)));
}

/** How wide a small picture of so many pixels is on the screen: a whole multiple, if it fits. */
export function smallWidth(pixels: number, room = SMALL): number {
  return pixels > room * 1.5 ? room * 1.5 : Math.max(1, Math.round(room / pixels)) * pixels;
}
