// The tab that trains: from three drawings to a model that the page samples, on the CPU; and what becomes of a run whose
// device or loss fails, with a module in the place of the real one.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, test } from "node:test";

import { launchWithoutWebGpu, newPage } from "./browser.js";
import { assertAccessible, canvases, DIGITS, finished, generate, greys, look, LOOKS, openTab, SCREENSHOTS, sheet, visit } from "./page.js";
import { useSite } from "./setup.js";
import { unzip } from "./zip.js";

/** Three drawings as lines between cells of 28 × 28. */
const STROKES = [
  [[4, 4], [23, 23]],
  [[4, 23], [14, 5], [23, 23]],
  [[3, 14], [25, 14]],
];

let server, browser, page, folder;

useSite((site) => ({ server, browser } = site), { start: launchWithoutWebGpu });
beforeEach(async () => {
  server.routes.clear();
  server.log.length = 0;
  folder = mkdtempSync(path.join(tmpdir(), "train-"));
  page = await newPage(browser);
});
afterEach(async () => {
  assert.deepEqual(page.complaints.filter((text) => !/404/.test(text)), []);
  await page.context().close();
  rmSync(folder, { recursive: true });
});

const radio = (name) => page.getByRole("radio", { name, exact: true });
const button = (name) => page.getByRole("button", { name });
const status = () => page.locator("#train-status");
const words = () => page.locator("#loss-words").textContent();
const fact = (term) =>
  page.locator("#train-facts dt", { hasText: term }).locator("xpath=following-sibling::dd[1]").textContent();

/** Opens the page with this tab, without a wait for the model. */
async function openTrain(query = "") {
  await page.goto(`${server.origin}/?view=train${query}`);
  await page.locator("#source-hint").filter({ hasText: /./ }).waitFor();
}

/** Draws the three pictures by mouse. */
async function drawAll() {
  for (const [i, stroke] of STROKES.entries()) {
    const canvas = page.getByLabel(`Drawing ${i + 1}`, { exact: true });
    await canvas.scrollIntoViewIfNeeded();
    const { x, y, width } = await canvas.boundingBox();
    const [first, ...rest] = stroke.map(([column, row]) => [x + (column / 28) * width, y + (row / 28) * width]);
    await page.mouse.move(first[0], first[1]);
    await page.mouse.down();
    for (const [x, y] of rest) await page.mouse.move(x, y, { steps: 6 });
    await page.mouse.up();
  }
}

/** The losses of a phase at first and now, as the page says them. */
async function losses(phase) {
  const [, first, now] = new RegExp(`${phase}: (\\S+) at first, (\\S+) now`).exec(await words()) ?? [];
  return [Number(first), Number(now)];
}

/** How far two pictures are from one another, wherever within two pixels one of them was moved to. */
function distance(a, b) {
  let least = Infinity;
  for (let dy = -2; dy <= 2; dy++) {
    for (let dx = -2; dx <= 2; dx++) {
      let sum = 0;
      for (let y = 0; y < 28; y++) {
        for (let x = 0; x < 28; x++) {
          const inside = x + dx >= 0 && x + dx < 28 && y + dy >= 0 && y + dy < 28;
          sum += (a[28 * y + x] - (inside ? b[28 * (y + dy) + x + dx] : 0)) ** 2;
        }
      }
      least = Math.min(least, sum);
    }
  }
  return least;
}

/** How many pictures are nearest to the drawing of their class, which are drawn in turn. */
function ofTheirClass(pictures, drawings) {
  return pictures.filter((picture, i) => {
    const distances = drawings.map((drawing) => distance(picture, drawing));
    return distances.indexOf(Math.min(...distances)) === i % 3;
  }).length;
}

test("three drawings become a model that is paused, kept over a reload, saved and sampled", async () => {
  await visit(page, `${server.origin}/?${DIGITS}&count=1&steps=1`);
  const code = /train-(view|worker)|pkg-train|data\/animals/;
  assert.ok(!server.log.some(({ path }) => code.test(path)), "nothing of it is fetched before the tab is opened");
  await openTab(page, "Train");
  await radio("Drawings").check();
  await drawAll();
  await page.getByText("3 drawings so far").waitFor();
  const drawings = (await canvases(page, "#drawings canvas")).map(({ width, data }) => {
    const cell = width / 28;
    return Array.from({ length: 784 }, (_, i) => data[4 * (Math.floor(i / 28) * cell * width + (i % 28) * cell)]);
  });
  await radio("Tiny").check();
  await page.getByLabel("Minutes").fill("0.5");
  for (const [name, viewport, scheme] of LOOKS) {
    await look(page, viewport, scheme);
    await assertAccessible(page, `set-up, ${name}`);
    await page.screenshot({ path: path.join(SCREENSHOTS, `train-setup-${name}.png`), fullPage: true });
  }
  await button("Train").click();
  await page.locator("#loss-words").filter({ hasText: /Denoiser: .* now/ }).waitFor();
  await page.getByRole("img", { name: "Sample of class 1" }).first().waitFor();
  await button("Pause").click();
  await status().filter({ hasText: "Paused, and kept" }).waitFor();
  const paused = await fact("Iterations");
  await page.waitForTimeout(500);
  assert.equal(await fact("Iterations"), paused, "nothing goes on");

  await openTrain();
  await page.locator("#kept-run-facts").filter({ hasText: "It learns from 3 drawings, and is 0:0" }).waitFor();
  await button("Go on with the run of").click();
  await page.locator("#train-phases [aria-current]").filter({ hasText: "Consistency training" }).waitFor({ timeout: 60_000 });
  const denoiser = await losses("Denoiser");
  assert.ok(denoiser[1] < 0.7 * denoiser[0], `the denoiser's loss falls: ${denoiser}`);
  await status().filter({ hasText: "The run is over" }).waitFor({ timeout: 60_000 });
  const consistency = await losses("Consistency training");
  assert.ok(consistency[1] < 0.5 * consistency[0], `the consistency function's falls: ${consistency}`);
  const samples = (await canvases(page, "#train-sheet canvas")).map(greys);
  assert.equal(samples.length, 9);
  assert.ok(ofTheirClass(samples, drawings) >= 7, `most samples are of their class: ${ofTheirClass(samples, drawings)} of 9`);
  for (const [name, viewport, scheme] of LOOKS) {
    await look(page, viewport, scheme);
    await assertAccessible(page, `a run, ${name}`);
    await page.screenshot({ path: path.join(SCREENSHOTS, `train-run-${name}.png`), fullPage: true });
  }

  const [download] = await Promise.all([page.waitForEvent("download"), button("Save as .zip").click()]);
  await status().filter({ hasText: /^Saved consistency-model-\d+\.zip$/ }).waitFor();
  const files = unzip(readFileSync(await download.path()));
  const names = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"];
  assert.deepEqual(Object.keys(files).map((name) => name.replace(/^consistency-model-\d+\//, "")), names);
  for (const [name, bytes] of Object.entries(files)) {
    mkdirSync(path.join(folder, path.dirname(name)), { recursive: true });
    writeFileSync(path.join(folder, name), bytes);
  }

  await button("Use this model").click();
  await finished(page);
  assert.equal(await page.getByRole("tab", { selected: true }).textContent(), "Sample");
  assert.equal(await page.locator("#class").innerText(), "each class in turn\nclass 1\nclass 2\nclass 3");
  const used = (await sheet(page)).map(greys);
  assert.ok(ofTheirClass(used.slice(0, 9), drawings) >= 6, "samples of the model of the moment");

  await page.goto(`${server.origin}/?${DIGITS}&count=1&steps=1`);
  await finished(page);
  await page.getByLabel("choose a folder").setInputFiles(path.join(folder, Object.keys(files)[0].split("/")[0]));
  await page.locator("#card").getByText("files of your own").waitFor();
  await radio("10").check();
  await generate(page);
  const saved = (await sheet(page)).map(greys);
  assert.ok(ofTheirClass(saved.slice(0, 9), drawings) >= 6, "samples of the saved model");
});

test("a folder's sub-folders are classes, and what cannot be read is named", async () => {
  const blue = { width: 40, height: 30, data: Buffer.alloc(40 * 30 * 4, Buffer.from([20, 40, 200, 255])) };
  await openTrain();
  assert.match(await page.locator("#base-hint").textContent(), /^No model is loaded yet$|^$/);
  const png = Buffer.from(
    await page.evaluate(async ({ width, height }) => {
      const canvas = new OffscreenCanvas(width, height);
      canvas.getContext("2d").fillRect(0, 0, width, height);
      return [...new Uint8Array(await (await canvas.convertToBlob()).arrayBuffer())];
    }, blue),
  );
  const put = (name, bytes) => {
    mkdirSync(path.join(folder, "zoo", path.dirname(name)), { recursive: true });
    writeFileSync(path.join(folder, "zoo", name), bytes);
  };
  for (const name of ["owls/a.png", "owls/b.png", "bats/c.png", "owls/.d.png"]) put(name, png);
  put("owls/broken.png", Buffer.from("no picture"));
  put("notes.txt", Buffer.from("text"));
  await page.getByLabel("Open a folder").setInputFiles(path.join(folder, "zoo"));
  await page.getByText("4 pictures: bats 1, owls 3.").waitFor();
  await radio("Tiny").check();
  await button("Train").click();
  await page.locator("#train-notes").filter({ hasText: "Left out, for this browser reads no picture in them: zoo/notes.txt, zoo/owls/broken.png" }).waitFor();
  await page.getByRole("img", { name: "Sample of owls" }).first().waitFor();
  assert.equal(await fact("Learns from"), "3 pictures in 2 classes");
  await button("Stop").click();
  await button("Forget it").click();
  await page.locator("#kept-run").waitFor({ state: "hidden" });

  put("e.png", png);
  await page.getByLabel("Open a folder").setInputFiles(path.join(folder, "zoo"));
  const error = "expected each picture in a sub-folder, its class, found zoo/e.png beside bats, owls";
  await page.locator("#error").filter({ hasText: error }).waitFor();
});

/** A module that trains nothing: its loss is 1 at the first iteration and less at each other; `faults` fail some. */
const FAKE = (faults) => `
export default async function init() {}
export class Training {
  static async create(settings) { return Object.assign(new Training(), { rate: JSON.parse(settings).learningRate }); }
  weightCount = 7; device = "fake"; iteration = 0;
  addImages() {}
  useAnimals(masks, width, parts) { if (masks.length !== 2048 * 896 || width !== 2048 || !parts) throw new Error("masks"); }
  async step() {
    await new Promise((resolve) => setTimeout(resolve, 20));
    const fault = (${faults})(this);
    if (fault) throw new Error(fault);
    return 1 / ++this.iteration;
  }
  setLearningRate(rate) { this.rate = rate; }
  async sample(seed, labels) { return new Uint8ClampedArray(labels.length * 4 * 32 * 32); }
  weightsFile() { return new Uint8Array(8); }
  state() { return Uint8Array.of(this.iteration); }
  restore([iteration]) { this.iteration = iteration; }
  free() {}
}`;

/** Opens the tab with that module. */
async function openFake(faults) {
  server.routes.set("/pkg-train/consistency_sampler.js", { type: "text/javascript", body: FAKE(faults) });
  await openTrain();
  await button("Train").click();
}

const notes = () => page.locator("#train-notes li").allInnerTexts();

test("a loss that is not finite halves the learning rate, three times", async () => {
  await openFake("({ iteration, rate }) => iteration === 3 && rate > 1e-4 && 'expected a finite loss, found NaN'");
  await page.locator("#error").filter({ hasText: "the run is stopped" }).waitFor();
  const back = "expected a finite loss, found NaN: back to the last kept state, with half the learning rate";
  assert.deepEqual(await notes(), [7.5e-4, 3.75e-4, 1.875e-4].map((rate) => `${back} (${rate})`));
  assert.equal(
    await page.locator("#error").textContent(),
    "Training: expected a finite loss, found NaN, with an eighth of the learning rate too: the run is stopped at its last kept state",
  );
  // What it was is kept, and can be gone on with.
  await button("Go on with the run of").waitFor();
  assert.deepEqual(
    server.log.map(({ path }) => path).filter((path) => /data\//.test(path)).sort(),
    ["/data/animals/masks.png", "/data/animals/parts.json"],
  );
});

test("a worker whose device fails is replaced, and goes on from the last kept state", async () => {
  await openFake("({ iteration }) => iteration === 5 && 'the GPU device was lost'");
  await page.locator("#train-notes li").first().waitFor();
  assert.equal((await notes())[0], "the GPU device was lost: going on from the last kept state");
  await page.locator("#error").filter({ hasText: "Training: the GPU device was lost" }).waitFor();
  assert.equal((await notes()).length, 3, "it is not replaced without end");

  // One that works again.
  server.routes.set("/pkg-train/consistency_sampler.js", { type: "text/javascript", body: FAKE("() => ''") });
  await button("Go on with the run of").click();
  await page.locator("#train-facts").filter({ hasText: /Iterations\s*[1-9]\d+ in this phase/ }).waitFor();
  await openTab(page, "Sample");
  await openTab(page, "Train");
  await button("Stop").click();
  await button("Go on with the run of").waitFor();
});
