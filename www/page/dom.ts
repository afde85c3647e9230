// Short ways to say what the page does with its document.

import type { ModelInfo } from "../consistency-sampler.js";
import { context2d, element, pixelScale } from "../display.js";

export { context2d, element, pixelScale };

/** What is said of something, by what it is called; what is not known is left out. */
export type Facts = Record<string, Node | string | number | null | undefined>;

/** The rows of a `dl`. */
export function factRows(facts: Facts): HTMLElement[] {
  return Object.entries(facts).flatMap(([term, fact]) =>
    fact ? [element("dt", { textContent: term }), element("dd", {}, fact instanceof Node ? fact : String(fact))] : [],
  );
}

/** A picture: RGBA, row by row. */
export interface Pixels {
  pixels: Uint8ClampedArray<ArrayBuffer>;
  width: number;
  height: number;
}

/** The element of the page that has this id, which it must have. */
export const byId = <T extends HTMLElement = HTMLElement>(id: string) => document.getElementById(id) as T;

/** What an event is about. */
export const targetOf = <T extends HTMLElement = HTMLInputElement>({ target }: Event) => target as T;

/** An element of SVG, with attributes. */
export function svg<T extends keyof SVGElementTagNameMap>(
  tag: T,
  attributes: Record<string, string | number> = {},
  ...children: (Node | string)[]
): SVGElementTagNameMap[T] {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** Draws RGBA pixels on a canvas, one canvas pixel each. */
export function paint(canvas: HTMLCanvasElement, { pixels, width, height }: Pixels): void {
  resize(canvas, { width, height });
  context2d(canvas).putImageData(new ImageData(pixels, width, height), 0, 0);
}

/** Gives a canvas a size in pixels, which clears it unless it has that size. */
export function resize(canvas: HTMLCanvasElement, { width, height }: { width: number; height: number }): void {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
}

/** A picture on a canvas that nobody sees, to be drawn from. */
export function offscreen({ pixels, width, height }: Pixels): OffscreenCanvas {
  const canvas = new OffscreenCanvas(width, height);
  context2d(canvas).putImageData(new ImageData(pixels, width, height), 0, 0);
  return canvas;
}

/** The width inside an element's padding, in CSS pixels. */
export function innerWidthOf(container: HTMLElement): number {
  const { paddingInlineStart, paddingInlineEnd } = getComputedStyle(container);
  return container.clientWidth - parseFloat(paddingInlineStart) - parseFloat(paddingInlineEnd);
}

export type Control = HTMLInputElement | HTMLSelectElement | RadioNodeList;

/** Sets a control to what it can take; what it cannot leaves it as it is, and is false. */
export function setValue(control: Control, value: string): boolean {
  const initial = control.value;
  control.value = value;
  // An input empties itself, a choice stays where it was, when they are given what they do not know.
  if (control.value === value && (control instanceof RadioNodeList || control.validity.valid)) return true;
  control.value = initial;
  return false;
}

/** A model's classes, to choose one. */
export function classOptions({ numClassEmbeds, classNames }: ModelInfo): HTMLOptionElement[] {
  const option = (_: unknown, label: number) => new Option(classNames?.[label] ?? String(label), String(label));
  return Array.from({ length: numClassEmbeds ?? 0 }, option);
}

/** How many choices are read through; among more one searches. */
const FEW = 20;

/** Shows a field beside a choice among many, in which typing a part of a name chooses. */
export function offerSearch(search: HTMLInputElement, choice: HTMLSelectElement): void {
  const options = [...choice.options];
  search.hidden = options.length <= FEW;
  search.value = "";
  search.setCustomValidity("");
  const list = search.list as HTMLDataListElement;
  list.replaceChildren(...options.map(({ text }) => new Option("", text)));
  search.oninput = () => {
    const typed = search.value.trim().toLowerCase();
    const texts = options.map(({ text }) => text.toLowerCase());
    const tests = [
      (text: string) => text === typed,
      (text: string) => text.startsWith(typed),
      (text: string) => text.includes(typed),
    ];
    const at = tests.map((test) => texts.findIndex(test)).find((at) => at >= 0) ?? -1;
    search.setCustomValidity(at < 0 ? `no class is called “${search.value}”` : "");
    if (!typed || at < 0) return;
    choice.selectedIndex = at;
    choice.dispatchEvent(new Event("change", { bubbles: true }));
  };
}

/**
 * One stop for Tab in a group of buttons, and the arrow keys, Home and End within it; `selector` says which elements
 * belong to it. Works for buttons that come and go.
 */
export function roving(container: HTMLElement, selector: string): void {
  const items = () => [...container.querySelectorAll<HTMLElement>(selector)];
  const focused = () => items().find((item) => item === document.activeElement);
  const settle = (chosen: HTMLElement | undefined) => {
    for (const item of items()) item.tabIndex = item === chosen ? 0 : -1;
  };
  const keepOne = () => {
    const all = items();
    const stops = all.filter(({ tabIndex }) => tabIndex === 0);
    if (all.length && stops.length !== 1) settle(focused() ?? all[0]);
  };
  new MutationObserver(keepOne).observe(container, { childList: true, subtree: true });
  container.addEventListener("focusin", (event) => {
    const target = targetOf(event);
    if (target.matches(selector)) settle(target);
  });
  container.addEventListener("keydown", (event) => {
    const all = items();
    const item = focused();
    if (!item || event.ctrlKey || event.altKey || event.metaKey) return;
    const at = all.indexOf(item);
    const ends: Record<string, number> = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: all.length - 1 };
    const to = ends[event.key] ?? rows(event.key, all, at);
    if (to === undefined) return;
    event.preventDefault();
    all[Math.min(Math.max(to, 0), all.length - 1)]?.focus();
  });
}

/** Where the arrow up or down leads in a grid of elements: to the one above or below, if there is one. */
function rows(key: string, all: HTMLElement[], at: number): number | undefined {
  const down = { ArrowUp: -1, ArrowDown: 1 }[key];
  if (!down) return undefined;
  for (let to = at + down; to >= 0 && to < all.length; to += down) {
    if (all[to]?.offsetLeft === all[at]?.offsetLeft) return to;
  }
  return at;
}
