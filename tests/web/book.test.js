// The book that `cargo xtask docs` makes of docs/: its links, its pages in a browser, the element in them.

import assert from "node:assert/strict";
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { after, before, test } from "node:test";

import { launch, listen } from "./browser.js";
import { bright, LOOKS, shoot } from "./page.js";
import { startServer } from "./server.js";

const ROOT = path.join(import.meta.dirname, "../..");
const BOOK = process.env.BOOK ?? path.join(ROOT, "target/book");
/** Where the tests serve it: no book knows the folder that it will lie in. */
const FOLDER = "/project/docs/";

const chapters = readdirSync(BOOK).filter((name) => name.endsWith(".html") && name !== "toc.html").toSorted();
const html = Object.fromEntries(chapters.map((name) => [name, readFileSync(path.join(BOOK, name), "utf8")]));
const read = (file) => readFileSync(path.join(ROOT, file), "utf8");

test("every chapter of the summary is a page, and every page a chapter", () => {
  const listed = [...read("docs/SUMMARY.md").matchAll(/\((\S+)\.md\)/g)].map(([, name]) => `${name}.html`);
  assert.deepEqual(chapters, listed.toSorted());
  const written = readdirSync(path.join(ROOT, "docs")).filter((name) => name.endsWith(".md") && name !== "SUMMARY.md");
  assert.deepEqual(written.map((name) => name.replace(".md", ".html")).toSorted(), chapters);
});

test("links within the book lead to pages and headings that are there", () => {
  const wrong = [];
  for (const [name, text] of Object.entries(html)) {
    for (const [, address] of text.replace(/<(pre|code)\b[\s\S]*?<\/\1>/g, "").matchAll(/\s(?:href|src|poster|model)="([^"]*)"/g)) {
      if (/^(https?|mailto):/.test(address)) continue;
      const [file, fragment] = address.split("#");
      const target = path.join(BOOK, file || name);
      const there = existsSync(target) && target.startsWith(BOOK);
      if (!there || (fragment && !readFileSync(target, "utf8").includes(`id="${fragment}"`))) wrong.push(`${name}: ${address}`);
    }
  }
  assert.deepEqual(wrong, []);
});

/** The fragments of a text's headings, as GitHub makes them. */
const fragments = (text) =>
  [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-"));

test("links within the repository lead to files and headings that are there", () => {
  const documents = [
    ...["README", "ARCHITECTURE", "BENCHMARKS", "CHANGELOG", "CONTRIBUTING", "RELIABILITY", "SECURITY", "npm/README"].map((name) => `${name}.md`),
    ...readdirSync(path.join(ROOT, "weights")).map((name) => `weights/${name}/README.md`).filter((file) => existsSync(path.join(ROOT, file))),
    ...readdirSync(path.join(ROOT, "docs")).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`),
  ];
  const wrong = [];
  for (const document of documents) {
    const text = read(document).replace(/^```[\s\S]*?^```/gm, "");
    for (const [, address] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^(https?|mailto):/.test(address)) continue;
      const [file, fragment] = address.split("#");
      const target = file ? path.join(path.dirname(document), file) : document;
      if (!existsSync(path.join(ROOT, target)) || (fragment && !fragments(read(target)).includes(fragment))) wrong.push(`${document}: ${address}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test("every include has lines of its file", () => {
  for (const name of readdirSync(path.join(ROOT, "docs")).filter((name) => name.endsWith(".md"))) {
    const page = html[name.replace(".md", ".html")]?.replace(/<[^>]*>/g, "") ?? "";
    for (const [, file, anchor] of read(`docs/${name}`).matchAll(/\{\{#include ([^:}]+)(?::([a-z][a-z-]*))?/g)) {
      let source = read(path.join("docs", file));
      if (anchor) {
        const parts = source.split(new RegExp(`// ANCHOR(?:_END)?: ${anchor}\\n`));
        assert.equal(parts.length, 3, `${name}: ${file} has one anchor ${anchor}`);
        source = parts[1];
      }
      if (file.endsWith(".md")) continue;
      const plain = (text) => text.replaceAll(/&lt;|&gt;|&amp;|&quot;|&#39;|&#x27;|[<>&"']/g, "").replaceAll(/\s+/g, " ");
      const last = source.trim().split("\n").at(-1);
      assert.ok(plain(page).includes(plain(last).trim()), `${name} shows ${last} of ${file}`);
    }
  }
});

test("the headers for hosts have the pages' own policies", () => {
  const headers = read("www/_headers");
  for (const page of ["index.html", "embed.html"]) {
    const policy = /http-equiv="Content-Security-Policy"\s+content="([^"]+)"/.exec(read(`www/${page}`))[1];
    assert.ok(headers.includes(`/${page}\n  Content-Security-Policy: ${policy}\n`), page);
  }
});

let server, browser;
before(async () => {
  server = await startServer({ folders: { [FOLDER]: BOOK } });
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** A page of the book in a fresh context, in one of `LOOKS`. */
async function open(name, look) {
  const [, viewport, colorScheme] = /** @type {[string, { width: number, height: number }, "light" | "dark"]} */ (look);
  const context = await browser.newContext({ viewport, colorScheme, reducedMotion: "reduce" });
  const page = listen(await context.newPage());
  const outside = [];
  const missing = [];
  page.on("request", (request) => request.url().startsWith(`${server.origin}${FOLDER}`) || request.url().startsWith("blob:") || outside.push(request.url()));
  page.on("response", (response) => response.ok() || missing.push(response.url()));
  const visit = (name) => page.goto(`${server.origin}${FOLDER}${name}`);
  await visit(name);
  return Object.assign(page, { outside, missing, visit });
}

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

for (const look of [LOOKS[0], LOOKS[3]]) {
  test(`every page opens without a complaint and axe finds nothing, ${look[0]}`, async () => {
    const wrong = [];
    const page = await open("index.html", look);
    for (const name of chapters) {
      await page.visit(name);
      await page.evaluate(AXE);
      const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
      for (const { id, nodes } of violations) wrong.push(`${name}: ${id}: ${nodes[0].html.slice(0, 200)} (${nodes[0].failureSummary}), ${nodes.length} in all`);
      const room = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (room > 0) wrong.push(`${name}: wider than the window by ${room}`);
      wrong.push(...[page.complaints, page.outside, page.missing].flatMap((list) => list.splice(0)).map((what) => `${name}: ${what}`));
      if (name === "benchmarks.html") await shoot(page, `book-benchmarks-${look[0]}`);
    }
    await page.context().close();
    assert.deepEqual(wrong, []);
  });
}

test("the element draws in the chapters", async () => {
  for (const { name, look } of [{ name: "how-it-works", look: LOOKS[0] }, { name: "index", look: LOOKS[3] }]) {
    const page = await open(`${name}.html`, look);
    const elements = page.locator("consistency-sampler");
    for (const element of await elements.all()) {
      await element.scrollIntoViewIfNeeded();
      await element.locator("[part=status]").filter({ hasText: /^10 images in / }).waitFor({ timeout: 240_000 });
    }
    const pictures = await bright(page);
    assert.ok(pictures.length > 0 && pictures.every((pixels) => pixels > 300), `${name}: ${pictures}`);
    assert.deepEqual([page.complaints, page.outside, page.missing], [[], [], []], name);
    await shoot(page, `book-${name}-${look[0]}`);
    await page.context().close();
  }
});

test("the keyboard opens the contents on a phone", async () => {
  const page = await open("faq.html", LOOKS[2]);
  const link = page.locator("#mdbook-sidebar").getByRole("link", { name: "Train your own" });
  await link.waitFor({ state: "hidden" });
  await page.getByRole("button", { name: "Toggle Table of Contents" }).press("Enter");
  await link.waitFor();
  await shoot(page, "book-contents-phone-light");
  await page.getByRole("button", { name: "Toggle Table of Contents" }).press("Enter");
  await link.waitFor({ state: "hidden" });
  assert.deepEqual(page.complaints, []);
  await page.context().close();
});

test("the search finds a chapter", async () => {
  const page = await open("index.html", LOOKS[0]);
  await page.getByRole("button", { name: /search/i }).click();
  await page.getByRole("searchbox").pressSequentially("guidance");
  await page.locator("#mdbook-searchresults a").first().waitFor();
  assert.match(await page.locator("#mdbook-searchresults").textContent(), /Train your own/);
  await page.context().close();
});
