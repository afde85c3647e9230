// The harness of `cargo xtask bench`, on a tiny network and this project's plan alone.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { measure, median, serveBench } from "./bench/measure.js";

let server;

before(async () => {
  server = await serveBench();
});
after(() => server?.stop());

test("a case has every figure", async () => {
  const { cases, adapter } = await measure(server, {
    models: [{ name: "tiny", folder: "/goldens/mnist-shape/", onnx: {} }],
    batches: [1],
    runtimes: ["ours"],
    rounds: 1,
    seconds: 0,
    cold: 1,
    log: () => {},
  });
  assert.equal(typeof adapter, "string");
  assert.equal(cases.length, 1);
  const [{ model, batch, ours }] = cases;
  assert.deepEqual([model, batch], ["tiny", 1]);
  for (const key of ["forward_ms", "first_image_ms", "ready_ms", "load_ms", "dispatches", "pipelines", "heap_bytes"]) {
    assert.ok(ours[key] > 0, `${key} is ${ours[key]}`);
  }
  assert.equal(ours.submits, 1);
  assert.equal(ours.rounds, 1);
  assert.ok(ours.first_image_ms >= ours.ready_ms);
  assert.ok(ours.bytes_brotli < ours.bytes_raw && ours.bytes_raw > 100_000, `${ours.bytes_raw} bytes of code`);
  // The weights alone, which are never in fewer bytes than two each.
  assert.ok(ours.gpu_peak_bytes >= ours.gpu_bytes && ours.gpu_bytes > 10_000, `${ours.gpu_bytes} bytes on the GPU`);
});

test("the median of an even number of times lies between the middle two", () => {
  assert.equal(median([4, 1, 2, 9]), 3);
  assert.equal(median([3, 1, 2]), 2);
});
