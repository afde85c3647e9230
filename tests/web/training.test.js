// The module that trains, against the losses of the native trainer: tests/training.json, which tests/session.rs holds to the
// same run on the CPU and on a GPU.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";

import { useSite } from "./setup.js";

const TESTS = path.join(import.meta.dirname, "..");
const EXPECTED = JSON.parse(readFileSync(path.join(TESTS, "training.json"), "utf8"));
/** The network of tests/common/mod.rs. */
const [, TINY] = /TINY: &str = r#"(.*?)"#/s.exec(readFileSync(path.join(TESTS, "common/mod.rs"), "utf8"));
const SCHEDULER = JSON.stringify({ _class_name: "CMStochasticIterativeScheduler" });

let page;
useSite(async (site) => {
  ({ page } = site);
}, { blank: true });

for (const device of ["cpu", "gpu"]) {
  test(`losses in the browser on the ${device} are those of the native trainer`, async () => {
    const found = await page.evaluate(
      async ([device, unet, scheduler]) => {
        const { default: init, Training } = await import("/pkg-train/consistency_sampler.js");
        await init();
        const settings = { device, unet, scheduler, seed: 7, batch: 5, learningRate: 2e-3, recipe: "edm", shift: 1 };
        const training = await Training.create(JSON.stringify(settings));
        // Two pictures of each class: stripes down, and stripes across.
        const stripes = (down, i) =>
          Array.from({ length: 64 }, (_, p) => (((down ? p % 8 : p >> 3) + i) % 4 < 2 ? 20 : 230));
        const pictures = [[true, 0], [true, 1], [false, 0], [false, 1]].flatMap(([down, i]) => stripes(down, i));
        training.addImages(Uint8Array.from(pictures), Uint32Array.from([0, 0, 1, 1]));
        const losses = [];
        for (let k = 0; k < 10; k++) losses.push(await training.step(k / 10));
        training.nextPhase("trajectories", 1e-3);
        for (let k = 0; k < 10; k++) losses.push(await training.step(k / 10));
        training.free();
        return losses;
      },
      [device, TINY, SCHEDULER],
    );
    assert.equal(found.length, EXPECTED.length);
    for (const [i, loss] of found.entries()) {
      assert.ok(Math.abs(loss / EXPECTED[i] - 1) < 1e-3, `iteration ${i}: found ${loss}, expected ${EXPECTED[i]}`);
    }
  });
}
