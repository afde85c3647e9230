// A network call that takes its time: it goes to the GPU in short submits, tells how far it is, and is cancelled between them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { newPage } from "./browser.js";
import { DIGITS, shoot, visit } from "./page.js";
import { useSite } from "./setup.js";

let server, browser, page;

useSite(
  async (site) => {
    ({ server, browser, page } = site);
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

test("the page shows a bar while a network call takes longer than a second, and no longer", async () => {
  const other = await newPage(browser);
  await other.addInitScript(() => {
    window.shown = 0;
    setInterval(() => {
      const bar = /** @type {HTMLProgressElement | null} */ (document.getElementById("call"));
      if (bar && !bar.hidden) window.shown = Math.max(window.shown, bar.value);
    }, 20);
  });
  const [, seconds] = /in ([\d.]+) s/.exec(await visit(other, `${server.origin}/?${DIGITS}&seed=1&steps=1&count=16`)) ?? [];
  const shown = await other.evaluate(() => window.shown);
  // In between it depends on how long a call takes that is about a second.
  if (Number(seconds) > 1.5) assert.ok(shown > 0 && shown < 1, `${shown} in ${seconds} s`);
  if (Number(seconds) < 0.8) assert.equal(shown, 0);
  assert.equal(await other.locator("#call").isVisible(), false);
  await shoot(other, "after-a-long-call");
  await other.context().close();
});

test("the element shows a bar while a network call takes longer than a second, and no longer", async () => {
  await page.addScriptTag({ type: "module", url: "/define.js" });
  const { seen, status } = await page.evaluate(async (count) => {
    const element = /** @type {any} */ (document.createElement("consistency-sampler"));
    for (const [name, value] of Object.entries({ model: "/weights/mnist/", count, steps: 1, seed: 1, device: "gpu" }))
      element.setAttribute(name, String(value));
    document.body.append(element);
    const part = (name) => element.shadowRoot.querySelector(`[part~="${name}"]`);
    const seen = [];
    const timer = setInterval(() => {
      const text = part("amount").textContent;
      if (!part("progress").hidden && text.startsWith("Network call")) seen.push([text, part("bar").value]);
    }, 50);
    await element.sample();
    clearInterval(timer);
    // It draws by itself, too.
    while (!part("progress").hidden) await new Promise((resolve) => setTimeout(resolve, 50));
    const status = part("status").textContent;
    element.remove();
    return { seen, status };
  }, COUNT / 2);
  assert.ok(seen.length > 1, JSON.stringify(seen));
  assert.ok(seen.every(([text, done]) => text === "Network call 1" && done > 0 && done <= 1), JSON.stringify(seen));
  assert.match(status, /^64 images in /);
});
