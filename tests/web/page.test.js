// The page, used as a person uses it.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import path from "node:path";
import { after, before, beforeEach, afterEach, test } from "node:test";

import { launch, open } from "./browser.js";
import { finished, generate, pixels, tile, visit } from "./page.js";
import { startServer } from "./server.js";

/** For a look by eye at what the tests cannot judge. */
const SCREENSHOTS = path.join(import.meta.dirname, "../../target/screenshots");
mkdirSync(SCREENSHOTS, { recursive: true });

let server, browser, page;

before(async () => {
  server = await startServer();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});
beforeEach(async () => {
  page = await open(browser);
});
afterEach(async () => {
  await page.context().close();
  assert.deepEqual(page.complaints, []);
});

const label = () => page.getByRole("img").getAttribute("aria-label");

/** Asserts that an image could be a digit: mostly black, with some pixels nearly white. */
function assertDigit(values) {
  const [dark, bright] = [values.filter((v) => v < 64).length, values.filter((v) => v > 192).length];
  assert.ok(dark > values.length / 2, `expected mostly dark pixels, found ${dark} of ${values.length}`);
  assert.ok(bright >= 15, `expected at least 15 bright pixels, found ${bright}`);
}

test("opening the page draws one digit of each class and names the picture in the address", async () => {
  const elsewhere = [];
  page.on("request", (request) => request.url().startsWith(server.origin) || elsewhere.push(request.url()));
  const status = await visit(page, `${server.origin}/`);

  assert.match(status, /^10 images in [\d.]+ m?s with 2 network calls$/);
  assert.equal(new URL(page.url()).search, "?seed=0&steps=2&class=each&count=10");
  assert.match(await label(), /^10 images, seed 0, classes 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, step 2 of 2, from σ /);
  const picture = await pixels(page);
  const tiles = Array.from({ length: 10 }, (_, i) => tile(picture, i, 5));
  tiles.forEach(assertDigit);
  assert.equal(new Set(tiles.map(String)).size, 10, "the ten images differ");
  assert.deepEqual(elsewhere, [], "nothing is fetched from another site");
});

test("the address chooses the picture", async () => {
  await visit(page, `${server.origin}/?seed=42&steps=1&class=7&count=4`);
  assert.equal(await page.getByLabel("Seed", { exact: true }).inputValue(), "42");
  assert.match(await label(), /^4 images, seed 42, class 7, step 1 of 1, from σ /);
  const picture = await pixels(page);
  for (let i = 0; i < 4; i++) assertDigit(tile(picture, i, 2));
});

test("what the address gets wrong is named and the rest is taken", async () => {
  await visit(page, `${server.origin}/?seed=-3&steps=9&class=x&count=1`);
  assert.equal(
    await page.getByRole("alert").textContent(),
    "ignored in the address: seed=-3, expected a whole number from 0 to 9007199254740991; " +
      "steps=9, expected 1, 2, 3, 4; class=x, expected each, 0, 1, … 9",
  );
  assert.match(await label(), /^1 image, seed 0, class 0, step 2 of 2/);
});

test("the controls choose class, count and seed; a seed repeats its picture byte for byte", async () => {
  await visit(page, `${server.origin}/?count=1&steps=1`);
  await page.getByLabel("Class", { exact: true }).selectOption("3");
  await page.getByRole("group", { name: "Images" }).getByLabel("4", { exact: true }).check();
  await page.getByRole("group", { name: "Steps" }).getByLabel("2", { exact: true }).check();
  await page.getByText(/^Noise σ 80 → [\d.]+$/).waitFor();
  await page.getByLabel("Seed", { exact: true }).fill("11");
  await generate(page);
  assert.match(await label(), /^4 images, seed 11, class 3, step 2 of 2/);
  assert.equal(new URL(page.url()).search, "?count=4&steps=2&seed=11&class=3");
  const first = await pixels(page);
  for (let i = 0; i < 4; i++) assertDigit(tile(first, i, 2));

  await page.getByLabel("Seed", { exact: true }).fill("12");
  await generate(page);
  assert.ok(!(await pixels(page)).data.equals(first.data), "another seed gives another picture");

  await page.getByLabel("Seed", { exact: true }).fill("11");
  await generate(page);
  assert.ok((await pixels(page)).data.equals(first.data), "the same seed gives the same picture");
});

test("the dice choose a seed and draw it", async () => {
  await visit(page, `${server.origin}/?count=1&steps=1`);
  await page.getByRole("button", { name: "Sample with a random seed" }).click();
  await page.waitForURL((url) => url.searchParams.get("seed") !== null && url.searchParams.get("seed") !== "0");
  assert.equal(await page.getByLabel("Seed", { exact: true }).inputValue(), new URL(page.url()).searchParams.get("seed"));
});

test("a seed that is none is refused before anything runs", async () => {
  await visit(page, `${server.origin}/?count=1&steps=1`);
  await page.getByLabel("Seed", { exact: true }).fill("-1");
  await page.getByRole("button", { name: "Generate" }).click();
  assert.equal(await page.getByLabel("Seed", { exact: true }).evaluate((seed) => seed.matches(":focus:invalid")), true);
  assert.match(await label(), /seed 0/);
});

test("each step can be looked at again", async () => {
  await visit(page, `${server.origin}/?count=4&steps=3`);
  const last = await pixels(page);
  const steps = page.getByRole("group", { name: "Step shown" });
  assert.equal(await steps.getByRole("radio").count(), 3);
  await steps.getByLabel(/^1, from σ 80$/).check();
  assert.match(await label(), /step 1 of 3, from σ 80$/);
  assert.ok(!(await pixels(page)).data.equals(last.data), "the first step differs from the last");
  await steps.getByRole("radio").last().check();
  assert.ok((await pixels(page)).data.equals(last.data), "the last step is as it was");
});

test("Cancel stops a run and leaves the page ready for the next", async () => {
  await visit(page, `${server.origin}/?count=16&steps=4`);
  // Both in one task, for a fast GPU would have finished by the time a second click came from here.
  await page.evaluate(() => {
    document.getElementById("generate").click();
    document.getElementById("cancel").focus();
    document.getElementById("cancel").click();
  });
  assert.equal(await finished(page), "Cancelled");
  assert.equal(await page.evaluate(() => document.activeElement.id), "generate", "the focus is not lost");
  assert.match(await generate(page), /^16 images in .* with 4 network calls$/);
});

test("the keyboard alone suffices, and shows where it is", async () => {
  await visit(page, `${server.origin}/?count=1&steps=2&class=5`);
  const before = await pixels(page);
  const tabTo = async (test) => {
    for (let presses = 0; presses < 20; presses++) {
      await page.keyboard.press("Tab");
      const focus = await page.evaluate(() => {
        const { id, name } = document.activeElement;
        const ring = [document.activeElement, document.activeElement.nextElementSibling]
          .some((element) => element && getComputedStyle(element).outlineStyle !== "none");
        return { id, name, ring };
      });
      assert.ok(focus.ring, `${focus.id || focus.name} shows no focus`);
      if (test(focus)) return;
    }
    assert.fail("20 tabs do not lead there");
  };
  await tabTo(({ name }) => name === "shown");
  await tabTo(({ id }) => id === "seed");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("77");
  await tabTo(({ name }) => name === "steps");
  await page.keyboard.press("ArrowLeft");
  await tabTo(({ id }) => id === "generate");
  await page.keyboard.press("Enter");
  await page.waitForURL(/seed=77/);
  assert.match(await label(), /^1 image, seed 77, class 5, step 1 of 1/);
  assert.ok(!(await pixels(page)).data.equals(before.data));
});

for (const [name, options] of Object.entries({
  "desktop-light": { viewport: { width: 1280, height: 800 }, colorScheme: "light" },
  "desktop-dark": { viewport: { width: 1280, height: 800 }, colorScheme: "dark" },
  "phone-light": { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, colorScheme: "light" },
  "phone-dark": { viewport: { width: 360, height: 740 }, deviceScaleFactor: 2, colorScheme: "dark" },
})) {
  test(`nothing overflows: ${name}`, async () => {
    const sized = await open(browser, { ...options, reducedMotion: "reduce" });
    await visit(sized, `${server.origin}/`);
    const overflowing = await sized.evaluate(() =>
      [...document.querySelectorAll("body *:not(.unseen)")]
        .filter((element) => element.getBoundingClientRect().right > document.documentElement.clientWidth)
        .map((element) => element.outerHTML.slice(0, 80)),
    );
    await sized.screenshot({ path: path.join(SCREENSHOTS, `${name}.png`), fullPage: true });
    await sized.context().close();
    assert.deepEqual(overflowing, []);
    assert.deepEqual(sized.complaints, []);
  });
}
