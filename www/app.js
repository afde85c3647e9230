// The page: controls in, pictures out. The model itself lives behind `consistency-sampler.js`.
//
// The address names the picture: ?seed=…&steps=…&class=…&count=…, and optionally ?model=…, an address or hub id. A
// link must not make a visitor's browser ask another site, so only a folder of this one is loaded unasked.

import * as picker from "./model-picker.js";

const DEFAULT_MODEL = "weights/mnist/";

/** The published timesteps for two steps, by the name that follows "openai/diffusers-". */
const PUBLISHED = {
  cd_imagenet64_l2: "22,0",
  cd_imagenet64_lpips: "22,0",
  ct_imagenet64: "106,0",
  cd_bedroom256_l2: "18,0",
  cd_bedroom256_lpips: "17,0",
  ct_bedroom256: "67,0",
  ct_cat256: "62,0",
};

/** Between two images, in pixels of an image. */
const GAP = 1;

const byId = (id) => document.getElementById(id);
const form = byId("controls");
const canvas = byId("canvas");
const shown = byId("shown");

/** The loaded model; null when there is none. */
let sampler = null;
/** How often another model was asked for. */
let changes = 0;
/** What the canvas holds: the request, its steps so far, and which of them is shown; undefined before the first. */
let picture;
/** Aborts the run under way; null when there is none. */
let run = null;

picker.connect((model) => change(model).catch(fail));
start().catch(fail);

async function start() {
  const address = new URLSearchParams(location.search);
  const model = address.get("model") ?? DEFAULT_MODEL;
  if (!/\/$|^[./]/.test(model) || new URL(model, document.baseURI).origin !== location.origin) {
    byId("address").value = model;
    say("The model in this page's address is not of this site: press Load to fetch it");
    return;
  }
  await change(model, address);
}

/** Loads another model and draws with it; `address` sets the controls. */
async function change(model, address) {
  const turn = ++changes;
  run?.abort();
  sampler?.dispose();
  sampler = null;
  setReady(false);
  byId("error").hidden = true;
  say(typeof model === "string" ? `Loading the model ${model}` : "Loading the model");
  try {
    sampler = await picker.load(model);
  } catch (error) {
    if (turn !== changes) return; // another model is wanted by now
    if (error.name !== "AbortError") throw error;
    say("Cancelled");
    return;
  }
  say("");
  picker.describe(sampler.info);
  fillClasses();
  offerPublished();
  const refused = address ? restore(address) : [];
  if (refused.length) fail(new Error(`ignored in the address: ${refused.join("; ")}`));
  picture = undefined;
  shown.hidden = true;
  setReady(true);
  await Promise.all([showSigmas(), generate()]);
}

function setReady(ready) {
  byId("fields").disabled = !ready;
  byId("generate").disabled = !ready;
}

// What the person does.

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (run) return;
  byId("error").hidden = true;
  generate().catch(fail);
});
form.addEventListener("change", ({ target }) => {
  if (target.name === "steps") showSigmas().catch(fail);
});
byId("dice").addEventListener("click", () => {
  if (run) return;
  form.elements.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
  form.requestSubmit();
});
byId("cancel").addEventListener("click", () => run?.abort());
shown.addEventListener("change", ({ target }) => {
  picture.shown = Number(target.value);
  draw();
});
new ResizeObserver(fit).observe(byId("stage"));

// Sampling.

async function generate() {
  const request = readControls();
  const { seed, steps, count, classLabels } = request;
  run = new AbortController();
  setRunning(true);
  say(`Generating ${many(count, "image")}…`);
  if (!picture) {
    picture = { request, steps: [], shown: 0 };
    draw();
  }
  try {
    const options = { seed, count, classLabels, ...scheduleOf(steps), signal: run.signal };
    const result = await sampler.sample({ ...options, onStep: (step) => land(request, step) });
    say(
      `${many(count, "image")} in ${duration(result.milliseconds)} with ${many(result.networkCalls, "network call")}`,
    );
    history.replaceState(null, "", addressOf(request));
  } catch (error) {
    // Another model took over: there is nothing to say of a run that was its predecessor's.
    if (error.code === "disposed") return;
    if (error.name !== "AbortError") throw error;
    say("Cancelled");
  } finally {
    run = null;
    setRunning(false);
  }
}

/** A number of steps, or a list of timesteps, as the sampler takes it. */
function scheduleOf(steps) {
  return steps.includes(",") ? { timesteps: steps.split(",").map(Number) } : { numInferenceSteps: Number(steps) };
}

/** What the controls ask for; `class` is a label or "each", `steps` a number or a list of timesteps. */
function readControls() {
  const data = new FormData(form);
  const request = {
    seed: Number(data.get("seed")),
    steps: data.get("steps"),
    count: Number(data.get("count")),
  };
  const classes = sampler.info.numClassEmbeds;
  if (classes === null) return request;
  const label = data.get("class");
  const classLabels = Array.from({ length: request.count }, (_, i) => (label === "each" ? i % classes : Number(label)));
  return { ...request, class: label, classLabels };
}

/** Shows a step as soon as it lands, and offers it among the steps to look at. */
function land(request, step) {
  if (step.index === 0) {
    picture = { request, steps: [], shown: 0 };
    shown.querySelectorAll("label").forEach((label) => label.remove());
    for (let i = 0; i < step.steps; i++) shown.append(chip(i));
    shown.hidden = false;
  }
  picture.steps.push(step);
  picture.shown = step.index;
  const label = shown.querySelectorAll("label")[step.index];
  label.querySelector("span").textContent = `${step.index + 1}, from σ ${sigma(step.sigma)}`;
  Object.assign(label.querySelector("input"), { disabled: false, checked: true });
  draw();
}

/** The radio button of a step that has not landed yet. */
function chip(index) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), {
    type: "radio",
    name: "shown",
    value: index,
    disabled: true,
  });
  const text = Object.assign(document.createElement("span"), { textContent: index + 1 });
  label.append(input, text);
  return label;
}

/** While a run is under way Generate keeps the keyboard's focus, so it is not disabled but only inert. */
function setRunning(running) {
  const cancel = byId("cancel");
  byId("generate").setAttribute("aria-disabled", running);
  if (!running && document.activeElement === cancel) byId("generate").focus();
  cancel.disabled = !running;
}

// The canvas.

/** Draws the shown step, the images side by side; before the first step, the places where they will be. */
function draw() {
  const { request, steps, shown } = picture;
  const [height, width] = sampler.info.sampleSize;
  const columns = columnsFor(request.count);
  canvas.hidden = false;
  canvas.width = columns * (width + GAP) - GAP;
  canvas.height = Math.ceil(request.count / columns) * (height + GAP) - GAP;
  canvas.setAttribute("aria-label", describePicture());
  fit();
  const context = canvas.getContext("2d");
  const bytes = width * height * 4;
  for (let i = 0; i < request.count; i++) {
    const [x, y] = [(i % columns) * (width + GAP), Math.floor(i / columns) * (height + GAP)];
    const pixels = steps[shown]?.pixels.subarray(i * bytes, (i + 1) * bytes);
    if (pixels) context.putImageData(new ImageData(pixels, width, height), x, y);
    else context.fillRect(x, y, width, height);
  }
}

/** Gives each sample pixel as many whole screen pixels as the stage has room for, so that all come out equally large. */
function fit() {
  const room = Math.min(byId("stage").clientWidth / canvas.width, (0.62 * innerHeight) / canvas.height);
  const whole = Math.floor(room * devicePixelRatio) / devicePixelRatio;
  canvas.style.width = `${canvas.width * (whole || room)}px`;
}

/** The fewest columns that fill every row and make the grid at least as wide as high. */
function columnsFor(count) {
  let columns = Math.ceil(Math.sqrt(count));
  while (count % columns) columns++;
  return columns;
}

// The address.

/** Sets the controls from the address; returns what they cannot take, in words, which stays at its default. */
function restore(address) {
  const refused = [];
  for (const name of ["seed", "steps", "class", "count"]) {
    const control = form.elements[name];
    const value = address.get(name);
    if (value === null || (name === "class" && byId("class-field").hidden)) continue;
    const initial = control.value;
    control.value = value;
    // An input empties itself, a choice stays where it was, when they are given what they do not know.
    if (control.value === value && control.validity?.valid !== false) continue;
    control.value = initial;
    refused.push(`${name}=${value}, expected ${choices(control)}`);
  }
  return refused;
}

/** What a control takes, in words. */
function choices(control) {
  if (control.type === "number") return `a whole number from ${control.min} to ${control.max}`;
  const values = Array.from(control.options ?? control, ({ value }) => value);
  return values.length > 6 ? `${values.slice(0, 3).join(", ")}, … ${values.at(-1)}` : values.join(", ");
}

/** The address of a picture. */
function addressOf({ seed, steps, class: label, count }) {
  const address = new URL(location);
  const { name } = sampler.info;
  const own = name === new URL(DEFAULT_MODEL, document.baseURI).href;
  const values = { model: own ? undefined : name, seed, steps, class: label, count };
  for (const [name, value] of Object.entries(values)) {
    if (value !== undefined) address.searchParams.set(name, value);
  }
  return address;
}

// What the page says.

/** The picture in words, for those who do not see it. */
function describePicture() {
  const { request, steps, shown } = picture;
  if (!steps.length) return "No samples yet";
  const parts = [many(request.count, "image"), `seed ${request.seed}`];
  if (request.classLabels) {
    const labels = [...new Set(request.classLabels)];
    parts.push(`${labels.length === 1 ? "class" : "classes"} ${labels.join(", ")}`);
  }
  return [...parts, `step ${shown + 1} of ${steps[0].steps}, from σ ${sigma(steps[shown].sigma)}`].join(", ");
}

function fillClasses() {
  const { numClassEmbeds, classNames } = sampler.info;
  byId("class-field").hidden = numClassEmbeds === null;
  const options = byId("class");
  options.length = 1; // "each" stays
  for (let label = 0; label < numClassEmbeds; label++) options.append(new Option(classNames?.[label] ?? label, label));
}

/** Offers the timesteps that were published for the model, and chooses them. */
function offerPublished() {
  const timesteps = PUBLISHED[sampler.info.name.split("openai/diffusers-")[1]];
  const label = byId("published");
  const input = label.querySelector("input");
  label.hidden = !timesteps;
  if (timesteps) {
    input.value = label.querySelector("span").textContent = timesteps;
    input.checked = true;
  } else if (input.checked) {
    form.elements.steps.value = "2";
  }
}

async function showSigmas() {
  const { sigmas } = await sampler.schedule(scheduleOf(readControls().steps));
  byId("sigmas").textContent = `Noise σ ${sigmas.map(sigma).join(" → ")}`;
}

function say(text) {
  byId("status").textContent = text;
}

/** Shows an error in one line, with a way out where there is one. */
function fail(error) {
  const help = {
    unsupported: "Try a recent Chrome, Edge or Safari, or Firefox on Windows or macOS.",
    network: "Check the connection and press Retry.",
  };
  const box = byId("error");
  box.textContent = [error.message, help[error.code]].filter(Boolean).join(" — ");
  box.hidden = false;
  say("");
}

const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const sigma = (value) => String(Number(value.toPrecision(3)));
const duration = (milliseconds) =>
  milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
