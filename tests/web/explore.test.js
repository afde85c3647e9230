// Exploring samples on the page: the gallery, variations, the way between two, links and files to take along.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { inflateSync } from "node:zlib";

import { newPage } from "./browser.js";
import { DIGITS, LOOKS, assertAccessible, canvases, finished, look, openTab, sheet, shoot, visit } from "./page.js";
import { useSite } from "./setup.js";

let server, browser, page;

useSite(async (site) => {
  ({ server, browser, page } = site);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.setViewportSize({ width: 1280, height: 800 });
});

const subject = async () => (await canvases(page, "#subject"))[0];
const varied = () =>
  page
    .locator("#status")
    .filter({ hasText: /^8 variations in / })
    .waitFor({ timeout: 120_000 });
const around = () => canvases(page, "#around .tile:not(.middle) canvas");
const button = (name) => page.getByRole("button", { name, exact: true });
const far = ({ data }, other) => data.reduce((sum, byte, i) => sum + Math.abs(byte - other.data[i]), 0) / data.length;

test("the gallery has the latest samples with their seeds, the newest first", async () => {
  await visit(page, `${server.origin}/?${DIGITS}&seed=6&steps=1&class=3&count=4`);
  const latest = page.getByRole("list", { name: "Latest samples" });
  assert.deepEqual(await latest.locator(".seed").allTextContents(), ["6", "7", "8", "9"]);
  await page.locator("#seed").fill("100");
  await button("Generate").click();
  await finished(page);
  assert.deepEqual(await latest.locator(".seed").allTextContents(), ["100", "101", "102", "103", "6", "7", "8", "9"]);
});

test("a sample that is chosen is kept, and variations lie around it", async () => {
  const [, second] = await sheet(page);
  await button("Explore seed 101, class 3").click();
  assert.equal(await page.getByRole("tab", { name: "Explore" }).getAttribute("aria-selected"), "true");
  assert.ok((await subject()).data.equals(second.data));
  assert.equal(await page.getByRole("list", { name: "Kept samples" }).getByRole("listitem").count(), 1);
  await varied();
  const variations = await around();
  assert.equal(new Set(variations.map(({ data }) => data.toString("base64"))).size, 8, "they differ from one another");
  assert.ok(
    variations.every(({ data }) => !data.equals(second.data)),
    "and from the sample",
  );

  await page.getByLabel("How far", { exact: true }).fill("0.05");
  await page.waitForFunction(() => new URLSearchParams(location.search).get("far") === "0.05", null, {
    timeout: 120_000,
  });
  const nearer = await around();
  const mean = (all) => all.reduce((sum, picture) => sum + far(picture, second), 0) / all.length;
  assert.ok(mean(nearer) < mean(variations), `nearer ones are more alike: ${mean(nearer)}, ${mean(variations)}`);
});

test("a link reproduces what is explored", async () => {
  await button("Copy link").and(page.locator("#explore-share button")).click();
  await page.locator("#status").filter({ hasText: "The link is copied" }).waitFor();
  const link = await page.evaluate(() => navigator.clipboard.readText());
  assert.match(new URL(link).search, /^\?view=explore&model=[^&]+mnist%2F&seed=101&steps=1&class=3&vary=\d+&far=0.05$/);
  const [shown, variations] = [await subject(), await around()];
  const other = await newPage(browser);
  await other.goto(link);
  await other
    .locator("#status")
    .filter({ hasText: /^8 variations in / })
    .waitFor({ timeout: 120_000 });
  assert.equal(far((await canvases(other, "#subject"))[0], shown) < 1, true, "the sample");
  const again = await canvases(other, "#around .tile:not(.middle) canvas");
  for (const [i, variation] of again.entries()) assert.ok(far(variation, variations[i]) < 1, `variation ${i}`);
  await other.context().close();
});

test("one walks from variation to variation", async () => {
  const variation = (await around())[2];
  await page.locator("#around .tile:not(.middle)").nth(2).click();
  assert.ok((await subject()).data.equals(variation.data));
  await page.getByText(/^seed 101, 5 % towards \d+ · class 3 · 1 network call/).waitFor();
  await varied();
  assert.match(new URL(page.url()).searchParams.get("seed"), /^\(101,\d+,0\.05\)$/);
});

test("the way to another kept sample is walked with a slider, and its ends are the two samples", async () => {
  const start = await subject();
  await page.getByRole("list", { name: "Latest samples" }).getByRole("button", { name: "seed 8, class 3" }).click();
  await varied();
  const end = await subject();
  await page
    .getByRole("group", { name: "The other sample" })
    .getByRole("radio", { name: /^seed 101, 5 %/ })
    .check();
  const slider = page.getByLabel("How far on the way");
  const walk = async (amount) => {
    await slider.fill(amount);
    await page.waitForFunction((amount) => new URLSearchParams(location.search).get("amount") === amount, amount, {
      timeout: 120_000,
    });
    return subject();
  };
  const middle = await walk("0.5");
  assert.ok(!middle.data.equals(start.data) && !middle.data.equals(end.data));
  assert.ok(far(await walk("1"), start) < 1, "where one walked to");
  assert.ok(far(await walk("0"), end) < 1, "where one came from");
  await walk("0.3");
  await button("Keep this one").click();
  await varied();
  assert.equal(await page.getByRole("list", { name: "Kept samples" }).getByRole("listitem").count(), 4);
});

test("a kept sample is let go of", async () => {
  await button("Let go of seed 101, class 3").click();
  assert.equal(await page.getByRole("list", { name: "Kept samples" }).getByRole("listitem").count(), 3);
  const focus = await page.evaluate(() => document.activeElement.className);
  assert.match(focus, /tile/, "the focus is not lost");
});

test("a saved PNG has the sample's pixels and says how it was made", async () => {
  await page
    .getByRole("list", { name: "Latest samples" })
    .getByRole("button", { name: "Kept: seed 8, class 3" })
    .click();
  await varied();
  const download = page.waitForEvent("download");
  await button("Save PNG").and(page.locator("#explore-share button")).click();
  const file = await download;
  assert.equal(file.suggestedFilename(), "mnist-8.png");
  const { chunks, width, height, pixels } = readPng(await readFile(await file.path()));
  const texts = Object.fromEntries(
    chunks.filter(({ type }) => type === "tEXt").map(({ data }) => data.toString("latin1").split("\0")),
  );
  assert.deepEqual(texts, {
    Software: "consistency-sampler",
    Model: `${server.origin}/weights/mnist/`,
    Seed: "8",
    Steps: "1",
    Sigmas: "80",
    Class: "3",
    Scale: "10",
  });
  assert.deepEqual([width, height], [280, 280]);
  const { data } = await subject();
  for (const [x, y] of [
    [0, 0],
    [14, 14],
    [13, 9],
    [27, 27],
  ]) {
    assert.equal(pixels(x * 10 + 5, y * 10 + 5), data[4 * (y * 28 + x)], `pixel ${x}, ${y}`);
  }
});

test("a picture is copied", async () => {
  await button("Copy").and(page.locator("#explore-share button")).click();
  await page.locator("#status").filter({ hasText: "The picture is copied" }).waitFor();
  const types = await page.evaluate(async () => (await navigator.clipboard.read()).flatMap(({ types }) => types));
  assert.deepEqual(types, ["image/png"]);
});

for (const [name, viewport, colorScheme] of LOOKS) {
  test(`exploring is accessible and nothing overflows: ${name}`, async () => {
    await look(page, viewport, colorScheme);
    await shoot(page, `explore-${name}`);
    await assertAccessible(page, name);
  });
}

test("the keyboard alone suffices", async () => {
  await look(page, { width: 1280, height: 800 }, "light");
  await page.getByRole("tab", { name: "Explore" }).focus();
  await page.keyboard.press("ArrowLeft");
  assert.equal(await page.getByRole("tab", { name: "Sample" }).getAttribute("aria-selected"), "true");
  await page.locator("#sheet .tile").first().focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  await varied();
  assert.match(await page.locator("#subject-caption").textContent(), /^seed 101 /);
  assert.equal(await page.getByRole("tab", { name: "Explore" }).getAttribute("aria-selected"), "true");
});

test("what a link gets wrong is named", async () => {
  await page.goto(`${server.origin}/?${DIGITS}&view=explore&seed=8&steps=1&class=77&far=2&vary=5`);
  const alert = page.getByRole("alert");
  await alert.filter({ hasText: "ignored" }).waitFor({ timeout: 120_000 });
  assert.equal(
    await alert.textContent(),
    "ignored in the address: class=77, expected a class below 10; far=2, expected 0 to 1",
  );
  await page.getByText(/^seed 8 · class 0 /).waitFor();
});

test("a tab without a sample says what to do", async () => {
  await page.goto(`${server.origin}/?model=${encodeURIComponent("https://example.org/x/")}`);
  await openTab(page, "Explore");
  await page.getByText("There is nothing to explore yet").waitFor();
  await shoot(page, "explore-empty");
  await assertAccessible(page, "empty");
});

test("the browser has nothing to complain about", () => assert.deepEqual(page.complaints, []));

/** The chunks of an 8-bit PNG with their CRCs checked, and the first channel of its pixels. */
function readPng(bytes) {
  const chunks = [];
  for (let at = 8; at < bytes.length;) {
    const length = bytes.readUInt32BE(at);
    const body = bytes.subarray(at + 4, at + 8 + length);
    assert.equal(bytes.readUInt32BE(at + 8 + length), crc32(body), "the CRC");
    chunks.push({ type: body.toString("latin1", 0, 4), data: body.subarray(4) });
    at += 12 + length;
  }
  assert.deepEqual([chunks[0].type, chunks.at(-1).type], ["IHDR", "IEND"]);
  const header = chunks[0].data;
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
  const channels = { 0: 1, 2: 3, 6: 4 }[header[9]];
  const raw = inflateSync(Buffer.concat(chunks.filter(({ type }) => type === "IDAT").map(({ data }) => data)));
  const stride = width * channels;
  const rows = Buffer.alloc(stride * height);
  for (let y = 0; y < height; y++) {
    const filter = raw[y * (stride + 1)];
    for (let x = 0; x < stride; x++) {
      const left = x >= channels ? rows[y * stride + x - channels] : 0;
      const up = y ? rows[(y - 1) * stride + x] : 0;
      const corner = y && x >= channels ? rows[(y - 1) * stride + x - channels] : 0;
      const guess = [0, left, up, (left + up) >> 1, paeth(left, up, corner)][filter];
      rows[y * stride + x] = raw[y * (stride + 1) + 1 + x] + guess;
    }
  }
  return { chunks, width, height, pixels: (x, y) => rows[y * stride + x * channels] };
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [left, up, corner].map((value) => Math.abs(guess - value));
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
