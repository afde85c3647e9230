// The tab that edits: a picture, a tool, and the answers of the model (Song et al. 2023, Algorithm 4).

import { byId, element, paint, roving } from "./dom.js";
import { Easel, filled } from "./easel.js";
import { nameOf, smallWidth, tile } from "./gallery.js";
import { maskText, parseMask, parsePicture, pictureText } from "./link-text.js";
import { fit, readPicture } from "./picture-file.js";
import { blank, dice, finish, land, pixelsOf } from "./samples.js";
import { offer } from "./share.js";
import { Strip } from "./strip.js";
import { kept, paletteOf, patchesOf } from "./edit-tools.js";
import { duration, many, sigma } from "./words.js";

/** What transparent pixels, the blank and the eraser are. */
const GROUND = [0, 0, 0];

/** How many pictures an interpolation makes, its ends among them. */
const FRAMES = 9;

/** What each tool does, what the picture under the easel says of its use, and what it calls the network for. */
const TOOLS = {
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

const form = byId("edit-form");
const fields = form.elements;

export class EditView {
  #page;
  #info = null;
  #easel = new Easel(byId("easel"), () => this.#painted());
  /** Where the picture came from, in words. */
  #origin = "Blank";
  /** The other end of an interpolation. @type {?import("./picture-file.js").Picture} */
  #other = null;
  /** @type {import("./samples.js").Sample[]} */
  #answers = [];
  #shown = 0;
  /** What the answers on the screen were asked for, for the link. */
  #asked = null;
  #strip = new Strip(byId("answer-steps"), 48, (step) => this.#showAnswer(this.#shown, step));

  /** @param {import("./app.js").Page} page */
  constructor(page) {
    this.#page = page;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#generate();
    });
    form.addEventListener("change", ({ target }) => this.#changed(target));
    byId("edit-sigma").addEventListener("input", () => this.#follow());
    byId("edit-dice").addEventListener("click", () => {
      if (page.runner.busy) return;
      fields.seed.value = dice();
      form.requestSubmit();
    });
    byId("undo").addEventListener("click", () => this.#easel.undo());
    byId("clear").addEventListener("click", () => this.#easel.clear());
    byId("from-blank").addEventListener("click", () => this.#putBlank());
    byId("from-sample").addEventListener("click", () => {
      const sample = page.gallery.kept[0] ?? page.gallery.latest[0];
      if (sample) this.choose(sample);
      else page.say("There is no sample yet: generate some in the first tab");
    });
    byId("upload").addEventListener("change", ({ target }) =>
      this.#upload(target, (picture, name) => this.#put(picture, name)),
    );
    byId("upload-other").addEventListener("change", ({ target }) =>
      this.#upload(target, (picture) => this.#putOther(picture)),
    );
    byId("others").addEventListener("change", ({ target }) =>
      this.#putOther(this.#fitted(this.#page.gallery.latest[target.value])),
    );
    byId("frames").addEventListener("input", ({ target }) => this.#showAnswer(Number(target.value)));
    addEventListener("paste", ({ clipboardData }) => {
      const file = [...(clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
      if (file && !byId("panel-edit").hidden) this.take(file);
    });
    roving(byId("answers"), ".tile");
    new ResizeObserver(() => this.#fit()).observe(byId("edit-well"));
    offer(byId("edit-share"), {
      ...page,
      samples: () => this.#answers.slice(this.#shown, this.#shown + 1),
      link: () => page.link(),
    });
    const again = element("button", { type: "button", textContent: "Edit the answer" });
    again.addEventListener("click", () => {
      const answer = this.#answers[this.#shown];
      if (answer?.steps.length) this.choose(answer);
      else page.say("There is no answer yet");
    });
    byId("edit-share").append(again);
    // Until a model says otherwise: so that one can paint while it loads.
    this.#easel.ground = GROUND;
    this.#layPalette(1);
    this.#easel.put({ pixels: filled(28, 28, GROUND), width: 28, height: 28 });
    this.#follow();
  }

  /** Another model is there: what was painted is fitted to it. */
  use(info) {
    this.#info = info;
    const {
      sampleSize: [height, width],
      channels,
      numClassEmbeds,
      classNames,
    } = info;
    byId("edit-class-field").hidden = numClassEmbeds === null;
    byId("edit-class").replaceChildren(
      ...Array.from({ length: numClassEmbeds ?? 0 }, (_, label) => new Option(classNames?.[label] ?? label, label)),
    );
    const colorize = form.querySelector("[value=colorize]");
    colorize.disabled = channels !== 3;
    colorize.closest("label").title = channels === 3 ? "" : "This model's pictures are grey";
    if (colorize.disabled && colorize.checked) fields.kind.value = "inpaint";
    this.#layPalette(channels);
    this.#layPatches(width, height);
    const before = this.#easel;
    if (before.width !== width || before.height !== height) {
      this.#put(this.#fitted(before), this.#origin);
      this.#other = this.#other && this.#fitted(this.#other);
      this.#answers = [];
      this.#showAnswers();
    }
    this.#follow();
  }

  async opened() {
    this.#offerOthers();
    this.#fit();
  }

  /** Puts a sample on the easel. */
  choose(sample) {
    if (sample.recipe.label !== null && sample.model === this.#info?.name) fields.class.value = sample.recipe.label;
    this.#put(this.#fitted(sample), nameOf(sample));
  }

  /** Puts a file on the easel. */
  async take(file) {
    try {
      byId("error").hidden = true;
      const { width, height } = this.#easel;
      this.#put(this.#grey(await readPicture(file, width, height, GROUND)), file.name || "Pasted");
      this.#page.say("");
    } catch (error) {
      this.#page.fail(error);
    }
  }

  keptChanged() {
    this.#offerOthers();
  }

  // The picture.

  #put(picture, origin) {
    this.#origin = origin;
    this.#easel.put(picture);
    this.#follow();
    this.#fit();
  }

  #putBlank() {
    const { width, height } = this.#easel;
    this.#put({ pixels: filled(width, height, GROUND), width, height }, "Blank");
  }

  #putOther(picture) {
    this.#other = picture;
    const canvas = byId("other");
    paint(canvas, picture);
    canvas.style.width = `${smallWidth(picture.width)}px`;
    canvas.setAttribute("aria-label", "The other picture");
  }

  async #upload(input, put) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      byId("error").hidden = true;
      const { width, height } = this.#easel;
      put(this.#grey(await readPicture(file, width, height, GROUND)), file.name);
    } catch (error) {
      this.#page.fail(error);
    }
  }

  /** A sample or another picture, in the model's size. */
  #fitted(source) {
    const { pixels, width, height } = source.steps ? pixelsOf(source) : source;
    const [h, w] = this.#info?.sampleSize ?? [height, width];
    if (w === width && h === height) return this.#grey({ pixels: pixels.slice(), width, height });
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
    return this.#grey(fit(canvas, w, h, GROUND));
  }

  /** As the model sees it: a grey one sees the luma. */
  #grey(picture) {
    if (this.#info?.channels !== 3) kept.luma(picture.pixels);
    return picture;
  }

  #painted() {
    byId("undo").disabled = !this.#easel.canUndo;
    byId("easel-caption").textContent =
      this.#easel.canUndo && this.#easel.mode === "colour" ? `${this.#origin}, painted on` : this.#origin;
  }

  // The tools.

  #changed({ name, value, checked }) {
    if (name === "size") this.#easel.size = Number(value);
    if (name === "erase") this.#easel.erase = checked;
    if (name === "colour") {
      this.#easel.colour = value.split(",").map(Number);
      this.#easel.erase = fields.erase.checked = false;
    }
    this.#follow();
  }

  /** Shows what belongs to the tool, and on the easel what of the picture the model gets to know. */
  #follow() {
    const kind = fields.kind.value;
    const { mode, hint, steps } = TOOLS[kind];
    const easel = this.#easel;
    easel.mode = mode;
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
    byId("easel-help").textContent =
      mode === "none"
        ? ""
        : "Paint with the mouse or a finger; or with arrow keys and Space, Shift with an arrow paints along. Ctrl+Z undoes.";
    byId("edit-sigma-value").textContent = sigma(this.#noise());
    const known = {
      colorize: () => kept.luma(easel.pixels.slice()),
      "super-resolution": () => kept.means(easel.pixels.slice(), easel.width, Number(fields.patch.value)),
    }[kind];
    easel.preview(known ? known() : null);
    this.#painted();
  }

  #noise() {
    const level = 10 ** Number(byId("edit-sigma").value);
    const { sigmaMin = 0.002, sigmaMax = 80 } = this.#info ?? {};
    return Number(Math.min(Math.max(level, sigmaMin), sigmaMax).toPrecision(3));
  }

  #layPalette(channels) {
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
    this.#easel.colour = colours[0][1];
  }

  #layPatches(width, height) {
    const field = byId("patch-field");
    const patches = patchesOf(width, height);
    field.querySelectorAll("label").forEach((label) => label.remove());
    patches.forEach((patch) => {
      const input = element("input", {
        type: "radio",
        name: "patch",
        value: patch,
        checked: patch === (patches.includes(4) ? 4 : patches[0]),
      });
      field.append(element("label", {}, input, element("span", { textContent: `${patch} × ${patch}` })));
    });
    form.querySelector("[value=super-resolution]").disabled = !patches.length;
  }

  /** The gallery, as the other ends of an interpolation. */
  #offerOthers() {
    const field = byId("others");
    field.querySelectorAll("label").forEach((label) => label.remove());
    this.#page.gallery.latest.slice(0, 12).forEach((sample, i) => {
      const canvas = element("canvas");
      paint(canvas, pixelsOf(sample));
      canvas.style.width = `${smallWidth(sample.width, 48)}px`;
      const input = element("input", { type: "radio", name: "other", value: i, "aria-label": nameOf(sample) });
      field.append(element("label", { title: nameOf(sample) }, input, element("span", {}, canvas)));
    });
  }

  // The answers.

  #generate() {
    const kind = fields.kind.value;
    const easel = this.#easel;
    if (kind === "inpaint" && !easel.hole.includes(1)) {
      this.#page.say("Paint over what is to be made anew first");
      byId("easel").focus();
      return;
    }
    if (kind === "interpolate" && !this.#other) {
      this.#page.say("Choose the other picture first");
      return;
    }
    return this.#page.foreground(async (sampler, signal) => {
      const asked = this.#ask(sampler.info);
      const { options, count } = asked;
      this.#page.say(count === 1 ? "Generating an answer…" : `Generating ${count} answers…`);
      const recipe = { noise: options.seed, steps: asked.steps, label: options.classLabels?.[0] ?? null };
      const answers = Array.from({ length: count }, () => blank(sampler.info, recipe, count, kind));
      const onStep = (step) => {
        land(step, answers);
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
        ? await this.#denoise(sampler, options, signal, onStep)
        : await sampler.edit({ ...options, signal, onStep });
      finish(answers, run);
      this.#showAnswers();
      // The frames of an interpolation are much alike, and would crowd out what lies in the gallery.
      if (kind !== "interpolate") this.#page.gallery.add(answers);
      this.#offerOthers();
      await this.#page.note();
      this.#page.say(
        `${many(count, "answer")} in ${duration(run.milliseconds)} with ${many(run.networkCalls, "network call")}`,
      );
    });
  }

  /** Adds noise, takes it away, and shows both. */
  async #denoise(sampler, { image, sigma, seed, classLabels }, signal, onStep) {
    const begin = performance.now();
    const { noisy, denoised } = await sampler.denoise({ image, sigma, seed, classLabels, signal });
    this.#easel.preview(noisy);
    onStep({ index: 0, steps: 1, sigma, pixels: denoised, last: true });
    return { networkCalls: 1, milliseconds: performance.now() - begin };
  }

  /** What the controls ask for. */
  #ask({ numClassEmbeds }) {
    const kind = fields.kind.value;
    const { width, height, pixels, hole } = this.#easel;
    const image = new ImageData(pixels.slice(), width, height);
    const count =
      kind === "interpolate" ? FRAMES : TOOLS[kind].steps || kind === "stroke" ? Number(fields.count.value) : 1;
    const options = { kind, image, count, seed: Number(fields.seed.value) };
    if (numClassEmbeds !== null) options.classLabels = [Number(fields.class.value)];
    if (TOOLS[kind].steps) options.numInferenceSteps = Number(fields.steps.value);
    if (kind === "inpaint") options.mask = new ImageData(maskPixels(hole), width, height);
    if (kind === "super-resolution") options.patch = Number(fields.patch.value);
    if (kind === "denoise") options.sigma = this.#noise();
    if (kind === "interpolate") {
      options.to = new ImageData(this.#other.pixels.slice(), width, height);
      options.amounts = Array.from({ length: FRAMES }, (_, i) => i / (FRAMES - 1));
    }
    const steps = TOOLS[kind].steps ? fields.steps.value : kind === "stroke" ? "2" : "1";
    const adds = kind === "denoise" && fields.add.checked;
    return { options, count, steps, adds, hole: hole.slice(), level: byId("edit-sigma").value };
  }

  /** Lays out the answers, to choose one. */
  #showAnswers() {
    const list = byId("answers");
    const frames = this.#asked?.options.kind === "interpolate" && this.#answers.length > 1;
    list.hidden = this.#answers.length < 2;
    byId("edit-share").hidden = !this.#answers.length;
    byId("frames-field").hidden = !frames;
    if (!this.#answers.length) {
      this.#strip.hide();
      byId("answer-caption").textContent = "The answer comes here";
      return;
    }
    if (frames) byId("frames").max = this.#answers.length - 1;
    list.replaceChildren(
      ...this.#answers.map((answer, i) => {
        const made = tile(answer);
        made.setAttribute("aria-label", `Answer ${i + 1}`);
        made.querySelector(".seed").textContent = i + 1;
        made.addEventListener("click", () => this.#showAnswer(i));
        return element("li", {}, made);
      }),
    );
    this.#mark();
    this.#fit();
  }

  #mark() {
    [...byId("answers").querySelectorAll(".tile")].forEach((tile, i) =>
      tile.setAttribute("aria-pressed", i === this.#shown),
    );
    byId("frames").value = this.#shown;
  }

  #showAnswer(index, step = this.#answers[index].steps.length - 1) {
    const changed = this.#shown !== index;
    this.#shown = index;
    const answer = this.#answers[index];
    const canvas = byId("answer");
    paint(canvas, pixelsOf(answer, step));
    if (changed) this.#strip.show(answer);
    else this.#strip.land(step, answer.steps[step].sigma, pixelsOf(answer, step));
    const words = [
      TOOLS[answer.edit] && form.querySelector(`[value=${answer.edit}] + span`).textContent,
      `seed ${answer.recipe.noise}`,
    ];
    if (this.#answers.length > 1) words.push(`${index + 1} of ${this.#answers.length}`);
    words.push(`from σ ${sigma(answer.steps[step].sigma)}`);
    byId("answer-caption").textContent = words.join(" · ");
    canvas.setAttribute("aria-label", `Answer: ${words.join(", ")}`);
    this.#mark();
    this.#fit();
  }

  #fit() {
    const well = byId("edit-well");
    if (!well.clientWidth) return;
    const { paddingInlineStart } = getComputedStyle(well);
    const room = well.clientWidth - 2 * parseFloat(paddingInlineStart);
    const beside = room >= 480;
    byId("answer").parentElement.hidden = !beside && !this.#answers.length;
    const { width, height } = this.#easel;
    const most = Math.min(beside ? (room - 24) / 2 : room, (0.62 * innerHeight * width) / height);
    const scale = Math.floor((most / width) * devicePixelRatio) / devicePixelRatio || most / width;
    for (const id of ["easel", "answer"]) byId(id).style.width = `${scale * width}px`;
    const answer = byId("answer");
    if (!this.#answers.length && (answer.width !== width || answer.height !== height))
      Object.assign(answer, { width, height });
  }

  // The address.

  async address() {
    if (!this.#asked) return {};
    const { options, hole, steps, adds, level } = this.#asked;
    const { kind, image, to, seed, count, patch, classLabels } = options;
    const { channels } = this.#info;
    const hash = { picture: await pictureText({ pixels: image.data }, channels) };
    if (kind === "inpaint") hash.mask = await maskText(hole);
    if (to) hash.to = await pictureText({ pixels: to.data }, channels);
    return {
      kind,
      seed,
      steps: TOOLS[kind].steps ? steps : undefined,
      class: classLabels?.[0],
      count: kind === "interpolate" || kind === "denoise" ? undefined : count,
      patch,
      sigma: kind === "denoise" ? level : undefined,
      add: kind === "denoise" ? Number(adds) : undefined,
      hash,
    };
  }

  /** Sets the controls and the easel from the address and edits; returns what it gets wrong, in words. */
  async restore(address, hash) {
    const refused = [];
    if (!address.has("kind")) return refused;
    for (const [name, expected] of Object.entries({
      kind: "a tool that suits the model",
      seed: "a whole number",
      steps: "2, 4 or 8",
      class: "one of the model's classes",
      count: "1 or 4",
      patch: "a divisor of the picture's sides",
    })) {
      const value = address.get(name);
      const control = fields[name];
      if (value === null || !control) continue;
      const initial = control.value;
      control.value = value;
      const chosen = control.value === value && control.validity?.valid !== false;
      if (chosen && !(name === "kind" && form.querySelector(`[value="${value}"]`).disabled)) continue;
      control.value = initial;
      refused.push(`${name}=${value}, expected ${expected}`);
    }
    if (address.has("sigma")) byId("edit-sigma").value = address.get("sigma");
    if (address.has("add")) fields.add.checked = address.get("add") !== "0";
    const [height, width] = this.#info.sampleSize;
    const size = { width, height, channels: this.#info.channels };
    const read = async (name, parse) => {
      if (!hash.has(name)) return null;
      const parsed = await parse(hash.get(name), size);
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
    if (hole) this.#easel.hole = hole;
    this.#follow();
    if (picture) await this.#generate();
    return refused;
  }
}

/** White in the hole. */
function maskPixels(hole) {
  const pixels = new Uint8ClampedArray(4 * hole.length);
  hole.forEach((isHole, i) => pixels.set([255 * isHole, 255 * isHole, 255 * isHole, 255], 4 * i));
  return pixels;
}
