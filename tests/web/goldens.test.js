// The WebAssembly module against what diffusers computes from the same weights: tests/goldens/.

import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";

import { launch, newPage } from "./browser.js";
import { parse } from "./safetensors.js";
import { GOLDENS, startServer } from "./server.js";

/**
 * How far the network's output may be from diffusers', in units of the largest expected value (at least 1): sums of f32
 * products in another order.
 */
const FORWARD_TOLERANCE = 1e-4;

/** How far a byte of a picture may be off: half a level from rounding to bytes, one from the network's own error. */
const PIXEL_TOLERANCE = 1.5;

const WEIGHTS = "unet/diffusion_pytorch_model.safetensors";
const names = readdirSync(GOLDENS).filter((name) => existsSync(path.join(GOLDENS, name, WEIGHTS)));

let server, browser, page;

before(async () => {
  server = await startServer();
  // A page without a policy, on which the tests import what they like.
  server.routes.set("/blank", { type: "text/html", body: "<!doctype html><title>blank</title>" });
  browser = await launch();
  page = await newPage(browser);
  await page.goto(`${server.origin}/blank`);
  await page.evaluate(async () => {
    const { default: init, Device, Loader } = await import("/pkg/consistency_sampler.js");
    await init();
    const device = await Device.request();
    window.loadModel = async (folder) => {
      const fetched = async (file) => {
        const response = await fetch(folder + file);
        if (!response.ok) throw new Error(`${file}: ${response.status}`);
        return response;
      };
      const texts = ["unet/config.json", "scheduler/scheduler_config.json"].map(async (file) => (await fetched(file)).text());
      const loader = new Loader(device, ...(await Promise.all(texts)));
      const weights = new Uint8Array(await (await fetched("unet/diffusion_pytorch_model.safetensors")).arrayBuffer());
      // A prime number, so that chunks end inside the header, inside values and between tensors.
      for (let at = 0; at < weights.length; at += 1009) loader.push(weights.subarray(at, at + 1009));
      return loader.finish();
    };
  });
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

test("there are goldens to compare with", () => assert.ok(names.length >= 7, `found ${names.length}`));

for (const name of names) {
  describe(name, () => {
    const tensors = parse(readFileSync(path.join(GOLDENS, name, "goldens.safetensors")));
    const cases = JSON.parse(readFileSync(path.join(GOLDENS, name, "goldens.json"), "utf8"));
    const values = (key) => tensors[key] && Array.from(tensors[key].values, Number);

    before(() => page.evaluate(async (folder) => {
      window.model = await window.loadModel(folder);
    }, `/goldens/${name}/`));
    after(() => page.evaluate(() => window.model?.free()));

    for (const key of Object.keys(tensors).filter((key) => key.endsWith(".output"))) {
      const forward = key.replace(".output", "");
      test(forward, async () => {
        const input = ["sample", "timestep", "class_labels"].map((part) => values(`${forward}.${part}`));
        const output = await page.evaluate(async ([sample, timestep, labels]) => Array.from(
          await window.model.forward(Float32Array.from(sample), Float32Array.from(timestep), labels && Uint32Array.from(labels)),
        ), input);
        const expected = values(key);
        assertNear(output, expected, FORWARD_TOLERANCE * Math.max(1, ...expected.map(Math.abs)));
      });
    }

    for (const { name: sample, seed, batch, num_inference_steps, timesteps, class_labels } of cases) {
      test(sample, async () => {
        const options = {
          seed,
          count: batch,
          classLabels: class_labels ?? undefined,
          numInferenceSteps: num_inference_steps,
          timesteps,
        };
        const [steps, result] = await page.evaluate(async (options) => {
          const steps = [];
          const result = await window.model.sample(options, (step) => steps.push({ ...step, pixels: Array.from(step.pixels) }));
          return [steps, result];
        }, options);

        const calls = timesteps?.length ?? num_inference_steps;
        assert.equal(result.cancelled, false);
        assert.equal(result.networkCalls, calls);
        assert.deepEqual(steps.map(({ index, steps, last }) => [index, steps, last]),
          Array.from({ length: calls }, (_, i) => [i, calls, i === calls - 1]));
        const { shape, values } = tensors[`${sample}.images`];
        assertNear(steps.at(-1).pixels, rgba(shape, values), PIXEL_TOLERANCE);
      });
    }
  });
}

/** Images in 0…1, [B, C, H, W], as opaque RGBA in 0…255, not rounded. */
function rgba([batch, channels, height, width], values) {
  const plane = height * width;
  const out = [];
  for (let b = 0; b < batch; b++) {
    for (let at = 0; at < plane; at++) {
      for (let c = 0; c < 3; c++) out.push(255 * values[(b * channels + (channels === 1 ? 0 : c)) * plane + at]);
      out.push(255);
    }
  }
  return out;
}

function assertNear(found, expected, tolerance) {
  assert.equal(found.length, expected.length);
  let worst = 0;
  for (let i = 0; i < found.length; i++) {
    // Written so that NaN counts as different.
    if (!(Math.abs(found[i] - expected[i]) <= Math.abs(found[worst] - expected[worst]))) worst = i;
  }
  const difference = Math.abs(found[worst] - expected[worst]);
  assert.ok(difference <= tolerance, `at ${worst}: expected ${expected[worst]} ± ${tolerance}, found ${found[worst]}`);
}
