// The tab that edits: a picture, a tool, and the answers of the model (Song et al. 2023, Algorithm 4).

import type {
  ConsistencySampler,
  DenoiseOptions,
  EditKind,
  EditOptions,
  ModelInfo,
  Run,
  Step,
} from "../consistency-sampler.js";
import {
  byId,
  classOptions,
  element,
  innerWidthOf,
  offerSearch,
  offscreen,
  paint,
  type Pixels,
  pixelScale,
  resize,
  roving,
  setValue,
  targetOf,
} from "./dom.js";
import { type Colour, kept, paletteOf, patchesOf } from "./edit-tools.js";
import { duration, many, sigma } from "./format.js";
import { choice, nameOf, smallWidth, tile } from "./gallery.js";
import { maskText, parseMask, parsePicture, pictureText, type Size } from "./link-text.js";
import type { Page, TabView } from "./page.js";
import { filled, type Mode, PaintCanvas } from "./paint-canvas.js";
import { fit, readPicture } from "./picture-file.js";
import { addStep, blank, finish, pixelsOf, randomSeed, type Sample } from "./samples.js";
import { addShareButtons } from "./share.js";
import { removeLabels, StepStrip } from "./step-strip.js";

/** What transparent pixels, the blank and the eraser are. */
const GROUND: Colour = [0, 0, 0];

/** How many pictures an interpolation makes, its ends among them. */
const FRAMES = 9;

/** What each tool does, what the hint below them says of its use, and what it calls the network for. */
const TOOLS: Record<EditKind, { mode: Mode; hint: string; steps: boolean }> = {
  inpaint: {
    mode: "hole",
    hint: "Paint over what is to be made anew; the rest stays as it is, exactly.",
    steps: true,
  },
  stroke: { mode: "colour", hint: "Paint roughly; the model makes a picture that follows your strokes.", steps: false },
  colorize: { mode: "none", hint: "The brightness of each pixel stays; the model finds colours.", steps: true },
  "super-resolution": {
    mode: "none",
    hint: "Only the mean of each patch is known; the model finds the detail.",
    steps: true,
  },
  denoise: { mode: "none", hint: "One call takes the noise away.", steps: false },
  interpolate: { mode: "none", hint: "Pictures from this one to another, under the same noise.", steps: false },
};

const form = byId<HTMLFormElement>("edit-form");
const fields = form.elements as HTMLFormControlsCollection & {
  kind: RadioNodeList & { value: EditKind };
  erase: HTMLInputElement;
  patch: RadioNodeList;
  add: HTMLInputElement;
  class: HTMLSelectElement;
  seed: HTMLInputElement;
  steps: RadioNodeList;
  count: RadioNodeList;
};
const level = byId<HTMLInputElement>("edit-sigma");
const frames = byId<HTMLInputElement>("frames");

/** What the controls asked for. */
interface Asked {
  options: EditOptions & { seed: number; image: ImageData; to?: ImageData };
  count: number;
  steps: string;
  /** Whether noise is added before it is taken away. */
  adds: boolean;
  hole: Uint8Array;
  /** Where the slider of σ was. */
  level: string;
}

export class EditView implements TabView {
  #page: Page;
  #info: ModelInfo | null = null;
  #canvas = new PaintCanvas(byId<HTMLCanvasElement>("paint"), () => this.#painted(), byId("cell"));
  /** Where the picture came from, in words. */
  #origin = "Blank";
  /** Whether a picture was put up, by a person or a link. */
  #begun = false;
  /** The other end of an interpolation. */
  #other: Pixels | null = null;
  #answers: Sample[] = [];
  #shown = 0;
  /** What the answers on the screen were asked for, for the link. */
  #asked: Asked | null = null;
  #strip = new StepStrip(byId("answer-steps"), 48, (step) => this.#showAnswer(this.#shown, step));

  constructor(page: Page) {
    this.#page = page;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#generate();
    });
    form.addEventListener("change", (event) => this.#changed(targetOf(event)));
    level.addEventListener("input", () => this.#update());
    byId("edit-dice").addEventListener("click", () => {
      if (page.queue.busy) return;
      fields.seed.value = String(randomSeed());
      form.requestSubmit();
    });
    byId("undo").addEventListener("click", () => this.#canvas.undo());
    byId("clear").addEventListener("click", () => this.#canvas.clear());
    byId("from-blank").addEventListener("click", () => this.#putBlank());
    byId("from-sample").addEventListener("click", () => {
      const sample = page.gallery.kept[0] ?? page.gallery.latest[0];
      if (sample) this.choose(sample);
      else page.say("There is no sample yet: generate some in the first tab");
    });
    byId("upload").addEventListener("change", (event) =>
      this.#upload(targetOf(event), (picture, name) => this.#put(picture, name)),
    );
    byId("upload-other").addEventListener("change", (event) =>
      this.#upload(targetOf(event), (picture) => this.#putOther(picture)),
    );
    byId("others").addEventListener("change", (event) => {
      const sample = page.gallery.latest[Number(targetOf(event).value)];
      if (sample) this.#putOther(this.#fitted(pixelsOf(sample)));
    });
    frames.addEventListener("input", () => this.#showAnswer(Number(frames.value)));
    addEventListener("paste", ({ clipboardData }) => {
      const file = [...(clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
      if (file && !byId("panel-edit").hidden) this.take(file);
    });
    roving(byId("answers"), ".tile");
    new ResizeObserver(() => this.#fit()).observe(byId("edit-well"));
    addShareButtons(byId("edit-share"), {
      ...page,
      samples: () => this.#answers.slice(this.#shown, this.#shown + 1),
    });
    const again = element("button", { type: "button", textContent: "Edit the answer" });
    again.addEventListener("click", () => {
      const answer = this.#answers[this.#shown];
      if (answer?.steps.length) this.choose(answer);
      else page.say("There is no answer yet");
    });
    byId("edit-share").append(again);
    // Until a model says otherwise: so that one can paint while it loads.
    this.#canvas.ground = GROUND;
    this.#renderPalette(1);
    this.#canvas.put({ pixels: filled(28, 28, GROUND), width: 28, height: 28 });
    this.#update();
  }

  /** Another model is there: what was painted is fitted to it. */
  use(info: ModelInfo): void {
    this.#info = info;
    const {
      sampleSize: [height, width],
      channels,
      numClassEmbeds,
    } = info;
    byId("edit-class-field").hidden = numClassEmbeds === null;
    fields.class.replaceChildren(...classOptions(info));
    offerSearch(byId<HTMLInputElement>("edit-class-search"), fields.class);
    const grey = channels !== 3;
    byId("colorize").title = grey ? "This model's pictures are grey" : "";
    enable("colorize", !grey);
    if (grey && fields.kind.value === "colorize") fields.kind.value = "inpaint";
    this.#renderPalette(channels);
    this.#renderPatches(width, height);
    const before = this.#canvas;
    if (before.width !== width || before.height !== height) {
      const begun = this.#begun;
      this.#put(this.#fitted(before), this.#origin);
      this.#begun = begun;
      this.#other = this.#other && this.#fitted(this.#other);
      this.#answers = [];
      this.#showAnswers();
    }
    this.#update();
  }

  async opened(): Promise<void> {
    this.#offerOthers();
    this.#fit();
    const { kept, latest } = this.#page.gallery;
    const sample = kept[0] ?? latest[0];
    if (sample?.steps.length && !this.#begun && !this.#canvas.canUndo) this.choose(sample);
  }

  /** Puts a sample on the paint canvas, with a hole, so that Generate shows at once what it is for. */
  choose(sample: Sample): void {
    const { label } = sample.recipe;
    if (label !== null && sample.model === this.#info?.name) fields.class.value = String(label);
    this.#put(this.#fitted(pixelsOf(sample)), nameOf(sample));
    const { width, height } = this.#canvas;
    const inside = (i: number) => Math.abs((i % width) - (width - 1) / 2) < 0.4 * width && i >= (width * height) / 2;
    this.#canvas.hole = Uint8Array.from(this.#canvas.hole, (_, i) => Number(inside(i)));
    this.#update();
  }

  /** Puts a file on the paint canvas. */
  async take(file: File): Promise<void> {
    await this.#read(file, (picture) => {
      this.#put(picture, file.name || "Pasted");
      this.#page.say("");
    });
  }

  keptChanged(): void {
    this.#offerOthers();
  }

  // The picture.

  #put(picture: Pixels, origin: string): void {
    this.#origin = origin;
    this.#begun = true;
    this.#canvas.put(picture);
    this.#update();
    this.#fit();
  }

  #putBlank(): void {
    const { width, height } = this.#canvas;
    this.#put({ pixels: filled(width, height, GROUND), width, height }, "Blank");
  }

  #putOther(picture: Pixels): void {
    this.#other = picture;
    const canvas = byId<HTMLCanvasElement>("other");
    paint(canvas, picture);
    canvas.style.width = `${smallWidth(picture.width)}px`;
    canvas.setAttribute("aria-label", "The other picture");
  }

  async #upload(input: HTMLInputElement, put: (picture: Pixels, name: string) => void): Promise<void> {
    const file = input.files?.[0];
    input.value = "";
    if (file) await this.#read(file, (picture) => put(picture, file.name));
  }

  /** Reads a file, in the model's size. */
  async #read(file: File, put: (picture: Pixels) => void): Promise<void> {
    try {
      byId("error").hidden = true;
      put(this.#grey(await readPicture(file, this.#canvas, GROUND)));
    } catch (error) {
      this.#page.fail(error);
    }
  }

  /** A picture in the model's size. */
  #fitted({ pixels, width, height }: Pixels): Pixels {
    const [h, w] = this.#info?.sampleSize ?? [height, width];
    if (w === width && h === height) return this.#grey({ pixels: pixels.slice(), width, height });
    return this.#grey(fit(offscreen({ pixels, width, height }), { width: w, height: h }, GROUND));
  }

  /** As the model sees it: a grey one sees the luma. */
  #grey(picture: Pixels): Pixels {
    if (this.#info?.channels !== 3) kept.luma(picture.pixels);
    return picture;
  }

  #painted(): void {
    byId<HTMLButtonElement>("undo").disabled = !this.#canvas.canUndo;
    byId("paint-caption").textContent =
      this.#canvas.canUndo && this.#canvas.mode === "colour" ? `${this.#origin}, painted on` : this.#origin;
  }

  // The tools.

  #changed({ name, value, checked }: HTMLInputElement): void {
    if (name === "size") this.#canvas.size = Number(value);
    if (name === "erase") this.#canvas.erase = checked;
    if (name === "colour") {
      this.#canvas.colour = value.split(",").map(Number) as Colour;
      this.#canvas.erase = fields.erase.checked = false;
    }
    this.#update();
  }

  /** Shows what belongs to the tool, and in the picture's place what of it the model gets to know. */
  #update(): void {
    const kind = fields.kind.value;
    const { mode, hint, steps } = TOOLS[kind];
    const canvas = this.#canvas;
    canvas.mode = mode;
    byId("tool-hint").textContent = hint;
    const shown = {
      "brush-field": mode !== "none",
      palette: mode === "colour",
      "patch-field": kind === "super-resolution",
      "sigma-field": kind === "denoise",
      "other-field": kind === "interpolate",
      "calls-field": steps,
      "answers-field": steps || kind === "stroke",
    };
    for (const [id, visible] of Object.entries(shown)) byId(id).hidden = !visible;
    byId("paint-help").textContent =
      mode === "none"
        ? ""
        : "Paint with the mouse or a finger; or with arrow keys and Space, Shift with an arrow paints along. Ctrl+Z undoes.";
    byId("edit-sigma-value").textContent = sigma(this.#noise());
    const pixels = () => canvas.pixels.slice();
    if (kind === "colorize") canvas.preview(kept.luma(pixels()));
    else if (kind === "super-resolution") {
      canvas.preview(kept.means(pixels(), canvas.width, Number(fields.patch.value)));
    } else canvas.preview(null);
    this.#painted();
  }

  #noise(): number {
    const { sigmaMin = 0.002, sigmaMax = 80 } = this.#info ?? {};
    return Number(Math.min(Math.max(10 ** Number(level.value), sigmaMin), sigmaMax).toPrecision(3));
  }

  #renderPalette(channels: number): void {
    const colours = paletteOf(channels);
    byId("palette").replaceChildren(
      ...colours.map(([name, colour], i) => {
        const input = element("input", {
          type: "radio",
          name: "colour",
          value: colour.join(),
          checked: i === 0,
          "aria-label": name,
        });
        const swatch = element("span", { title: name });
        swatch.style.backgroundColor = `rgb(${colour.join()})`;
        return element("label", {}, input, swatch);
      }),
    );
    this.#canvas.colour = colours[0][1];
  }

  #renderPatches(width: number, height: number): void {
    const field = byId("patch-field");
    const patches = patchesOf(width, height);
    removeLabels(field);
    for (const patch of patches) {
      const input = element("input", {
        type: "radio",
        name: "patch",
        value: patch,
        checked: patch === (patches.includes(4) ? 4 : patches[0]),
      });
      field.append(element("label", {}, input, element("span", { textContent: `${patch} × ${patch}` })));
    }
    enable("super-resolution", patches.length > 0);
  }

  /** The gallery, as the other ends of an interpolation. */
  #offerOthers(): void {
    const field = byId("others");
    removeLabels(field);
    field.append(...this.#page.gallery.latest.slice(0, 12).map((sample, i) => choice("other", i, sample)));
  }

  // The answers.

  async #generate(): Promise<void> {
    const kind = fields.kind.value;
    if (kind === "inpaint" && !this.#canvas.hole.includes(1)) {
      this.#page.say("Paint over what is to be made anew first");
      byId("paint").focus();
      return;
    }
    if (kind === "interpolate" && !this.#other) {
      this.#page.say("Choose the other picture first");
      return;
    }
    await this.#page.foreground(async (sampler, signal) => {
      const asked = this.#ask(sampler.info);
      const { options, count } = asked;
      this.#page.say(count === 1 ? "Generating an answer…" : `Generating ${count} answers…`);
      const recipe = { noise: options.seed, steps: asked.steps, label: options.classLabels?.[0] ?? null };
      const answers = Array.from({ length: count }, () => blank(sampler.info, recipe, count, kind));
      const onStep = (step: Step) => {
        addStep(step, answers);
        if (step.index === 0) {
          this.#answers = answers;
          this.#asked = asked;
          this.#shown = Math.min(this.#shown, count - 1);
          this.#strip.expect(step.steps);
          this.#showAnswers();
        }
        this.#showAnswer(this.#shown, step.index);
      };
      const run = asked.adds
        ? await this.#denoise(sampler, { ...options, sigma: options.sigma ?? 0, signal }, onStep)
        : await sampler.edit({ ...options, signal, onStep, onProgress: this.#page.progress });
      finish(answers, run);
      this.#showAnswers();
      // The frames of an interpolation are much alike, and would crowd out what lies in the gallery.
      if (kind !== "interpolate") this.#page.gallery.add(answers);
      this.#offerOthers();
      await this.#page.updateAddress();
      this.#page.say(
        `${many(count, "answer")} in ${duration(run.milliseconds)} with ${many(run.networkCalls, "network call")}`,
      );
    });
  }

  /** Adds noise, takes it away, and shows both. */
  async #denoise(
    sampler: ConsistencySampler,
    { image, sigma, seed, classLabels, signal }: DenoiseOptions,
    onStep: (step: Step) => void,
  ): Promise<Run> {
    const begin = performance.now();
    const { noisy, denoised } = await sampler.denoise({ image, sigma, seed, classLabels, signal });
    this.#canvas.preview(noisy);
    onStep({ index: 0, steps: 1, sigma, pixels: denoised, last: true });
    return { networkCalls: 1, milliseconds: performance.now() - begin };
  }

  /** What the controls ask for. */
  #ask({ numClassEmbeds }: ModelInfo): Asked {
    const kind = fields.kind.value;
    const { width, height, pixels, hole } = this.#canvas;
    const image = new ImageData(pixels.slice(), width, height);
    const count =
      kind === "interpolate" ? FRAMES : TOOLS[kind].steps || kind === "stroke" ? Number(fields.count.value) : 1;
    const options: Asked["options"] = { kind, image, count, seed: Number(fields.seed.value) };
    if (numClassEmbeds !== null) options.classLabels = [Number(fields.class.value)];
    if (TOOLS[kind].steps) options.numInferenceSteps = Number(fields.steps.value);
    if (kind === "inpaint") options.mask = new ImageData(maskPixels(hole), width, height);
    if (kind === "super-resolution") options.patch = Number(fields.patch.value);
    if (kind === "denoise") options.sigma = this.#noise();
    if (kind === "interpolate" && this.#other) {
      options.to = new ImageData(this.#other.pixels.slice(), width, height);
      options.amounts = Array.from({ length: FRAMES }, (_, i) => i / (FRAMES - 1));
    }
    const steps = TOOLS[kind].steps ? fields.steps.value : kind === "stroke" ? "2" : "1";
    const adds = kind === "denoise" && fields.add.checked;
    return { options, count, steps, adds, hole: hole.slice(), level: level.value };
  }

  /** Lays out the answers, to choose one. */
  #showAnswers(): void {
    const list = byId("answers");
    const walks = this.#asked?.options.kind === "interpolate" && this.#answers.length > 1;
    list.hidden = this.#answers.length < 2;
    byId("edit-share").hidden = !this.#answers.length;
    byId("frames-field").hidden = !walks;
    if (!this.#answers.length) {
      this.#strip.hide();
      byId("answer-caption").textContent = "The answer comes here";
      return;
    }
    if (walks) frames.max = String(this.#answers.length - 1);
    list.replaceChildren(
      ...this.#answers.map((answer, i) => {
        const made = tile(answer, { name: `Answer ${i + 1}`, caption: String(i + 1) });
        made.addEventListener("click", () => this.#showAnswer(i));
        return element("li", {}, made);
      }),
    );
    this.#mark();
    this.#fit();
  }

  #mark(): void {
    byId("answers")
      .querySelectorAll(".tile")
      .forEach((tile, i) => {
        tile.setAttribute("aria-pressed", String(i === this.#shown));
      });
    frames.value = String(this.#shown);
  }

  /** Shows an answer after one of its steps, the last by default. */
  #showAnswer(index: number, step?: number): void {
    const changed = this.#shown !== index;
    this.#shown = index;
    const answer = this.#answers[index];
    if (!answer) return;
    step ??= answer.steps.length - 1;
    const noise = answer.steps[step]?.sigma ?? 0;
    const canvas = byId<HTMLCanvasElement>("answer");
    paint(canvas, pixelsOf(answer, step));
    if (changed) this.#strip.show(answer);
    else this.#strip.add(step, noise, pixelsOf(answer, step));
    const words = [form.querySelector(`[value=${answer.edit}] + span`)?.textContent, `seed ${answer.recipe.noise}`];
    if (this.#answers.length > 1) words.push(`${index + 1} of ${this.#answers.length}`);
    words.push(`from σ ${sigma(noise)}`);
    byId("answer-caption").textContent = words.join(" · ");
    canvas.setAttribute("aria-label", `Answer: ${words.join(", ")}`);
    this.#mark();
    this.#fit();
  }

  #fit(): void {
    const well = byId("edit-well");
    if (!well.clientWidth) return;
    const room = innerWidthOf(well);
    const beside = room >= 480;
    const answer = byId<HTMLCanvasElement>("answer");
    if (answer.parentElement) answer.parentElement.hidden = !beside && !this.#answers.length;
    const { width, height } = this.#canvas;
    const most = Math.min(beside ? (room - 24) / 2 : room, (0.62 * innerHeight * width) / height);
    for (const canvas of [byId("paint"), answer]) canvas.style.width = `${width * pixelScale(most, width)}px`;
    if (!this.#answers.length) resize(answer, this.#canvas);
  }

  // The address.

  async address() {
    if (!this.#asked || !this.#info) return { query: {} };
    const { options, hole, steps, adds, level } = this.#asked;
    const { kind, image, to, seed, count, patch, classLabels } = options;
    const { channels } = this.#info;
    const hash: Record<string, string> = { picture: await pictureText(image.data, channels) };
    if (kind === "inpaint") hash.mask = await maskText(hole);
    if (to) hash.to = await pictureText(to.data, channels);
    const query = {
      kind,
      seed,
      steps: TOOLS[kind].steps ? steps : undefined,
      class: classLabels?.[0],
      count: kind === "interpolate" || kind === "denoise" ? undefined : count,
      patch,
      sigma: kind === "denoise" ? level : undefined,
      add: kind === "denoise" ? Number(adds) : undefined,
    };
    return { query, hash };
  }

  /** Sets the controls and the picture from the address and edits. */
  async restore(query: URLSearchParams, hash: URLSearchParams): Promise<string[]> {
    const refused: string[] = [];
    if (!query.has("kind") || !this.#info) return refused;
    for (const [name, expected] of Object.entries({
      kind: "a tool that suits the model",
      seed: "a whole number",
      steps: "2, 4 or 8",
      class: "one of the model's classes",
      count: "1 or 4",
      patch: "a divisor of the picture's sides",
    })) {
      const value = query.get(name);
      const control = fields[name as "kind" | "seed" | "steps" | "class" | "count" | "patch"];
      if (value === null || !control) continue;
      if (!(name === "kind" && tool(value)?.disabled) && setValue(control, value)) continue;
      refused.push(`${name}=${value}, expected ${expected}`);
    }
    level.value = query.get("sigma") ?? level.value;
    if (query.has("add")) fields.add.checked = query.get("add") !== "0";
    const [height, width] = this.#info.sampleSize;
    const size = { width, height, channels: this.#info.channels };
    const read = async <T>(name: string, parse: (text: string, size: Size) => Promise<T | null>) => {
      const text = hash.get(name);
      if (text === null) return null;
      const parsed = await parse(text, size);
      if (!parsed) refused.push(`${name}, expected ${width} × ${height} pixels`);
      return parsed;
    };
    const [picture, other, hole] = [
      await read("picture", parsePicture),
      await read("to", parsePicture),
      await read("mask", parseMask),
    ];
    if (picture) this.#put(picture, "From the link");
    if (other) this.#putOther(other);
    if (hole) this.#canvas.hole = hole;
    this.#update();
    if (picture) await this.#generate();
    return refused;
  }
}

/** White in the hole. */
function maskPixels(hole: Uint8Array): Pixels["pixels"] {
  const pixels = new Uint8ClampedArray(4 * hole.length);
  for (const [i, isHole] of hole.entries()) pixels.set([255 * isHole, 255 * isHole, 255 * isHole, 255], 4 * i);
  return pixels;
}

/** The radio button of a tool. */
const tool = (kind: string) => ([...fields.kind] as HTMLInputElement[]).find(({ value }) => value === kind);

function enable(kind: EditKind, enabled: boolean): void {
  const radio = tool(kind);
  if (radio) radio.disabled = !enabled;
}
