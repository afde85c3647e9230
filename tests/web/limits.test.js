// A GPU that is too small for a model says so, with both numbers, before any weights are fetched.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { newPage } from "./browser.js";
import { DIST } from "./server.js";
import { useSite } from "./setup.js";

let server, browser;

useSite((site) => ({ server, browser } = site));

for (const most of [1000, 150_000]) {
  test(`buffers of at most ${most} bytes`, async () => {
    // The adapter is asked in the worker, so that is where its limits must be lower.
    const worker = readFileSync(`${DIST}/worker.js`, "utf8");
    const lower = `for (const limit of ["maxBufferSize", "maxStorageBufferBindingSize"])
      Object.defineProperty(GPUSupportedLimits.prototype, limit, { get: () => ${most} });`;
    server.routes.set("/worker.js", { type: "text/javascript", body: `${lower}\n${worker}` });
    server.log.length = 0;
    const page = await newPage(browser);
    try {
      await page.goto(`${server.origin}/weights/mnist/model_index.json`);
      const [code, message] = await page.evaluate(async () => {
        const { ConsistencySampler } = await import("/consistency-sampler.js");
        const loading = ConsistencySampler.load("/weights/mnist/", { cache: false });
        return loading.then(() => ["loaded"], (error) => [error.code, error.message]);
      });
      assert.equal(code, "gpu");
      const words = `: (?:a weight|one image) needs a buffer of (\\d+) bytes, but this GPU's largest is ${most}$`;
      const [, bytes] = new RegExp(words).exec(message) ?? [];
      assert.ok(Number(bytes) > most, message);
      const fetched = server.log.filter(({ method, path }) => method === "GET" && path.endsWith(".safetensors"));
      assert.deepEqual(fetched, [], "weights were fetched");
    } finally {
      server.routes.clear();
      await page.context().close();
    }
  });
}

test("a batch that exceeds them is drawn in parts, and is the same", async () => {
  const draw = async () => {
    const page = await newPage(browser);
    try {
      await page.goto(`${server.origin}/weights/mnist/model_index.json`);
      return await page.evaluate(async () => {
        const { ConsistencySampler } = await import("/consistency-sampler.js");
        const sampler = await ConsistencySampler.load("/weights/mnist/", { cache: false, device: "gpu" });
        let pixels = new Uint8ClampedArray();
        await sampler.sample({ seed: 2, count: 20, onStep: (step) => (pixels = step.pixels) });
        return pixels.join();
      });
    } finally {
      await page.context().close();
    }
  };
  const whole = await draw();
  const most = 1_500_000;
  const worker = readFileSync(`${DIST}/worker.js`, "utf8");
  const hook = `const { createBuffer } = GPUDevice.prototype;
    GPUDevice.prototype.createBuffer = function (descriptor) {
      if (descriptor.size > ${most}) throw new RangeError("a buffer of " + descriptor.size + " bytes");
      return createBuffer.call(this, descriptor);
    };
    for (const limit of ["maxBufferSize", "maxStorageBufferBindingSize"])
      Object.defineProperty(GPUSupportedLimits.prototype, limit, { get: () => ${most} });`;
  server.routes.set("/worker.js", { type: "text/javascript", body: `${hook}\n${worker}` });
  assert.equal(await draw(), whole);
  server.routes.clear();
});
