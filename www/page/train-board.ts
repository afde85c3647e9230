// What is seen of a run: its phases, what it is and how far, the loss, and samples of the network of the moment.

import { byId, element, type Facts, factRows, innerWidthOf, paint, pixelScale } from "./dom.js";
import { many } from "./format.js";
import { clock, curveWords, drawCurve } from "./loss-curve.js";
import { shortName } from "./model-picker.js";
import type { FromTrainer, Phase, Progress, Run } from "./train-messages.js";
import { NAMES } from "./train-plan.js";

/** The most that a sample is wide on the screen, and the least between two, in CSS pixels. */
const WIDTH = 128;
const GAP = 10;

type Message<T extends FromTrainer["type"]> = Extract<FromTrainer, { type: T }>;

const sheet = byId("train-sheet");
const phases = byId("train-phases");

export class TrainBoard {
  #run: Run | null = null;
  #progress: Progress | null = null;
  #facts: Facts = {};

  constructor() {
    new ResizeObserver(() => this.fit()).observe(byId("train-board"));
  }

  /** A run begins, or goes on. */
  show(run: Run): void {
    this.#run = run;
    this.#progress = null;
    this.#facts = {
      "Learns from": run.about,
      "Begins with": run.from === null ? "random weights" : shortName(run.from),
      // These come later, and have their places.
      Network: null,
      "Runs on": null,
    };
    byId("train-facts").replaceChildren(...factRows(this.#facts));
    sheet.replaceChildren();
    byId("train-caption").textContent = "Samples come here every few seconds";
    byId("loss-curve").replaceChildren();
    byId("loss-words").textContent = "The loss comes here";
    phases.replaceChildren(
      ...run.phases.map(({ recipe, seconds }) =>
        element("li", {}, element("b", {}, NAMES[recipe]), element("span", {}, clock(seconds))),
      ),
    );
  }

  ready({ device, weightCount }: Message<"ready">): void {
    this.#facts = {
      ...this.#facts,
      Network: `${weightCount.toLocaleString("en")} weights`,
      "Runs on": device || "a GPU that the browser does not name",
    };
  }

  follow(progress: Progress, { imagesPerSecond = 0, going = false }: Partial<Message<"progress">> = {}): void {
    const run = this.#run;
    if (!run) return;
    this.#progress = progress;
    const { phase, spent, iteration, ended } = progress;
    const sum = (some: Phase[]) => some.reduce((sum, { seconds }) => sum + seconds, 0);
    // An iteration may end after its phase does.
    const within = Math.min(spent, run.phases[phase]?.seconds ?? 0);
    const [elapsed, total] = [sum(run.phases.slice(0, phase)) + within, sum(run.phases)];
    byId<HTMLProgressElement>("train-done").value = elapsed / total;
    Object.assign(this.#facts, {
      Iterations: `${iteration.toLocaleString("en")} in this phase`,
      Speed: going && imagesPerSecond ? `${imagesPerSecond.toPrecision(3)} images/s` : null,
      Elapsed: clock(elapsed),
      Left: ended ? null : clock(total - elapsed),
    });
    byId("train-facts").replaceChildren(...factRows(this.#facts));
    for (const [i, item] of [...phases.children].entries()) {
      item.classList.toggle("past", i < phase || ended);
      if (i === phase && !ended) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    }
    this.#drawCurve();
  }

  /** Puts the samples of now on the sheet. */
  paint({ pixels, recipe, calls }: Message<"samples">): void {
    const run = this.#run;
    if (!run) return;
    const { size, shown, classNames } = run;
    if (sheet.childElementCount !== shown.length) {
      sheet.replaceChildren(...shown.map((label) => place(classNames[label])));
      this.fit();
    }
    const length = 4 * size * size;
    sheet.querySelectorAll("canvas").forEach((canvas, i) => {
      paint(canvas, { pixels: pixels.slice(i * length, (i + 1) * length), width: size, height: size });
    });
    const made = recipe === "edm" ? `the denoiser's path in ${calls} levels` : many(calls, "network call");
    byId("train-caption").textContent = `The same noise each time, by ${made}`;
    sheet.setAttribute("aria-label", `${many(shown.length, "sample")} of the network, by ${made}`);
  }

  /** Gives samples and curve the room that there is. */
  fit(): void {
    if (!this.#run || byId("train-board").offsetParent === null) return;
    const { size, shown } = this.#run;
    // As many beside one another as below one another, or two more.
    const columns = shown.length > 9 ? 5 : 3;
    const room = Math.min(WIDTH, innerWidthOf(byId("train-well")) / columns - GAP);
    const width = size * pixelScale(room, size);
    sheet.style.maxWidth = `${columns * (width + GAP)}px`;
    for (const canvas of sheet.querySelectorAll("canvas")) canvas.style.width = `${width}px`;
    this.#drawCurve();
  }

  #drawCurve(): void {
    const [run, progress] = [this.#run, this.#progress];
    if (!run || !progress) return;
    const names = run.phases.map(({ recipe }) => NAMES[recipe]);
    drawCurve(byId("loss-curve"), progress.curve, names);
    const words = curveWords(progress.curve, names);
    if (words) byId("loss-words").textContent = `Loss. ${words}`;
  }
}

/** The place of a sample. */
function place(className = ""): HTMLElement {
  const name = className ? `Sample of ${className}` : "Sample";
  return element(
    "li",
    {},
    element("canvas", { role: "img", "aria-label": name }),
    element("span", { class: "seed", "aria-hidden": "true" }, className),
  );
}
