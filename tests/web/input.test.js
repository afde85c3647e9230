// What no caller should ask for, and what a person may do too fast: refused in one line or put in order, never half done.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, test } from "node:test";
import { setTimeout } from "node:timers/promises";

import { newPage } from "./browser.js";
import { finished, visit } from "./page.js";
import { GOLDENS, send } from "./server.js";
import { useSite } from "./setup.js";

/** A small model with ten classes. */
const MODEL = "/goldens/mnist-shape/";
const WEIGHTS = "unet/diffusion_pytorch_model.safetensors";

let server, browser, page;

useSite(async (site) => {
  ({ server, browser, page } = site);
  await page.evaluate(async (model) => {
    const { ConsistencySampler } = window;
    window.sampler = await ConsistencySampler.load(model, { cache: false });
    window.outcome = (promise) =>
      promise.then(
        (value) => ({ value }),
        ({ name, code, message }) => ({ error: { name, code, message } }),
      );
    // Values that no message between processes carries by itself.
    const special = { NaN, Infinity, "-Infinity": -Infinity, undefined, big: 2n ** 64n, negative: -1n };
    window.revive = (value) => {
      if (typeof value === "string" && value.startsWith("#")) return special[value.slice(1)];
      if (Array.isArray(value)) return value.map(window.revive);
      if (value && typeof value === "object") {
        return Object.fromEntries(Object.entries(value).map(([key, value]) => [key, window.revive(value)]));
      }
      return value;
    };
  }, MODEL);
}, { blank: true });

const call = (method, options) =>
  page.evaluate(
    ([method, options]) => window.outcome(window.sampler[method](window.revive(options))),
    [method, options],
  );

const NUMBERS = ["#NaN", "#Infinity", "#-Infinity", -1, 0.5, 1e300, "", "3", "#big", "#negative", true, {}, [[]]];
const LISTS = [[], [1, 0, 0], [0, 5], [5, 5], ["#NaN"], [-1], [0.5], [1e300], [""], 7, "5,0", {}];

async function refused(method, options) {
  const { value, error } = await call(method, options);
  assert.equal(value, undefined, `${method} ${JSON.stringify(options)} was accepted`);
  assert.deepEqual([error.name, error.code], ["ConsistencySamplerError", "input"], JSON.stringify([options, error]));
  assert.match(error.message, /^[^\n]{1,601}$/);
}

describe("options", () => {
  for (const name of ["seed", "count", "numInferenceSteps"]) {
    test(`of which ${name} is no number in range are refused`, async () => {
      for (const value of NUMBERS) {
        // The seed has the range of 64 bits, and may be a list of one for each image.
        if (name === "seed" && (value === 1e300 || Array.isArray(value))) continue;
        await refused("sample", { seed: 1, count: 1, [name]: value });
      }
    });
  }

  test("of which timesteps or classLabels are no lists in range are refused", async () => {
    for (const value of LISTS) await refused("sample", { timesteps: value });
    for (const value of [[10], [-1], [0.5], ["#NaN"], [1e300], [1, 2, 3], [], 3, "3", {}]) {
      await refused("sample", { count: 2, classLabels: value });
    }
    await refused("sample", { timesteps: [40, 0] });
    await refused("sample", { numInferenceSteps: 41 });
  });

  test("of schedule are held to the same", async () => {
    for (const value of NUMBERS) await refused("schedule", { numInferenceSteps: value });
    for (const value of LISTS) await refused("schedule", { timesteps: value });
  });

  test("of denoise are held to the same", async () => {
    const image = { width: 28, height: 28, data: Array(28 * 28 * 4).fill(0) };
    const { error } = await call("denoise", { image, sigma: 1 });
    assert.equal(error?.code, "input", "data that are no bytes");
    for (const sigma of ["#NaN", "#Infinity", -1, 0, 81, 1e300, "", "#undefined"]) {
      const { error } = await page.evaluate(
        (sigma) => {
          const options = { image: new ImageData(28, 28), sigma: window.revive(sigma) };
          return window.outcome(window.sampler.denoise(options));
        },
        sigma,
      );
      assert.equal(error?.code, "input", `σ ${sigma}: ${JSON.stringify(error)}`);
    }
    for (const [width, height] of [[27, 28], [28, 27], [1, 1], [2000, 2000]]) {
      const { error } = await page.evaluate(
        ([width, height]) => window.outcome(window.sampler.denoise({ image: new ImageData(width, height), sigma: 1 })),
        [width, height],
      );
      assert.equal(error?.code, "input");
      assert.match(error.message, /expected 28×28 pixels/);
    }
  });

  test("that were refused leave the sampler as it was", async () => {
    const { value } = await call("sample", { seed: 1, count: 1 });
    assert.equal(value.networkCalls, 1);
  });
});

test("a sample is cancelled in every phase, and the next one is whole", async () => {
  const pictures = await page.evaluate(async () => {
    const draw = async (cancelAt) => {
      const abort = new AbortController();
      let pixels = null;
      if (cancelAt === "before") abort.abort();
      const onStep = (step) => {
        pixels = String(step.pixels);
        if (step.index === cancelAt) abort.abort();
      };
      const options = { seed: 3, count: 1, classLabels: [3], numInferenceSteps: 4, signal: abort.signal, onStep };
      const run = window.outcome(window.sampler.sample(options));
      if (cancelAt === "at once") abort.abort();
      const { error } = await run;
      return { pixels, error: error?.name ?? null };
    };
    const runs = [];
    for (const at of ["before", "at once", 0, 1, 2]) runs.push([await draw(at), await draw(null)]);
    return runs;
  });
  for (const [cancelled, next] of pictures) {
    assert.equal(cancelled.error, "AbortError");
    assert.equal(next.error, null);
    assert.equal(next.pixels, pictures[0][1].pixels);
  }
});

test("a load is cancelled in every phase, and the next one is whole", async () => {
  const folder = path.join(GOLDENS, "no-mid");
  for (const phase of ["model_index.json", "unet/config.json", WEIGHTS, "weights", "shaders"]) {
    // A file that does not come, or comes slowly, while its load is cancelled.
    const slow = phase === "weights" ? { chunk: 20_000, pause: 50 } : {};
    const body = readFileSync(path.join(folder, phase.includes(".") ? phase : WEIGHTS));
    server.routes.set(`/goldens/no-mid/${phase.includes(".") ? phase : WEIGHTS}`, async (request, response) => {
      if (phase.includes(".")) await setTimeout(2000);
      await send(request, response, body, slow);
    });
    const name = await page.evaluate(async (phase) => {
      const abort = new AbortController();
      const onProgress = ({ stage }) => stage === phase && abort.abort();
      if (phase.includes(".")) window.setTimeout(() => abort.abort(), 500);
      const options = { cache: false, signal: abort.signal, onProgress };
      const { value, error } = await window.outcome(window.ConsistencySampler.load("/goldens/no-mid/", options));
      value?.dispose();
      return error?.name;
    }, phase);
    assert.equal(name, "AbortError", phase);
    server.routes.delete(`/goldens/no-mid/${phase.includes(".") ? phase : WEIGHTS}`);
  }
  const { networkCalls } = await page.evaluate(async () => {
    const sampler = await window.ConsistencySampler.load("/goldens/no-mid/", { cache: false });
    const result = await sampler.sample({ count: 1 });
    sampler.dispose();
    return result;
  });
  assert.equal(networkCalls, 1);
});

test("fifty clicks on Generate in a second make one run at a time, and the page stays usable", async () => {
  const page = await newPage(browser);
  await visit(page, `${server.origin}/?model=goldens/mnist-shape/&steps=1&count=1&class=3&seed=4`);
  await page.evaluate(() => {
    window.lines = [];
    const status = document.querySelector("#status");
    const observer = new MutationObserver(() => window.lines.push(status.textContent));
    observer.observe(status, { childList: true, subtree: true, characterData: true });
    const button = [...document.querySelectorAll("button")].find((b) => b.textContent.trim() === "Generate");
    for (let i = 0; i < 50; i++) window.setTimeout(() => button.click(), i * 20);
  });
  await page.waitForTimeout(1200);
  await finished(page);
  const begun = await page.evaluate(() => window.lines.filter((line) => /^Generating/.test(line)).length);
  assert.ok(begun >= 1 && begun <= 50, `${begun} runs`);
  assert.equal(await page.getByRole("alert").filter({ visible: true }).count(), 0, "no error is shown");
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});
