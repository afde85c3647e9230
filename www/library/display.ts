// What element and page share to show something: making of elements, columns, sizes, numbers in words.

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

export const many = (count: number, noun: string) => `${count} ${noun}${count === 1 ? "" : "s"}`;
export const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);
