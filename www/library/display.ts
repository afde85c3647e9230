// What element and page share to show something: making of elements, columns, sizes, numbers in words.

import type { CallProgress } from "./types.js";

/** Attributes and properties of an element. */
type Properties = Record<string, string | number | boolean>;

/** Makes an element: its properties (`aria-*`, `role` and so on as attributes), then what is in it. */
export function element<T extends keyof HTMLElementTagNameMap>(
  tag: T,
  properties: Properties = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[T] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(aria-|data-|role$|class$|for$)/.test(name)) made.setAttribute(name, String(value));
    else Object.assign(made, { [name]: value });
  }
  made.append(...children);
  return made;
}

/** What a person should know though it goes on: each notice has its own line until it is dismissed. */
export class Notices {
  #place: HTMLElement;
  #fallback: HTMLElement;

  /** @param fallback gets the focus when the last notice is dismissed */
  constructor(place: HTMLElement, fallback: HTMLElement) {
    this.#place = place;
    this.#fallback = fallback;
    this.clear();
  }

  /** Adds a line, unless it is there already. */
  add(text: string): void {
    // What begins with a word begins with a capital; addresses and hub ids stay as they are.
    const sentence = text.replace(/^[a-z](?=[a-z]* )/, (letter) => letter.toUpperCase());
    const place = this.#place;
    for (const { firstChild } of place.children) if (firstChild?.textContent === sentence) return;
    const label = `Dismiss: ${sentence}`;
    const dismiss = element(
      "button",
      { type: "button", part: "button dismiss", title: "Dismiss", "aria-label": label },
      "×",
    );
    const line = element(
      "p",
      { part: "notice", class: "notice", role: "note" },
      element("span", { textContent: sentence }),
      dismiss,
    );
    dismiss.addEventListener("click", () => {
      const next = line.nextElementSibling ?? line.previousElementSibling;
      line.remove();
      place.hidden = !next;
      (next?.querySelector("button") ?? this.#fallback).focus();
    });
    place.append(line);
    place.hidden = false;
  }

  clear(): void {
    this.#place.replaceChildren();
    this.#place.hidden = true;
  }
}

/** A canvas's context. */
export function context2d<C extends HTMLCanvasElement | OffscreenCanvas>(
  canvas: C,
  options?: CanvasRenderingContext2DSettings,
) {
  return canvas.getContext("2d", options) as C extends OffscreenCanvas
    ? OffscreenCanvasRenderingContext2D
    : CanvasRenderingContext2D;
}

/** The fewest columns that fill every row and make the grid at least as wide as high. */
export function columnsFor(count: number): number {
  let columns = Math.ceil(Math.sqrt(count));
  while (count % columns) columns++;
  return columns;
}

/** How large a pixel of a picture is shown, in CSS pixels: as many whole pixels of the screen as there is room for. */
export function pixelScale(room: number, pixels: number): number {
  return Math.floor((room / pixels) * devicePixelRatio) / devicePixelRatio || room / pixels;
}

/** Makes a function that says how far a network call is, once it is going to take longer than a second; null before. */
export function slowCalls(): (progress: CallProgress) => number | null {
  let [last, since] = [-1, 0];
  return ({ index, done }) => {
    const now = performance.now();
    if (index !== last) [last, since] = [index, now];
    return (now - since) / done > 1000 ? done : null;
  };
}

export const many = (count: number, noun: string) => `${count} ${noun}${count === 1 ? "" : "s"}`;
export const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
