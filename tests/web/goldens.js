// What diffusers computes, from tests/goldens/, and how to compare with it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";

import { parse } from "./safetensors.js";
import { GOLDENS } from "./server.js";

/** How far a byte of a picture may be off: half a level from rounding to bytes, one from the network's own rounding. */
export const PIXEL_TOLERANCE = 1.5;

/**
 * The golden tensors and sample settings in `<stem>.safetensors` and `<stem>.json`: `{ tensors, cases }`, each case being
 * `{ name, options }` with the options of `sample`.
 */
export function goldens(stem) {
  const { cases: list, tensors } = read(stem);
  const cases = list.map((settings) => ({
    name: settings.name,
    options: {
      seed: settings.seed,
      count: settings.batch,
      classLabels: settings.class_labels,
      numInferenceSteps: settings.num_inference_steps,
      timesteps: settings.timesteps,
    },
  }));
  return { tensors, cases };
}

/** What is in `<stem>.json` and `<stem>.safetensors`. */
export function read(stem) {
  const file = (extension) => readFileSync(path.join(GOLDENS, stem + extension));
  return { cases: JSON.parse(file(".json").toString()), tensors: parse(file(".safetensors")) };
}

/** Images in 0…1, [B, C, H, W], as opaque RGBA in 0…255, one image after another, not rounded. */
export function rgba({ shape: [batch, channels, height, width], values }) {
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

/** Asserts that two lists of numbers are equal but for the tolerance; the message names the worst place. */
export function assertNear(found, expected, tolerance) {
  assert.equal(found.length, expected.length);
  let worst = 0;
  for (let i = 0; i < found.length; i++) {
    // Written so that NaN counts as different.
    if (!(Math.abs(found[i] - expected[i]) <= Math.abs(found[worst] - expected[worst]))) worst = i;
  }
  const difference = Math.abs(found[worst] - expected[worst]);
  assert.ok(difference <= tolerance, `at ${worst}: expected ${expected[worst]} ± ${tolerance}, found ${found[worst]}`);
}
