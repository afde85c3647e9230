// What happens to the GPU and its worker: refused, too small, out of memory, lost, killed. The faults are real ones
// (`device.destroy()`, `self.close()`, buffers that cannot be had), put in front of the worker's script by the tests.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { newPage } from "./browser.js";
import { openBlank, useSite } from "./setup.js";
import { ON_DEMAND, hook, hookAll, loseAt, noMemory } from "./worker-hooks.js";

const MODEL = "/goldens/no-mid/";

let server, browser, page;

/** The picture of a device that nothing happens to. */
let picture;

useSite(async (site) => {
  ({ server, browser } = site);
  page = await open();
  picture = await page.evaluate(async () => window.draw(await window.load()));
  assert.ok(new Set(picture).size > 50);
  await page.context().close();
});
beforeEach(async () => {
  page = await open();
});
afterEach(() => page.context().close());

/** A page of its own, and the server as it should be. */
async function open() {
  server.routes.clear();
  const page = await newPage(browser);
  await openBlank(page, server);
  await page.evaluate(async (model) => {
    const { ConsistencySampler } = await import("/consistency-sampler.js");
    const faults = new BroadcastChannel("faults");
    window.fault = (what) => faults.postMessage(what);
    window.notices = [];
    window.load = (options) =>
      ConsistencySampler.load(model, { cache: false, onNotice: (notice) => window.notices.push(notice), ...options });
    // What a promise comes to: its value, or its error in plain data.
    window.outcome = (promise) =>
      promise.then(
        (value) => ({ value }),
        ({ name, code, message }) => ({ error: { name, code, message } }),
      );
    /** A picture in two steps; \`fault\` names what happens after the first. */
    window.draw = async (sampler, { fault = "", ...options } = {}) => {
      let pixels, steps = 0;
      const onStep = (step) => {
        pixels = step.pixels;
        steps++;
        if (fault && steps === 1) window.fault(fault);
      };
      await sampler.sample({ seed: 5, count: 1, numInferenceSteps: 4, ...options, onStep });
      return Array.from(pixels);
    };
  }, MODEL);
  return page;
}

const refusal = async (options) => {
  const { error } = await page.evaluate((options) => window.outcome(window.load(options)), options);
  assert.equal(error?.name, "ConsistencySamplerError", JSON.stringify(error));
  assert.match(error.message, /^[^\n]+$/);
  return error;
};

describe("a GPU that is not to be had", () => {
  test("because the browser offers none is a typed error", async () => {
    hookAll(server, "navigator.gpu.requestAdapter = async () => null;");
    const { code, message } = await refusal({ device: "gpu" });
    assert.equal(code, "unsupported");
    assert.match(message, /no WebGPU/);
  });

  test("because the adapter refuses is a typed error", async () => {
    hookAll(server, "GPUAdapter.prototype.requestDevice = async () => { throw new TypeError('not today'); };");
    const { code, message } = await refusal({ device: "gpu" });
    assert.equal(code, "unsupported");
    assert.match(message, /gives no device: not today$/);
  });

  test("because its limits are too small names both numbers, before the weights are asked for", async () => {
    const limits = "{ maxBufferSize: 512, maxStorageBufferBindingSize: 512, maxComputeWorkgroupsPerDimension: 65535 }";
    hookAll(
      server,
      `Object.defineProperty(GPUAdapter.prototype, "limits", { get: () => (${limits}) });
      const { requestDevice } = GPUAdapter.prototype;
      GPUAdapter.prototype.requestDevice = function () { return requestDevice.call(this); };`,
    );
    server.log.length = 0;
    const { code, message } = await refusal();
    assert.equal(code, "gpu");
    assert.match(message, /needs a buffer of \d+ bytes, but this GPU's largest is 512/);
    assert.deepEqual(server.log.filter(({ method, path }) => method === "GET" && path.endsWith(".safetensors")), []);
  });
});

describe("memory that is not to be had", () => {
  test("during a load fails it, and the next load is whole", async () => {
    // The model's activations, 20 480 bytes. The trial of kernels, which does without what it does not get, has longer ones.
    hook(server, noMemory(20_000, 1, 30_000));
    const { code } = await refusal();
    assert.equal(code, "gpu");
    const pixels = await page.evaluate(async () => window.draw(await window.load()));
    assert.deepEqual(pixels, picture);
  });

  test("for many samples at once fails that call, and a smaller one is whole", async () => {
    // Many samples need larger buffers than the model and one sample do.
    hookAll(server, noMemory(3_000_000));
    const [many, one] = await page.evaluate(async () => {
      const sampler = await window.load();
      return [await window.outcome(window.draw(sampler, { count: 400 })), await window.outcome(window.draw(sampler))];
    });
    assert.equal(many.error?.code, "gpu", JSON.stringify(many).slice(0, 200));
    assert.deepEqual(one.value, picture);
  });

  test("for more samples than any GPU holds is refused beforehand, in numbers", async () => {
    const { error } = await page.evaluate(async () =>
      window.outcome(window.draw(await window.load(), { count: 2 ** 32 + 1 })),
    );
    assert.equal(error.code, "input");
    assert.match(error.message, /^count: expected 1 to \d+, found 4294967297$/);
  });
});

test("of two samplers one is closed in the middle of a picture, and the other's is whole", async () => {
  const [closed, other] = await page.evaluate(async () => {
    const [a, b] = await Promise.all([window.load(), window.load()]);
    const first = window.outcome(window.draw(a));
    const second = window.outcome(window.draw(b));
    a.dispose();
    return [await first, await second];
  });
  assert.equal(closed.error?.code, "disposed");
  assert.deepEqual(other.value, picture);
});

test("a tab that is frozen in the middle of a picture finishes it when it is shown again", async () => {
  const client = await page.context().newCDPSession(page);
  await page.evaluate(async () => {
    window.sampler = await window.load();
    window.drawing = window.outcome(window.draw(window.sampler));
  });
  const front = await page.context().newPage();
  await front.bringToFront();
  await client.send("Page.setWebLifecycleState", { state: "frozen" });
  await new Promise((resolve) => setTimeout(resolve, 1000));
  await client.send("Page.setWebLifecycleState", { state: "active" });
  await page.bringToFront();
  assert.deepEqual((await page.evaluate(() => window.drawing)).value, picture);
});

describe("a GPU that is lost", () => {
  /** Loads, draws, and tells the notices. */
  const drawn = (fault) =>
    page.evaluate(async (fault) => {
      const outcome = await window.outcome(window.load().then((sampler) => window.draw(sampler, { fault })));
      return { ...outcome, notices: window.notices };
    }, fault);

  for (const [phase, code] of [
    ["the upload", loseAt("GPUQueue", "writeBuffer", 5)],
    ["the compilation", loseAt("GPUDevice", "createComputePipeline", 3)],
    ["the first call", loseAt("GPUCommandEncoder", "beginComputePass", 1)],
  ]) {
    test(`during ${phase} is replaced, and the picture is the same`, async () => {
      const starts = hook(server, code);
      const { value, error, notices } = await drawn();
      assert.equal(error, undefined, JSON.stringify(error));
      assert.deepEqual(value, picture);
      assert.equal(starts(), 2);
      assert.equal(notices.length, 1, JSON.stringify(notices));
      assert.match(notices[0], /the GPU device was lost.*: the load begins anew$/);
    });
  }

  test("in the middle of a picture is replaced, and the picture is the same", async () => {
    const starts = hook(server, ON_DEMAND);
    const { value, error, notices } = await drawn("lose");
    assert.equal(error, undefined, JSON.stringify(error));
    assert.deepEqual(value, picture);
    assert.equal(starts(), 2);
    assert.equal(notices.length, 1, JSON.stringify(notices));
    assert.match(notices[0], /the GPU device was lost.*: the model is loaded again/);
  });

  test("twice is an error; trying again brings the model back", async () => {
    const starts = hook(server, ON_DEMAND, ON_DEMAND);
    const outcomes = await page.evaluate(async () => {
      const sampler = await window.load();
      const faulty = async () => {
        const onStep = ({ index }) => index === 0 && window.fault("lose");
        await sampler.sample({ seed: 5, count: 1, numInferenceSteps: 4, onStep });
      };
      return [await window.outcome(faulty()), await window.outcome(window.draw(sampler))];
    });
    assert.equal(outcomes[0].error?.code, "lost", JSON.stringify(outcomes[0]));
    assert.match(outcomes[0].error.message, /^[^\n]*the GPU device was lost[^\n]*$/);
    assert.deepEqual(outcomes[1].value, picture);
    assert.equal(starts(), 3);
  });

  test("twice during a load is an error, and the next load is whole", async () => {
    const code = loseAt("GPUQueue", "writeBuffer", 5);
    hook(server, code, code);
    const { code: word } = await refusal();
    assert.equal(word, "lost");
    assert.deepEqual(await page.evaluate(async () => window.draw(await window.load())), picture);
  });

  test("takes the models of all samplers with it, and all come back", async () => {
    hook(server, ON_DEMAND);
    const [a, b] = await page.evaluate(async () => {
      const samplers = await Promise.all([window.load(), window.load({ patience: {} })]);
      const first = window.draw(samplers[0], { fault: "lose" });
      return Promise.all([first, window.draw(samplers[1])].map(window.outcome));
    });
    assert.deepEqual([a.value, b.value], [picture, picture]);
  });
});

describe("a worker that is killed", () => {
  test("in the middle of a picture is replaced, and the picture is the same", async () => {
    const starts = hook(server, ON_DEMAND);
    const { value, notices } = await page.evaluate(async () => {
      const outcome = await window.outcome(window.load().then((sampler) => window.draw(sampler, { fault: "die" })));
      return { ...outcome, notices: window.notices };
    });
    assert.deepEqual(value, picture);
    assert.equal(starts(), 2);
    assert.match(notices[0], /^the worker was ended: the model is loaded again/);
  });

  test("while nothing is under way is replaced by the next call", async () => {
    hook(server, ON_DEMAND);
    const pixels = await page.evaluate(async () => {
      const sampler = await window.load();
      window.fault("die");
      await new Promise((resolve) => setTimeout(resolve, 500));
      return window.draw(sampler);
    });
    assert.deepEqual(pixels, picture);
  });

  test("by an error of its own is replaced, too", async () => {
    hook(server, "setTimeout(() => { throw new Error('a defect'); }, 300);");
    const { value } = await page.evaluate(() =>
      window.outcome(window.load().then((sampler) => window.draw(sampler))),
    );
    assert.deepEqual(value, picture);
  });
});
