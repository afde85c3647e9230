// Models stored in fewer bits by `consistency-sampler convert`, in the browser: the picture stays, the download shrinks.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";

import { useSite } from "./setup.js";
import { COMMAND, MODELS, missing, shipped } from "./shipped.js";

let server, page, folder;

useSite(async (site) => {
  ({ server, page } = site);
  folder = mkdtempSync(path.join(tmpdir(), "precision-"));
}, { blank: true });
after(() => rmSync(folder, { recursive: true, force: true }));

for (const model of shipped) {
  for (const { precision, variant, share } of [
    { precision: "f16", variant: "fp16", share: 0.51 },
    { precision: "int8", variant: "int8", share: 0.27 },
  ]) {
    test(`${model} in ${precision}`, { skip: missing }, async () => {
      const output = path.join(folder, `${model}-${precision}`);
      const options = ["--model", path.join(MODELS, model), "--precision", precision, "--output", output];
      execFileSync(COMMAND, ["convert", ...options], { stdio: "pipe" });
      const address = `/${model}-${precision}/`;
      const weights = `unet/diffusion_pytorch_model.${variant}.safetensors`;
      for (const name of ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", weights]) {
        server.routes.set(address + name, { body: readFileSync(path.join(output, name)) });
      }
      const whole = readFileSync(path.join(MODELS, model, "unet/diffusion_pytorch_model.safetensors")).length;
      const stored = readFileSync(path.join(output, weights)).length;
      assert.ok(stored < share * whole, `${stored} of ${whole} bytes`);

      for (const device of ["gpu", "cpu"]) {
        server.log.length = 0;
        const expected = await sample(`/weights/${model}/`, device);
        const found = await sample(address, device);
        assert.ok(server.log.some(({ path }) => path === address + weights), "it is this file that was loaded");
        const error = found.reduce((sum, value, i) => sum + (value - expected[i]) ** 2, 0) / found.length;
        const psnr = 10 * Math.log10(255 ** 2 / error);
        assert.ok(psnr >= 40, `on the ${device} the pictures differ: PSNR ${psnr.toFixed(1)} dB`);
        if (precision === "int8") assert.ok(error > 0, "the weights are not those of the whole model");
      }
    });
  }
}

/** The pixels of three samples in two network calls. */
function sample(address, device) {
  return page.evaluate(
    async ([address, device]) => {
      const { ConsistencySampler } = await import("/consistency-sampler.js");
      const sampler = await ConsistencySampler.load(address, { cache: false, device });
      let pixels;
      await sampler.sample({ seed: 7, count: 3, numInferenceSteps: 2, onStep: (step) => (pixels = step.pixels) });
      sampler.dispose();
      return Array.from(pixels);
    },
    [address, device],
  );
}
