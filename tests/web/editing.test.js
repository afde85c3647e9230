// Editing on the page with each tool, by mouse, finger and keyboard.

import assert from "node:assert/strict";
import { test } from "node:test";
import { deflateSync } from "node:zlib";

import { newPage } from "./browser.js";
import { DIGITS, LOOKS, assertAccessible, canvases, look, openTab, shoot, visit } from "./page.js";
import { useSite } from "./setup.js";

let server, browser, page;

useSite(async (site) => {
  ({ server, browser, page } = site);
  await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
  await page.setViewportSize({ width: 1280, height: 900 });
});

const SIZE = 28;

const status = () => page.locator("#status");
const tool = (name) => page.getByRole("group", { name: "Tool" }).getByLabel(name, { exact: true }).check();
const press = (name) => page.locator("#panel-edit").getByRole("button", { name, exact: true }).click();
const choose = (group, value) =>
  page
    .locator("#panel-edit")
    .getByRole("group", { name: group, exact: true })
    .getByLabel(value, { exact: true })
    .check();
const answer = async () => (await canvases(page, "#answer"))[0].data;

/** One grey value for each cell of the paint canvas, where a cell is many pixels. */
async function painting() {
  const [{ width, data }] = await canvases(page, "#paint");
  const cell = width / SIZE;
  return Array.from({ length: SIZE * SIZE }, (_, i) => {
    const [x, y] = [(i % SIZE) + 0.5, Math.floor(i / SIZE) + 0.5].map((at) => Math.floor(at * cell));
    return data[4 * (y * width + x)];
  });
}

/** Which cells lie in the hole, as the link has it. */
async function hole() {
  const text = new URLSearchParams(new URL(page.url()).hash.slice(1)).get("mask");
  return page.evaluate(async (text) => {
    const { parseMask } = await import("/page/link-text.js");
    return [...(await parseMask(text, { width: 28, height: 28, channels: 1 }))];
  }, text);
}

/** A stroke of the mouse through points of the paint canvas, in cells; only a few events are sent. */
async function stroke(...points) {
  await page.locator("#paint").scrollIntoViewIfNeeded();
  const box = await page.locator("#paint").boundingBox();
  const at = ([x, y]) => [box.x + ((x + 0.5) / SIZE) * box.width, box.y + ((y + 0.5) / SIZE) * box.height];
  await page.mouse.move(...at(points[0]));
  await page.mouse.down();
  for (const point of points.slice(1)) await page.mouse.move(...at(point));
  await page.mouse.up();
}

async function generate() {
  await press("Generate");
  await status()
    .filter({ hasText: /answers? in .* network calls?$/ })
    .waitFor({ timeout: 120_000 });
}

test("editing begins with a sample and a hole in it, so that Generate shows what it is for", async () => {
  await visit(page, `${server.origin}/?${DIGITS}&seed=6&steps=1&class=3&count=4`);
  await openTab(page, "Edit");
  assert.match(await page.locator("#paint-caption").textContent(), /seed 6, class 3/);
  assert.ok(new Set(await painting()).size > 20, "it is not blank");
  await shoot(page, "edit-begins");
  await generate();
  const cells = await hole();
  const open = cells.filter(Boolean).length / cells.length;
  assert.ok(open > 0.2 && open < 0.6, `${open} of the picture`);
});

test("a sample that is chosen while editing is put on the paint canvas", async () => {
  const [sample] = await canvases(page, '#latest [title="seed 6, class 3"] canvas');
  await page.getByRole("list", { name: "Latest samples" }).getByRole("button", { name: "seed 6, class 3", exact: true }).first().click();
  await press("Clear");
  assert.deepEqual(
    await painting(),
    Array.from({ length: SIZE * SIZE }, (_, i) => sample.data[4 * i]),
  );
  assert.equal(await page.locator("#edit-class").inputValue(), "3", "its class is asked for");
});

test("inpainting asks for a hole first", async () => {
  await press("Generate");
  await status().filter({ hasText: "Paint over what is to be made anew first" }).waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "paint");
});

test("inpainting fills a hole painted with the mouse, and keeps everything else bit for bit", async () => {
  const before = await painting();
  await stroke([8, 20], [20, 20]);
  await generate();
  const painted = await hole();
  for (let x = 8; x <= 20; x++) assert.equal(painted[20 * SIZE + x], 1, `the stroke has no gap at ${x}`);
  assert.equal(painted[3 * SIZE + 3], 0);
  const after = await answer();
  let changed = 0;
  before.forEach((value, i) => {
    if (painted[i]) changed += Number(Math.abs(after[4 * i] - value) > 8);
    else assert.equal(after[4 * i], value, `cell ${i} is kept`);
  });
  assert.ok(changed > 3, `the hole has changed in ${changed} cells`);
  assert.equal(await page.getByRole("group", { name: "Step of the answer" }).getByRole("radio").count(), 8);
  await shoot(page, "edit-inpaint");
});

test("an answer goes to the gallery, and from there back to the paint canvas", async () => {
  const latest = page.getByRole("list", { name: "Latest samples" });
  const first = latest.getByRole("button", { name: "inpaint, seed 0, class 3" }).first();
  await first.click();
  await press("Clear");
  const data = await answer();
  assert.deepEqual(
    await painting(),
    Array.from({ length: SIZE * SIZE }, (_, i) => data[4 * i]),
  );
});

test("strokes are undone and cleared, and erasing closes a hole", async () => {
  const clean = await painting();
  await stroke([5, 5], [9, 9]);
  assert.notDeepEqual(await painting(), clean);
  await press("Undo");
  assert.deepEqual(await painting(), clean);
  await press("Undo");
  assert.notDeepEqual(await painting(), clean, "the hole is there again that was cleared");
  assert.equal(await page.getByRole("button", { name: "Undo" }).isDisabled(), true);
  await press("Clear");
  await stroke([5, 5], [15, 5]);
  await page.getByLabel("Erase").check();
  await stroke([5, 5], [15, 5]);
  assert.deepEqual(await painting(), clean);
  await page.getByLabel("Erase").uncheck();
  await stroke([5, 5], [15, 5]);
  await press("Clear");
  assert.deepEqual(await painting(), clean);
});

test("a finger paints too", async () => {
  const clean = await painting();
  await page.evaluate(() => {
    const painting = document.getElementById("paint");
    painting.setPointerCapture = () => {}; // There is no such pointer to capture.
    const { left, top, width } = painting.getBoundingClientRect();
    const send = (type, cell) =>
      painting.dispatchEvent(
        new PointerEvent(type, {
          pointerType: "touch",
          pointerId: 7,
          button: type === "pointermove" ? -1 : 0,
          clientX: left + ((cell + 0.5) / 28) * width,
          clientY: top + ((cell + 0.5) / 28) * width,
          bubbles: true,
        }),
      );
    send("pointerdown", 4);
    send("pointermove", 12);
    send("pointerup", 12);
  });
  const painted = await painting();
  for (let i = 4; i <= 12; i++) assert.notEqual(painted[i * SIZE + i], clean[i * SIZE + i]);
  assert.equal(await page.locator("#paint").evaluate((painting) => getComputedStyle(painting).touchAction), "none");
});

test("the keyboard alone paints a hole and fills it", async () => {
  await press("Clear");
  const clean = await painting();
  await choose("Brush", "1");
  await page.locator("#paint").focus();
  for (const key of ["ArrowUp", "ArrowUp", " ", "Shift+ArrowRight", "Shift+ArrowRight"]) await page.keyboard.press(key);
  assert.equal(await page.locator("#cell").textContent(), "row 14, column 17: to be generated");
  await shoot(page, "edit-keyboard");
  await page.keyboard.press("Control+z");
  await page.locator("#edit").focus();
  await page.keyboard.press("Enter");
  await status()
    .filter({ hasText: /1 answer in .* with 8 network calls$/ })
    .waitFor({ timeout: 120_000 });
  assert.deepEqual(
    (await hole()).flatMap((isHole, i) => (isHole ? [i] : [])),
    [13 * SIZE + 14, 13 * SIZE + 15],
  );
  const after = await answer();
  assert.ok(clean.every((value, i) => [13 * SIZE + 14, 13 * SIZE + 15].includes(i) || after[4 * i] === value));
  await choose("Brush", "3");
});

test("strokes on a blank guide the model", async () => {
  await tool("Strokes");
  await press("Blank");
  assert.ok((await painting()).every((value) => value === 0));
  await page.locator("#edit-class").selectOption("7");
  await stroke([8, 7], [19, 7], [13, 21]);
  const strokes = await painting();
  assert.equal(strokes[7 * SIZE + 13], 255, "there is no gap between events");
  await choose("Answers", "4");
  await generate();
  const answers = await canvases(page, "#answers canvas");
  assert.equal(answers.length, 4);
  assert.equal(new Set(answers.map(({ data }) => data.toString("base64"))).size, 4, "they differ");
  for (const { data } of answers) {
    const mean = (cells) => cells.reduce((sum, i) => sum + data[4 * i], 0) / cells.length;
    const cells = strokes.map((_, i) => i);
    const [on, off] = [mean(cells.filter((i) => strokes[i] === 255)), mean(cells.filter((i) => strokes[i] === 0))];
    assert.ok(on > off + 60, `brighter on the strokes, ${on}, than beside them, ${off}`);
  }
  await page.getByRole("button", { name: "Answer 3" }).click();
  assert.ok((await answer()).equals(answers[2].data));
  await shoot(page, "edit-stroke");
  await choose("Answers", "1");
});

test("sharpening keeps the mean of each patch", async () => {
  await page
    .getByRole("list", { name: "Latest samples" })
    .getByRole("button", { name: "seed 8, class 3", exact: true })
    .click();
  await tool("Sharpen");
  await choose("Known: the mean of each patch of", "4 × 4");
  const known = await painting();
  assert.equal(new Set(known).size <= 49, true, "the paint canvas shows what is known");
  await generate();
  const after = await answer();
  for (let patch = 0; patch < 49; patch++) {
    const corner = Math.floor(patch / 7) * 4 * SIZE + (patch % 7) * 4;
    const cells = Array.from({ length: 16 }, (_, i) => corner + Math.floor(i / 4) * SIZE + (i % 4));
    const mean = cells.reduce((sum, i) => sum + after[4 * i], 0) / 16;
    // Sixteen roundings to a byte, and the paint canvas's own.
    assert.ok(Math.abs(mean - known[corner]) <= 1, `patch ${patch}: expected ${known[corner]}, found ${mean}`);
  }
  await shoot(page, "edit-sharpen");
});

test("denoising adds noise, shows it, and takes it away", async () => {
  await tool("Denoise");
  const clean = await painting();
  await page.getByLabel("Noise σ in the picture").fill("-0.3");
  await generate();
  const [noisy, after] = [await painting(), await answer()];
  const error = (pixel) => Math.sqrt(clean.reduce((sum, value, i) => sum + (pixel(i) - value) ** 2, 0) / clean.length);
  const [before, left] = [error((i) => noisy[i]), error((i) => after[4 * i])];
  assert.ok(left < before / 2, `the error falls from ${before} to ${left}`);
  await shoot(page, "edit-denoise");
});

test("an interpolation goes from one picture to another, with a slider along it", async () => {
  await tool("Interpolate");
  await press("Generate");
  await status().filter({ hasText: "Choose the other picture first" }).waitFor();
  await page
    .getByRole("group", { name: "Take it from the gallery" })
    .getByRole("radio", { name: "seed 6, class 3" })
    .check({ force: true });
  await generate();
  const frames = await canvases(page, "#answers canvas");
  assert.equal(frames.length, 9);
  const distance = (a, b) => a.reduce((sum, byte, i) => sum + Math.abs(byte - b[i]), 0);
  const [first, last] = [frames[0].data, frames[8].data];
  assert.ok(distance(frames[2].data, first) < distance(frames[2].data, last), "the third frame is nearer to the first");
  assert.ok(distance(frames[6].data, last) < distance(frames[6].data, first), "the seventh is nearer to the last");
  await page.getByLabel("From one to the other").fill("8");
  assert.ok((await answer()).equals(last));
  await shoot(page, "edit-interpolate");
});

test("a grey model is not offered colours", async () => {
  assert.equal(await page.getByLabel("Colourise").isDisabled(), true);
});

test("a link reproduces an edit, picture and hole included", async () => {
  await tool("Inpaint");
  await stroke([10, 10], [18, 12]);
  await page.locator("#edit-seed").fill("5");
  await choose("Steps", "2");
  await generate();
  const expected = await answer();
  await press("Copy link");
  await status().filter({ hasText: "The link is copied" }).waitFor();
  const link = await page.evaluate(() => navigator.clipboard.readText());
  const other = await newPage(browser);
  assert.match(await visit(other, link), /^1 answer in .* with 2 network calls$/);
  const [{ data }] = await canvases(other, "#answer");
  assert.ok(data.every((byte, i) => Math.abs(byte - expected[i]) <= 1));
  await other.context().close();
});

/** A PNG of one colour; `declared` sizes may lie. */
function png(width, height, rgba, declared = [width, height]) {
  const crcOf = (bytes) => {
    let crc = ~0;
    for (const byte of bytes) {
      crc ^= byte;
      for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc >>> 0;
  };
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const [length, crc] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    crc.writeUInt32BE(crcOf(body));
    return Buffer.concat([length, body, crc]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(declared[0], 0);
  header.writeUInt32BE(declared[1], 4);
  header.set([8, 6, 0, 0, 0], 8);
  const rows = Buffer.alloc((width * 4 + 1) * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++)
      rows.set(typeof rgba === "function" ? rgba(x, y) : rgba, y * (width * 4 + 1) + 1 + 4 * x);
  }
  return Buffer.concat([
    Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]),
    chunk("IHDR", header),
    chunk("IDAT", deflateSync(rows)),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

const upload = (name, buffer, mimeType = "image/png") =>
  page.locator("#upload").setInputFiles({ name, mimeType, buffer });

test("an uploaded picture is cropped to its middle, scaled by areas and laid on black", async () => {
  // 168 × 84: the middle is 84 × 84, three pixels for each cell; white on its left half, half transparent on its right.
  const picture = png(168, 84, (x) =>
    x < 42 || x >= 126 ? [255, 0, 0, 255] : x < 84 ? [255, 255, 255, 255] : [255, 255, 255, 128],
  );
  await upload("wide.png", picture);
  await page.getByText("wide.png", { exact: true }).waitFor();
  const found = await painting();
  assert.equal(found[14 * SIZE], 255);
  assert.equal(found[14 * SIZE + 13], 255);
  assert.ok(
    Math.abs(found[14 * SIZE + 14] - 128) <= 2,
    `half transparent white on black is grey, found ${found[14 * SIZE + 14]}`,
  );
  assert.equal(found[14 * SIZE + 27], found[14 * SIZE + 14]);
});

test("a saved picture that is uploaded again is the same", async () => {
  const before = await answer();
  const download = page.waitForEvent("download");
  await press("Save PNG");
  await page.locator("#upload").setInputFiles(await (await download).path());
  await page.waitForFunction(() => document.getElementById("paint-caption").textContent !== "wide.png");
  assert.deepEqual(
    await painting(),
    Array.from({ length: SIZE * SIZE }, (_, i) => before[4 * i]),
  );
});

for (const [name, file, message] of [
  ["an empty file", ["empty.png", Buffer.alloc(0)], "empty.png: expected a picture, found an empty file"],
  [
    "no picture",
    ["notes.txt", Buffer.from("hello, this is no picture at all"), "text/plain"],
    "notes.txt: expected a picture that this browser can read, found text/plain",
  ],
  [
    "a picture that breaks off",
    ["cut.png", png(64, 64, [1, 2, 3, 255]).subarray(0, 60)],
    "cut.png: expected a picture that this browser can read, found image/png",
  ],
  [
    "100 megapixels",
    ["huge.png", png(1, 1, [0, 0, 0, 255], [10_000, 10_000])],
    "huge.png: expected at most 50 megapixels, found 10000 × 10000 = 100 megapixels",
  ],
]) {
  test(`${name} is refused in one line, and the paint canvas keeps its picture`, async () => {
    const before = await painting();
    await upload(...file);
    const alert = page.getByRole("alert");
    await alert.filter({ hasText: file[0] }).waitFor();
    assert.equal(await alert.textContent(), message);
    assert.deepEqual(await painting(), before);
  });
}

test("a picture is dropped on the page", async () => {
  await openTab(page, "Sample");
  const bytes = [...png(28, 28, [90, 90, 90, 255])];
  await page.evaluate((bytes) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
    dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }, bytes);
  await page.getByText("dropped.png", { exact: true }).waitFor();
  assert.ok((await painting()).every((value) => value === 90));
  assert.equal(await page.getByRole("alert").isVisible(), false);
});

for (const [name, viewport, colorScheme] of LOOKS) {
  test(`editing is accessible and nothing overflows: ${name}`, async () => {
    await look(page, viewport, colorScheme);
    for (const kind of ["Inpaint", "Strokes", "Sharpen", "Denoise", "Interpolate"]) {
      await tool(kind);
      await assertAccessible(page, `${name}, ${kind}`);
      if (kind === "Strokes" || kind === "Interpolate") await shoot(page, `edit-${kind.toLowerCase()}-${name}`);
    }
  });
}

test("with a model of colours: colours are found, the brightness of each pixel is kept", async () => {
  await look(page, { width: 1280, height: 900 }, "light");
  await page.goto(`${server.origin}/?view=edit&model=/goldens/no-mid/`);
  await page.getByText(/16 × 16 pixels/).waitFor({ timeout: 120_000 });
  await tool("Colourise");
  await page
    .locator("#upload")
    .setInputFiles({
      name: "grey.png",
      mimeType: "image/png",
      buffer: png(16, 16, (x) => [10 * x, 12 * x, 8 * x, 255]),
    });
  await page.getByText("grey.png", { exact: true }).waitFor();
  await generate();
  const data = await answer();
  const luma = (r, g, b) => 0.2989 * r + 0.587 * g + 0.114 * b;
  let coloured = 0;
  for (let i = 0; i < 256; i++) {
    const x = i % 16;
    const [r, g, b] = data.subarray(4 * i);
    const expected = luma(10 * x, 12 * x, 8 * x);
    assert.ok(Math.abs(luma(r, g, b) - expected) <= 1, `pixel ${i}: expected luma ${expected}, found ${luma(r, g, b)}`);
    coloured += Number(Math.max(r, g, b) - Math.min(r, g, b) > 4);
  }
  assert.ok(coloured > 20, `${coloured} pixels have colours`);
  await shoot(page, "edit-colourise");
  await tool("Strokes");
  await page.getByLabel("green", { exact: true }).check({ force: true });
  await shoot(page, "edit-palette");
  await assertAccessible(page, "colours");
});

test("the browser has nothing to complain about", () => assert.deepEqual(page.complaints, []));
