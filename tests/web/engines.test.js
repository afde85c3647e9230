// Three engines, one picture: a person's first minutes on the page in Chromium, in Firefox with and without WebGPU and in
// WebKitGTK, and the pixels of a seed, which differ from Chromium's by at most 1/255.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import { chromium, firefox, shoot, waitFor, webkit } from "./engines.js";
import { DIGITS } from "./page.js";
import { startServer } from "./server.js";

const { FIREFOX, WEBKIT_DRIVER } = process.env;
const lacking = (name) => `${name} is not set: \`cargo xtask test --only web\` sets it where it finds or can install the browser`;

/** Name, how it is opened, the processor that computes, and why it is left out. */
const ENGINES = [
  { name: "chromium", open: chromium, processor: "gpu", skip: false },
  { name: "firefox", open: () => firefox(), processor: "cpu", skip: !FIREFOX && lacking("FIREFOX") },
  { name: "firefox-webgpu", open: () => firefox({ webgpu: true }), processor: "gpu", skip: !FIREFOX && lacking("FIREFOX") },
  { name: "webkit", open: webkit, processor: "cpu", skip: !WEBKIT_DRIVER && lacking("WEBKIT_DRIVER") },
];

const PAGE = `?${DIGITS}&seed=6`;
const EMBED = `embed.html?${DIGITS}&seed=6&steps=1&count=10&class-label=0,1,2,3,4,5,6,7,8,9&loading=eager`;

const status = (pattern) => `${pattern}.test(document.querySelector("#status").textContent)`;
const DRAWN = status(/^10 images in .* with 2 network calls$/);
/** The values of the canvases that an expression gives, of so many channels. */
const values = (canvases, channels) => `[...${canvases}].flatMap((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return Array.from(data).filter((_, i) => i % 4 < ${channels});
})`;
const sheet = (channels) => values(`document.querySelectorAll("#sheet canvas")`, channels);
const SHEET = sheet(1);
/** The texts of the elements of a role that are seen. */
const seen = (role) =>
  `[...document.querySelectorAll("[role=${role}]")].filter((found) => found.checkVisibility()).map((found) => found.textContent)`;

/** What Chromium draws, to compare with. */
const reference = {};

for (const { name, open, processor, skip } of ENGINES) {
  describe(name, { skip }, () => {
    let server, tab;

    before(async () => {
      server = await startServer();
      tab = await open();
    });
    after(async () => {
      await tab?.close();
      await server?.stop();
    });

    /** Asserts that a picture is Chromium's within 1/255; Chromium's own is the reference. */
    function assertSame(what, picture) {
      reference[what] ??= picture;
      assert.equal(picture.length, reference[what].length);
      assert.ok(new Set(picture).size > 20, "it is a picture");
      const most = picture.reduce((most, value, i) => Math.max(most, Math.abs(value - reference[what][i])), 0);
      assert.ok(most <= 1, `${what} differs from Chromium's by ${most}/255 in a pixel`);
    }

    test("the page opens and draws the seed's picture", async () => {
      await tab.goto(`${server.origin}/${PAGE}`);
      await waitFor(tab, DRAWN);
      const notes = await tab.value(seen("note"));
      if (processor === "cpu") assert.match(notes.join(), /This browser offers no WebGPU: the CPU computes/);
      else assert.deepEqual(notes, []);
      assertSame("the sheet", await tab.value(SHEET));
      await shoot(tab, `engine-${name}`);
    });

    test("Generate draws another seed's picture", async () => {
      await tab.value(`[document.querySelector("#seed").value, document.querySelector("#status").textContent] = ["40", ""]`);
      await tab.click("#generate");
      await waitFor(tab, DRAWN);
      assertSame("the other sheet", await tab.value(SHEET));
      assert.notDeepEqual(reference["the other sheet"], reference["the sheet"]);
    });

    test("a sample is edited", async () => {
      await tab.click("#tab-edit");
      await waitFor(tab, `document.querySelector("#panel-edit").checkVisibility()`);
      await tab.click("#edit");
      await waitFor(tab, status(/^1 answer in /));
      await shoot(tab, `engine-${name}-edit`);
    });

    test("the page that is opened again takes the model from the browser's cache", async () => {
      server.log.length = 0;
      await tab.goto(`${server.origin}/${PAGE}&again`);
      await waitFor(tab, DRAWN);
      const weights = server.log.filter(({ method, path }) => method === "GET" && path.endsWith(".safetensors"));
      assert.deepEqual(weights, []);
      assertSame("the sheet", await tab.value(SHEET));
      assert.deepEqual(await tab.value(seen("alert")), []);
    });

    test("the page's own model draws in colour", async () => {
      await tab.goto(`${server.origin}/?seed=6&count=4&steps=1`);
      await waitFor(tab, status(/^4 images in .* with 1 network call$/));
      assertSame("the animals", await tab.value(sheet(3)));
      await shoot(tab, `engine-${name}-animals`);
    });

    const untrained = {
      "firefox-webgpu": "on the CPU, as without WebGPU",
      webkit: "its driver sometimes answers no more while a page trains",
    };
    test("a model is trained, kept over a reload and used", { skip: untrained[name] ?? false }, async () => {
      const text = (id) => `document.querySelector("#${id}").textContent`;
      await tab.goto(`${server.origin}/?view=train&device=cpu`);
      await waitFor(tab, text("source-hint"));
      await tab.value(`(() => {
        const form = document.querySelector("#train-form");
        form.elements.source.value = "drawings";
        form.elements.width.value = "tiny";
        form.elements.minutes.value = "0.2";
        form.querySelector("[value=drawings]").dispatchEvent(new Event("change", { bubbles: true }));
        document.querySelector("#drawings canvas").dispatchEvent(new KeyboardEvent("keydown", { key: " " }));
      })()`);
      await tab.click("#train");
      await waitFor(tab, `/Denoiser: .* now/.test(${text("loss-words")})`);
      await tab.click("#train-toggle");
      await waitFor(tab, `${text("train-status")} === "Paused, and kept in this browser"`);
      await tab.goto(`${server.origin}/?view=train&device=cpu&again`);
      await waitFor(tab, `document.querySelector("#train-resume")?.checkVisibility()`);
      await tab.click("#train-resume");
      await waitFor(tab, `/The run is over/.test(${text("train-status")})`);
      assert.match(await tab.value(text("train-facts")), /Runs onCPU/);
      await shoot(tab, `engine-${name}-train`);
      await tab.click("#train-use");
      await waitFor(tab, status(/^10 images in .* with 2 network calls$/));
    });

    test("the element draws the same digits", async () => {
      await tab.goto(`${server.origin}/${EMBED}`);
      const inside = `document.querySelector("consistency-sampler")?.shadowRoot`;
      await waitFor(tab, `/^10 images: seed 6/.test(${inside}?.querySelector("canvas")?.getAttribute("aria-label"))`);
      assertSame("the element's", await tab.value(values(`${inside}.querySelectorAll("canvas")`, 1)));
      // WebKitGTK's driver never answers when asked for a picture of this page.
      if (name !== "webkit") await shoot(tab, `engine-${name}-embed`);
    });

    test("nothing is logged as an error", () => assert.deepEqual(tab.complaints, []));
  });
}
