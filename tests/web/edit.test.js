// Editing through the public interface, against NumPy (tests/goldens/edits.py) and against what it promises.

import assert from "node:assert/strict";
import { before, describe, test } from "node:test";

import { PIXEL_TOLERANCE, assertNear, read, rgba } from "./goldens.js";
import { useSite } from "./setup.js";

const { cases, tensors } = read("requests");
const checkpoints = [...new Set(cases.map(({ checkpoint }) => checkpoint))];

let page;

useSite(async (site) => {
  ({ page } = site);
  await page.evaluate(async () => {
    const { ConsistencySampler } = window;
    window.load = async (checkpoint) => {
      window.sampler?.dispose();
      window.sampler = await ConsistencySampler.load(`/goldens/${checkpoint}/`);
    };
    /** Calls a method with pictures given as lists of bytes; the outcome in plain data. */
    window.call = async (method, options, pictures, size) => {
      const steps = [];
      const onStep = ({ pixels, ...step }) => steps.push({ ...step, pixels: Array.from(pixels) });
      const image = (bytes) => new ImageData(Uint8ClampedArray.from(bytes), size[0], size[1]);
      const given = Object.fromEntries(Object.entries(pictures).map(([key, bytes]) => [key, image(bytes)]));
      try {
        const result = await window.sampler[method]({ ...options, ...given, onStep });
        for (const [key, value] of Object.entries(result)) if (value.length) result[key] = Array.from(value);
        return { steps, result };
      } catch ({ name, code, message }) {
        return { error: { name, code, message } };
      }
    };
  });
}, { blank: true });

const call = (method, options, pictures = {}, size = [16, 16]) =>
  page.evaluate((args) => window.call(...args), [method, options, pictures, size]);

/** The pictures of a case as lists of bytes, and their size. */
/** @returns {[Record<string, number[]>, number[]]}  pictures by name, and [width, height] */
function picturesOf({ name, pictures }) {
  const found = Object.fromEntries(pictures.map((key) => [key, Array.from(tensors[`${name}.${key}`].values)]));
  const shape = pictures.length ? tensors[`${name}.${pictures[0]}`].shape : [0, 0];
  return [found, [shape[1], shape[0]]];
}

for (const checkpoint of checkpoints) {
  describe(checkpoint, () => {
    before(() => page.evaluate((checkpoint) => window.load(checkpoint), checkpoint));

    for (const entry of cases.filter((entry) => entry.checkpoint === checkpoint)) {
      const { name, method, options } = entry;
      test(`${name} is what NumPy makes of it`, async () => {
        const [pictures, size] = picturesOf(entry);
        const { error, steps, result } = await call(method, options, pictures, size);
        assert.equal(error, undefined);
        if (method === "denoise") {
          for (const key of ["noisy", "denoised"]) {
            assertNear(result[key], rgba(tensors[`${name}.${key}`]), PIXEL_TOLERANCE);
          }
          return;
        }
        assert.equal(result.networkCalls, steps.length);
        assert.deepEqual(
          steps.map(({ index, last }) => [index, last]),
          steps.map((_, index) => [index, index === steps.length - 1]),
        );
        assertNear(steps.at(-1).pixels, rgba(tensors[`${name}.images`]), PIXEL_TOLERANCE);
      });
    }

    test("kept pixels are the input's, bit for bit, at every step", async () => {
      const entry = cases.find(({ name }) => name === `${checkpoint}.inpaint`);
      const [pictures, size] = picturesOf(entry);
      const { steps } = await call("edit", entry.options, pictures, size);
      const { image, mask } = pictures;
      let generated = 0;
      for (const { pixels } of steps) {
        assert.equal(pixels.length, 2 * image.length);
        for (let i = 0; i < pixels.length; i++) {
          const at = i % image.length;
          if (mask[at - (at % 4)] === 0) assert.equal(pixels[i], image[at], `byte ${i}`);
          else if (pixels[i] !== image[at]) generated++;
        }
      }
      assert.ok(generated > 100, "the hole is generated");
    });

    test("the means of patches are kept to half a level", async () => {
      const entry = cases.find(({ name }) => name === `${checkpoint}.super-resolution`);
      const [pictures, [width, height]] = picturesOf(entry);
      const { patch } = entry.options;
      const { steps } = await call("edit", entry.options, pictures, [width, height]);
      const means = (bytes, top, left, channel) => {
        let sum = 0;
        for (let i = 0; i < patch * patch; i++) {
          sum += bytes[4 * ((top + Math.floor(i / patch)) * width + left + (i % patch)) + channel];
        }
        return sum / patch ** 2;
      };
      for (let top = 0; top < height; top += patch) {
        for (let left = 0; left < width; left += patch) {
          for (const channel of [0, 1, 2]) {
            const [found, kept] = [steps.at(-1).pixels, pictures.image].map((b) => means(b, top, left, channel));
            // A byte holds no more: each of the patch's values is rounded by up to half a level.
            assert.ok(Math.abs(found - kept) <= 0.5, `at ${top}, ${left}: ${found}, expected ${kept}`);
          }
        }
      }
    });
  });
}

describe("whatever the picture", () => {
  const entry = cases.find(({ name }) => name === "attn-scale-shift.inpaint");
  const [pictures, size] = picturesOf(entry);
  const black = (pixels) => new Array(4 * pixels).fill(0).map((_, i) => (i % 4 === 3 ? 255 : 0));

  before(() => page.evaluate(() => window.load("attn-scale-shift")));

  test("the same options give the same pixels, another seed gives others", async () => {
    const pixels = async (seed) => (await call("edit", { ...entry.options, seed }, pictures, size)).steps.at(-1).pixels;
    const first = await pixels(3);
    assert.deepEqual(await pixels(3), first);
    assert.notDeepEqual(await pixels(4), first);
  });

  test("a blend ends where the other seed begins", async () => {
    const options = { count: 2, classLabels: [1, 2], timesteps: [22, 0] };
    const pixels = async (more) => (await call("sample", { ...options, ...more })).steps.at(-1).pixels;
    assert.deepEqual(await pixels({ seed: 1, blend: { seed: 2, amount: 0 } }), await pixels({ seed: 1 }));
    assert.deepEqual(await pixels({ seed: 1, blend: { seed: 2, amount: 1 } }), await pixels({ seed: 2 }));
  });

  test("interpolation makes eight pictures unless it is told", async () => {
    const to = black(256);
    const options = { kind: "interpolate", classLabels: [1] };
    const { steps, error } = await call("edit", options, { image: pictures.image, to }, size);
    assert.equal(error, undefined);
    assert.equal(steps[0].pixels.length, 8 * 4 * 256);
    const { steps: three } = await call("edit", { ...options, amounts: [0, 1, 0.5] }, { image: pictures.image, to }, size);
    assert.equal(three[0].pixels.length, 3 * 4 * 256);
  });

  test("bytes of RGBA will do for a picture", async () => {
    const outcome = await page.evaluate(
      async ([bytes]) => {
        const image = { width: 16, height: 16, data: Uint8Array.from(bytes) };
        return window.sampler.edit({ kind: "stroke", image, classLabels: [0] });
      },
      [pictures.image],
    );
    assert.equal(outcome.networkCalls, 2);
  });

  const whole = { image: pictures.image };
  /** @type {[string, string, any, Record<string, number[]>, RegExp, number[]?][]} */
  const refusals = [
    ["no kind", "edit", {}, whole, /^kind: expected inpaint, colorize, super-resolution, stroke, denoise or interpolate, found $/],
    ["an unknown kind", "edit", { kind: "sharpen" }, whole, /^kind: expected inpaint, .*, found sharpen$/],
    ["a kind that is no word", "edit", { kind: 7 }, whole, /^kind: expected .*, found 7$/],
    ["no picture", "edit", { kind: "stroke" }, {}, /^image: expected 16×16 pixels, 1024 bytes of RGBA, found .*undefined/],
    ["a picture of another size", "edit", { kind: "stroke" }, { image: black(15 * 16) },
      /^image: expected 16×16 pixels, 1024 bytes of RGBA, found 15×16, 960 bytes$/, [15, 16]],
    ["no mask", "edit", { kind: "inpaint" }, whole, /^mask: expected 16×16 pixels, .* found .*undefined/],
    ["a mask of another size", "edit", { kind: "inpaint", mask: { width: 16, height: 16, data: [1, 2] } }, whole,
      /^mask: expected 16×16 pixels/],
    ["no patch", "edit", { kind: "super-resolution" }, whole, /^patch: expected a whole number from 1, found .*undefined/],
    ["a patch that does not tile", "edit", { kind: "super-resolution", patch: 5 }, whole,
      /^patch: expected a divisor of 16 and 16, found 5$/],
    ["a patch of 0", "edit", { kind: "super-resolution", patch: 0 }, whole, /^patch: expected a divisor/],
    ["a fraction of a patch", "edit", { kind: "super-resolution", patch: 2.5 }, whole, /^patch: expected a whole number from 0, found/],
    ["no sigma", "edit", { kind: "denoise" }, whole, /^sigma: expected a number, found .*undefined/],
    ["a sigma that is too high", "edit", { kind: "denoise", sigma: 81 }, whole, /^sigma: expected 0.002 to 80, found 81$/],
    ["a sigma that is no number", "edit", { kind: "denoise", sigma: NaN }, whole, /^sigma: expected 0.002 to 80, found NaN$/],
    ["steps of a kind that takes one", "edit", { kind: "denoise", sigma: 1, numInferenceSteps: 2 }, whole, /one network call/],
    ["nothing to interpolate to", "edit", { kind: "interpolate" }, whole, /^to: expected 16×16 pixels/],
    ["amounts beyond the ends", "edit", { kind: "interpolate", to: "image", amounts: [0, 1.5] }, whole,
      /^amounts: expected numbers from 0 to 1, found 1.5$/],
    ["amounts that are no numbers", "edit", { kind: "interpolate", to: "image", amounts: ["a"] }, whole, /^amounts: expected numbers, found a$/],
    ["as many amounts as pictures, or not", "edit", { kind: "interpolate", to: "image", amounts: [0, 1], count: 3 }, whole,
      /^amounts: expected 3, one for each picture, found 2$/],
    ["a count of nothing", "edit", { kind: "stroke", count: 0 }, whole, /^count: expected 1 to 21845, found 0$/],
    ["a huge count", "edit", { kind: "stroke", count: 2 ** 40 }, whole, /^count: expected 1 to 21845, found 1099511627776$/],
    ["labels that do not exist", "edit", { kind: "stroke", classLabels: [7] }, whole, /^class labels must be from 0 to 6, found 7$/],
    ["a timestep beyond 32 bits", "edit", { kind: "colorize", timesteps: [2 ** 32 + 22, 0] }, whole, /^timesteps must be below/],
    ["more steps than there are", "edit", { kind: "colorize", numInferenceSteps: 2 ** 32 + 1 }, whole, /^num_inference_steps must be from 1/],
    ["noise of no level", "denoise", {}, whole, /^sigma: expected a number, found .*undefined/],
    ["noise of infinite level", "denoise", { sigma: Infinity }, whole, /^sigma: expected 0.002 to 80, found Infinity$/],
    ["noise on no picture", "denoise", { sigma: 1 }, {}, /^image: expected 16×16 pixels/],
    ["a blend beyond the other seed", "sample", { blend: { seed: 1, amount: 1.01 } }, {}, /^amount: expected a number from 0 to 1, found 1.01$/],
    ["a blend of no amount", "sample", { blend: { seed: 1 } }, {}, /^amount: expected a number, found .*undefined/],
    ["a blend of no seed", "sample", { blend: { seed: -1, amount: 0.5 } }, {}, /^seed: expected a whole number from 0, found .*-1/],
  ];
  for (const [what, method, options, given, message, shape] of refusals) {
    test(`${what} is refused in one line`, async () => {
      const { error } = await page.evaluate(
        ([method, options, given, size]) => {
          if (options.to === "image") options.to = new ImageData(Uint8ClampedArray.from(given.image), size[0], size[1]);
          return window.call(method, { classLabels: [1], ...options }, given, size);
        },
        [method, options, given, shape ? [shape[1], shape[0]] : size],
      );
      assert.equal(error?.name, "ConsistencySamplerError", "it was not refused");
      assert.equal(error.code, "input", error.message);
      assert.match(error.message, message);
      assert.doesNotMatch(error.message, /\n/);
      assert.ok(error.message.length < 250, `${error.message.length} letters`);
    });
  }

  test("colours of a grey model are refused", async () => {
    await page.evaluate(() => window.load("mnist-shape"));
    const { error } = await call("edit", { kind: "colorize", classLabels: [1] }, { image: black(784) }, [28, 28]);
    assert.deepEqual([error.code, error.message], ["input", "colorize: expected a model of 3 channels, found 1"]);
  });

  test("a signal stops an edit, and a second call meanwhile is refused", async () => {
    const outcomes = await page.evaluate(async () => {
      const image = new ImageData(28, 28);
      const abort = new AbortController();
      const outcome = (promise) => promise.then(() => "done", ({ name, code }) => code ?? name);
      const options = { kind: "super-resolution", patch: 4, image, classLabels: [1] };
      const first = outcome(window.sampler.edit({ ...options, signal: abort.signal, onStep: () => abort.abort() }));
      const second = await outcome(window.sampler.denoise({ image, sigma: 1, classLabels: [1] }));
      return [await first, second, await outcome(window.sampler.denoise({ image, sigma: 1, classLabels: [1] }))];
    });
    // An AbortError has a number for a code.
    assert.deepEqual(outcomes, [20, "busy", "done"]);
  });

  test("an option that cannot be sent is refused", async () => {
    const outcome = await page.evaluate(() =>
      window.sampler.sample({ seed: 1, classLabels: () => 1 }).catch(({ code, message }) => ({ code, message })),
    );
    assert.equal(outcome.code, "input");
    assert.match(outcome.message, /^options: /);
  });
});
