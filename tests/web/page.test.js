// The page, used as a person uses it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";

import { newPage } from "./browser.js";
import { PIXEL_TOLERANCE, assertNear, goldens } from "./goldens.js";
import { DIGITS, LOOKS, SCREENSHOTS, assertAccessible, canvases, finished, generate, greys, look, query, sheet, shoot, visit } from "./page.js";
import { DIST, send } from "./server.js";
import { useSite } from "./setup.js";

let server, browser, page;

// One page for all, as for a person who stays a while: each visit makes the browser compile every shader anew.
useSite((site) => ({ server, browser, page } = site));

const label = () => page.locator("#sheet").getAttribute("aria-label");
const seed = () => page.locator("#panel-sample").getByLabel("Seed", { exact: true });
/** Checks one of a group of radio buttons. */
const choose = (group, value) => page.getByRole("group", { name: group }).getByLabel(value, { exact: true }).check();

/** Asserts that an image could be a digit: mostly black, with some pixels nearly white. */
function assertDigit(values) {
  const [dark, bright] = [values.filter((v) => v < 64).length, values.filter((v) => v > 192).length];
  assert.ok(dark > values.length / 2, `expected mostly dark pixels, found ${dark} of ${values.length}`);
  assert.ok(bright >= 15, `expected at least 15 bright pixels, found ${bright}`);
}

test("opening the page draws animals of ten kinds and names the picture in the address", async () => {
  const elsewhere = [];
  page.on("request", (request) => request.url().startsWith(server.origin) || elsewhere.push(request.url()));
  const status = await visit(page, `${server.origin}/`);

  assert.match(status, /^10 images in [\d.]+ m?s with 2 network calls$/);
  assert.equal(new URL(page.url()).search, "?seed=3&steps=2&class=each&count=10");
  assert.match(await label(), /^10 images, seeds 3 to 12, classes cat, puppy, .*, step 2 of 2, from σ /);
  const tiles = await sheet(page);
  assert.equal(tiles.length, 10);
  for (const { width, height, data } of tiles) {
    assert.deepEqual([width, height], [64, 64]);
    // A flat ground: the most frequent colour of the border, within a few steps, is most of it.
    const border = Array.from({ length: 64 }, (_, x) => data.subarray(4 * x, 4 * x + 3));
    const median = [0, 1, 2].map((c) => border.map((pixel) => pixel[c]).sort((a, b) => a - b)[32]);
    const near = border.filter((pixel) => median.every((value, c) => Math.abs(pixel[c] - value) <= 12)).length;
    assert.ok(near > 48, `${near} of 64 pixels of the upper border are of one colour`);
  }
  assert.equal(new Set(tiles.map(({ data }) => data.toString("base64"))).size, 10, "the ten images differ");
  assert.deepEqual(elsewhere, [], "nothing is fetched from another site");
});

for (const [name, viewport, colorScheme] of LOOKS) {
  test(`the page is accessible and nothing overflows: ${name}`, async () => {
    await look(page, viewport, colorScheme);
    await page.locator("#path").scrollIntoViewIfNeeded();
    await page.getByRole("img", { name: /^Its answer at σ/ }).waitFor({ timeout: 60_000 });
    await shoot(page, `sample-${name}`);
    await assertAccessible(page, name);
    const { width, height } = page.viewportSize();
    if (width > 400) return;
    await page.evaluate(() => scrollTo(0, 0));
    await page.screenshot({ path: path.join(SCREENSHOTS, `first-screen-${name}.png`) });
    const generate = await page.locator("#generate").boundingBox();
    const picture = await page.locator("#sheet").boundingBox();
    assert.ok(generate.y + generate.height <= height, `Generate ends at ${generate.y + generate.height}`);
    assert.ok(picture.y + picture.height / 2 < height, `the samples begin at ${picture.y}`);
  });
}

test("on the largest screens, too, nothing overflows", async () => {
  await look(page, { width: 3840, height: 2160 }, "light");
  await shoot(page, "sample-4k");
  await assertAccessible(page, "4k");
  await look(page, { width: 1280, height: 800 }, "light");
});

test("a seed draws what diffusers draws of it", async () => {
  const { tensors, cases } = goldens("shipped/mnist");
  const { name, options } = cases.find(({ options }) => options.count === 1);
  const { seed, classLabels, numInferenceSteps } = options;
  await visit(page, `${server.origin}/?${DIGITS}&seed=${seed}&steps=${numInferenceSteps}&class=${classLabels[0]}&count=1`);
  const expected = Array.from(tensors[`${name}.images`].values, (value) => 255 * value);
  const [found] = await sheet(page);
  assertNear(greys(found), expected, PIXEL_TOLERANCE);
});

test("the controls choose class, count, steps and seed", async () => {
  await page.locator("#class").selectOption("3");
  await choose("Images", "4");
  await choose("Steps", "3");
  await page.getByText(/^Noise σ 80 → [\d.]+ → [\d.]+$/).waitFor();
  await seed().fill("11");
  assert.match(await generate(page), /^4 images in .* with 3 network calls$/);
  assert.match(await label(), /^4 images, seeds 11 to 14, class 3, step 3 of 3, from σ /);
  assert.equal(query(page), "?seed=11&steps=3&class=3&count=4");
  const samples = (await sheet(page)).map(greys);
  assert.equal(samples.length, 4);
  samples.forEach(assertDigit);
});

test("each step can be looked at again", async () => {
  const [last] = await sheet(page);
  const steps = page.getByRole("group", { name: "Step shown" });
  assert.equal(await steps.getByRole("radio").count(), 3);
  await steps.getByLabel(/^1, from σ 80$/).check();
  assert.match(await label(), /step 1 of 3, from σ 80$/);
  assert.ok(!(await sheet(page))[0].data.equals(last.data), "the first step differs from the last");
  await steps.getByRole("radio").last().check();
  assert.ok((await sheet(page))[0].data.equals(last.data), "the last step is as it was");
});

test("Cancel stops a run and leaves the page ready for the next", async () => {
  // Both in one task, for a fast GPU would have finished by the time a second click came from here.
  await page.evaluate(() => {
    document.getElementById("generate").click();
    document.getElementById("cancel").focus();
    document.getElementById("cancel").click();
  });
  assert.equal(await finished(page), "Cancelled");
  assert.equal(await page.evaluate(() => document.activeElement.id), "generate", "the focus is not lost");
  await choose("Images", "1");
  await choose("Steps", "1");
  assert.match(await generate(page), /^1 image in .* with 1 network call$/);
});

test("a seed repeats its picture byte for byte, another one does not", async () => {
  const [first] = await sheet(page);
  await seed().fill("12");
  await generate(page);
  assert.ok(!(await sheet(page))[0].data.equals(first.data), "another seed gives another picture");
  await seed().fill("11");
  await generate(page);
  assert.ok((await sheet(page))[0].data.equals(first.data), "the same seed gives the same picture");
  await choose("Images", "4");
  await seed().fill("10");
  await generate(page);
  // Another batch size may add in another order.
  assertNear(greys((await sheet(page))[1]), greys(first), 1);
  await choose("Images", "1");
});

test("the dice choose a seed and draw it", async () => {
  await page.getByRole("button", { name: "Sample with a random seed" }).click();
  await finished(page);
  assert.notEqual(await seed().inputValue(), "11");
  assert.equal(new URL(page.url()).searchParams.get("seed"), await seed().inputValue());
});

test("a seed that is none is refused before anything runs", async () => {
  const before = await label();
  await seed().fill("-1");
  await page.getByRole("button", { name: "Generate" }).click();
  assert.equal(await seed().evaluate((input) => input.matches(":focus:invalid")), true);
  assert.equal(await label(), before);
});

test("the keyboard alone suffices, and shows where it is", async () => {
  // A click on something that takes no focus: Tab goes on from there.
  await page.locator("h1").click();
  const tabTo = async (test) => {
    for (let presses = 0; presses < 20; presses++) {
      await page.keyboard.press("Tab");
      const focus = await page.evaluate(() => {
        const { id, nextElementSibling } = document.activeElement;
        const name = document.activeElement.getAttribute("name");
        // A radio button is invisible; the chip after it shows its focus.
        const rings = [document.activeElement, nextElementSibling].map((e) => e && getComputedStyle(e).outlineStyle);
        return { id, name, visible: rings.some((style) => style && style !== "none") };
      });
      assert.ok(focus.visible, `${focus.id || focus.name} shows no focus`);
      if (test(focus)) return;
    }
    assert.fail("20 tabs do not lead there");
  };
  await tabTo(({ id }) => id === "seed");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("77");
  await tabTo(({ name }) => name === "steps");
  await page.keyboard.press("ArrowRight");
  await tabTo(({ id }) => id === "class");
  await page.keyboard.press("5");
  await tabTo(({ id }) => id === "generate");
  await page.keyboard.press("Enter");
  await finished(page);
  assert.match(await label(), /^1 image, seed 77, class 5, step 2 of 2/);
});

test("the address chooses the picture, and what it gets wrong is named", async () => {
  await visit(page, `${server.origin}/?${DIGITS}&seed=42&steps=1&class=x&count=-3`);
  assert.equal(
    await page.getByRole("alert").textContent(),
    "ignored in the address: class=x, expected each, 0, 1, … 9; count=-3, expected 1, 4, 10, 16",
  );
  assert.equal(await seed().inputValue(), "42");
  assert.match(await label(), /^10 images, seeds 42 to 51, classes 0, .*, step 1 of 1, from σ /);
});

test("the site's models are offered, and the one in use is marked", async () => {
  const models = page.getByRole("group", { name: "Models of this site" }).getByRole("button");
  assert.equal(await models.filter({ hasText: "mnist" }).getAttribute("aria-pressed"), "true");
  assert.match(await models.filter({ hasText: "mnist" }).textContent(), /^mnist28 × 28 · grey · 10 classes$/);
});

test("the page can be used before the WebAssembly module is there", async () => {
  const file = "/pkg/consistency_sampler_bg.wasm";
  /** @type {(value?: unknown) => void} */
  let release = () => {};
  const released = new Promise((resolve) => (release = resolve));
  server.routes.set(file, async (request, response) => {
    await released;
    server.routes.delete(file);
    await send(request, response, readFileSync(path.join(DIST, file)), { type: "application/wasm" });
  });
  const early = await newPage(browser);
  await early.goto(`${server.origin}/?${DIGITS}&seed=7&steps=1&count=1&class=4`);
  await early.locator("#seed").fill("123");
  await early.getByRole("button", { name: "Generate" }).click();
  await early.getByText("The model is still loading; your picture comes as soon as it is there").waitFor();
  await early.getByRole("tab", { name: "Edit" }).click();
  const painting = early.locator("#paint");
  const before = (await canvases(early, "#paint"))[0].data;
  await painting.click();
  assert.ok(!(await canvases(early, "#paint"))[0].data.equals(before), "one can paint");
  await early.getByRole("tab", { name: "Sample" }).click();
  await shoot(early, "loading");
  await assertAccessible(early, "loading");
  release();
  assert.match(await finished(early), /^1 image in /);
  assert.match(await early.locator("#sheet").getAttribute("aria-label"), /^1 image, seed 123, class 4/);
  assert.deepEqual(early.complaints, []);
  await early.context().close();
});

test("the browser has nothing to complain about", () => assert.deepEqual(page.complaints, []));
