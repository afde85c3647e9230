// One seed, one picture: the command line and the page, each on CPU and GPU, pixel by pixel within 1/255, for each shipped
// model.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";

import { parse } from "./safetensors.js";
import { DIST } from "./server.js";
import { useSite } from "./setup.js";
import { COMMAND, MODELS, missing, shipped } from "./shipped.js";

const REQUEST = { seed: 20, count: 2, numInferenceSteps: 2 };

let server, browser, page;

useSite((site) => ({ server, browser, page } = site), { blank: true });

for (const name of shipped) {
  test(`${name} draws one picture from a seed, wherever it runs`, { skip: missing }, async () => {
    const pictures = {};
    for (const device of ["cpu", "gpu"]) {
      pictures[`the page's ${device}`] = await inThePage(name, device);
      pictures[`the command line's ${device}`] = natively(path.join(DIST, "weights", name), device).flatMap(toBytes);
    }
    const [first] = Object.values(pictures);
    assert.ok(new Set(first).size > 20, "it is a picture");
    // Each value lies within 1/255 of each other's.
    for (const [one, found] of Object.entries(pictures)) {
      for (const [other, expected] of Object.entries(pictures)) {
        assert.equal(found.length, expected.length);
        const most = found.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0);
        assert.ok(most <= 1, `${one} and ${other} differ by ${most}/255 in a pixel`);
      }
    }
  });
}

for (const name of shipped) {
  test(`${name} in half precision, as the site has it, draws the pictures of the full one`, { skip: missing }, () => {
    const [half, full] = [path.join(DIST, "weights", name), path.join(MODELS, name)].map((model) => natively(model, "cpu").flat());
    const differences = half.map((value, i) => Math.abs(value - full[i]));
    const rootMeanSquare = Math.sqrt(differences.reduce((sum, d) => sum + d * d, 0) / differences.length);
    assert.ok(rootMeanSquare > 0 && rootMeanSquare < 1e-3, `root mean square ${rootMeanSquare}`);
    assert.ok(Math.max(...differences) < 3 / 255, `the largest difference is ${Math.max(...differences)}`);
  });
}

const toBytes = (picture) => picture.map((value) => Math.round(255 * value));

/** The pixels' bytes, (count, H, W, channels), grey once. */
async function inThePage(name, device) {
  const { pixels, channels } = await page.evaluate(
    async ([name, device, request]) => {
      const { ConsistencySampler } = await import("/consistency-sampler.js");
      const sampler = await ConsistencySampler.load(`/weights/${name}/`, { cache: false, device });
      let pixels;
      await sampler.sample({ ...request, onStep: (step) => (pixels = step.pixels) });
      const { channels, processor } = sampler.info;
      sampler.dispose();
      if (processor !== device) throw new Error(`expected ${device}, found ${processor}`);
      return { pixels: Array.from(pixels), channels };
    },
    [name, device, REQUEST],
  );
  return pixels.filter((_, i) => i % 4 < channels);
}

/** The values of the command line, in [0, 1], in the same order; one list for each picture. */
function natively(model, device) {
  const folder = mkdtempSync(path.join(tmpdir(), "determinism-"));
  try {
    const output = path.join(folder, "images.safetensors");
    const { seed, count, numInferenceSteps } = REQUEST;
    const options = ["--seed", seed, "--batch", count, "--num-inference-steps", numInferenceSteps, "--output", output];
    execFileSync(COMMAND, ["sample", "--device", device, "--model", model, ...options.map(String)], { stdio: "pipe" });
    const { shape, values } = parse(readFileSync(output)).images;
    const [batch, channels, height, width] = shape;
    const pictures = [];
    for (let b = 0; b < batch; b++) {
      const picture = [];
      for (let p = 0; p < height * width; p++) {
        for (let c = 0; c < channels; c++) picture.push(values[(b * channels + c) * height * width + p]);
      }
      pictures.push(picture);
    }
    return pictures;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
