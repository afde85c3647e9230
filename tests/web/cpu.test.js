// A browser without WebGPU: the CPU computes the same pictures, by the same API, with code that no other browser fetches.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { launch, launchWithoutWebGpu, newPage } from "./browser.js";
import { PIXEL_TOLERANCE, assertNear, goldens, rgba } from "./goldens.js";
import { DIGITS, finished, generate } from "./page.js";
import { startServer } from "./server.js";
import { hook } from "./worker-hooks.js";

const CPU_CODE = /^\/pkg-cpu\//;
const GPU_CODE = /^\/pkg\/.*\.wasm$/;

let server;
before(async () => {
  server = await startServer();
});
after(() => server?.stop());

const requested = (pattern) => server.log.filter(({ path }) => pattern.test(path)).map(({ path }) => path);

describe("without WebGPU", () => {
  let browser, page;

  before(async () => {
    browser = await launchWithoutWebGpu();
    page = await newPage(browser);
    await page.goto(`${server.origin}/weights/mnist/model_index.json`);
    assert.equal(await page.evaluate(async () => (await navigator.gpu?.requestAdapter()) ?? null), null);
    await page.evaluate(async () => {
      const { ConsistencySampler } = await import("/consistency-sampler.js");
      window.load = (options) => ConsistencySampler.load("/weights/mnist/", { cache: false, ...options });
    });
  });
  after(() => browser?.close());

  test("a model loads with a notice, and nothing for GPUs is fetched but scripts", async () => {
    server.log.length = 0;
    const { info, notices } = await page.evaluate(async () => {
      const notices = [];
      window.sampler = await window.load({ onNotice: (notice) => notices.push(notice) });
      return { info: window.sampler.info, notices };
    });
    assert.deepEqual([info.processor, info.device], ["cpu", "CPU"]);
    assert.deepEqual(notices, ["this browser offers no WebGPU: the CPU computes in place of the GPU, which takes longer"]);
    assert.equal(requested(CPU_CODE).length, 2, `${requested(CPU_CODE)}`);
    assert.deepEqual(requested(GPU_CODE), []);
  });

  const { tensors, cases } = goldens("shipped/mnist");
  for (const { name, options } of cases) {
    test(`diffusers' pictures: ${name}`, async () => {
      const pixels = await page.evaluate(async (options) => {
        let last;
        await window.sampler.sample({ ...options, onStep: ({ pixels }) => (last = pixels) });
        return Array.from(last);
      }, options);
      assertNear(pixels, rgba(tensors[`${name}.images`]), PIXEL_TOLERANCE);
    });
  }

  test("a run stops after the call under way", async () => {
    const { steps, error, again } = await page.evaluate(async () => {
      const abort = new AbortController();
      let steps = 0;
      const onStep = () => {
        steps++;
        abort.abort();
      };
      const options = { seed: 1, count: 1, numInferenceSteps: 39, signal: abort.signal, onStep };
      const error = await window.sampler.sample(options).catch(({ name }) => name);
      const again = await window.sampler.sample({ seed: 1, count: 1, numInferenceSteps: 1 });
      return { steps, error, again };
    });
    assert.equal(error, "AbortError");
    assert.ok(steps < 39, `${steps} of 39 steps were made`);
    assert.equal(again.networkCalls, 1);
  });

  test("a caller may insist on a GPU", async () => {
    const codes = await page.evaluate(() =>
      Promise.all(["gpu", "tpu"].map((device) => window.load({ device }).catch(({ code, message }) => [code, message]))),
    );
    assert.deepEqual(codes, [
      ["unsupported", "this browser offers no WebGPU"],
      ["input", 'device: expected "gpu" or "cpu", found "tpu"'],
    ]);
  });

  test("code that does not come is a network error", async () => {
    server.routes.set("/pkg-cpu/consistency_sampler_bg.wasm", { status: 404, body: "not here" });
    // Another page has another worker, which has not opened the module yet.
    const page = await newPage(browser);
    try {
      await page.goto(`${server.origin}/weights/mnist/model_index.json`);
      const load = () =>
        page.evaluate(async () => {
          const { ConsistencySampler } = await import("/consistency-sampler.js");
          const loading = ConsistencySampler.load("/weights/mnist/", { cache: false });
          return loading.then(({ info }) => [info.processor, ""], (error) => [error.code, error.message]);
        });
      const [code, message] = await load();
      assert.equal(code, "network");
      assert.match(message, /^the WebAssembly module for the CPU: /);
      server.routes.clear();
      assert.deepEqual(await load(), ["cpu", ""], "another try is another try");
    } finally {
      server.routes.clear();
      await page.context().close();
    }
  });

  test("the page draws, says so, and draws again", async () => {
    const page = await newPage(browser);
    try {
      await page.goto(`${server.origin}/?${DIGITS}`);
      await finished(page);
      const notice = page.getByRole("note").filter({ hasText: "The CPU computes in place of the GPU" });
      assert.equal(await notice.isVisible(), true);
      assert.match(await page.locator("#card").textContent(), /Runs onthe CPU/);
      assert.match(await generate(page), /network call/);
      assert.deepEqual(page.complaints, []);
    } finally {
      await page.context().close();
    }
  });
});

describe("on several cores", () => {
  /** What tells a worker that the machine has so many. */
  const cores = (count) => `Object.defineProperty(navigator, "hardwareConcurrency", { value: ${count} });`;
  const options = { seed: 3, count: 7, classLabels: [0, 1, 2, 3, 4, 5, 6], timesteps: [22, 0] };
  let browser, alone;

  /** The pixels of a batch in a page whose workers have these codes in front of their scripts, and how many there were. */
  async function drawn(...codes) {
    const starts = hook(server, ...codes);
    const page = await newPage(browser);
    try {
      await page.goto(`${server.origin}/weights/mnist/model_index.json`);
      const pixels = await page.evaluate(async (options) => {
        const { ConsistencySampler } = await import("/consistency-sampler.js");
        const sampler = await ConsistencySampler.load("/weights/mnist/", { cache: false });
        let last;
        await sampler.sample({ ...options, onStep: ({ pixels }) => (last = pixels) });
        sampler.dispose();
        return Array.from(last);
      }, options);
      return { pixels, workers: starts() };
    } finally {
      server.routes.clear();
      await page.context().close();
    }
  }

  before(async () => {
    browser = await launchWithoutWebGpu();
    alone = await drawn(cores(1));
  });
  after(() => browser?.close());

  test("one worker computes a batch where there is one core", () => {
    assert.equal(alone.workers, 1);
  });

  test("workers share a batch and give the bits that one gives", async () => {
    const { pixels, workers } = await drawn(cores(3));
    assert.equal(workers, 3);
    assert.deepEqual(pixels, alone.pixels);
  });

  const FAULTS = { "does not start": "throw new Error('no');", "never answers": "self.close();" };
  for (const [fault, code] of Object.entries(FAULTS)) {
    test(`the worker computes the share of one that ${fault}`, async () => {
      const { pixels, workers } = await drawn(cores(2), code);
      assert.equal(workers, 2);
      assert.deepEqual(pixels, alone.pixels);
    });
  }
});

describe("with WebGPU", () => {
  let browser, page;

  before(async () => {
    browser = await launch();
    page = await newPage(browser);
    await page.goto(`${server.origin}/weights/mnist/model_index.json`);
  });
  after(() => browser?.close());

  /** What a load with some device says of itself, and whether its first sample is that of a seed. */
  const load = (device) =>
    page.evaluate(async (device) => {
      const { ConsistencySampler } = await import("/consistency-sampler.js");
      const notices = [];
      const onNotice = (notice) => notices.push(notice);
      const sampler = await ConsistencySampler.load("/weights/mnist/", { cache: false, device, onNotice });
      await sampler.sample({ seed: 1, count: 1, numInferenceSteps: 1 });
      sampler.dispose();
      return { processor: sampler.info.processor, notices };
    }, device);

  test("the CPU's code is never asked for", async () => {
    server.log.length = 0;
    assert.deepEqual(await load(), { processor: "gpu", notices: [] });
    assert.deepEqual(requested(CPU_CODE), []);
    assert.equal(requested(GPU_CODE).length, 1);
  });

  test("unless a caller wants the CPU, which needs no notice", async () => {
    server.log.length = 0;
    assert.deepEqual(await load("cpu"), { processor: "cpu", notices: [] });
    assert.deepEqual(requested(GPU_CODE), []);
  });
});
