// The custom element, on pages that are not ours.

import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { after, before, describe, test } from "node:test";

import { newPage } from "./browser.js";
import { PIXEL_TOLERANCE, assertNear, goldens, rgba } from "./goldens.js";
import { DIST, startServer } from "./server.js";
import { useSite } from "./setup.js";
import { hookAll } from "./worker-hooks.js";

const SCREENSHOTS = path.join(import.meta.dirname, "../../target/screenshots");
mkdirSync(SCREENSHOTS, { recursive: true });

/** Scripts of one's own site and WebAssembly, and nothing else that a policy can forbid. */
const STRICT =
  "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; img-src 'self'; " +
  "style-src 'self'; base-uri 'none'; form-action 'none'";
const MODEL = "/weights/mnist/";

let server, browser;

useSite(async (site) => {
  ({ server, browser } = site);
  // Browsers ask for it unasked.
  server.routes.set("/favicon.ico", { type: "image/x-icon", body: "" });
});

/** Opens a page with the given body, under the strict policy, its events in `window.events`. */
async function open(body, { policy = STRICT, define = '<script type="module" src="/define.js"></script>' } = {}) {
  const script = `
    window.events = [];
    for (const name of ["progress", "step", "sample", "error"]) {
      addEventListener(name, (event) => {
        if (!event.target.tagName) return;
        window.events.push({ name, id: event.target.id, bubbles: event.bubbles, composed: event.composed, detail: event.detail, time: performance.now() });
      });
    }`;
  server.routes.set("/events.js", { type: "text/javascript", body: script });
  const html = `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
    <meta name="color-scheme" content="light dark"><script src="/events.js"></script>${define}</head>
    <body><main><h1>A page</h1>${body}</main></body></html>`;
  server.routes.set("/page", { type: "text/html", body: html, headers: policy ? { "Content-Security-Policy": policy } : {} });
  const page = await newPage(browser);
  await page.goto(`${server.origin}/page`);
  return page;
}

/** What the page has heard of an event, pictures left out. */
const heard = (page, name, id = "") =>
  page.evaluate(
    ([name, id]) =>
      window.events
        .filter((e) => e.name === name && (!id || e.id === id))
        .map(({ detail, ...event }) => {
          if (detail instanceof Error) {
            return { ...event, detail: { name: detail.name, code: Object(detail).code, message: detail.message } };
          }
          const { images, pixels, ...rest } = detail;
          return { ...event, detail: images ? { ...rest, images: images.length } : rest };
        }),
    [name, id],
  );

/** Waits until something holds; the policy of these pages forbids what Playwright's own waiting does. */
async function until(holds, what) {
  const end = Date.now() + 300_000;
  for (;;) {
    const value = await holds();
    if (value) return value;
    assert.ok(Date.now() < end, `five minutes, and still not: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Waits until so many events of a name have come, and returns them. */
async function events(page, name, count = 1, id = "") {
  return until(async () => {
    const found = await heard(page, name, id);
    return found.length >= count && found;
  }, `${count} × ${name}`);
}

/** The bytes of the images of the last sample. */
const lastImages = (page) =>
  page.evaluate(() => {
    const { images } = window.events.findLast((e) => e.name === "sample").detail;
    return images.flatMap(({ data }) => Array.from(data));
  });

test("one tag draws what diffusers draws, under a policy that allows WebAssembly and nothing else", async () => {
  const { tensors, cases } = goldens("shipped/mnist");
  const { name, options } = cases.find(({ options }) => options.count === 10 && options.numInferenceSteps === 2);
  const elsewhere = [];
  const page = await open(
    `<consistency-sampler model="${MODEL}" seed="${options.seed}" steps="2" count="10"
      class-label="${options.classLabels}"></consistency-sampler>`,
  );
  page.on("request", (request) => request.url().startsWith(server.origin) || elsewhere.push(request.url()));
  const [sample] = await events(page, "sample");
  assert.deepEqual([sample.bubbles, sample.composed], [true, true]);
  const { milliseconds, ...detail } = sample.detail;
  assert.ok(milliseconds > 0);
  assert.deepEqual(detail, {
    seed: options.seed, classLabels: options.classLabels, count: 10, numInferenceSteps: 2, networkCalls: 2, images: 10,
  });
  assertNear(await lastImages(page), rgba(tensors[`${name}.images`]), PIXEL_TOLERANCE);
  const steps = await events(page, "step", 2);
  assert.deepEqual(steps.map(({ detail }) => [detail.index, detail.steps, detail.last]), [[0, 2, false], [1, 2, true]]);
  const progress = await events(page, "progress");
  assert.equal(progress.at(-1).detail.stage, "shaders");
  assert.match(await page.getByRole("img").getAttribute("aria-label"), /^10 images: seed \d+, class 0, 1, .*, step 2 of 2$/);
  assert.deepEqual(elsewhere, []);
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("attributes and properties mirror each other, and a change draws once", async () => {
  const page = await open(`<consistency-sampler model="${MODEL}" class-label="3"></consistency-sampler>`);
  await events(page, "sample");
  const properties = await page.evaluate(() => {
    const element = document.querySelector("consistency-sampler");
    Object.assign(element, { seed: 2n ** 64n - 1n, steps: 2, classLabel: [1, 2], count: 2, columns: 1, alt: "Digits", controls: true });
    const { seed, steps, classLabel, count, columns, alt, controls, timesteps, loading, model, hub, revision, poster } = element;
    const attributes = Object.fromEntries(Array.from(element.attributes, ({ name, value }) => [name, value]));
    return [
      { seed: String(seed), steps, classLabel, count, columns, alt, controls, timesteps, loading, model, hub, revision, poster },
      attributes,
    ];
  });
  assert.deepEqual(properties, [
    {
      seed: "18446744073709551615", steps: 2, classLabel: [1, 2], count: 2, columns: 1, alt: "Digits", controls: true,
      timesteps: null, loading: "lazy", model: MODEL, hub: "", revision: "", poster: "",
    },
    {
      model: MODEL, "class-label": "1,2", seed: "18446744073709551615", steps: "2", count: "2", columns: "1", alt: "Digits", controls: "",
    },
  ]);
  const [, { detail }, ...others] = await events(page, "sample", 2);
  assert.deepEqual(others, [], "five changes, one picture");
  assert.equal(detail.images, 2);
  assert.match(await page.getByRole("img").getAttribute("aria-label"), /^Digits: seed 18446744073709551615, class 1, 2, step 2 of 2$/);
  const { width, height } = await page.evaluate(() => {
    const { width, height } = document.querySelector("consistency-sampler").shadowRoot.querySelector("canvas");
    return { width, height };
  });
  assert.deepEqual([width, height], [28, 57], "one column");
  const again = await page.evaluate(async () => {
    const element = document.querySelector("consistency-sampler");
    Object.assign(element, { seed: null, classLabel: 4, timesteps: [22, 0], count: undefined, columns: null, controls: false });
    return [element.getAttribute("seed"), element.seed, element.classLabel, element.timesteps, element.count, element.columns, element.hasAttribute("controls")];
  });
  assert.deepEqual(again, [null, 0, 4, [22, 0], 1, null, false]);
  const { detail: last } = (await events(page, "sample", 3)).at(-1);
  assert.deepEqual([last.timesteps, last.networkCalls, last.numInferenceSteps], [[22, 0], 2, undefined]);
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("elements of one page share a worker and the weights, and each draws its own", async () => {
  const tags = [0, 1, 2].map((i) => `<consistency-sampler id="e${i}" model="${MODEL}" seed="${i}" class-label="${i}" loading="eager"></consistency-sampler>`);
  const before = server.log.length;
  const page = await open(tags.join(""));
  await events(page, "sample", 3);
  assert.equal(page.workers().length, 1);
  const fetched = server.log.slice(before).filter(({ method, path }) => method === "GET" && path.endsWith(".safetensors"));
  assert.equal(fetched.length, 1);
  const seeds = (await heard(page, "sample")).map(({ id, detail }) => `${id} ${detail.seed}`);
  assert.deepEqual(seeds.sort(), ["e0 0", "e1 1", "e2 2"]);

  // Moved is not removed; the last one that goes takes the worker along.
  const counts = [];
  await page.evaluate(() => document.querySelector("h1").after(document.querySelector("#e0")));
  counts.push(page.workers().length, await page.evaluate(() => /** @type {any} */ (document.querySelector("#e0")).info !== null));
  await page.evaluate(() => {
    for (const element of document.querySelectorAll("#e1, #e2")) element.remove();
  });
  counts.push(page.workers().length);
  assert.deepEqual(counts, [1, true, 1]);
  await page.evaluate(() => document.querySelector("#e0").remove());
  await until(() => page.workers().length === 0, "the worker's end");
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("24 elements draw on one worker", async () => {
  const ids = Array.from({ length: 24 }, (_, i) => `e${i}`);
  const page = await open(
    ids.map((id, i) => `<consistency-sampler id="${id}" model="/goldens/no-mid/" seed="${i}" loading="eager"></consistency-sampler>`).join(""),
  );
  const samples = await events(page, "sample", ids.length);
  assert.deepEqual(samples.map(({ id, detail }) => `${id} ${detail.seed}`).sort(), ids.map((id, i) => `${id} ${i}`).sort());
  assert.equal(page.workers().length, 1);
  assert.deepEqual(await heard(page, "error"), []);
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("a lazy element waits until it is near the view, a manual one until it is asked", async () => {
  const page = await open(
    `<consistency-sampler id="manual" model="${MODEL}" loading="manual" class-label="1"></consistency-sampler>
     <div class="far"></div><consistency-sampler id="lazy" model="${MODEL}" class-label="1"></consistency-sampler>`,
    { define: '<link rel="stylesheet" href="/far.css"><script type="module" src="/define.js"></script>' },
  );
  server.routes.set("/far.css", { type: "text/css", body: ".far { height: 5000px }" });
  await page.reload();
  await page.evaluate(() => customElements.whenDefined("consistency-sampler"));
  await page.waitForTimeout(300);
  assert.deepEqual([page.workers().length, await page.evaluate(() => window.events.length)], [0, 0], "nothing has begun");
  await page.evaluate(() => document.querySelector("#lazy").scrollIntoView());
  await events(page, "sample", 1, "lazy");
  assert.deepEqual(await heard(page, "sample", "manual"), []);
  const outcome = await page.evaluate(async () => {
    /** @type {import("../../www/library/element.js").ConsistencySamplerElement} */
    const element = document.querySelector("#manual");
    const info = await element.load();
    const ready = await element.ready;
    const before = window.events.filter(({ id, name }) => id === "manual" && name === "sample").length;
    const seen = [];
    const { images, networkCalls, seed } = await element.sample({ seed: 9, numInferenceSteps: 3, onStep: ({ index }) => seen.push(index) });
    return { size: info.sampleSize, same: ready === info && element.info === info, before, seen, images: images.map(({ width }) => width), networkCalls, seed };
  });
  assert.deepEqual(outcome, { size: [28, 28], same: true, before: 0, seen: [0, 1, 2], images: [28], networkCalls: 3, seed: 9 });
  await page.context().close();
});

test("edits show what they make, and keep what they keep", async () => {
  const page = await open(`<consistency-sampler model="${MODEL}" seed="4" class-label="8" loading="manual"></consistency-sampler>`);
  const outcome = await page.evaluate(async () => {
    const element = document.querySelector("consistency-sampler");
    const { images: [image] } = await element.sample();
    const mask = new ImageData(28, 28);
    for (let i = 0; i < 28 * 28; i++) {
      const white = i % 28 < 14 ? 255 : 0;
      mask.data.set([white, white, white, 255], 4 * i);
    }
    const { images, kind, networkCalls } = await element.edit({ kind: "inpaint", image, mask, count: 2, numInferenceSteps: 2 });
    const kept = images.every(({ data }) => data.every((v, i) => mask.data[i - (i % 4)] || v === image.data[i]));
    return { kind, networkCalls, count: images.length, kept };
  });
  assert.deepEqual(outcome, { kind: "inpaint", networkCalls: 2, count: 2, kept: true });
  assert.match(await page.getByRole("img").getAttribute("aria-label"), /^2 images: inpaint, seed 4, class 8, step 2 of 2$/);
  await page.context().close();
});

test("runs go one after another, and cancel stops them all", async () => {
  const page = await open(`<consistency-sampler model="${MODEL}" class-label="8" loading="manual"></consistency-sampler>`);
  const outcome = await page.evaluate(async () => {
    const element = document.querySelector("consistency-sampler");
    const end = (promise) => promise.then(({ seed }) => seed, ({ name }) => name);
    const loading = end(element.load());
    element.cancel();
    const cancelledLoad = await loading;
    const order = [];
    const two = [1, 2].map((seed) => end(element.sample({ seed, onStep: () => order.push(seed) })));
    const both = await Promise.all(two);
    const stopped = [3, 4].map((seed) => end(element.sample({ seed, numInferenceSteps: 4, onStep: () => element.cancel() })));
    const abort = new AbortController();
    const own = end(element.sample({ seed: 5, signal: abort.signal }));
    abort.abort();
    return { cancelledLoad, order, both, stopped: await Promise.all(stopped), own: await own, after: await end(element.sample({ seed: 6 })) };
  });
  assert.deepEqual(outcome, {
    cancelledLoad: "AbortError", order: [1, 2], both: [1, 2], stopped: ["AbortError", "AbortError"], own: "AbortError", after: 6,
  });
  assert.deepEqual(await heard(page, "error"), [], "what was asked for is no error");
  await page.context().close();
});

test("numbers that are none are typed errors, whichever attribute they stand in, and the next good one draws", async () => {
  const page = await open(`<consistency-sampler model="${MODEL}" class-label="1" loading="eager"></consistency-sampler>`);
  await events(page, "sample");
  let errors = 0;
  for (const name of ["seed", "steps", "count", "class-label", "timesteps"]) {
    for (const value of ["NaN", "-1", "99999999999999999999999", "1.5", "", "1e400", "0x1", "9007199254740993"]) {
      if (name === "seed" && value === "9007199254740993") continue; // a seed like any other
      await page.evaluate(([name, value]) => document.querySelector("consistency-sampler").setAttribute(name, value), [name, value]);
      errors++;
      const { detail } = (await events(page, "error", errors)).at(-1);
      assert.equal(detail.name, "ConsistencySamplerError");
      assert.equal(detail.code, "input", `${name}=${value}: ${detail.message}`);
      assert.match(detail.message, /^[^\n]+$/);
      assert.equal(await page.getByRole("alert").textContent(), detail.message);
      if (["", "NaN", "-1", "1.5"].includes(value)) assert.ok(detail.message.startsWith(`${name}: expected a whole number`), detail.message);
    }
    const [before, good] = await page.evaluate((name) => {
      const element = document.querySelector("consistency-sampler");
      const property = { "class-label": "classLabel" }[name] ?? name;
      element.setAttribute(name, "x");
      const bad = element[property];
      element.removeAttribute(name);
      if (name === "class-label") element.classLabel = 1;
      return [Number.isNaN(bad), window.events.filter((e) => e.name === "sample").length];
    }, name);
    assert.ok(before, `${name}: no number is NaN`);
    await events(page, "sample", good + 1);
    assert.equal(await page.getByRole("alert").isVisible(), false, "the error is gone");
  }
  await page.evaluate(() => document.querySelector("consistency-sampler").setAttribute("columns", "0.5"));
  const { detail } = (await events(page, "error", errors + 1)).at(-1);
  assert.deepEqual([detail.code, detail.message], ["input", 'columns: expected a whole number from 1, found "0.5"']);
  const rejected = await page.evaluate(() =>
    document.querySelector("consistency-sampler").sample({ count: -3 }).catch(({ name, code }) => [name, code]),
  );
  assert.deepEqual(rejected, ["ConsistencySamplerError", "input"]);
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("a poster is to be seen until the first picture is there", async () => {
  const weights = "/weights/mnist/unet/diffusion_pytorch_model.fp16.safetensors";
  /** @type {(value?: unknown) => void} */
  let go = () => {};
  const held = new Promise((resolve) => (go = resolve));
  server.routes.set(weights, async (_request, response) => {
    await held;
    server.routes.delete(weights);
    response.writeHead(302, { Location: weights }).end();
  });
  const page = await open(`<consistency-sampler model="${MODEL}" poster="${MODEL}poster.png" class-label="1" alt="Digits"></consistency-sampler>`);
  const poster = page.getByRole("img", { name: "Digits" });
  await until(() => poster.evaluate((/** @type {HTMLImageElement} */ img) => img.tagName === "IMG" && img.complete && img.naturalWidth > 0), "the poster");
  assert.ok(await page.getByRole("progressbar").isVisible());
  await page.screenshot({ path: path.join(SCREENSHOTS, "element-poster.png") });
  // The poster in the repository shows what these weights draw.
  const { tensors, cases } = goldens("shipped/mnist");
  const { name } = cases.find(({ options }) => options.seed === 6 && options.count === 10 && options.numInferenceSteps === 2);
  const drawn = await poster.evaluate((/** @type {HTMLImageElement} */ img) => {
    const context = new OffscreenCanvas(img.naturalWidth, img.naturalHeight).getContext("2d");
    context.drawImage(img, 0, 0);
    const tile = (i) => Array.from(context.getImageData((i % 5) * 28, Math.floor(i / 5) * 28, 28, 28).data);
    return [img.naturalWidth, img.naturalHeight, Array.from({ length: 10 }, (_, i) => tile(i)).flat()];
  });
  assert.deepEqual(drawn.slice(0, 2), [140, 56]);
  assertNear(drawn[2], rgba(tensors[`${name}.images`]), PIXEL_TOLERANCE);
  go();
  await events(page, "sample");
  assert.equal(await poster.evaluate((element) => element.tagName), "CANVAS");
  assert.equal(await page.getByRole("progressbar").count(), 0);
  await page.context().close();
});

test("an error is an event and to be read, and Retry is another try", async () => {
  const index = "/weights/mnist/model_index.json";
  server.routes.set(index, { type: "text/html", status: 404, body: "not here" });
  const page = await open(`<consistency-sampler model="${MODEL}" class-label="1"><p>An image of a digit.</p></consistency-sampler>`);
  const [{ detail, bubbles, composed }] = await events(page, "error");
  assert.deepEqual([detail.code, bubbles, composed], ["http", true, true]);
  assert.match(detail.message, /model_index\.json: the server answered 404/);
  assert.equal(await page.getByRole("alert").textContent(), detail.message);
  assert.ok(await page.getByText("An image of a digit.").isVisible(), "what the tag holds takes the picture's place");
  await page.screenshot({ path: path.join(SCREENSHOTS, "element-error.png") });
  server.routes.delete(index);
  await page.getByRole("button", { name: "Retry" }).click();
  await events(page, "sample");
  assert.equal(await page.getByRole("alert").isVisible(), false);
  assert.equal(await page.getByText("An image of a digit.").isVisible(), false);
  await page.context().close();
});

test("the controls are buttons: Generate draws another seed, Cancel stops", async () => {
  const page = await open(`<consistency-sampler model="${MODEL}" class-label="1" controls steps="4" loading="manual"></consistency-sampler>`);
  await page.getByRole("button", { name: "Generate" }).focus();
  await page.keyboard.press("Enter");
  const [{ detail }] = await events(page, "sample");
  assert.ok(detail.seed > 0);
  assert.equal(await page.evaluate(() => document.querySelector("consistency-sampler").getAttribute("seed")), String(detail.seed));
  const status = page.getByRole("status");
  assert.match(await status.textContent(), /^1 image in [\d.]+ s$/);
  await page.evaluate(() => {
    const { shadowRoot } = document.querySelector("consistency-sampler");
    /** @returns {HTMLElement} */
    const button = (name) => shadowRoot.querySelector(`[part~="${name}"]`);
    button("generate").click();
    // The click takes effect in a microtask; the cancel comes after the run has begun, and before its first step.
    setTimeout(() => button("cancel").click());
  });
  await until(async () => (await status.textContent()) === "Cancelled", "Cancelled");
  assert.equal((await heard(page, "sample")).length, 1);
  await page.context().close();
});

test("parts, slots and custom properties reach from outside", async () => {
  server.routes.set("/style.css", {
    type: "text/css",
    body: `consistency-sampler { --consistency-sampler-accent: rgb(1, 2, 3); --consistency-sampler-max-height: 100px; }
      consistency-sampler::part(generate) { text-transform: uppercase; }`,
  });
  const page = await open(
    `<consistency-sampler model="${MODEL}" class-label="1" controls><p slot="caption">A caption.</p></consistency-sampler>`,
    { define: '<link rel="stylesheet" href="/style.css"><script type="module" src="/define.js"></script>' },
  );
  await events(page, "sample");
  assert.ok(await page.getByText("A caption.").isVisible());
  const style = await page.evaluate(() => {
    const root = document.querySelector("consistency-sampler").shadowRoot;
    const { backgroundColor, textTransform } = getComputedStyle(root.querySelector("[part~=generate]"));
    return { backgroundColor, textTransform, height: root.querySelector("canvas").getBoundingClientRect().height };
  });
  assert.deepEqual(style, { backgroundColor: "rgb(1, 2, 3)", textTransform: "uppercase", height: 84 });
  server.routes.delete("/style.css");
  await page.context().close();
});

test("axe finds nothing, whatever is shown", async () => {
  const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  const page = await open(`<consistency-sampler model="${MODEL}" count="10" steps="2" class-label="0,1,2,3,4,5,6,7,8,9" controls loading="manual"></consistency-sampler>`);
  const violations = async () => {
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => window.axe.run());
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" ")}`);
  };
  const states = {
    empty: () => null,
    picture: async () => {
      await page.evaluate(() => document.querySelector("consistency-sampler").sample());
    },
    wrong: async () => {
      await page.evaluate(() => document.querySelector("consistency-sampler").sample({ count: 0 }).catch(() => {}));
    },
  };
  for (const [name, reach] of Object.entries(states)) {
    await reach();
    for (const colorScheme of /** @type {const} */ (["light", "dark"])) {
      for (const [device, viewport] of Object.entries({ desktop: { width: 1280, height: 800 }, phone: { width: 360, height: 740 } })) {
        await page.emulateMedia({ colorScheme });
        await page.setViewportSize(viewport);
        assert.deepEqual(await violations(), [], `${name}, ${colorScheme}, ${device}`);
        await page.screenshot({ path: path.join(SCREENSHOTS, `element-${name}-${colorScheme}-${device}.png`) });
        const room = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(room, 0, "nothing overflows");
      }
    }
  }
  await page.context().close();
});

test("with neither WebGPU nor the code for the CPU the error says so, and what the tag holds is shown", async () => {
  hookAll(server, `Object.defineProperty(navigator, "gpu", { value: undefined });`);
  server.routes.set("/pkg-cpu/consistency_sampler.js", { status: 404, body: "not here" });
  const page = await open(`<consistency-sampler model="${MODEL}">Digits, as a picture.</consistency-sampler>`);
  const [{ detail }] = await events(page, "error");
  for (const path of ["/worker.js", "/pkg-cpu/consistency_sampler.js"]) server.routes.delete(path);
  assert.equal(detail.code, "network");
  assert.match(detail.message, /the WebAssembly module for the CPU/);
  assert.ok(await page.getByText("Digits, as a picture.").isVisible());
  await page.context().close();
});

test("without a model there is one error event, and every method's promise rejects and says what was expected", async () => {
  const page = await open(`<consistency-sampler id="auto" loading="eager"></consistency-sampler>
    <consistency-sampler id="asked" loading="eager"></consistency-sampler>
    <consistency-sampler id="manual" loading="manual"></consistency-sampler>`);
  const expected = ["ConsistencySamplerError", "input", "model: expected the address of a folder or a hub id, found none"];
  const [{ detail }] = await events(page, "error", 1, "auto");
  assert.deepEqual([detail.name, detail.code, detail.message], expected);
  const outcomes = await page.evaluate(async () => {
    /** @returns {any} */
    const element = (id) => document.getElementById(id);
    // In one go with what the element does by itself, when it is put back.
    const asked = element("asked");
    window.events.length = 0;
    asked.remove();
    await new Promise((resolve) => setTimeout(resolve));
    document.body.append(asked);
    // Its rejection is nobody's, and the error is an event.
    asked.load();
    await new Promise((resolve) => setTimeout(resolve, 300));
    const together = window.events.filter(({ name }) => name === "error").length;
    const outcomes = [];
    for (const method of ["load", "sample", "edit"]) {
      for (const args of [[], [null]]) {
        window.events.length = 0;
        // What is thrown and not rejected fails here.
        const promise = element("manual")[method](...args);
        const { name, code, message } = await promise.catch((error) => error);
        outcomes.push([method, name, code, message, window.events.length]);
      }
    }
    return { together, outcomes };
  });
  assert.equal(outcomes.together, 1);
  for (const [method, ...outcome] of outcomes.outcomes) assert.deepEqual(outcome, [...expected, 1], method);
  assert.equal((await heard(page, "error", "auto")).length, 0, "and no second one");
  assert.deepEqual(page.complaints, [], "no rejection is unhandled");
  await page.context().close();
});

test("properties that are set before the definition count as if they were set after it", async () => {
  const page = await open("", { define: "" });
  const values = {
    model: MODEL, revision: "main", hub: "https://hub.test", poster: `${MODEL}poster.png`, alt: "Digits", loading: "manual", seed: 7,
    steps: 2, count: 2, columns: 1, classLabel: [1, 2], timesteps: [22, 0], controls: true,
  };
  const outcome = await page.evaluate(async (values) => {
    /** @returns {any} */
    const make = () => Object.assign(document.createElement("consistency-sampler"), values, { info: "mine" });
    const [shown, apart] = [make(), make()];
    document.querySelector("main").append(shown);
    const script = Object.assign(document.createElement("script"), { type: "module", src: "/define.js" });
    document.head.append(script);
    const Class = await customElements.whenDefined("consistency-sampler");
    customElements.upgrade(apart);
    await new Promise((resolve) => setTimeout(resolve));
    const settable = Object.entries(Object.getOwnPropertyDescriptors(Class.prototype)).filter(([, { set }]) => set);
    const read = (element) => Object.fromEntries(Object.keys(values).map((name) => [name, element[name]]));
    const both = [shown, apart].map((element) => ({ ...read(element), own: Object.keys(element), info: element.info }));
    shown.model = "/elsewhere/";
    const { shadowRoot } = shown;
    return {
      settable: settable.map(([name]) => name), both, after: shown.getAttribute("model"), alt: shadowRoot.querySelector("img").alt,
      controls: shadowRoot.querySelector("[part=controls]").hidden,
    };
  }, values);
  assert.deepEqual(outcome.settable.toSorted(), Object.keys(values).toSorted(), "each property is tried");
  for (const element of outcome.both) assert.deepEqual(element, { ...values, own: [], info: null });
  assert.deepEqual([outcome.after, outcome.alt, outcome.controls], ["/elsewhere/", "Digits", false]);
  await page.context().close();
});

test("an element that moves to another document keeps its styles, draws there and comes back", async () => {
  server.routes.set("/frame", { type: "text/html", body: "<!doctype html><title>Frame</title>" });
  const page = await open(
    `<consistency-sampler model="${MODEL}" class-label="1" loading="manual" controls></consistency-sampler><iframe src="/frame"></iframe>`,
    { policy: null },
  );
  const outcome = await page.evaluate(async () => {
    /** @type {any} */
    const element = document.querySelector("consistency-sampler");
    const popup = window.open("", "", "popup,width=400,height=400");
    const inert = document.implementation.createHTMLDocument();
    const places = { frame: document.querySelector("iframe").contentDocument, popup: popup.document, inert, home: document };
    const shown = {};
    for (const [name, place] of Object.entries(places)) {
      place.body.append(place.adoptNode(element));
      const { defaultView } = place;
      if (!defaultView) continue;
      const style = (part) => defaultView.getComputedStyle(element.shadowRoot.querySelector(`[part~=${part}]`));
      const { images } = await element.sample({ seed: 3 });
      shown[name] = [style("stage").display, style("generate").cursor, images.length, element.shadowRoot.querySelector("canvas").hidden];
    }
    return shown;
  });
  const whole = ["grid", "pointer", 1, false];
  assert.deepEqual(outcome, { frame: whole, popup: whole, home: whole });
  // And a lazy one begins where it is seen.
  const lazy = await page.evaluate(async (model) => {
    const popup = window.open("", "", "popup,width=400,height=400");
    const element = document.createElement("consistency-sampler");
    Object.assign(element, { model, classLabel: 1 });
    document.body.append(element);
    const drawn = new Promise((resolve) => element.addEventListener("sample", () => resolve(element.ownerDocument === popup.document)));
    popup.document.body.append(element);
    return drawn;
  }, MODEL);
  assert.equal(lazy, true);
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

describe("a page of another origin than the scripts'", () => {
  let cdn;

  before(async () => {
    cdn = await startServer({ headers: { "Access-Control-Allow-Origin": "*" } });
  });
  after(() => cdn?.stop());

  const tag = `<consistency-sampler model="${MODEL}" class-label="1" loading="eager"></consistency-sampler>`;
  const from = (origin) => `<script type="module" src="${origin}/define.js"></script>`;

  test("draws, under a policy that allows that origin and no more than it has to", async () => {
    const policy = `${STRICT.replace("script-src", `script-src ${cdn.origin}`).replace("worker-src 'self'", "worker-src blob:")}; `
      .replace("connect-src", `connect-src ${cdn.origin}`);
    for (const allowed of [null, policy]) {
      const page = await open(tag, { policy: allowed, define: from(cdn.origin) });
      await events(page, "sample");
      assert.deepEqual(await heard(page, "error"), []);
      assert.deepEqual(page.complaints, []);
      await page.context().close();
    }
  });

  test("is told the address where that origin does not let it read the worker", async () => {
    const body = readFileSync(path.join(DIST, "worker.js"), "utf8");
    cdn.routes.set("/worker.js", { type: "text/javascript", body });
    const page = await open(tag, { policy: null, define: from(cdn.origin) });
    const [{ detail }] = await events(page, "error");
    cdn.routes.delete("/worker.js");
    assert.equal(detail.code, "network");
    assert.ok(detail.message.startsWith(`no worker starts from ${cdn.origin}/worker.js: its script did not load (`), detail.message);
    assert.match(detail.message, /Access-Control-Allow-Origin\)$/);
    await page.context().close();
  });

  test("draws in a sandboxed frame", async () => {
    const frame = `${from(cdn.origin)}<consistency-sampler model="${cdn.origin}${MODEL}" class-label="1" loading="eager"></consistency-sampler>`;
    const page = await open(`<iframe sandbox="allow-scripts" srcdoc='${frame}' width="600" height="600"></iframe>`, { policy: null, define: "" });
    await page.frameLocator("iframe").getByRole("img", { name: /^1 image: seed 0, class 1/ }).waitFor({ timeout: 240_000 });
    await page.context().close();
  });

  test("draws under Trusted Types that allow the policy", async () => {
    const policy = "require-trusted-types-for 'script'; trusted-types consistency-sampler";
    const page = await open(tag, { policy, define: from(cdn.origin) });
    await events(page, "sample");
    // A second worker is of the same policy.
    await page.evaluate(() => document.querySelector("consistency-sampler").remove());
    await until(() => page.workers().length === 0, "the worker's end");
    await page.evaluate((model) => {
      document.querySelector("main").append(Object.assign(document.createElement("consistency-sampler"), { model, loading: "eager" }));
    }, MODEL);
    await events(page, "sample", 2);
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });

  test("is told what its policy lacks where that allows no such worker", async () => {
    const policy = "script-src * 'unsafe-inline' 'wasm-unsafe-eval'; worker-src 'self'";
    const page = await open(tag, { policy, define: from(cdn.origin) });
    const [{ detail }] = await events(page, "error");
    assert.ok(detail.message.includes(`${cdn.origin}/worker.js`), detail.message);
    assert.match(detail.message, /worker-src blob:/);
    assert.ok(["network", "unsupported"].includes(detail.code));
    assert.equal((await heard(page, "error")).length, 1);
    await page.context().close();
  });
});

test("under Trusted Types the element draws by its own policy, and says its name where that is refused", async () => {
  const tag = `<consistency-sampler model="${MODEL}" class-label="1" loading="eager"></consistency-sampler>`;
  for (const names of ["consistency-sampler", "consistency-sampler other"]) {
    const page = await open(tag, { policy: `${STRICT}; require-trusted-types-for 'script'; trusted-types ${names}` });
    await events(page, "sample");
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  }
  // Where nothing requires trusted types, a list of policies without this one is no hindrance.
  const page = await open(tag, { policy: `${STRICT}; trusted-types other` });
  await events(page, "sample");
  await page.context().close();
  const refused = await open(tag, { policy: `${STRICT}; require-trusted-types-for 'script'; trusted-types 'none'` });
  const [{ detail }] = await events(refused, "error");
  assert.deepEqual([detail.name, detail.code], ["ConsistencySamplerError", "unsupported"]);
  assert.match(detail.message, /^[^\n]*\(allow it by trusted-types consistency-sampler\)$/);
  assert.equal((await heard(refused, "error")).length, 1);
  await refused.context().close();
});

test("a worker's script that is not there is named in the error, with what to do, and Retry finds it", async () => {
  server.routes.set("/worker.js", { type: "text/html", body: "<!doctype html><title>The app</title>" });
  const page = await open(`<consistency-sampler model="${MODEL}" class-label="1" loading="eager"></consistency-sampler>`);
  const [{ detail }] = await events(page, "error");
  assert.equal(detail.code, "network");
  assert.ok(detail.message.startsWith(`no worker starts from ${server.origin}/worker.js: its script did not load (`), detail.message);
  assert.match(detail.message, /worker\.js, pkg\/ and pkg-cpu\/ .*ConsistencySampler\.workerUrl/);
  server.routes.delete("/worker.js");
  await page.getByRole("button", { name: "Retry" }).click();
  await events(page, "sample");
  assert.equal((await heard(page, "error")).length, 1);
  await page.context().close();
});
