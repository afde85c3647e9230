// The WebAssembly modules, for the GPU and for the CPU, against what diffusers computes from the same weights: tests/goldens/.

import assert from "node:assert/strict";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { after, before, describe, test } from "node:test";

import { PIXEL_TOLERANCE, assertNear, goldens, rgba } from "./goldens.js";
import { GOLDENS } from "./server.js";
import { useSite } from "./setup.js";

/**
 * How far the network's output may be from diffusers', in units of the largest expected value (at least 1): sums of f32
 * products in another order.
 */
const FORWARD_TOLERANCE = 1e-4;

const WEIGHTS = "unet/diffusion_pytorch_model.safetensors";
const names = readdirSync(GOLDENS).filter((name) => existsSync(path.join(GOLDENS, name, WEIGHTS)));

let page;

useSite(async (site) => {
  ({ page } = site);
  await page.evaluate(async () => {
    const devices = {};
    window.loadModel = async (pkg, folder) => {
      const { default: init, Device, Loader } = await import(`/${pkg}/consistency_sampler.js`);
      await init();
      const device = (devices[pkg] ??= await Device.request());
      const fetched = async (file) => {
        const response = await fetch(folder + file);
        if (!response.ok) throw new Error(`${file}: ${response.status}`);
        return response;
      };
      const text = async (file) => (await fetched(file)).text();
      const texts = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"].map(text);
      const loader = new Loader(device, ...(await Promise.all(texts)), true);
      const weights = new Uint8Array(await (await fetched("unet/diffusion_pytorch_model.safetensors")).arrayBuffer());
      // A prime number, so that chunks end inside the header, inside values and between tensors.
      for (let at = 0; at < weights.length; at += 1009) loader.push(weights.subarray(at, at + 1009));
      loader.endFile();
      return loader.finish();
    };
  });
}, { blank: true });

test("there are goldens to compare with", () => assert.ok(names.length >= 7, `found ${names.length}`));

for (const [name, pkg] of names.flatMap((name) => [[name, "pkg"], [name, "pkg-cpu"]])) {
  describe(`${name} in ${pkg}`, () => {
    const { tensors, cases } = goldens(`${name}/goldens`);
    const values = (key) => tensors[key] && Array.from(tensors[key].values, Number);

    before(() =>
      page.evaluate(
        async ([pkg, folder]) => {
          window.model = await window.loadModel(pkg, folder);
        },
        [pkg, `/goldens/${name}/`],
      ),
    );
    after(() => page.evaluate(() => window.model?.free()));

    for (const key of Object.keys(tensors).filter((key) => key.endsWith(".output"))) {
      const forward = key.replace(".output", "");
      test(forward, async () => {
        const input = ["sample", "timestep", "class_labels"].map((part) => values(`${forward}.${part}`));
        const output = await page.evaluate(
          async ([sample, timestep, labels]) =>
            Array.from(
              await window.model.forward(
                Float32Array.from(sample),
                Float32Array.from(timestep),
                labels && Uint32Array.from(labels),
              ),
            ),
          input,
        );
        const expected = values(key);
        assertNear(output, expected, FORWARD_TOLERANCE * Math.max(1, ...expected.map(Math.abs)));
      });
    }

    for (const { name: sample, options } of cases) {
      test(sample, async () => {
        const [pixels, result] = await page.evaluate(async (options) => {
          let last;
          const result = await window.model.sample(options, ({ pixels }) => (last = pixels));
          return [Array.from(last), result];
        }, options);
        assert.equal(result.cancelled, false);
        assert.equal(result.networkCalls, options.timesteps?.length ?? options.numInferenceSteps);
        assertNear(pixels, rgba(tensors[`${sample}.images`]), PIXEL_TOLERANCE);
      });
    }
  });
}
