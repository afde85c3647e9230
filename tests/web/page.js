// What a person sees and does on the page, for the tests.

import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import assert from "node:assert/strict";

/** For a look by eye at what the tests cannot judge. */
export const SCREENSHOTS = path.join(import.meta.dirname, "../../target/screenshots");
mkdirSync(SCREENSHOTS, { recursive: true });

/** Waits until a run has ended and returns the status line that says so. */
export async function finished(page) {
  const status = page.locator("#status");
  await status.filter({ hasText: /network call|Cancelled/ }).waitFor({ timeout: 120_000 });
  return status.textContent();
}

/** A query that names the digits, which are drawn sooner than the page's own first model. */
export const DIGITS = "model=weights/mnist/";

/** The query of the page's address, but for the model. */
export function query(page) {
  const { searchParams } = new URL(page.url());
  searchParams.delete("model");
  return `?${searchParams}`;
}

/** Opens the page and waits for the picture that it makes by itself. */
export async function visit(page, address) {
  await page.goto(address);
  return finished(page);
}

/** Presses Generate in the open tab and waits for the picture. */
export async function generate(page) {
  await page.getByRole("button", { name: "Generate" }).click();
  return finished(page);
}

/** Opens a tab. */
export function openTab(page, name) {
  return page.getByRole("tab", { name }).click();
}

/** The RGBA bytes of each canvas that a selector names: `{ width, height, data }`. */
export async function canvases(page, selector) {
  const found = await page.evaluate((selector) => {
    return [...document.querySelectorAll(selector)].map((canvas) => {
      const { width, height } = canvas;
      const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
      let text = "";
      for (const byte of data) text += String.fromCharCode(byte);
      return { width, height, base64: btoa(text) };
    });
  }, selector);
  return found.map(({ base64, ...size }) => ({ ...size, data: Buffer.from(base64, "base64") }));
}

/** The samples on the sheet. */
export const sheet = (page) => canvases(page, "#sheet canvas");

/** The grey values of a picture. */
export function greys({ data }) {
  return Array.from({ length: data.length / 4 }, (_, i) => data[4 * i]);
}

/** How many bright pixels each element of a page shows. */
export const bright = (page) =>
  page.evaluate(() =>
    [...document.querySelectorAll("consistency-sampler")].map((element) => {
      const canvas = element.shadowRoot?.querySelector("canvas");
      if (!canvas?.width || !canvas.height) return 0;
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, i) => i % 4 === 0 && value > 192).length;
    }),
  );

/** Takes a screenshot of the whole page. */
export function shoot(page, name) {
  return page.screenshot({ path: path.join(SCREENSHOTS, `${name}.png`), fullPage: true });
}

/** The sizes and colours that everything on the page has to look right in. */
export const LOOKS = [
  ["desktop-light", { width: 1280, height: 800 }, "light"],
  ["desktop-dark", { width: 1280, height: 800 }, "dark"],
  ["phone-light", { width: 360, height: 740 }, "light"],
  ["phone-dark", { width: 360, height: 740 }, "dark"],
];

/** Shows the page as one of `LOOKS`. */
export async function look(page, viewport, colorScheme) {
  await page.setViewportSize(viewport);
  await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
}

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Asserts that axe finds nothing to object to, and that nothing is wider than the window but what scrolls. */
export async function assertAccessible(page, state) {
  // The page's policy allows no script but its own; what a debugger evaluates is not under it.
  await page.evaluate(AXE);
  const { violations, passes } = await page.evaluate(() =>
    globalThis.axe.run(document, { resultTypes: ["violations"] }),
  );
  assert.ok(passes.length > 10, "axe has looked at the page");
  const found = violations.map(
    ({ id, nodes }) =>
      `${id}: ${nodes.map(({ html, failureSummary }) => `${html.slice(0, 200)} (${failureSummary})`).join("; ")}`,
  );
  assert.deepEqual(found, [], state);
  const overflowing = await page.evaluate(() =>
    [...document.querySelectorAll("body *:not(.unseen, .unseen *, .skip, .wide *)")]
      .filter((element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
      .map((element) => element.outerHTML.slice(0, 120)),
  );
  assert.deepEqual(overflowing, [], state);
}
