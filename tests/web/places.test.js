// Where a page can be that lacks what others have: plain http from another machine, a sandboxed frame, a browser that
// refuses storage. Digits are drawn in each of them.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";

import { launch, launchProfile, launchWithoutWebGpu, listen, newPage } from "./browser.js";
import { DIGITS, assertAccessible, finished, generate, shoot, visit } from "./page.js";
import { DIST, startServer } from "./server.js";
import { useSite } from "./setup.js";

/** A name that is no machine's own, so that pages from there are not secure. */
const NAME = "docs.test";
const EMBED = `embed.html?${DIGITS}&seed=6&steps=1&count=10&class-label=0,1,2,3,4,5,6,7,8,9&loading=eager`;

/** Waits for ten digits in the page or frame of an element alone; returns how many of their pixels are bright. */
async function digits(place) {
  await place.getByRole("img", { name: /^10 images: seed 6/ }).waitFor({ timeout: 120_000 });
  return place.locator("consistency-sampler").evaluate((element) => {
    const canvas = element.shadowRoot.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.filter((v, i) => i % 4 === 0 && v > 192).length;
  });
}

describe("over plain http from another machine", () => {
  let server, browser, page, origin;

  before(async () => {
    server = await startServer();
    browser = await launch([`--host-resolver-rules=MAP ${NAME} 127.0.0.1`]);
    origin = server.origin.replace("127.0.0.1", NAME);
    page = await newPage(browser);
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
  });

  test("the page draws, and says why on the CPU and what to do", async () => {
    assert.match(await visit(page, `${origin}/?${DIGITS}`), /^10 images in .* with 2 network calls$/);
    const lacking = () => [crypto.randomUUID, crypto.subtle, navigator.storage, navigator.locks, navigator.clipboard, navigator.gpu, window.caches];
    assert.deepEqual(await page.evaluate(() => [isSecureContext]), [false]);
    assert.ok((await page.evaluate(`(${lacking})().every((thing) => thing === undefined)`)), "nothing of secure pages is there");
    const notices = page.getByRole("note");
    assert.deepEqual(await notices.locator("span").allTextContents(), [
      "WebGPU is for secure pages alone, and this one came over plain http (open it over https, or on the machine that " +
        "serves it by http://localhost): the CPU computes in place of the GPU, which takes longer",
    ]);
    await shoot(page, "insecure");
    await assertAccessible(page, "insecure");
  });

  test("a link is copied, a picture is saved, and copying a picture says what to do", async () => {
    await page.getByRole("button", { name: "Copy link" }).first().click();
    await page.locator("#status").filter({ hasText: "The link is copied" }).waitFor();
    await page.locator("#address").fill("");
    await page.locator("#address").press("Control+V");
    assert.equal(await page.locator("#address").inputValue(), page.url());
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("button", { name: "Save PNG" }).first().click(),
    ]);
    assert.match(download.suggestedFilename(), /^mnist-.*\.png$/);
    await page.getByRole("button", { name: "Copy", exact: true }).first().click();
    const alert = page.getByRole("alert").filter({ hasText: /^Copy: / });
    assert.match(await alert.textContent(), /only pages that came over https copy pictures; Save PNG/);
  });

  test("a sample is edited and explored", async () => {
    await page.getByRole("tab", { name: "Explore" }).click();
    await page.locator("#status").filter({ hasText: /^8 variations in / }).waitFor({ timeout: 120_000 });
    await page.getByRole("tab", { name: "Edit" }).click();
    await page.locator("#paint").click();
    assert.match(await generate(page), /^1 answer in /);
    assert.deepEqual(page.complaints, []);
  });

  test("the element draws", async () => {
    const page = await newPage(browser);
    await page.goto(`${origin}/${EMBED}`);
    assert.ok((await digits(page)) > 300);
    assert.match(await page.getByRole("note").textContent(), /^WebGPU is for secure pages alone/);
    assert.deepEqual(page.complaints, []);
    await page.context().close();
  });
});

describe("in a sandboxed frame", () => {
  let server, browser;

  before(async () => {
    // Such a frame is another origin to every site, its own included; many hosts of static sites let all origins read.
    server = await startServer({ headers: { "Access-Control-Allow-Origin": "*" } });
    browser = await launch();
  });
  after(async () => {
    await browser?.close();
    await server?.stop();
  });

  for (const [name, source] of [["the element", EMBED], ["the page", `?${DIGITS}&seed=6`]]) {
    test(`${name} draws`, async () => {
      const body = `<!doctype html><title>Frame</title><iframe sandbox="allow-scripts allow-forms" src="/${source}" width="800" height="800"></iframe>`;
      // Browsers ask for it unasked.
      server.routes.set("/favicon.ico", { type: "image/x-icon", body: "" });
      server.routes.set("/framed", { type: "text/html", body });
      const page = await newPage(browser);
      await page.goto(`${server.origin}/framed`);
      const frame = page.frameLocator("iframe");
      assert.equal(await page.frames()[1].evaluate(() => self.origin), "null");
      if (name === "the element") assert.ok((await digits(frame)) > 300);
      else await frame.locator("#status").filter({ hasText: /^10 images in / }).waitFor({ timeout: 120_000 });
      assert.match(await frame.getByRole("note").textContent(), /^A sandboxed frame has no WebGPU \(with allow-same-origin it has\): the CPU/);
      await shoot(page, `sandboxed-${name.replace(" ", "-")}`);
      assert.deepEqual(await frame.getByRole("alert").filter({ visible: true }).allTextContents(), []);
      assert.deepEqual(page.complaints, []);
      await page.context().close();
    });
  }
});

describe("where storage is refused", () => {
  let server, context, folder, page;

  before(async () => {
    server = await startServer();
    folder = mkdtempSync(path.join(tmpdir(), "profile-"));
    // As a person does who blocks all sites' data.
    mkdirSync(path.join(folder, "Default"));
    const preferences = { profile: { default_content_setting_values: { cookies: 2 } } };
    writeFileSync(path.join(folder, "Default/Preferences"), JSON.stringify(preferences));
    context = await launchProfile(folder);
    page = listen(await context.newPage());
  });
  after(async () => {
    await context?.close();
    await server?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  test("the page draws, twice", async () => {
    assert.match(await visit(page, `${server.origin}/?${DIGITS}`), /^10 images in /);
    const refused = await page.evaluate(() =>
      Promise.all([navigator.storage.getDirectory(), caches.open("x")].map((asked) => asked.then(() => "given", ({ name }) => name))),
    );
    assert.ok(!refused.includes("given"), `${refused}`);
    await page.reload();
    assert.match(await finished(page), /^10 images in /);
    assert.equal(await page.locator("#kept-field").isVisible(), false);
    assert.deepEqual(await page.getByRole("alert").filter({ visible: true }).allTextContents(), []);
    assert.deepEqual(page.complaints, []);
  });

  test("the element draws", async () => {
    await page.goto(`${server.origin}/${EMBED}`);
    assert.ok((await digits(page)) > 300);
    assert.deepEqual(page.complaints, []);
  });
});

describe("in a browser without anything of these", () => {
  let server, browser;
  useSite((site) => ({ server, browser } = site), { start: launchWithoutWebGpu });

  test("notices add up, each on its own line, and each is dismissed", async () => {
    // The CPU computes, and the browser has less room than the model needs.
    const lacking = `StorageManager.prototype.estimate = async () => ({ quota: 10_000, usage: 0 });`;
    const page = await newPage(browser);
    const worker = await (await fetch(`${server.origin}/worker.js`)).text();
    server.routes.set("/worker.js", { type: "text/javascript", body: `${lacking}\n${worker}` });
    assert.match(await visit(page, `${server.origin}/?${DIGITS}`), /^10 images in /);
    const notices = page.getByRole("note").filter({ visible: true });
    const texts = () => notices.locator("span").allTextContents();
    const [cpu, cache, ...others] = await texts();
    assert.equal(cpu, "This browser offers no WebGPU: the CPU computes in place of the GPU, which takes longer");
    assert.match(cache, /^The model is not kept in this browser: [\d,]+ bytes are needed, 10,000 are free$/);
    assert.deepEqual(others, []);
    const [first, second] = await Promise.all([notices.nth(0).boundingBox(), notices.nth(1).boundingBox()]);
    assert.ok(second.y >= first.y + first.height, "one below the other");
    await shoot(page, "notices");
    await page.setViewportSize({ width: 360, height: 740 });
    await shoot(page, "notices-phone");
    await assertAccessible(page, "notices");

    await page.getByRole("button", { name: /^Dismiss: This browser/ }).click();
    assert.deepEqual(await texts(), [cache]);
    assert.match(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), /^Dismiss: The model/);
    await page.keyboard.press("Enter");
    assert.deepEqual(await texts(), []);
    assert.equal(await page.evaluate(() => document.activeElement.id), "work", "the focus is not lost");
    assert.equal(await page.locator("#notices").isVisible(), false);

    // And in the element.
    await page.goto(`${server.origin}/${EMBED}`);
    assert.ok((await digits(page)) > 300);
    assert.equal((await texts()).length, 2);
    await page.getByRole("button", { name: /^Dismiss: This browser/ }).click();
    assert.equal((await texts()).length, 1);
    assert.deepEqual(page.complaints, []);
  });
});

describe("where the page's scripts do not run", () => {
  let server, browser;
  useSite((site) => ({ server, browser } = site));

  const check = async (page, address) => {
    await page.goto(address);
    const words = page.locator("#static");
    await words.filter({ hasText: "This page's scripts did not run" }).waitFor();
    await page.waitForFunction(() => getComputedStyle(document.getElementById("static")).visibility === "visible");
    assert.equal(await page.locator("#work").getAttribute("inert"), "", "nothing can be pressed");
  };

  test("opened from the disk it says so", async () => {
    const page = await newPage(browser);
    await check(page, pathToFileURL(path.join(DIST, "index.html")).href);
    await page.context().close();
  });

  test("from a server that sends scripts as text it says so", async () => {
    const page = await newPage(browser);
    const body = readFileSync(path.join(DIST, "page/app.js"));
    server.routes.set("/page/app.js", { type: "text/plain", body });
    await check(page, `${server.origin}/`);
    await shoot(page, "scripts-as-text");
    server.routes.delete("/page/app.js");
    await page.goto(`${server.origin}/`);
    await page.locator("#static").waitFor({ state: "detached" });
    assert.equal(await page.locator("#work").getAttribute("inert"), null);
    await page.context().close();
  });
});
