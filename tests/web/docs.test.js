// docs/element.md, the README and docs/embed.md against the code: what the one lists, the other has.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";

import { newPage } from "./browser.js";
import { bright } from "./page.js";
import { DIST, startServer } from "./server.js";
import { useSite } from "./setup.js";

/** @type {typeof import("../../www/library/consistency-sampler.js")} */
const { ConsistencySampler, ConsistencySamplerError } = await import(path.join(DIST, "consistency-sampler.js"));
/** @type {typeof import("../../www/library/element.js")} */
const { ConsistencySamplerElement } = await import(path.join(DIST, "element.js"));

const read = (file) => readFileSync(path.join(import.meta.dirname, "../..", file), "utf8");
const docs = read("docs/element.md");
const readme = read("README.md");
const embed = read("docs/embed.md");

/** What stands in backticks in the first column of a section's tables. */
function listed(heading) {
  const section = docs.split(`\n## ${heading}\n`)[1].split("\n## ")[0];
  const rows = section.split("\n").filter((line) => line.startsWith("| ") && !line.startsWith("|---"));
  return rows.slice(1).flatMap((row) => [...row.split(" | ")[0].matchAll(/`([^`]+)`/g)].map(([, name]) => name.replace(/\(.*/, ""))).toSorted();
}

const all = (text, pattern) => [...new Set([...text.matchAll(pattern)].map(([, name]) => name))];
const members = Object.getOwnPropertyDescriptors(ConsistencySamplerElement.prototype);
const named = (test) =>
  Object.keys(members).filter((name) => !/^constructor$|Callback$/.test(name) && test(members[name])).toSorted();

test("attributes, properties and methods", () => {
  assert.deepEqual(listed("Attributes"), ConsistencySamplerElement.observedAttributes.toSorted());
  assert.deepEqual(listed("Properties"), named(({ get }) => get));
  assert.deepEqual(listed("Methods"), named(({ value }) => typeof value === "function"));
});

test("events", () => {
  assert.deepEqual(listed("Events"), all(read("www/library/element.ts"), /#emit\("(\w+)"/g).toSorted());
});

test("parts and slots", () => {
  const view = read("www/library/element-view.ts") + read("www/library/display.ts");
  const parts = [...all(view, /part: "(?:button )?(\w+)"/g), ...all(view, /= button\("(\w+)"/g), "button"];
  assert.deepEqual(listed("Parts"), parts.toSorted());
  assert.deepEqual(listed("Slots"), all(view, /element\("slot", \{ name: "(\w+)"/g).toSorted());
});

test("custom properties", () => {
  assert.deepEqual(listed("Custom properties"), all(read("www/library/element-style.ts"), /var\((--consistency-sampler-[\w-]+)/g).toSorted());
});

test("error codes", () => {
  const types = /type ErrorCode =([^;]+);/.exec(read("www/library/error.ts"))[1];
  assert.deepEqual(all(types, /"(\w+)"/g).toSorted(), listed("Errors"));
  assert.deepEqual(all(types, /\*\/\s+\| "(\w+)"/g).toSorted(), listed("Errors"), "each has its comment");
  assert.equal(new ConsistencySamplerError("gpu", "no").code, "gpu");
});

test("the calls of the API", () => {
  const names = Object.getOwnPropertyNames;
  const instance = names(ConsistencySampler.prototype).filter((name) => name !== "constructor");
  const statics = names(ConsistencySampler).filter((name) => !["length", "name", "prototype"].includes(name));
  const expected = [...instance.map((name) => `sampler.${name}`), ...statics.map((name) => `ConsistencySampler.${name}`)];
  assert.deepEqual(listed("The JavaScript API").filter((name) => /^(sampler|ConsistencySampler)\./.test(name)), expected.toSorted());
});

let server, browser;
useSite((site) => ({ server, browser } = site));

/** The lines of a text's only block of code that begins so. */
function block(start, text) {
  const found = [...text.matchAll(/```html\n([\s\S]*?)```/g)].map(([, lines]) => lines).filter((lines) => lines.startsWith(start));
  assert.equal(found.length, 1, `blocks that begin with ${start}`);
  assert.ok(found[0].trim().split("\n").length <= 3, "three lines");
  return found[0];
}

test("a blank HTML file with the README's three lines shows samples", async () => {
  // Browsers ask for it unasked.
  server.routes.set("/favicon.ico", { type: "image/x-icon", body: "" });
  server.routes.set("/mine.html", { type: "text/html", body: block("<script", readme) });
  const page = await newPage(browser);
  await page.goto(`${server.origin}/mine.html`);
  await page.getByRole("img", { name: /^10 images: seed 6, .*step 2 of 2$/ }).waitFor({ timeout: 240_000 });
  const [pixels] = await bright(page);
  assert.ok(pixels > 300, `${pixels} bright pixels`);
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("the recipe for a page without a bundler is the README's", () => assert.equal(block("<script", embed), block("<script", readme)));

test("one with the recipe's iframe shows samples", async () => {
  server.routes.set("/frame.html", { type: "text/html", body: `<!doctype html><title>Mine</title>${block("<iframe", embed)}` });
  const page = await newPage(browser);
  await page.goto(`${server.origin}/frame.html`);
  const frame = page.frameLocator("iframe");
  await frame.getByRole("img", { name: /^10 images: seed 6, .*step 2 of 2$/ }).waitFor({ timeout: 240_000 });
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("an embedded address cannot name another site, and what it gets wrong is said", async () => {
  const page = await newPage(browser);
  const warnings = [];
  page.on("console", (message) => message.type() === "warning" && warnings.push(message.text()));
  const elsewhere = [];
  page.on("request", (request) => request.url().startsWith(server.origin) || elsewhere.push(request.url()));
  const query = "model=https%3A%2F%2Fexample.com%2Fmodel%2F&hub=https%3A%2F%2Fexample.com&poster=https%3A%2F%2Fexample.com%2Fa.png&sed=1&utm_source=news";
  await page.goto(`${server.origin}/embed.html?${query}`);
  const note = page.locator("#refused");
  await note.waitFor();
  assert.equal(
    await note.textContent(),
    "Ignored in the address: model, which is not a folder of this site; hub, which is no option here; " +
      "poster, which is not of this site",
  );
  // What the element does not know is not for a visitor to read.
  assert.deepEqual(warnings, ["sed", "utm_source"].map((name) => `${name} is no option here`));
  assert.deepEqual(elsewhere, []);
  await page.context().close();
});

test("an embedded address that others have added to draws, and its model is a folder with or without a slash", async () => {
  for (const model of ["weights/mnist", "weights/mnist/", "./weights/mnist", `${server.origin}/weights/mnist`]) {
    const page = await newPage(browser);
    const query = new URLSearchParams({ model, loading: "eager", utm_source: "news", utm_medium: "mail", fbclid: "1", gclid: "2" });
    await page.goto(`${server.origin}/embed.html?${query}`);
    await page.getByRole("img", { name: /^1 image: seed 0, step 1 of 1$/ }).waitFor({ timeout: 240_000 });
    assert.deepEqual(await page.getByRole("alert").filter({ visible: true }).allTextContents(), []);
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  }
});

test("an embedded address whose model is no address says so", async () => {
  const page = await newPage(browser);
  await page.goto(`${server.origin}/embed.html?model=http%3A%2F%2F&poster=http%3A%2F%2F`);
  await page.locator("#refused").waitFor();
  assert.equal(
    await page.locator("#refused").textContent(),
    "Ignored in the address: model, which is not a folder of this site; poster, which is not of this site",
  );
  await page.context().close();
});

test("an embedded model that redirects to another site is not followed there", async () => {
  const other = await startServer();
  const page = await newPage(browser);
  for (const name of ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", "SHA256SUMS"]) {
    server.routes.set(`/moved/${name}`, (_request, response) =>
      response.writeHead(302, { Location: `${other.origin}/weights/mnist/${name}` }).end(),
    );
  }
  await page.goto(`${server.origin}/embed.html?model=/moved/&loading=eager`);
  await page.getByText("a redirect to another site is not followed").first().waitFor({ timeout: 60_000 });
  assert.deepEqual(other.log, []);
  await page.context().close();
  await other.stop();
});
