// Choosing a model on the page, as a person does.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import { launch, launchWithoutWebGpu, newPage } from "./browser.js";
import { DIGITS, finished } from "./page.js";
import { join, split } from "./safetensors.js";
import { DIST, GOLDENS, send, startServer } from "./server.js";

const SCREENSHOTS = path.join(import.meta.dirname, "../../target/screenshots");
const WEIGHTS = "unet/diffusion_pytorch_model.safetensors";
const SMALL = path.join(GOLDENS, "no-mid");

let server, other, browser, page, asked;

before(async () => {
  server = await startServer();
  // Another site, which lets every page read its files.
  other = await startServer();
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await server?.stop();
  await other?.stop();
});
beforeEach(async () => {
  for (const site of [server, other]) {
    site.routes.clear();
    site.log.length = 0;
  }
  for (const name of ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS]) {
    const headers = { "Access-Control-Allow-Origin": "*" };
    other.routes.set(`/models/small/${name}`, { headers, body: readFileSync(path.join(SMALL, name)) });
  }
  page = await newPage(browser);
  asked = new Set();
  page.on("request", (request) => asked.add(new URL(request.url()).origin));
});
afterEach(() => page.context().close());

/** A file of weights with so many classes, which repeat those that it has. */
function withClasses(file, count) {
  const { header, data } = split(file);
  const name = "class_embedding.weight";
  const { dtype, shape, data_offsets } = header[name];
  const [begin, end] = data_offsets;
  const row = (end - begin) / shape[0];
  const rows = Array.from({ length: count }, (_, i) => data.subarray(begin + (i % shape[0]) * row).subarray(0, row));
  const more = count * row - (end - begin);
  for (const tensor of Object.values(header)) {
    if (tensor.data_offsets?.[0] >= end) tensor.data_offsets = tensor.data_offsets.map((at) => at + more);
  }
  header[name] = { dtype, shape: [count, shape[1]], data_offsets: [begin, end + more] };
  return join({ header, data: Buffer.concat([data.subarray(0, begin), ...rows, data.subarray(end)]) });
}

const status = () => page.locator("#status");
const card = async () => (await page.locator("#card").innerText()).replace(/\s+/g, " ");
const field = () => page.getByLabel("Address of a folder, or hub id");
const press = (name) => page.getByRole("button", { name, exact: true }).click();

test("a link to another site's model loads it when the person says so, and asks nobody else", async () => {
  await page.goto(`${server.origin}/?model=${encodeURIComponent(`${other.origin}/models/small/`)}`);
  await status().filter({ hasText: "press Load" }).waitFor();
  assert.deepEqual(other.log, [], "nothing is asked of the other site yet");
  assert.equal(await field().inputValue(), `${other.origin}/models/small/`);
  await press("Load");
  assert.match(await finished(page), /^10 images in .* with 2 network calls$/);
  assert.match(await card(), /Name small Parameters 0\.0\d million, 0\.1 MB Images 16 × 16 pixels Classes none Runs on /);
  assert.equal(await page.locator("#class").isVisible(), false);
  assert.equal(new URL(page.url()).searchParams.get("model"), `${other.origin}/models/small/`);
  assert.deepEqual([...asked].sort(), [server.origin, other.origin].sort());
  await page.screenshot({ path: path.join(SCREENSHOTS, "model.png"), fullPage: true });

  await page.setViewportSize({ width: 360, height: 740 });
  await page.screenshot({ path: path.join(SCREENSHOTS, "model-phone.png"), fullPage: true });
  const list = page.locator("#kept").getByRole("listitem");
  assert.equal(await list.count(), 1);
  assert.match(await list.textContent(), /models\/small\/, 0\.1 MB/);
  await page.getByRole("button", { name: /^Delete / }).click();
  await list.waitFor({ state: "detached" });
});

test("a hub id is fetched from the hub, and its published timesteps are offered", async () => {
  const folder = path.join(GOLDENS, "f16");
  const files = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS];
  const siblings = files.map((rfilename) => ({ rfilename, size: readFileSync(path.join(folder, rfilename)).length }));
  const about = { sha: "0123456789abcdef0123456789abcdef01234567", siblings, cardData: { license: "mit" } };
  await page.context().route("https://huggingface.co/**", (route) => {
    const { pathname } = new URL(route.request().url());
    const file = files.find((name) => pathname.endsWith(`/${about.sha}/${name}`));
    const headers = { "Access-Control-Allow-Origin": "*" };
    if (file) return route.fulfill({ headers, body: readFileSync(path.join(folder, file)) });
    assert.equal(pathname, "/api/models/openai/diffusers-cd_imagenet64_l2/revision/main");
    return route.fulfill({ headers, contentType: "application/json", body: JSON.stringify(about) });
  });
  await page.goto(`${server.origin}/?model=openai/diffusers-cd_imagenet64_l2`);
  await status().filter({ hasText: "press Load" }).waitFor();
  await press("Load");
  assert.match(await finished(page), /^10 images in .* with 2 network calls$/);
  assert.match(await card(), /^Name openai\/diffusers-cd_imagenet64_l2 Revision 0123456789ab Licence mit /);
  assert.equal(await page.getByLabel("22,0", { exact: true }).isChecked(), true);
  const { searchParams } = new URL(page.url());
  assert.deepEqual(
    [searchParams.get("model"), searchParams.get("steps")],
    ["openai/diffusers-cd_imagenet64_l2", "22,0"],
  );
  assert.deepEqual([...asked].sort(), [server.origin, "https://huggingface.co"].sort());
});

test("published models are cards, and one of them loads by one press, with the names of its classes", async () => {
  // ImageNet's model with few channels, under the published id.
  const folder = path.join(GOLDENS, "f16");
  const config = { ...JSON.parse(readFileSync(path.join(folder, "unet/config.json"), "utf8")) };
  const bytes = withClasses(readFileSync(path.join(folder, WEIGHTS)), 1000);
  const bodies = {
    "model_index.json": readFileSync(path.join(folder, "model_index.json")),
    "scheduler/scheduler_config.json": readFileSync(path.join(folder, "scheduler/scheduler_config.json")),
    "unet/config.json": Buffer.from(JSON.stringify({ ...config, num_class_embeds: 1000 })),
    [WEIGHTS]: bytes,
  };
  const siblings = Object.entries(bodies).map(([rfilename, { length }]) => ({ rfilename, size: length }));
  const about = { sha: "0123456789abcdef0123456789abcdef01234567", siblings, cardData: { license: "mit" } };
  await page.context().route("https://huggingface.co/**", (route) => {
    const { pathname } = new URL(route.request().url());
    const headers = { "Access-Control-Allow-Origin": "*" };
    const file = Object.keys(bodies).find((name) => pathname.endsWith(`/${about.sha}/${name}`));
    if (file) return route.fulfill({ headers, body: bodies[file] });
    assert.equal(pathname, "/api/models/openai/diffusers-cd_imagenet64_l2/revision/main");
    return route.fulfill({ headers, contentType: "application/json", body: JSON.stringify(about) });
  });
  await page.goto(`${server.origin}/?${DIGITS}`);
  await finished(page);
  await page.getByText("Models published with the paper").click();
  const cards = page.locator("#published-list").getByRole("button");
  await cards.nth(8).waitFor();
  assert.equal(await cards.count(), 9);
  const wanted = page.getByRole("button", { name: /^cd_imagenet64_l2 ?ImageNet/ });
  assert.match(await wanted.innerText(), /Downloads 1183\.6 MB from huggingface\.co, or 591\.8 MB where/);
  await page.locator("#published-models").screenshot({ path: path.join(SCREENSHOTS, "published.png") });
  assert.deepEqual([...asked], [server.origin], "nothing is asked of the hub before a press");
  await wanted.click();
  assert.match(await finished(page), /^10 images in .* with 2 network calls$/);
  const classes = page.locator("#class");
  await page.getByLabel("Find a class").first().fill("golden ret");
  assert.equal(await classes.locator("option:checked").innerText(), "golden retriever");
  assert.equal(await classes.inputValue(), "207");
  await page.getByLabel("Find a class").first().fill("no such thing");
  assert.equal(await page.getByLabel("Find a class").first().evaluate((field) => field.validationMessage), "no class is called “no such thing”");
});

test("a browser without WebGPU says on the cards that they need it", async () => {
  const browser = await launchWithoutWebGpu();
  try {
    const page = await newPage(browser);
    await page.goto(`${server.origin}/?${DIGITS}`);
    await finished(page);
    await page.getByText("Models published with the paper").click();
    const cards = page.locator("#published-list").getByRole("button");
    await cards.nth(8).waitFor();
    assert.equal(await cards.first().isDisabled(), true);
    assert.match(await cards.first().innerText(), /needs WebGPU, which this browser does not offer/);
  } finally {
    await browser.close();
  }
});

test("files are picked or dropped, and nothing is sent anywhere", async () => {
  await page.goto(`${server.origin}/?model=${encodeURIComponent(`${other.origin}/models/small/`)}`);
  await page.getByLabel("choose a folder").setInputFiles(SMALL);
  assert.match(await finished(page), /network calls$/);
  assert.match(await card(), /^Name files of your own/);

  // The folder's files as a person drops them: the browser gives entries only for a real drag, so they are made here.
  const names = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"];
  const files = names.map((name) => ({ name, text: readFileSync(path.join(SMALL, name), "utf8") }));
  await page.evaluate((files) => {
    const transfer = new DataTransfer();
    for (const { name, text } of files) transfer.items.add(new File([text], name.split("/").at(-1)));
    dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }, files);
  const alert = page.getByRole("alert");
  await alert.filter({ hasText: "diffusion_pytorch_model.safetensors" }).waitFor();
  assert.match(await alert.textContent(), /^unet\/diffusion_pytorch_model\.safetensors: not there, expected the model's weights$/);
  assert.deepEqual([...asked], [server.origin]);
  assert.deepEqual(other.log, []);
});

test("a load is cancelled, and taken up again where it was", async () => {
  const body = readFileSync(path.join(SMALL, WEIGHTS));
  const headers = { "Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "ETag, Content-Range" };
  /** @type {import("./server.js").Manner} */
  let manner = { headers, stall: 40_000 };
  other.routes.set(`/models/small/${WEIGHTS}`, (request, response) => send(request, response, body, manner));
  await page.goto(`${server.origin}/?model=${encodeURIComponent(`${other.origin}/models/small/`)}`);
  await press("Load");
  await page.getByText(/^0\.0 MB of 0\.1 MB, .*\/s, \d+ s left$/).waitFor();
  await page.screenshot({ path: path.join(SCREENSHOTS, "loading.png"), fullPage: true });
  await press("Cancel loading");
  await status().filter({ hasText: "Cancelled" }).waitFor({ timeout: 1000 });
  await page.getByText(/, in part/).waitFor();
  manner = { headers };
  other.log.length = 0;
  await press("Retry");
  await status().filter({ hasText: "network calls" }).waitFor({ timeout: 120_000 });
  const ranges = other.log.filter(({ method, path }) => method === "GET" && path.endsWith(WEIGHTS)).map(({ headers }) => headers.range);
  // On a slow machine the silence may have been taken for a broken connection, and another part have come.
  assert.equal(ranges.length, 1);
  assert.match(ranges[0], /^bytes=[48]0000-$/);
});

test("the policy refuses an origin that is neither https nor this machine", async () => {
  const policy = /content="([^"]+)"/.exec(readFileSync(path.join(DIST, "index.html"), "utf8"))[1];
  assert.match(policy, /^default-src 'none';/);
  // A worker of a blob has the page's policy; a frame without an origin of its own can start no other.
  assert.doesNotMatch(policy.replace("worker-src 'self' blob:", ""), /unsafe-inline|'unsafe-eval'|data:|blob:/);
  let reached = false;
  await page.context().route("http://example.org/**", (route) => {
    reached = true;
    return route.fulfill({ headers: { "Access-Control-Allow-Origin": "*" }, body: "{}" });
  });
  await page.goto(`${server.origin}/?model=${encodeURIComponent("http://example.org/model/")}`);
  await press("Load");
  await page.getByRole("alert").filter({ hasText: "http://example.org/model/SHA256SUMS" }).waitFor();
  assert.equal(reached, false);
});

test("the text of a model's folder is never HTML", async () => {
  const html = `<img src="/owned.png" onerror="document.title = 'owned'">`;
  const folder = path.join(GOLDENS, "f16"); // it has 7 classes
  const index = JSON.parse(readFileSync(path.join(folder, "model_index.json"), "utf8"));
  const id2label = Object.fromEntries(Array.from({ length: 7 }, (_, label) => [label, html + label]));
  const files = {
    "README.md": `---\nlicense: ${html}\n---\n`,
    "model_index.json": JSON.stringify({ ...index, id2label }),
    [WEIGHTS]: readFileSync(path.join(folder, WEIGHTS)),
  };
  for (const name of ["unet/config.json", "scheduler/scheduler_config.json"]) files[name] = readFileSync(path.join(folder, name));
  const sums = Object.entries(files).map(([name, body]) => `${createHash("sha256").update(body).digest("hex")}  ${name}\n`);
  for (const [name, body] of Object.entries({ ...files, SHA256SUMS: sums.join("") })) server.routes.set(`/evil/${name}`, { body });
  const unharmed = async () => {
    assert.equal(await page.locator("img[src='/owned.png']").count(), 0);
    assert.notEqual(await page.title(), "owned");
    assert.ok(!server.log.some((request) => JSON.stringify(request).includes("owned.png")), "nothing asks for the picture");
  };

  await page.goto(`${server.origin}/?model=/evil/`);
  await finished(page);
  assert.ok((await card()).includes(`Licence ${html}`), await card());
  assert.equal(await page.locator("#class option").nth(1).textContent(), `${html}0`);
  await unharmed();

  server.routes.set("/evil/model_index.json", { body: JSON.stringify({ ...index, _class_name: html }) });
  server.routes.delete("/evil/SHA256SUMS");
  await page.goto(`${server.origin}/?model=/evil/`);
  await page.locator("#error").filter({ hasText: "owned.png" }).waitFor();
  await unharmed();
});

describe("a load that fails", () => {
  /** Drops files on the page, as a person does. */
  const drop = (files) =>
    page.evaluate((files) => {
      const transfer = new DataTransfer();
      for (const [name, type] of files) transfer.items.add(new File(["no model"], name, { type }));
      dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }, files);
  const error = () => page.locator("#error");
  const ways = {
    "a wrong address": async () => {
      await field().fill("/no/such/model/");
      await press("Load");
      await error().filter({ hasText: "404" }).waitFor();
    },
    "weights that are damaged": async () => {
      other.routes.set(`/models/small/${WEIGHTS}`, { headers: { "Access-Control-Allow-Origin": "*" }, body: Buffer.alloc(100) });
      await field().fill(`${other.origin}/models/small/`);
      await press("Load");
      await error().filter({ hasText: "header" }).waitFor();
    },
    "notes.txt": async () => {
      await drop([["notes.txt", "text/plain"]]);
      await error().filter({ hasText: "expected a model's folder or one picture, found notes.txt" }).waitFor();
    },
    "a zip": async () => {
      await drop([["model.zip", "application/zip"]]);
      await error().filter({ hasText: "found model.zip" }).waitFor();
    },
    "a pair of pictures": async () => {
      await drop([["a.png", "image/png"], ["b.png", "image/png"]]);
      await error().filter({ hasText: "found a.png, b.png" }).waitFor();
    },
    "a picture that no browser reads": async () => {
      await drop([["photo.heic", "image/heic"]]);
      await error().filter({ hasText: "photo.heic: expected a picture that this browser can read" }).waitFor();
      await page.getByRole("tab", { name: "Sample" }).click();
    },
    "a model without weights": async () => {
      await drop([["model_index.json", "application/json"]]);
      await error().filter({ hasText: /model_index\.json|not among the files/ }).waitFor();
    },
  };
  for (const [what, fail] of Object.entries(ways)) {
    test(`(${what}) leaves the model before as it was`, async () => {
      await page.goto(`${server.origin}/?${DIGITS}`);
      await finished(page);
      const before = [await card(), page.url()];
      await fail();
      assert.equal(await error().isVisible(), true);
      assert.deepEqual([await card(), page.url()], before);
      assert.equal(await page.locator('#site-models [aria-pressed="true"]').textContent().then((text) => /^mnist/.test(text)), true);
      await press("Generate");
      assert.match(await finished(page), /^10 images in /);
      assert.equal(await error().isVisible(), false, "the error goes with the next run");
    });
  }

  test("or is cancelled, or gives way to another, leaves a model that draws", async () => {
    await page.goto(`${server.origin}/?${DIGITS}`);
    await finished(page);
    const manner = { headers: { "Access-Control-Allow-Origin": "*" }, stall: 1000 };
    const file = readFileSync(path.join(SMALL, WEIGHTS));
    other.routes.set(`/models/small/${WEIGHTS}`, (request, response) => send(request, response, file, manner));
    await field().fill(`${other.origin}/models/small/`);
    await press("Load");
    await page.locator("#bar-text").filter({ hasText: "MB" }).waitFor();
    await press("Generate");
    assert.match(await finished(page), /^10 images in /, "the model before draws while another one loads");
    await press("Cancel loading");
    await status().filter({ hasText: "Cancelled" }).waitFor();
    await press("Generate");
    assert.match(await finished(page), /^10 images in /);
    await press("Load");
    await page.locator("#bar-text").filter({ hasText: "MB" }).waitFor();
    await page.locator('[data-model="weights/mnist/"]').click();
    await page.locator("#progress").waitFor({ state: "hidden" });
    await press("Generate");
    assert.match(await finished(page), /^10 images in /);
    assert.match(await card(), /^Name mnist /);
  });
});

test("a link to a model of this site asks no other one, a redirect neither", async () => {
  for (const name of ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS, "SHA256SUMS"]) {
    server.routes.set(`/moved/${name}`, (_request, response) =>
      response.writeHead(302, { Location: `${other.origin}/models/small/${name}` }).end(),
    );
  }
  other.log.length = 0;
  await page.goto(`${server.origin}/?model=/moved/`);
  await page.locator("#error").filter({ hasText: "a redirect to another site is not followed" }).waitFor({ timeout: 60_000 });
  assert.deepEqual(other.log, []);
});
