// A network call that takes its time: it goes to the GPU in short submits, tells how far it is, and is cancelled between them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { useSite } from "./setup.js";

let page;

useSite(
  async (site) => {
    ({ page } = site);
    await page.evaluate(async () => {
      window.sampler = await window.ConsistencySampler.load("/weights/mnist/", { device: "gpu" });
    });
  },
  { blank: true },
);

const COUNT = 128;

test("tells how far a network call is, in rising shares", async () => {
  const { progress, steps } = await page.evaluate(async (count) => {
    const [progress, steps] = [[], []];
    const onStep = ({ index }) => steps.push(index);
    await window.sampler.sample({ seed: 1, count, numInferenceSteps: 2, onStep, onProgress: (event) => progress.push(event) });
    return { progress, steps };
  }, COUNT);
  assert.deepEqual(steps, [0, 1]);
  for (const call of steps) {
    const shares = progress.filter(({ index }) => index === call).map(({ done }) => done);
    assert.ok(shares.length > 2, `${shares}`);
    assert.ok(shares.every((share, i) => share > (shares[i - 1] ?? 0) && share < 1), `${shares}`);
  }
});

test("is cancelled within the call, answers meanwhile, and the next call is whole", async () => {
  const result = await page.evaluate(async (count) => {
    const draw = async (options) => {
      let pixels = new Uint8ClampedArray();
      await window.sampler.sample({ seed: 1, ...options, onStep: (step) => (pixels = step.pixels) });
      return pixels.join();
    };
    const before = await draw({ count: 2 });
    const begin = performance.now();
    await draw({ count });
    const whole = performance.now() - begin;

    const abort = new AbortController();
    let [cancelled, answered] = [0, 0];
    const onProgress = async () => {
      if (cancelled) return;
      cancelled = performance.now();
      await window.sampler.schedule({ numInferenceSteps: 2 });
      answered = performance.now() - cancelled;
      cancelled = performance.now();
      abort.abort();
    };
    const reason = await draw({ count, signal: abort.signal, onProgress }).catch((error) => error.name);
    const took = performance.now() - cancelled;
    return { whole, took, answered, reason, same: before === (await draw({ count: 2 })) };
  }, COUNT);
  assert.equal(result.reason, "AbortError");
  assert.ok(result.took < result.whole / 4, JSON.stringify(result));
  assert.ok(result.answered < result.whole / 4, JSON.stringify(result));
  assert.ok(result.same, "the next picture is what it was");
});
