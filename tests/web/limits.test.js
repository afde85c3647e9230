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
