// What the element shows, in its shadow root. Knows neither model nor attributes; `element.js` tells it what there is.

import { styles } from "./element-style.js";

/** Between two images, in pixels of an image. */
const GAP = 1;

export class View {
  /** How many images a row has; null: as `columnsFor` says. */
  columns = null;
  /** What the images show, in words that take the place of "images". */
  alt = "";
  #canvas = make("canvas", { part: "canvas", role: "img", hidden: true });
  #poster = make("img", { part: "poster", hidden: true });
  #posterSlot = make("slot", { name: "poster" }, this.#poster);
  #barText = make("p", { part: "amount", id: "bar-text" });
  #bar = make("progress", { part: "bar", "aria-labelledby": "bar-text" });
  #progress = make("div", { part: "progress", hidden: true }, this.#bar, this.#barText);
  #stage = make("div", { part: "stage" }, this.#posterSlot, this.#canvas);
  #status = make("p", { part: "status", role: "status" });
  #error = make("p", { part: "error", role: "alert", hidden: true });
  #notices = make("div", { part: "notices", role: "log", "aria-label": "Notices" });
  #retry = button("retry", "Retry");
  #fallback = make("slot", { hidden: true });
  #generate = button("generate", "Generate");
  #cancel = button("cancel", "Cancel");
  #controls = make("div", { part: "controls", role: "group", "aria-label": "Samples", hidden: true }, this.#generate, this.#cancel);
  /** The images shown: `{ images, words }`; null before the first. */
  #shown = null;

  /** @param {ShadowRoot} root  @param {{ generate(): void, cancel(): void, retry(): void }} actions  of the buttons */
  constructor(root, { generate, cancel, retry }) {
    root.adoptedStyleSheets = [styles()];
    const caption = make("slot", { name: "caption" });
    root.append(this.#stage, this.#progress, caption, this.#status, this.#error, this.#fallback, this.#retry, this.#notices, this.#controls);
    // The default slot is for where nothing else can be shown; see `fail`.
    this.#retry.hidden = true;
    this.#retry.addEventListener("click", retry);
    this.#generate.addEventListener("click", () => enabled(this.#generate) && generate());
    this.#cancel.addEventListener("click", () => enabled(this.#cancel) && cancel());
    this.#poster.addEventListener("load", () => this.#fit());
    this.busy(false);
    new ResizeObserver(() => this.#fit()).observe(this.#stage);
  }

  set controls(wanted) {
    this.#controls.hidden = !wanted;
  }

  /** The picture to look at while the weights stream; null for none. */
  set poster(address) {
    this.#poster.hidden = !address;
    if (address) this.#poster.src = address;
    else this.#poster.removeAttribute("src");
  }

  /** What is under way, or a result, in a few words. */
  say(text) {
    this.#status.textContent = text;
  }

  /** Adds a notice, which a person may dismiss. */
  notice(text) {
    const dismiss = button("dismiss", "Dismiss");
    dismiss.setAttribute("aria-label", `Dismiss: ${text}`);
    const line = make("p", { part: "notice" }, text, dismiss);
    dismiss.addEventListener("click", () => line.remove());
    this.#notices.append(line);
  }

  clearNotices() {
    this.#notices.replaceChildren();
  }

  busy(busy) {
    this.#stage.setAttribute("aria-busy", busy);
    // A button that has the focus keeps it.
    this.#generate.setAttribute("aria-disabled", busy);
    this.#cancel.setAttribute("aria-disabled", !busy);
  }

  /** Shows how far the load is; null hides it. */
  progress(event) {
    this.#progress.hidden = !event;
    if (!event) return;
    const { stage, bytes, total, retry } = event;
    if (stage === "shaders" || !total) this.#bar.removeAttribute("value");
    else Object.assign(this.#bar, { max: total, value: bytes });
    const amount = `${megabytes(bytes)}${total ? ` of ${megabytes(total)}` : ""} MB`;
    this.#barText.textContent = { waiting: `${amount}, trying again: ${retry?.reason}`, shaders: "Preparing the GPU" }[stage] ?? amount;
  }

  /** Shows an error in one line; null hides it. Where nothing can be drawn, the element's own content takes the place. */
  fail(error) {
    this.#error.textContent = error?.message ?? "";
    this.#error.hidden = !error;
    this.#fallback.hidden = !error || this.#shown !== null;
    this.#retry.hidden = !error || ["input", "unsupported"].includes(error.code);
  }

  /** Draws images side by side; `words` says what made them. */
  show(images, words) {
    this.#shown = { images, words };
    this.draw();
  }

  /** Draws what is shown once more, after a change of `columns` or `alt`. */
  draw() {
    this.#poster.alt = this.alt || "Samples drawn beforehand";
    if (!this.#shown) return;
    const { images, words } = this.#shown;
    const [{ width, height }] = images;
    const columns = Math.min(this.columns ?? columnsFor(images.length), images.length);
    this.#canvas.width = columns * (width + GAP) - GAP;
    this.#canvas.height = Math.ceil(images.length / columns) * (height + GAP) - GAP;
    this.#canvas.setAttribute("aria-label", `${this.alt || many(images.length, "image")}: ${words}`);
    const context = this.#canvas.getContext("2d");
    images.forEach((image, i) => {
      context.putImageData(image, (i % columns) * (width + GAP), Math.floor(i / columns) * (height + GAP));
    });
    this.#canvas.hidden = false;
    this.#posterSlot.hidden = true;
    this.#fit();
  }

  /** Gives each pixel of an image as many whole pixels of the screen as there is room for. */
  #fit() {
    const tallest = parseFloat(getComputedStyle(this.#stage).maxHeight) || Infinity;
    const { naturalWidth, naturalHeight } = this.#poster;
    for (const [picture, width, height] of [
      [this.#canvas, this.#canvas.width, this.#canvas.height],
      [this.#poster, naturalWidth, naturalHeight],
    ]) {
      const room = Math.min(this.#stage.clientWidth / width, tallest / height);
      const whole = Math.floor(room * devicePixelRatio) / devicePixelRatio;
      picture.style.width = `${width * (whole || room)}px`;
    }
  }
}

/** The fewest columns that fill every row and make the grid at least as wide as high. */
function columnsFor(count) {
  let columns = Math.ceil(Math.sqrt(count));
  while (count % columns) columns++;
  return columns;
}

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.toggleAttribute(name, true);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const button = (part, text) => make("button", { part: `button ${part}`, type: "button" }, text);
const enabled = (button) => button.getAttribute("aria-disabled") !== "true";
const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
export const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
