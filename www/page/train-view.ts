// The tab that trains: what to learn from and to begin with, the run's course, and what becomes of its model.
//
// This script, the worker and the module that trains are fetched when the tab is first opened.

import { messageOf } from "../error.js";
import { byId, element, targetOf } from "./dom.js";
import { many, percent } from "./format.js";
import { clock } from "./loss-curve.js";
import { archive, choosesFolders, chooseFolder, type Output } from "./output-folder.js";
import type { Page } from "./page.js";
import { isAbort } from "./queue.js";
import { TrainBoard } from "./train-board.js";
import {
  type Collection,
  collect,
  imagesOf,
  leftOutWords,
  type PlacedFile,
  readAnimals,
  readPictures,
} from "./train-data.js";
import { Drawings } from "./train-drawings.js";
import type { FromTrainer, Progress, Run } from "./train-messages.js";
import { modelFiles, type Shape } from "./train-network.js";
import {
  type Material,
  NAMES,
  obstacle,
  planFineTuning,
  planNew,
  SHIFT,
  type NewNetwork,
  type Source,
} from "./train-plan.js";
import { Session } from "./train-session.js";
import { forget, keptSummary } from "./train-store.js";

const HINTS = {
  ect: "The consistency model learns from pictures and noise alone.",
  trajectories: "The consistency model learns where the denoiser's paths lead.",
};
/** The pictures of a new network that suit a source. */
const SHAPES: Record<Source, string> = { animals: "32,3", pictures: "32,3", drawings: "28,1" };
/** Said until the first iteration is over, which waits for the GPU's programs. */
const READYING = "Making the device ready";
const OVER = "The run is over: use its model, or save it";
/** How long Stop waits for the state to be kept, in milliseconds. */
const PATIENCE = 10_000;
/** How many classes are named. */
const MOST_NAMES = 4;

const form = byId<HTMLFormElement>("train-form");
const fields = form.elements as HTMLFormControlsCollection & {
  source: RadioNodeList & { value: Source };
  base: RadioNodeList & { value: "new" | "model" };
  shape: HTMLSelectElement;
  width: RadioNodeList & { value: NewNetwork["width"] };
  second: RadioNodeList & { value: NewNetwork["second"] };
  minutes: HTMLInputElement;
  share: HTMLInputElement;
};
const toggle = byId<HTMLButtonElement>("train-toggle");

/** A run that is shown. */
interface Shown {
  session: Session;
  run: Run;
  progress: Progress | null;
}

export class TrainView {
  #page: Page;
  #device: "cpu" | null;
  #board = new TrainBoard();
  #drawings = new Drawings(() => this.#update());
  #collection: Collection | null = null;
  #shown: Shown | null = null;
  /** Whether a run is being made ready. */
  #opening = false;
  /** Whether a person has chosen the size. */
  #sized = false;

  /** @param device the processor that the address asks for; null for the GPU where there is one */
  constructor(page: Page, device: "cpu" | null) {
    this.#page = page;
    this.#device = device;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#begin();
    });
    form.addEventListener("change", (event) => this.#changed(targetOf(event)));
    fields.share.addEventListener("input", () => this.#update());
    for (const id of ["train-pictures", "train-folder"]) {
      const input = byId<HTMLInputElement>(id);
      input.addEventListener("change", () => {
        const files = [...(input.files ?? [])];
        this.take(files.map((file) => ({ path: file.webkitRelativePath || file.name, file })));
        input.value = "";
      });
    }
    toggle.addEventListener("click", () => this.#toggle());
    byId("train-stop").addEventListener("click", () => this.#stop());
    byId("train-use").addEventListener("click", () => this.#use());
    byId("train-zip").addEventListener("click", () => this.#save(archive));
    byId("train-save").addEventListener("click", () => this.#save(chooseFolder));
    byId("train-save").hidden = !choosesFolders();
    byId("train-resume").addEventListener("click", () => this.#resume());
    byId("train-forget").addEventListener("click", async () => {
      await forget().catch(page.fail);
      await this.#offerKept();
      byId("train").focus();
    });
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#shown?.session.keep();
    });
    addEventListener("pagehide", () => this.#shown?.session.suspend());
    addEventListener("pageshow", ({ persisted }) => persisted && this.#shown?.session.wake());
    // What was chosen before this script came, if anything was.
    fields.shape.value = SHAPES[fields.source.value];
    this.#offerKept();
  }

  /** The tab is open, or another model is loaded. */
  refresh(): void {
    this.#update();
    this.#board.fit();
  }

  /** Takes pictures to learn from. */
  take(files: PlacedFile[]): void {
    this.#trying(async () => {
      if (this.#shown) throw new Error("expected pictures before a run, found one under way: stop it first");
      this.#collection = collect(files);
      fields.source.value = "pictures";
      this.#update();
    });
  }

  // The controls.

  #changed({ name }: HTMLInputElement): void {
    if (name === "shape") this.#sized = true;
    if (name === "source" && !this.#sized) fields.shape.value = SHAPES[fields.source.value];
    this.#update();
  }

  /** What the network's pictures are. */
  #shape(): Shape {
    const info = fields.base.value === "model" && this.#page.loaded()?.info;
    if (info) return { size: info.sampleSize[0], channels: info.channels };
    const [size = 0, channels = 0] = fields.shape.value.split(",").map(Number);
    return { size, channels };
  }

  /** Shows what belongs to the choices made. */
  #update(): void {
    const source = fields.source.value;
    const info = this.#page.loaded()?.info ?? null;
    const { classes } = source === "drawings" ? this.#drawings : (this.#collection ?? { classes: [] });
    const why = obstacle(info, source, classes.length);
    (byId("base-model").querySelector("input") as HTMLInputElement).disabled = why !== null;
    if (why) fields.base.value = "new";
    const fresh = fields.base.value === "new";
    byId("base-hint").textContent =
      why ?? (fresh ? "" : "Fine-tuning: a consistency model goes on with the second phase.");
    for (const option of fields.shape.options) option.disabled = source === "animals" && option.value === "28,1";
    if (fields.shape.selectedOptions[0]?.disabled) fields.shape.value = SHAPES[source];
    const shown = {
      "pictures-field": source === "pictures",
      "drawings-field": source === "drawings",
      "network-field": fresh,
      "second-field": fresh,
      "share-field": fresh,
    };
    for (const [id, visible] of Object.entries(shown)) byId(id).hidden = !visible;
    if (source === "drawings") this.#drawings.use(this.#shape());
    byId("source-hint").textContent = {
      animals: "Faces of 14 kinds, composed of parts without end; 21 KB are fetched.",
      pictures: this.#collection
        ? `${describe(this.#collection)}. The middle square of each is scaled to the network's size.`
        : "Open or drop pictures, or a folder of them; its sub-folders are classes.",
      drawings: `${many(this.#drawings.count, "drawing")} so far. They are moved by up to ${SHIFT} pixels while the network learns.`,
    }[source];
    byId("second-hint").textContent = HINTS[fields.second.value];
    byId("denoiser-share-value").textContent = percent(Number(fields.share.value) / 100);
  }

  // The run.

  async #begin(): Promise<void> {
    if (this.#shown || this.#opening) return;
    this.#opening = true;
    this.#clearNotes();
    await this.#trying(async () => {
      const source = fields.source.value;
      const shape = this.#shape();
      const loaded = fields.base.value === "model" ? this.#page.loaded() : null;
      const [width, second] = [fields.width.value, fields.second.value];
      const [seconds, share] = [60 * Number(fields.minutes.value), Number(fields.share.value) / 100];
      const material = await this.#material(source, shape);
      this.#say("Opening the device");
      const gpu = !this.#device && (await navigator.gpu?.requestAdapter().catch(() => null));
      const choices = { source, material, device: gpu ? "gpu" : "cpu", seconds } as const;
      const [run, weights] = loaded
        ? await planFineTuning(choices, loaded)
        : [planNew(choices, { shape, width, share, second }), null];
      this.#show(
        Session.begin(run, material.data, weights, (message) => this.#told(message)),
        run,
      );
    });
    this.#opening = false;
  }

  async #material(source: Source, shape: Shape): Promise<Material> {
    if (source === "animals") {
      this.#say("Fetching the animals' parts");
      const { animals, classes } = await readAnimals();
      return { data: animals, classes, about: "animals" };
    }
    if (source === "drawings") {
      const { pictures, classes } = this.#drawings;
      if (!pictures.length) throw new Error("expected a drawing to learn from, found empty ones: draw something first");
      const names = classes.length > 1 ? classes.map((label) => `class ${label}`) : [];
      return { data: imagesOf(pictures, shape.channels), classes: names, about: many(pictures.length, "drawing") };
    }
    const collection = this.#collection;
    if (!collection) throw new Error("expected pictures to learn from, found none: choose some, or drop a folder");
    const { length } = collection.pictures;
    const { images, classes, leftOut } = await readPictures(collection, shape, (read) => {
      if (read % 10 === 0) this.#say(`Reading picture ${read + 1} of ${length}`);
    });
    this.#note(leftOutWords(leftOut));
    const words = [many(images.labels.length, "picture"), ...(classes.length ? [`${classes.length} classes`] : [])];
    return { data: images, classes, about: words.join(" in ") };
  }

  async #resume(): Promise<void> {
    if (this.#shown || this.#opening) return;
    this.#clearNotes();
    await this.#trying(async () => {
      const found = await keptSummary();
      if (!found) throw new Error("expected a kept run to go on with, found none");
      const { run, progress } = found;
      this.#say("Opening the device");
      this.#show(
        Session.resume(run.begun, (message) => this.#told(message)),
        run,
      );
      this.#follow(progress);
    });
  }

  /** Shows a run in place of the controls. */
  #show(session: Session, run: Run): void {
    this.#shown = { session, run, progress: null };
    this.#layOut();
    this.#board.show(run);
    this.#renderToggle();
    toggle.focus({ preventScroll: true });
  }

  #told(message: Exclude<FromTrainer, { type: "weights" }>): void {
    switch (message.type) {
      case "ready":
        this.#board.ready(message);
        if (!this.#shown?.progress?.ended) this.#say(READYING);
        break;
      case "progress":
        this.#follow(message.progress, message);
        break;
      case "samples":
        this.#board.paint(message);
        break;
      case "paused":
        if (!this.#shown?.session.going) this.#say(message.kept ? "Paused, and kept in this browser" : "Paused");
        break;
      case "note":
        this.#note(message.text);
        break;
      case "failed":
        this.#page.fail(new Error(`Training: ${message.message}`));
        this.#leave();
    }
  }

  #follow(progress: Progress, message?: Extract<FromTrainer, { type: "progress" }>): void {
    const shown = this.#shown;
    if (!shown) return;
    const before = shown.progress;
    shown.progress = progress;
    this.#board.follow(progress, message);
    const recipe = shown.run.phases[progress.phase]?.recipe ?? "edm";
    if (progress.ended && !before?.ended) this.#say(OVER);
    else if (before && before.phase !== progress.phase) this.#say(`Phase ${progress.phase + 1}: ${NAMES[recipe]}`);
    else if (message && before && before.iteration < progress.iteration) this.#unsay(READYING);
    this.#renderToggle();
  }

  #toggle(): void {
    const { session, progress } = this.#shown ?? {};
    if (!session || progress?.ended) {
      this.#leave();
      return;
    }
    if (session.going) session.pause();
    else session.go();
    this.#say(session.going ? "" : "Pausing");
    this.#renderToggle();
  }

  /** Leaves the run; it is kept as it is. */
  async #stop(): Promise<void> {
    const { session } = this.#shown ?? {};
    session?.pause();
    // The answer to this comes when the state is kept; a device may be too busy to answer.
    const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE));
    await Promise.race([session?.weights().catch(() => {}), patience]);
    if (session && session === this.#shown?.session) this.#leave();
  }

  /** Shows the controls in place of the run. */
  #leave(): void {
    this.#shown?.session.end();
    this.#shown = null;
    this.#say("");
    this.#layOut();
    this.#update();
    this.#offerKept();
    byId("train").focus({ preventScroll: true });
  }

  #layOut(): void {
    const running = this.#shown !== null;
    const shown = { "train-intro": !running, "train-form": !running, "train-board": running, "train-run": running };
    for (const [id, visible] of Object.entries(shown)) byId(id).hidden = !visible;
    if (running) byId("kept-run").hidden = true;
  }

  #renderToggle(): void {
    const { session, progress } = this.#shown ?? {};
    const ended = progress?.ended ?? false;
    toggle.textContent = ended ? "New run" : session?.going ? "Pause" : "Go on";
    byId("train-stop").hidden = ended;
  }

  /** Offers the run that is kept, when none is under way. */
  async #offerKept(): Promise<void> {
    // A browser that gives no storage keeps nothing.
    const found = await keptSummary().catch(() => null);
    const offered = found !== null && !this.#shown;
    byId("kept-run").hidden = byId("replaces-hint").hidden = !offered;
    if (!found) return;
    const { run, progress } = found;
    const date = new Date(run.begun).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
    byId("train-resume").textContent = `${progress.ended ? "Open" : "Go on with"} the run of ${date}`;
    const { recipe = "edm" } = run.phases[progress.phase] ?? {};
    const state = progress.ended
      ? "over"
      : `${clock(progress.spent)} into phase ${progress.phase + 1}, ${NAMES[recipe]}`;
    byId("kept-run-facts").textContent = `It learns from ${run.about}, and is ${state}.`;
  }

  // The model.

  #use(): Promise<void> {
    return this.#exported(async (files) => {
      const name = (path: string) => path.split("/").at(-1) ?? path;
      const placed = [...files].map(([path, bytes]) => ({ path, file: new File([bytes], name(path)) }));
      await this.#page.sampleModel(placed);
    });
  }

  async #save(open: (name: string) => Promise<Output>): Promise<void> {
    const name = `consistency-model-${new Date().toISOString().replace(/\D/g, "").slice(0, 12)}`;
    let output: Output;
    try {
      // At once, while the browser knows that the person has just clicked.
      output = await open(name);
    } catch (error) {
      this.#say(isAbort(error) ? "Cancelled" : `Not saved: ${messageOf(error)}`);
      return;
    }
    await this.#exported(async (files) => {
      try {
        for (const [path, bytes] of files) {
          const file = await output.create(path, bytes.length);
          await file.write(0, bytes);
          await file.close();
        }
        await output.finish();
        this.#say(`Saved ${name}${open === archive ? ".zip" : ""}`);
      } catch (error) {
        // An error of the clean-up does not hide the first one.
        await output.abandon().catch(() => {});
        throw error;
      }
    });
  }

  /** Does something with the files of the model of the moment. */
  #exported(action: (files: ReturnType<typeof modelFiles>) => Promise<void>): Promise<void> {
    return this.#trying(async () => {
      const { session, run } = this.#shown ?? {};
      if (session && run) await action(modelFiles(run, await session.weights()));
    });
  }

  // What the tab says.

  /** Does something; an error is shown. */
  async #trying(action: () => Promise<void>): Promise<void> {
    byId("error").hidden = true;
    try {
      await action();
    } catch (error) {
      this.#say("");
      this.#page.fail(error);
    }
  }

  #say(words: string): void {
    byId("train-status").textContent = words;
  }

  #unsay(words: string): void {
    if (byId("train-status").textContent === words) this.#say("");
  }

  #clearNotes(): void {
    byId("train-notes").replaceChildren();
    byId("train-notes").hidden = true;
  }

  /** Says what happened, and leaves it there. */
  #note(words: string): void {
    if (!words) return;
    byId("train-notes").append(element("li", {}, words));
    byId("train-notes").hidden = false;
  }
}

/** What pictures were chosen, in words. */
function describe({ classes, pictures }: Collection): string {
  const count = (label: number) => pictures.filter((picture) => picture.label === label).length;
  const named = classes.slice(0, MOST_NAMES).map((name, label) => `${name} ${count(label)}`);
  const more = classes.length > MOST_NAMES ? `, and ${classes.length - MOST_NAMES} more classes` : "";
  return `${many(pictures.length, "picture")}${classes.length > 1 ? `: ${named.join(", ")}${more}` : ""}`;
}
