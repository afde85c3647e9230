// The card of the loaded model: what it says, and the copies with fewer bits that it saves.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, test } from "node:test";

import { launchWithoutWebGpu, newPage } from "./browser.js";
import { assertAccessible, finished, look, LOOKS, SCREENSHOTS } from "./page.js";
import { GOLDENS } from "./server.js";
import { useSite } from "./setup.js";
import { unzip } from "./zip.js";

/** SHA-256 of the weights that the command line's `convert` writes; tests/convert.rs has it from there. */
const CONVERSIONS = JSON.parse(readFileSync(path.join(import.meta.dirname, "../conversions.json"), "utf8"));
const CONFIGS = ["model_index.json", "scheduler/scheduler_config.json", "unet/config.json"];
const SMALL = path.join(GOLDENS, "no-mid");
const WEIGHTS = "unet/diffusion_pytorch_model.safetensors";

let server, browser, page, folder;

useSite((site) => ({ server, browser } = site), { start: launchWithoutWebGpu });
beforeEach(async () => {
  server.routes.clear();
  server.log.length = 0;
  folder = mkdtempSync(path.join(tmpdir(), "card-"));
  page = await newPage(browser);
});
afterEach(async () => {
  assert.deepEqual(page.complaints.filter((text) => !/404|500/.test(text)), []);
  await page.context().close();
  rmSync(folder, { recursive: true });
});

const about = () => page.locator("#about");
const said = () => about().getByRole("status");
const open = () => page.getByText("About this model").click();
/** A fact of the card, by what it is called. */
const fact = (term) => about().locator("dt", { hasText: new RegExp(`^${term}$`) }).locator("xpath=following-sibling::dd[1]").textContent();

/** Loads a model of the goldens from the server of the page. */
async function visit(model) {
  await page.goto(`${server.origin}/?model=${model}&count=1&steps=1`);
  await finished(page);
}

/** Has the page choose the origin's private folder where a person chooses one. */
const choosePrivateFolder = () =>
  page.addInitScript(() => {
    window.showDirectoryPicker = () => navigator.storage.getDirectory();
  });

/** Every file of a folder in the private one, in base64 by its path. */
const privateFiles = (name) =>
  page.evaluate(async (name) => {
    const files = {};
    const walk = async (folder, prefix) => {
      for await (const [key, handle] of folder.entries()) {
        if (handle.kind === "directory") await walk(handle, `${prefix}${key}/`);
        else {
          const bytes = new Uint8Array(await (await handle.getFile()).arrayBuffer());
          files[prefix + key] = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
        }
      }
    };
    await walk(await (await navigator.storage.getDirectory()).getDirectoryHandle(name), "");
    return files;
  }, name);

/** Asserts that files are those that the command line makes of a golden checkpoint. */
function assertConverted(files, model, precision) {
  const weights = `unet/diffusion_pytorch_model.${{ f16: "fp16", int8: "int8" }[precision]}.safetensors`;
  assert.deepEqual(Object.keys(files).sort(), ["SHA256SUMS", ...CONFIGS, weights].sort());
  const hash = (name) => createHash("sha256").update(files[name]).digest("hex");
  assert.equal(hash(weights), CONVERSIONS[model][precision]);
  for (const name of CONFIGS) assert.deepEqual(files[name], readFileSync(path.join(GOLDENS, model, name)), name);
  const sums = [...CONFIGS, weights].map((name) => `${hash(name)}  ${name}\n`).join("");
  assert.equal(files.SHA256SUMS.toString(), sums);
}

/** Puts files into a folder of the disk, and has the page load them. */
async function load(files) {
  for (const [name, bytes] of Object.entries(files)) {
    mkdirSync(path.join(folder, path.dirname(name)), { recursive: true });
    writeFileSync(path.join(folder, name), bytes);
  }
  await page.getByLabel("choose a folder").setInputFiles(folder);
  await page.locator("#card").getByText("files of your own").waitFor();
  return finished(page);
}

test("a model of the site says what it is, and its README is shown", async () => {
  await visit("weights/animals/");
  assert.ok(!server.log.some(({ path }) => path.endsWith("page/model-card.js")), "nothing is fetched for it yet");
  await open();
  await about().getByRole("heading", { name: "weights/animals" }).waitFor();
  await about().getByText("16-bit floats").waitFor();
  assert.equal(await fact("Source"), `${server.origin}/weights/animals/`);
  assert.match(await fact("Network"), /^3,\d+,\d+ parameters; U-Net with 24, 48, 96, 128 channels; 1 layer a level; attention at 16 × 16, 8 × 8$/);
  assert.equal(await fact("Licence"), "mit");
  assert.match(await fact("Classes"), /^14: cat, puppy, /);
  assert.match(await fact("Weights"), /^16-bit floats \(F16\), 7\.\d MB in unet\/diffusion_pytorch_model\.fp16\.safetensors$/);
  assert.equal(await about().locator("th", { hasText: "licence of the weights" }).locator("xpath=following-sibling::td").textContent(), "MIT");
  assert.ok((await about().locator("pre").textContent()).includes("train --recipe edm"));
  assert.deepEqual(await about().getByRole("button").allInnerTexts(), ["Save as 8 bits (about 3.6 MB)"]);
  for (const [name, viewport, scheme] of LOOKS) {
    await look(page, viewport, scheme);
    if (["desktop-light", "phone-dark"].includes(String(name))) await assertAccessible(page, name);
    await page.locator("#model").screenshot({ path: path.join(SCREENSHOTS, `card-${name}.png`) });
  }
});

test("a stranger's README is text, and one that is missing or cannot be had leaves the rest", async () => {
  const html = '<img src="/owned.png" onerror="document.title = \'owned\'">';
  const readme = `---\r
license: "apache-2.0" # as it says
tags:
- digits
- ${html}
datasets: [mnist, 'fashion']
model-index:
- name: x
__proto__: y
---
# A [model](https://example.org/a "title") of ${html}

It is **bold**, \`${html}\`, [bad](javascript:document.title='owned'), [data](data:text/html,x) and <https://example.org/b>.

- one
  more
- ![two](https://example.org/owned.png)

| a | b |
|---|:-:|
| 1 | ${html} |

\`\`\`
${html}
`;
  for (const name of [...CONFIGS, WEIGHTS]) server.routes.set(`/strange/${name}`, { body: readFileSync(path.join(SMALL, name)) });
  server.routes.set("/strange/README.md", { body: readme });
  await visit("/strange/");
  await open();
  await about().getByRole("heading", { name: /^A model of <img/ }).waitFor();
  assert.equal(await fact("Licence"), "apache-2.0");
  assert.equal(await fact("Tags"), `digits, ${html}`);
  assert.equal(await fact("Data"), "mnist, fashion");
  const links = await about().locator(".readme a").evaluateAll((links) => links.map((link) => link.getAttribute("href")));
  assert.deepEqual(links, ["https://example.org/a", "https://example.org/b"]);
  assert.deepEqual(await about().locator(".readme li").allInnerTexts(), ["one more", "two"]);
  assert.equal(await about().locator("td").nth(1).textContent(), html);
  assert.ok((await about().locator("pre").textContent()).includes(html));
  assert.equal(await page.locator("#about :is(img, script, iframe, style)").count(), 0);
  assert.notEqual(await page.title(), "owned");
  assert.ok(!server.log.some((request) => JSON.stringify(request).includes("owned")));

  // The card stays open and follows the models.
  const next = async (model) => {
    await page.getByLabel("Address of a folder, or hub id").fill(model);
    await page.getByRole("button", { name: "Load", exact: true }).click();
  };
  const commit = "0123456789abcdef0123456789abcdef01234567";
  const siblings = [...CONFIGS, WEIGHTS].map((rfilename) => ({ rfilename }));
  await page.context().route("https://huggingface.co/**", (route) => {
    const { pathname } = new URL(route.request().url());
    const headers = { "Access-Control-Allow-Origin": "*" };
    const json = { sha: commit, siblings, cardData: { license: "mit" } };
    if (pathname === "/api/models/some/one/revision/main") return route.fulfill({ headers, json });
    const name = pathname.replace(`/some/one/resolve/${commit}/`, "");
    if (name === "README.md") return route.fulfill({ headers, body: "---\ndatasets: [mnist]\n---\nOf a hub." });
    return route.fulfill({ headers, body: readFileSync(path.join(SMALL, name)) });
  });
  await next("some/one");
  await about().getByText("Of a hub.").waitFor();
  assert.deepEqual([await fact("Source"), await fact("Licence"), await fact("Data")], [`https://huggingface.co/some/one/tree/${commit}`, "mit", "mnist"]);
  await next("/goldens/f16/");
  await about().getByText("This model has no README.md.").waitFor();
  for (const name of [...CONFIGS, WEIGHTS]) server.routes.set(`/broken/${name}`, { body: readFileSync(path.join(SMALL, name)) });
  server.routes.set("/broken/README.md", (_request, response) => response.writeHead(500).end());
  await next("/broken/");
  await about().getByText(/^Its README\.md cannot be read: .*500/).waitFor({ timeout: 60_000 });
  await about().getByText("32-bit floats (F32), 0.1 MB in unet/diffusion_pytorch_model.safetensors").waitFor();
});

test("a copy in half precision goes to a chosen folder, has the command line's bytes and is loaded again", async () => {
  await choosePrivateFolder();
  await visit("/goldens/no-mid/");
  await open();
  const save = page.getByRole("button", { name: "Save as F16" });
  await save.click();
  await said().filter({ hasText: "Saved no-mid-fp16, weights of 0.1 MB" }).waitFor();
  const files = Object.entries(await privateFiles("no-mid-fp16")).map(([name, text]) => [name, Buffer.from(text, "base64")]);
  assertConverted(Object.fromEntries(files), "no-mid", "f16");
  await save.click();
  await said().filter({ hasText: "Not saved: expected no no-mid-fp16 in the folder" }).waitFor();

  await load(Object.fromEntries(files));
  await about().getByText("16-bit floats (F16)").waitFor();
  assert.deepEqual(await about().getByRole("button").allInnerTexts(), ["Save as 8 bits (about 0.0 MB)"]);
});

test("a copy with 8 bits of several files goes to an archive where no folder can be chosen", async () => {
  await page.addInitScript(() => {
    delete window.showDirectoryPicker;
  });
  await visit("/goldens/sharded/");
  await open();
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: "Save as 8 bits" }).click(),
  ]);
  assert.equal(download.suggestedFilename(), "sharded-int8.zip");
  const members = unzip(readFileSync(await download.path()));
  const files = Object.fromEntries(
    Object.entries(members).map(([name, bytes]) => [/^sharded-int8\/(.*)$/.exec(name)[1], bytes]),
  );
  assertConverted(files, "sharded", "int8");
  await load(files);
  await about().getByText("Its weights have 8 bits already, the fewest that they can have.").waitFor();
});

test("a long file lies on the disk meanwhile, and a conversion that is cancelled or fails leaves nothing", async () => {
  const mnist = path.join(import.meta.dirname, "../../weights/mnist");
  await choosePrivateFolder();
  await page.goto(`${server.origin}/?model=/nothing/&count=1&steps=1`);
  const files = Object.fromEntries([...CONFIGS, WEIGHTS].map((name) => [name, readFileSync(path.join(mnist, name))]));
  await page.locator("#error").filter({ hasText: "404" }).waitFor();
  // A value that half precision cannot hold.
  files[WEIGHTS].writeFloatLE(1e6, files[WEIGHTS].length - 4);
  await load(files);
  await open();
  await about().getByRole("button", { name: "Save as F16" }).waitFor();
  const kept = () =>
    page.evaluate(async () => {
      const names = [];
      for await (const name of (await navigator.storage.getDirectory()).keys()) names.push(name);
      return names.filter((name) => name.startsWith("model-"));
    });
  await page.evaluate(async () => {
    /** @type {HTMLElement} */
    const save = document.querySelector("#about .actions button");
    save.click();
    /** @type {HTMLElement} */
    const stop = document.querySelector("#about .progress button");
    while (stop.closest("[hidden]")) await new Promise(requestAnimationFrame);
    stop.click();
  });
  await said().filter({ hasText: "Cancelled" }).waitFor();
  assert.deepEqual(await kept(), []);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Save as F16 (about 2.3 MB)");

  await page.getByRole("button", { name: "Save as F16" }).click();
  await said().filter({ hasText: "1000000 is too large for half precision, at most 65504" }).waitFor();
  assert.deepEqual(await kept(), []);

  await page.evaluate(() => delete window.showDirectoryPicker);
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: "Save as 8 bits" }).click(),
  ]);
  const members = unzip(readFileSync(await download.path()));
  assert.deepEqual(Object.keys(members).map((name) => name.split("/")[0]).sort(), Array(5).fill("model-int8"));
});
