// Small pictures that a person draws to train a network on, each with its class.

import { byId, element, offscreen, type Pixels } from "./dom.js";
import { type Colour, paletteOf } from "./edit-tools.js";
import { filled, PaintCanvas } from "./paint-canvas.js";
import { fit } from "./picture-file.js";
import type { Shape } from "./train-network.js";

const GROUND: Colour = [0, 0, 0];
/** How many classes there are, and how many pictures at first and at most. */
const CLASSES = 3;
const FIRST = 3;
const MOST = 24;

interface Drawing {
  canvas: PaintCanvas;
  place: HTMLElement;
  label: HTMLSelectElement;
}

export class Drawings {
  #drawings: Drawing[] = [];
  #shape: Shape = { size: 28, channels: 1 };
  #colour: Colour = [255, 255, 255];
  #place = byId("drawings");
  #onChange = () => {};

  constructor(onChange: () => void) {
    byId("add-drawing").addEventListener("click", () => {
      this.#add();
      this.#drawings.at(-1)?.place.querySelector("canvas")?.focus();
    });
    byId("pen").addEventListener("change", (event) => this.#choose((event.target as HTMLInputElement).value));
    for (let i = 0; i < FIRST; i++) this.#add();
    this.#renderPens();
    this.#onChange = onChange;
  }

  /** The pictures are for a network of other ones. */
  use(shape: Shape): void {
    const { size, channels } = this.#shape;
    this.#shape = shape;
    if (shape.channels !== channels) this.#renderPens();
    if (shape.size === size) return;
    for (const { canvas } of this.#drawings) this.#put(canvas, fit(offscreen(canvas), square(shape), GROUND));
  }

  /** How many are drawn on, and the classes that those are of, in order. */
  get classes(): string[] {
    return [...new Set(this.#drawn().map(({ label }) => label.value))].sort();
  }

  get count(): number {
    return this.#drawn().length;
  }

  /** The pictures that are drawn on, with the index of the class of each among `classes`. */
  get pictures(): { pixels: Pixels; label: number }[] {
    const { classes } = this;
    return this.#drawn().map(({ canvas: { pixels, width, height }, label }) => ({
      pixels: { pixels: pixels.slice(), width, height },
      label: classes.indexOf(label.value),
    }));
  }

  #drawn(): Drawing[] {
    return this.#drawings.filter(({ canvas }) => canvas.pixels.some((value, i) => i % 4 < 3 && value > 0));
  }

  #add(): void {
    if (this.#drawings.length >= MOST) return;
    const number = this.#drawings.length + 1;
    const surface = element("canvas", {
      tabIndex: 0,
      role: "application",
      "aria-label": `Drawing ${number}`,
      "aria-describedby": "drawing-help",
    });
    const label = element("select", { "aria-label": `Class of drawing ${number}` });
    for (let i = 1; i <= CLASSES; i++) label.append(new Option(`class ${i}`, String(i)));
    label.value = String(((number - 1) % CLASSES) + 1);
    const clear = element("button", { type: "button", textContent: "Clear", "aria-label": `Clear drawing ${number}` });
    const place = element("li", {}, surface, element("div", { class: "actions" }, label, clear));
    const canvas = new PaintCanvas(surface, () => this.#onChange(), byId("drawing-cell"));
    Object.assign(canvas, { mode: "colour", ground: GROUND, colour: this.#colour });
    clear.addEventListener("click", () => canvas.clear());
    label.addEventListener("change", () => this.#onChange());
    this.#drawings.push({ canvas, place, label });
    const { width, height } = square(this.#shape);
    this.#put(canvas, { pixels: filled(width, height, GROUND), width, height });
    this.#place.append(place);
    byId<HTMLButtonElement>("add-drawing").disabled = this.#drawings.length >= MOST;
  }

  #put(canvas: PaintCanvas, picture: Pixels): void {
    canvas.size = Math.max(2, Math.round(picture.width / 11));
    canvas.put(picture);
  }

  /** Pens are of colours that the network sees. */
  #renderPens(): void {
    const pens = paletteOf(this.#shape.channels);
    byId("pen").replaceChildren(
      ...pens.map(([name, colour], i) => {
        const value = colour.join();
        const input = element("input", { type: "radio", name: "pen", value, checked: i === 0, "aria-label": name });
        const swatch = element("span", { title: name });
        swatch.style.backgroundColor = `rgb(${value})`;
        return element("label", {}, input, swatch);
      }),
    );
    this.#choose(pens[0][1].join());
  }

  #choose(colour: string): void {
    this.#colour = colour.split(",").map(Number) as Colour;
    for (const { canvas } of this.#drawings) canvas.colour = this.#colour;
  }
}

const square = ({ size }: Shape) => ({ width: size, height: size });
