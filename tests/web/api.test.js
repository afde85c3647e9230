// The public JavaScript interface, `www/library/consistency-sampler.ts`, as another page would use it.

import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { open } from "node:fs/promises";
import path from "node:path";
import { describe, test } from "node:test";

import { newPage } from "./browser.js";
import { PIXEL_TOLERANCE, assertNear, goldens, rgba } from "./goldens.js";
import { DIST, GOLDENS } from "./server.js";
import { openBlank, useSite } from "./setup.js";

let server, browser, page;

useSite(async (site) => {
  ({ server, browser, page } = site);
  await page.evaluate(async () => {
    window.progress = [];
    window.sampler = await window.ConsistencySampler.load("/weights/mnist", {
      onProgress: (event) => window.progress.push(event),
    });
    // What a promise comes to: its value, or its error in plain data.
    window.outcome = (promise) =>
      promise.then(
        (value) => ({ value }),
        ({ name, code, message }) => ({ error: { name, code, message } }),
      );
  });
}, { blank: true });

test("info describes the model", async () => {
  const { device, parameters, bytes, ...info } = await page.evaluate(() => window.sampler.info);
  assert.equal(typeof device, "string");
  assert.ok(parameters > 100_000, `${parameters} parameters`);
  const ofWeights = bytes / parameters;
  assert.ok(ofWeights > 2 && ofWeights < 2.1, `${bytes} bytes of f16 weights and their header`);
  assert.deepEqual(info, {
    processor: "gpu",
    sampleSize: [28, 28],
    channels: 1,
    numClassEmbeds: 10,
    numTrainTimesteps: info.numTrainTimesteps,
    sigmaMin: 0.002,
    sigmaMax: 80,
    name: `${server.origin}/weights/mnist/`,
    revision: null,
    licence: null,
    classNames: null,
  });
});

test("progress counts the bytes up to the total", async () => {
  const progress = await page.evaluate(() => window.progress);
  const { stage, bytes, total, bytesPerSecond } = progress.at(-1);
  assert.equal(stage, "shaders");
  assert.equal(bytes, total);
  assert.ok(total > 1e6 && bytesPerSecond > 0);
  for (let i = 1; i < progress.length; i++) assert.ok(progress[i].bytes >= progress[i - 1].bytes);
});

test("a schedule begins at sigmaMax, whichever way it is asked for", async () => {
  const [byNumber, byList] = await page.evaluate(async () => {
    const { timesteps, sigmas } = await window.sampler.schedule({ numInferenceSteps: 3 });
    return [{ timesteps, sigmas }, await window.sampler.schedule({ timesteps })];
  });
  assert.equal(byNumber.timesteps.length, 3);
  assert.ok(Math.abs(byNumber.sigmas[0] - 80) < 1e-3);
  assert.deepEqual(byList, byNumber);
});

test("bad options are refused in one line", async () => {
  const outcomes = await page.evaluate(() =>
    Promise.all([
      window.outcome(window.sampler.schedule({ timesteps: [0, 5] })),
      window.outcome(window.sampler.schedule({ numInferenceSteps: 0 })),
    ]),
  );
  for (const { error } of outcomes) {
    assert.equal(error?.name, "ConsistencySamplerError");
    assert.equal(error.code, "input");
    assert.match(error.message, /^[^\n]+$/);
  }
  for (const options of [
    { seed: 0, count: 3, classLabels: [1, 2], numInferenceSteps: 1 },
    { seed: 0, count: 1, classLabels: [10], numInferenceSteps: 1 },
    { seed: 0, count: 0, classLabels: [], numInferenceSteps: 1 },
    { seed: -1, count: 1, classLabels: [1], numInferenceSteps: 1 },
    { seed: 0.5, count: 1, classLabels: [1], numInferenceSteps: 1 },
    { seed: [1, 2], count: 3, classLabels: [1], numInferenceSteps: 1 },
    { seed: [-1], count: 1, classLabels: [1], numInferenceSteps: 1 },
    { seed: [{ from: 1, to: 2, amount: 1.5 }], count: 1, classLabels: [1], numInferenceSteps: 1 },
    { seed: [{ from: 1, amount: 0.5 }], count: 1, classLabels: [1], numInferenceSteps: 1 },
  ]) {
    const { error } = await page.evaluate((options) => window.outcome(window.sampler.sample(options)), options);
    assert.equal(error?.code, "input", JSON.stringify(options));
    assert.match(error.message, /^[^\n]+$/);
  }
});

test("a list of noises gives each image the one that its noise makes alone", async () => {
  const drawn = await page.evaluate(async () => {
    const last = async (options) => {
      let pixels;
      await window.sampler.sample({ classLabels: [3], numInferenceSteps: 2, ...options, onStep: (step) => ({ pixels } = step) });
      return Array.from(pixels);
    };
    const between = { from: 5, to: 6, amount: 0.3 };
    return {
      together: await last({ seed: [5, 6n, between, { from: between, to: 6, amount: 1 }], count: 4 }),
      alone: [await last({ seed: 5 }), await last({ seed: 6 }), await last({ seed: 5, blend: { seed: 6, amount: 0.3 } })],
    };
  });
  const [first, second, middle] = drawn.alone;
  // Another batch size may add in another order.
  assertNear(drawn.together, [...first, ...second, ...middle, ...second], 1);
});

const shipped = goldens("shipped/mnist");
for (const { name, options } of shipped.cases.filter(({ options }) => options.count <= 4)) {
  test(`a seed draws what diffusers draws from it: ${name}`, async () => {
    const [steps, pixels] = await page.evaluate(async (options) => {
      const steps = [];
      await window.sampler.sample({ ...options, onStep: (step) => steps.push(step) });
      return [steps.map(({ index, steps, last }) => ({ index, steps, last })), Array.from(steps.at(-1).pixels)];
    }, options);
    assert.deepEqual(
      steps,
      Array.from(steps, (_, index) => ({ index, steps: steps.length, last: index === steps.length - 1 })),
    );
    assertNear(pixels, rgba(shipped.tensors[`${name}.images`]), PIXEL_TOLERANCE);
  });
}

test("seeds beyond 2^53 are taken whole", async () => {
  const [same, differing] = await page.evaluate(async () => {
    const pictures = [];
    for (const seed of [2n ** 64n - 1n, 2n ** 64n - 2n, 2n ** 64n - 1n]) {
      const onStep = ({ pixels }) => pictures.push(String(pixels));
      await window.sampler.sample({ seed, count: 1, classLabels: [4], numInferenceSteps: 1, onStep });
    }
    return [pictures[0] === pictures[2], pictures[0] !== pictures[1]];
  });
  assert.ok(same, "the same seed gives the same picture");
  assert.ok(differing, "seeds that differ in their last bit give different pictures");
});

test("a signal stops a run, the next one is whole, and two at once are refused", async () => {
  const options = { seed: 1, count: 1, numInferenceSteps: 4 };
  const outcomes = await page.evaluate(async (options) => {
    const abort = new AbortController();
    const stopped = window.outcome(window.sampler.sample({ ...options, signal: abort.signal }));
    const second = await window.outcome(window.sampler.sample(options));
    abort.abort();
    return [await stopped, second, await window.outcome(window.sampler.sample(options))];
  }, options);
  assert.equal(outcomes[0].error?.name, "AbortError");
  assert.equal(outcomes[1].error?.code, "busy");
  assert.equal(outcomes[2].value?.networkCalls, 4);
});

test("a signal stops a load", async () => {
  // Another address, for the model of the first one is there already.
  const weights = "/goldens/no-mid/unet/diffusion_pytorch_model.safetensors";
  server.routes.set(weights, { length: 1e6, body: stalled() });
  const { error } = await page.evaluate(async () => {
    const abort = new AbortController();
    const loading = window.ConsistencySampler.load("/goldens/no-mid/", {
      signal: abort.signal,
      onProgress: () => abort.abort(),
    });
    return window.outcome(loading);
  });
  server.routes.delete(weights);
  assert.equal(error?.name, "AbortError");
});

test("samplers of one address share the weights, and their calls run in turn", async () => {
  const before = server.log.length;
  const outcomes = await page.evaluate(async () => {
    const options = { seed: 5, count: 1, classLabels: [2], numInferenceSteps: 2 };
    const events = [];
    const other = await window.ConsistencySampler.load("/weights/mnist/");
    const run = (sampler, name) => {
      const onStep = ({ index }) => events.push(name + index);
      return window.outcome(sampler.sample({ ...options, onStep }));
    };
    const abort = new AbortController();
    const first = run(window.sampler, "a");
    const waits = window.outcome(other.sample({ ...options, signal: abort.signal }));
    abort.abort();
    const stopped = await waits;
    const second = run(other, "b");
    const results = [await first, await second];
    other.dispose();
    const gone = await window.outcome(other.sample(options));
    return { events, stopped, results, gone, alive: await run(window.sampler, "c") };
  });
  assert.deepEqual(outcomes.events, ["a0", "a1", "b0", "b1", "c0", "c1"]);
  assert.equal(outcomes.stopped.error.name, "AbortError");
  for (const { value } of [...outcomes.results, outcomes.alive]) assert.equal(value?.networkCalls, 2);
  assert.equal(outcomes.gone.error.code, "disposed");
  assert.deepEqual(server.log.slice(before), [], "nothing is fetched a second time");
});

test("several models live in one worker, and one that is given up does not disturb the others", async () => {
  const outcomes = await page.evaluate(async () => {
    const others = await Promise.all(
      ["no-mid", "mnist-shape"].map((name) => window.ConsistencySampler.load(`/goldens/${name}/`)),
    );
    const samples = [window.sampler, ...others].map((sampler) => window.outcome(sampler.sample({ seed: 3, numInferenceSteps: 2 })));
    // Disposed of while it samples: the others go on.
    others[0].dispose();
    const outcomes = await Promise.all(samples);
    others[1].dispose();
    return outcomes;
  });
  assert.equal(page.workers().length, 1, "one worker for all");
  assert.deepEqual(outcomes.map(({ value, error }) => error?.code ?? value.networkCalls), [2, "disposed", 2]);
});

test("a load that fails may be tried again", async () => {
  const weights = "/goldens/no-mid/unet/diffusion_pytorch_model.safetensors";
  server.routes.set(weights, { type: "text/html", body: "no" });
  const load = () =>
    page.evaluate(async () => {
      const outcome = await window.outcome(window.ConsistencySampler.load("/goldens/no-mid/", { cache: false }));
      outcome.value?.dispose();
      return outcome.error?.code ?? "loaded";
    });
  assert.equal(await load(), "http");
  server.routes.delete(weights);
  assert.equal(await load(), "loaded");
});

test("dispose rejects what is under way and what comes later", async () => {
  const outcomes = await page.evaluate(async () => {
    const running = window.outcome(window.sampler.sample({ seed: 0, count: 1 }));
    window.sampler.dispose();
    return [await running, await window.outcome(window.sampler.schedule({ numInferenceSteps: 1 }))];
  });
  assert.deepEqual(
    outcomes.map(({ error }) => error?.code),
    ["disposed", "disposed"],
  );
});

describe("in a worker of the page's own", () => {
  /** What such a worker answers: what it loaded and how many bytes it drew, or an error in plain data. */
  const script = (model) => `
    const port = new Promise((resolve) => { self.onconnect = ({ ports }) => resolve(ports[0]); });
    const answer = async (data) => (self.postMessage ? self : await port).postMessage(data);
    import(ORIGIN + "/consistency-sampler.js").then(async ({ ConsistencySampler }) => {
      const sampler = await ConsistencySampler.load(${JSON.stringify(model)}, { cache: false });
      let bytes;
      await sampler.sample({ seed: 1, count: 2, onStep: ({ pixels }) => { bytes = pixels.length; } });
      sampler.dispose();
      await answer({ name: sampler.info.name, bytes });
    }).catch(({ name, code, message }) => answer({ name, code, message }));`;

  /** @param {"script" | "blob" | "shared"} kind */
  const drawn = (kind, model) => {
    const text = `const ORIGIN = ${JSON.stringify(server.origin)};${script(model)}`;
    server.routes.set("/workers/own.js", { type: "text/javascript", body: text });
    return page.evaluate(
      ([kind, text]) =>
        new Promise((resolve) => {
          const address = kind === "blob" ? URL.createObjectURL(new Blob([text], { type: "text/javascript" })) : "/workers/own.js";
          const worker = kind === "shared" ? new SharedWorker(address, { type: "module" }).port : new Worker(address, { type: "module" });
          worker.onmessage = ({ data }) => resolve(data);
        }),
      [kind, text],
    );
  };

  test("a model loads, with an address relative to the worker's script", async () => {
    const { bytes, name, message } = await drawn("script", "../goldens/no-mid/");
    assert.equal(name, `${server.origin}/goldens/no-mid/`, message);
    assert.ok(bytes > 0);
  });

  test("a model loads in a worker made of a blob, relative to the site", async () => {
    const { bytes, name, message } = await drawn("blob", "/goldens/no-mid/");
    assert.equal(name, `${server.origin}/goldens/no-mid/`, message);
    assert.ok(bytes > 0);
  });

  test("where a worker can start no other the error says so", async () => {
    const { name, code, message } = await drawn("shared", "/goldens/no-mid/");
    assert.deepEqual([name, code], ["ConsistencySamplerError", "unsupported"]);
    assert.match(message, /^no Worker here: expected a page or a dedicated worker$/);
  });
});

test("workerUrl says where the worker and its modules are", async () => {
  const other = await newPage(browser);
  await openBlank(other, server);
  for (const file of readdirSync(DIST, { recursive: true, encoding: "utf8" }).filter((file) => /^[\w-]+\.js$|^pkg\//.test(file))) {
    const type = file.endsWith(".wasm") ? "application/wasm" : "text/javascript";
    server.routes.set(`/vendor/${file}`, { type, body: readFileSync(path.join(DIST, file)) });
  }
  server.log.length = 0;
  const outcome = await other.evaluate(async () => {
    const { ConsistencySampler } = await import("/consistency-sampler.js");
    const before = ConsistencySampler.workerUrl;
    ConsistencySampler.workerUrl = "vendor/worker.js";
    const sampler = await ConsistencySampler.load("/goldens/no-mid/", { cache: false });
    const { networkCalls } = await sampler.sample();
    sampler.dispose();
    ConsistencySampler.workerUrl = "http://";
    const { code, message } = await ConsistencySampler.load("/goldens/no-mid/").catch((error) => error);
    return { before, networkCalls, code, message };
  });
  const code = server.log.map(({ path }) => path).filter((path) => /worker\.js$|\.wasm$/.test(path));
  assert.deepEqual(code, ["/vendor/worker.js", "/vendor/pkg/consistency_sampler_bg.wasm"]);
  assert.deepEqual([outcome.before, outcome.networkCalls, outcome.code], [null, 1, "unsupported"]);
  assert.match(outcome.message, /ConsistencySampler\.workerUrl/);
  await other.context().close();
});

test("what a caller without types gives wrongly is a typed error", async () => {
  const errors = await page.evaluate(async () => {
    /** @type {any} */
    const { ConsistencySampler } = window;
    const sampler = await ConsistencySampler.load("/goldens/no-mid/", null);
    const wrong = [
      () => ConsistencySampler.load(), () => ConsistencySampler.load(null), () => ConsistencySampler.load("http://"),
      () => ConsistencySampler.load("/goldens/no-mid/", { patience: { stall: () => {} }, device: "cpu" }),
      () => sampler.schedule({ timesteps: () => {} }), () => sampler.edit(), () => sampler.edit(null), () => sampler.denoise(null),
    ];
    const outcomes = [];
    for (const call of wrong) outcomes.push(await window.outcome(call()));
    if ((await sampler.schedule(null)).timesteps.length !== 1) throw new Error("one step is the default");
    sampler.dispose();
    return outcomes;
  });
  for (const { error } of errors) {
    assert.equal(error?.name, "ConsistencySamplerError", JSON.stringify(errors));
    assert.equal(error.code, "input", error.message);
    assert.match(error.message, /^[^\n]+$/);
  }
});

/** The first bytes of the weights, and then silence. */
async function* stalled() {
  const file = await open(path.join(GOLDENS, "no-mid/unet/diffusion_pytorch_model.safetensors"));
  const { buffer } = await file.read(Buffer.alloc(20_000), 0, 20_000);
  await file.close();
  yield buffer;
  await new Promise(() => {});
}
