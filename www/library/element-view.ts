// What the element shows, in its shadow root. Knows neither model nor attributes; `element.ts` tells it what there is.

import { columnsFor, context2d, element, many, megabytes, Notices, pixelScale, slowCalls } from "./display.js";
import type { ConsistencySamplerError } from "./error.js";
import type { CallProgress, LoadProgress } from "./types.js";

/** Between two images, in pixels of an image. */
const GAP = 1;

/** What the buttons do. */
export interface Actions {
  generate(): void;
  cancel(): void;
  retry(): void;
}

export class View {
  /** What should be known though the load goes on. */
  readonly notices: Notices;
  /** How many images a row has; null: as `columnsFor` says. */
  columns: number | null = null;
  /** What the images show, in words that take the place of "images". */
  alt = "";
  #canvas = element("canvas", { part: "canvas", role: "img", hidden: true });
  #poster = element("img", { part: "poster", hidden: true });
  #posterSlot = element("slot", { name: "poster" }, this.#poster);
  #barText = element("p", { part: "amount", id: "bar-text" });
  #bar = element("progress", { part: "bar", "aria-labelledby": "bar-text" });
  #progress = element("div", { part: "progress", hidden: true }, this.#bar, this.#barText);
  #stage = element("div", { part: "stage" }, this.#posterSlot, this.#canvas);
  #status = element("p", { part: "status", role: "status" });
  #error = element("p", { part: "error", role: "alert", hidden: true });
  #notices = element("div", { part: "notices" });
  #retry = button("retry", "Retry");
  #fallback = element("slot", { hidden: true });
  #generate = button("generate", "Generate");
  #cancel = button("cancel", "Cancel");
  #controls = element(
    "div",
    { part: "controls", role: "group", "aria-label": "Samples", hidden: true },
    this.#generate,
    this.#cancel,
  );
  /** The images shown and what made them; null before the first. */
  #shown: { images: ImageData[]; words: string } | null = null;
  #share = slowCalls();

  constructor(root: ShadowRoot, { generate, cancel, retry }: Actions) {
    root.append(
      this.#stage,
      this.#progress,
      element("slot", { name: "caption" }),
      this.#status,
      this.#error,
      // The default slot is for where nothing else can be shown; see `fail`.
      this.#fallback,
      this.#retry,
      this.#notices,
      this.#controls,
    );
    this.notices = new Notices(this.#notices, this.#generate);
    this.#retry.hidden = true;
    this.#retry.addEventListener("click", retry);
    this.#generate.addEventListener("click", () => enabled(this.#generate) && generate());
    this.#cancel.addEventListener("click", () => enabled(this.#cancel) && cancel());
    this.#poster.addEventListener("load", () => this.#fit());
    this.busy(false);
    new ResizeObserver(() => this.#fit()).observe(this.#stage);
  }

  set controls(wanted: boolean) {
    this.#controls.hidden = !wanted;
  }

  /** The picture to look at while the weights stream; null for none. */
  set poster(address: string | null) {
    this.#poster.hidden = !address;
    if (address) this.#poster.src = address;
    else this.#poster.removeAttribute("src");
  }

  /** What is under way, or a result, in a few words. */
  say(text: string): void {
    this.#status.textContent = text;
  }

  busy(busy: boolean): void {
    if (!busy) this.progress(null);
    this.#share = slowCalls();
    this.#stage.setAttribute("aria-busy", String(busy));
    // A button that has the focus keeps it.
    this.#generate.setAttribute("aria-disabled", String(busy));
    this.#cancel.setAttribute("aria-disabled", String(!busy));
  }

  /** Shows how far the load is; null hides it. */
  progress(progress: Pick<LoadProgress, "stage" | "bytes" | "total" | "retry"> | null): void {
    this.#progress.hidden = !progress;
    if (!progress) return;
    const { stage, bytes, total, retry } = progress;
    if (stage === "shaders" || !total) this.#bar.removeAttribute("value");
    else Object.assign(this.#bar, { max: total, value: bytes });
    const amount = `${megabytes(bytes)}${total ? ` of ${megabytes(total)}` : ""} MB`;
    const texts = {
      weights: amount,
      waiting: `${amount}, trying again: ${retry?.reason}`,
      shaders: "Preparing the GPU",
    };
    this.#barText.textContent = texts[stage];
  }

  /** Shows how far a network call is that takes longer than a second. */
  call(call: CallProgress): void {
    const done = this.#share(call);
    if (done === null) return;
    this.#progress.hidden = false;
    Object.assign(this.#bar, { max: 1, value: done });
    this.#barText.textContent = `Network call ${call.index + 1}`;
  }

  /** Shows an error in one line; null hides it. Where nothing can be drawn, the element's own content takes the place. */
  fail(error: ConsistencySamplerError | null): void {
    this.#error.textContent = error?.message ?? "";
    this.#error.hidden = !error;
    this.#fallback.hidden = !error || this.#shown !== null;
    this.#retry.hidden = !error || ["input", "unsupported"].includes(error.code);
  }

  /** Draws images side by side; `words` says what made them. */
  show(images: ImageData[], words: string): void {
    this.#shown = { images, words };
    this.draw();
  }

  /** Draws what is shown once more, after a change of `columns` or `alt`. */
  draw(): void {
    this.#poster.alt = this.alt || "Samples drawn beforehand";
    const { images = [], words } = this.#shown ?? {};
    const [first] = images;
    if (!first) return;
    const { width, height } = first;
    const columns = Math.min(this.columns ?? columnsFor(images.length), images.length);
    this.#canvas.width = columns * (width + GAP) - GAP;
    this.#canvas.height = Math.ceil(images.length / columns) * (height + GAP) - GAP;
    this.#canvas.setAttribute("aria-label", `${this.alt || many(images.length, "image")}: ${words}`);
    const context = context2d(this.#canvas);
    images.forEach((image, i) => {
      context.putImageData(image, (i % columns) * (width + GAP), Math.floor(i / columns) * (height + GAP));
    });
    this.#canvas.hidden = false;
    this.#posterSlot.hidden = true;
    this.#fit();
  }

  /** Gives each pixel of an image as many whole pixels of the screen as there is room for. */
  #fit(): void {
    const { clientWidth } = this.#stage;
    const tallest = parseFloat(getComputedStyle(this.#stage).maxHeight) || Infinity;
    const fit = (picture: HTMLElement, width: number, height: number) => {
      picture.style.width = `${width * pixelScale(Math.min(clientWidth, (tallest * width) / height), width)}px`;
    };
    fit(this.#canvas, this.#canvas.width, this.#canvas.height);
    fit(this.#poster, this.#poster.naturalWidth, this.#poster.naturalHeight);
  }
}

const button = (part: string, text: string) => element("button", { part: `button ${part}`, type: "button" }, text);
const enabled = (button: HTMLButtonElement) => button.getAttribute("aria-disabled") !== "true";
