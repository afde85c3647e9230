// What the page says when something is wrong: one line that names the file, what was expected and what was found.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";

import { newPage } from "./browser.js";
import { join, split } from "./safetensors.js";
import { GOLDENS } from "./server.js";
import { useSite } from "./setup.js";

/** A small model, of which each test spoils one file. */
const MODEL = "no-mid";
const WEIGHTS = "unet/diffusion_pytorch_model.safetensors";
const JSON_TYPE = "application/json";
const read = (file) => readFileSync(path.join(GOLDENS, MODEL, file));
const page404 = { type: "text/html", body: "<!doctype html><title>Not here</title>" };

let server, browser;

useSite((site) => ({ server, browser } = site));

/** The page's message for the model with some of its files replaced. */
async function message(files, model = `goldens/${MODEL}/`) {
  for (const [file, route] of Object.entries(files)) server.routes.set(`/goldens/${MODEL}/${file}`, route);
  const page = await newPage(browser);
  try {
    await page.goto(`${server.origin}/?model=${encodeURIComponent(model)}`);
    const alert = page.getByRole("alert");
    await alert.waitFor({ timeout: 60_000 });
    assert.equal(await page.getByRole("progressbar").count(), 0, "the progress bar is gone");
    assert.equal(await page.locator("#status").textContent(), "");
    const text = await alert.textContent();
    assert.doesNotMatch(text, /\n/);
    await page.getByRole("button", { name: "Generate", exact: true }).click();
    assert.equal(await page.locator("#status").textContent(), "There is no model yet: load one below");
    return text;
  } finally {
    server.routes.clear();
    await page.context().close();
  }
}

test("a folder that is not there", async () => {
  assert.match(await message({}, "nowhere/"), /\/nowhere\/model_index\.json: the server answered 404 Not Found$/);
});

test("an HTML page in place of the index", async () => {
  assert.match(
    await message({ "model_index.json": page404 }),
    /model_index\.json: expected a model's file, found an HTML page$/,
  );
});

test("an HTML page in place of the weights", async () => {
  assert.match(await message({ [WEIGHTS]: page404 }), /\.safetensors: expected a model's file, found an HTML page$/);
});

test("an index that is not JSON", async () => {
  const route = { type: JSON_TYPE, body: "version https://git-lfs.github.com/spec/v1\noid sha256:0" };
  assert.match(await message({ "model_index.json": route }), /model_index\.json: expected JSON, found "version https/);
});

test("another kind of pipeline", async () => {
  const route = { type: JSON_TYPE, body: '{"_class_name": "DDPMPipeline"}' };
  assert.match(
    await message({ "model_index.json": route }),
    /model_index\.json: "_class_name" is DDPMPipeline: expected ConsistencyModelPipeline$/,
  );
});

test("a network that is not supported", async () => {
  const config = JSON.parse(read("unet/config.json").toString());
  const body = JSON.stringify({ ...config, down_block_types: ["DownBlock2D", "SkipDownBlock2D"] });
  assert.match(await message({ "unet/config.json": { type: JSON_TYPE, body } }), /SkipDownBlock2D/);
});

test("weights that are cut off", async () => {
  const file = read(WEIGHTS);
  const text = await message({ [WEIGHTS]: { body: file.subarray(0, file.length - 1000) } });
  const { length } = split(file).data;
  assert.match(
    text,
    new RegExp(`the file is truncated in \\S+: expected ${length} bytes of tensors, found ${length - 1000}$`),
  );
});

test("weights that break off on the way, again and again", async () => {
  const text = await message({ [WEIGHTS]: { body: read(WEIGHTS), ranges: false, cut: 5000 } });
  assert.match(text, /\.safetensors: broken off after 5000 bytes: .+$/);
});

test("weights that are something else", async () => {
  const body = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4658820\n";
  assert.match(await message({ [WEIGHTS]: { body } }), /expected a safetensors file, found a Git LFS pointer/);
});

test("weights that lack a tensor", async () => {
  const { header, data } = split(read(WEIGHTS));
  const end = (name) => header[name].data_offsets[1];
  const names = Object.keys(header).filter((name) => name !== "__metadata__");
  const name = names.reduce((a, b) => (end(a) > end(b) ? a : b));
  const [start] = header[name].data_offsets;
  delete header[name];
  const body = join({ header, data: data.subarray(0, start) });
  assert.ok((await message({ [WEIGHTS]: { body } })).includes(name));
});
