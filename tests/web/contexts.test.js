// The page where browsers withhold something: without a secure context, in a sandboxed frame, without storage and locks.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";

import { launch, launchWithoutWebGpu, newPage } from "./browser.js";
import { greys, sheet, shoot, visit } from "./page.js";
import { startServer } from "./server.js";
import { hookAll } from "./worker-hooks.js";

let server, browser;

before(async () => {
  server = await startServer();
});
beforeEach(() => server.routes.clear());
after(() => server?.stop());

/** Asserts that the page shows ten digits: light strokes on a dark ground, no two pictures alike. */
async function assertDigits(page) {
  const digits = await sheet(page);
  assert.equal(digits.length, 10);
  for (const digit of digits) {
    const light = greys(digit).filter((grey) => grey > 128).length;
    assert.ok(light > 20 && light < 400, `${light} light pixels`);
  }
  assert.equal(new Set(digits.map(({ data }) => data.toString("base64"))).size, 10);
}

const notices = (page) => page.locator("#notices .notice > span").allTextContents();

describe("over plain http from another machine", () => {
  before(async () => {
    browser = await launch(["--host-resolver-rules=MAP docs.test 127.0.0.1"]);
  });
  after(() => browser?.close());

  test("the page draws on the CPU, and says that WebGPU takes https", async () => {
    const page = await newPage(browser);
    await visit(page, `${server.origin.replace("127.0.0.1", "docs.test")}/`);
    assert.equal(await page.evaluate(() => isSecureContext), false);
    await assertDigits(page);
    const [notice, ...others] = await notices(page);
    assert.match(notice, /pages that are not secure: open this one by https: the CPU computes/);
    assert.deepEqual(others, []);
    await page.getByRole("button", { name: "Copy link" }).first().click();
    await page.getByText("The link is copied").waitFor();
    await page.getByRole("button", { name: "Copy", exact: true }).first().click();
    await page.getByText("this page cannot copy pictures: use Save PNG").waitFor();
    assert.deepEqual(page.complaints, []);
    await shoot(page, "insecure");
  });
});

describe("in a secure context", () => {
  before(async () => {
    browser = await launch();
  });
  after(() => browser?.close());

  test("a sandboxed frame draws digits", async () => {
    const frame = `<!doctype html><title>frame</title><link rel="icon" href="data:,"><iframe sandbox="allow-scripts allow-same-origin" src="/" width="900" height="900"></iframe>`;
    server.routes.set("/framed", { type: "text/html", body: frame });
    const page = await newPage(browser);
    await page.goto(`${server.origin}/framed`);
    const inner = page.frames()[1];
    await inner.locator("#status").filter({ hasText: /network call/ }).waitFor({ timeout: 120_000 });
    assert.equal(await inner.locator("#sheet canvas").count(), 10);
    assert.deepEqual(page.complaints, []);
  });

  for (const [name, code] of [
    [
      "that is refused",
      `const refused = async () => { throw new DOMException("refused", "SecurityError"); };
      navigator.storage.getDirectory = refused; caches.open = refused; navigator.locks.request = refused;`,
    ],
    [
      "that is missing, without locks",
      `for (const name of ["storage", "locks"]) Object.defineProperty(navigator, name, { value: undefined });
      Object.defineProperty(self, "caches", { value: undefined });`,
    ],
    ["without an estimate", "navigator.storage.estimate = undefined;"],
  ]) {
    test(`with storage ${name} the page draws digits`, async () => {
      hookAll(server, code);
      const page = await newPage(browser);
      await page.addInitScript(code);
      await visit(page, `${server.origin}/`);
      await assertDigits(page);
      assert.deepEqual(await notices(page), []);
      assert.deepEqual(page.complaints, []);
    });
  }
});

describe("notices", () => {
  before(async () => {
    browser = await launchWithoutWebGpu();
  });
  after(() => browser?.close());

  test("add up, each in its own line, and can be dismissed one by one", async () => {
    hookAll(server, "navigator.storage.estimate = async () => ({ quota: 1000, usage: 0 });");
    const page = await newPage(browser);
    await visit(page, `${server.origin}/`);
    const shown = await notices(page);
    assert.equal(shown.length, 2, shown.join("\n"));
    assert.ok(shown.some((text) => /the CPU computes in place of the GPU/.test(text)));
    const kept = /^the model is not kept in this browser: it needs \d\.\d MB of storage, 0\.0 MB are free$/;
    assert.ok(shown.some((text) => kept.test(text)), shown.join("\n"));
    await shoot(page, "notices");
    await page.getByRole("button", { name: /^Dismiss: the model is not kept/ }).click();
    assert.deepEqual(await notices(page), shown.filter((text) => !kept.test(text)));
    await page.getByRole("button", { name: /^Dismiss/ }).click();
    assert.equal(await page.locator("#notices").isVisible(), false);
  });

  test("of an element add up too", async () => {
    hookAll(server, "navigator.storage.estimate = async () => ({ quota: 1000, usage: 0 });");
    const body = `<!doctype html><title>element</title><script type="module" src="/define.js"></script>
      <consistency-sampler model="/weights/mnist/" count="2" class-label="1,2"></consistency-sampler>`;
    server.routes.set("/element", { type: "text/html", body });
    const page = await newPage(browser);
    await page.goto(`${server.origin}/element`);
    const lines = page.locator('[part~="notice"]');
    await lines.nth(1).waitFor({ timeout: 60_000 });
    assert.equal(await lines.count(), 2);
    await page.getByRole("button", { name: /^Dismiss/ }).first().click();
    assert.equal(await lines.count(), 1);
  });
});
