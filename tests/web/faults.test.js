// Damaged weights and servers, in the browser: each fault ends in a typed error that names file and tensor, and leaves
// nothing in the cache that could be taken for whole. `streaming.test.js` has the faults of connections that mend.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { beforeEach, describe, test } from "node:test";

import { join, split } from "./safetensors.js";
import { GOLDENS, send } from "./server.js";
import { useSite } from "./setup.js";

const MODEL = "/goldens/no-mid/";
const WEIGHTS = "unet/diffusion_pytorch_model.safetensors";
const file = readFileSync(path.join(GOLDENS, "no-mid", WEIGHTS));
const config = JSON.parse(readFileSync(path.join(GOLDENS, "no-mid/unet/config.json"), "utf8"));

let server, page;

useSite(async (site) => {
  ({ server, page } = site);
  await page.evaluate(async () => {
    const { ConsistencySampler } = window;
    // Another model stays: with it the worker, the device and the compiled kernels.
    window.held = await ConsistencySampler.load("/goldens/padding-0/", { cache: false });
    window.load = async (options = {}) => {
      const { patience = { delay: 5, stall: 300 }, cache = false, model = "/goldens/no-mid/" } = options;
      try {
        const sampler = await ConsistencySampler.load(model, { patience, cache });
        let pixels;
        await sampler.sample({ seed: 5, count: 1, numInferenceSteps: 1, onStep: (step) => (pixels = step.pixels) });
        sampler.dispose();
        return { pixels: Array.from(pixels) };
      } catch ({ name, code, message }) {
        return { name, code, message };
      }
    };
  });
}, { blank: true });
beforeEach(() => {
  for (const path of server.routes.keys()) if (path !== "/blank") server.routes.delete(path);
});

const load = (options) => page.evaluate((options) => window.load(options), options);
const serve = (name, route) => server.routes.set(MODEL + name, route);
const weights = (body, manner = {}) => serve(WEIGHTS, { body, ...manner });

/** The message of a load that must fail with this code. */
async function refused(code, options) {
  const result = await load(options);
  assert.equal(result.name, "ConsistencySamplerError", JSON.stringify(result).slice(0, 300));
  assert.equal(result.code, code, result.message);
  assert.match(result.message, /^[^\n]+$/);
  return result.message;
}

/** Whole numbers that look random and are the same each time. */
function* numbers(below, seed) {
  for (let state = seed; ; ) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    yield Math.floor((state / 2 ** 32) * below);
  }
}

function spoilt(change) {
  const { header, data } = split(file);
  const copy = Buffer.from(data);
  change(header, copy);
  return join({ header, data: copy });
}

describe("weights", () => {
  test("cut at twenty offsets are truncated", async () => {
    const offsets = numbers(file.length, 1);
    for (let i = 0; i < 20; i++) {
      const at = Number(offsets.next().value);
      weights(file.subarray(0, at));
      assert.match(await refused("weights"), /truncated in|ends after/, `cut at ${at}`);
    }
    assert.deepEqual(await page.evaluate(() => window.ConsistencySampler.kept()), []);
  });

  test("on a connection that is cut at ten offsets are whole in the end", async () => {
    const whole = await load();
    assert.ok(whole.pixels, JSON.stringify(whole));
    const offsets = numbers(file.length, 2);
    const cuts = Array.from({ length: 10 }, () => Number(offsets.next().value) + 1);
    let turn = 0;
    serve(WEIGHTS, (request, response) => {
      const start = Number(/\d+/.exec(request.headers.range ?? "0")[0]);
      const next = request.method === "GET" ? cuts.toSorted((a, b) => a - b).find((cut) => cut > start) : undefined;
      if (next !== undefined && request.method === "GET") turn++;
      return send(request, response, file, next === undefined ? {} : { cut: next - start });
    });
    assert.deepEqual(await load(), whole);
    assert.equal(turn, new Set(cuts).size, "it was cut at each of them");
  });

  test("whose header lies are refused before a tensor is taken", async () => {
    const long = Buffer.from(file);
    long.writeBigUInt64LE(1n << 63n);
    weights(long);
    assert.match(await refused("weights"), /found a length of 9223372036854775808$/);
    for (const by of [-4, 4, 2 ** 40]) {
      const move = (entry) => (entry.data_offsets = entry.data_offsets.map((n) => n + by));
      weights(spoilt((header) => move(header["conv_out.bias"])));
      assert.match(await refused("weights"), /: (expected its data at offset \d+, found \d+|"data_offsets" is not)/);
    }
  });

  test("of other tensors than the network's are refused by name", async () => {
    const put = (value, name) => (header, data) => data.writeFloatLE(value, header[name].data_offsets[0]);
    /** @type {[(header: any, data: Buffer) => unknown, RegExp][]} */
    const changes = [
      [(header) => (header["conv_in.bias"].shape = [2, 2]), /conv_in\.bias: (expected shape|data_offsets)/],
      [(header) => (header["conv_in.bias"].dtype = "I32"), /conv_in\.bias: expected dtype F32, F16, BF16 or I8 with scales, found I32$/],
      [(header) => delete header["conv_in.bias"], /missing tensor conv_in\.bias: expected shape \[\d+\], found none$/],
      [(header) => (header.other = { dtype: "F32", shape: [0], data_offsets: [0, 0] }), /unexpected tensor other/],
      [put(NaN, "conv_in.weight"), /conv_in\.weight: expected finite numbers, found NaN$/],
      [put(-Infinity, "conv_out.bias"), /conv_out\.bias: expected finite numbers, found -Infinity$/],
    ];
    for (const [change, expected] of changes) {
      weights(spoilt(change));
      assert.match(await refused("weights"), expected);
    }
  });

  test("behind a redirect are followed, and behind one to a web page refused", async () => {
    const target = (location) => (_request, response) => response.writeHead(302, { Location: location }).end();
    serve(WEIGHTS, target("/elsewhere"));
    server.routes.set("/elsewhere", { body: file });
    assert.ok((await load()).pixels);
    server.routes.set("/elsewhere", { type: "text/html", body: "<!doctype html><title>Sign in</title>" });
    assert.match(await refused("http"), /expected a model's file, found an HTML page$/);
    serve(WEIGHTS, target(MODEL + WEIGHTS));
    await refused("network");
  });

  test("that drip are given up, not waited for", async () => {
    weights(file, { chunk: 1, pause: 40 });
    const begin = Date.now();
    assert.match(await refused("network"), /broken off after \d+ bytes: nothing came for too long$/);
    assert.ok(Date.now() - begin < 60_000);
  });
});

describe("a configuration", () => {
  test("of absurd sizes is refused before the weights are asked for", async () => {
    for (const more of [{ layers_per_block: 65536 }, { sample_size: 65536 }, { block_out_channels: [65536, 65536] }]) {
      serve("unet/config.json", { type: "application/json", body: JSON.stringify({ ...config, ...more }) });
      server.log.length = 0;
      await refused("config");
      assert.deepEqual(server.log.filter(({ method, path }) => method === "GET" && path.endsWith(".safetensors")), []);
    }
  });

  test("whose text is not JSON, or of another class, is refused", async () => {
    /** @type {[string, RegExp][]} */
    const bodies = [
      ["{", /unet\/config\.json: expected JSON, found "\{"/],
      ['{"_class_name": "UNet2DConditionModel"}', /expected UNet2DModel$/],
      [JSON.stringify({ ...config, "a\nb": 1 }), /unknown option "a.b"$/],
    ];
    for (const [body, expected] of bodies) {
      serve("unet/config.json", { type: "application/json", body });
      assert.match(await refused("config"), expected);
    }
  });

  test("whose text has no end is not read to the end", async () => {
    let sent = 0;
    serve("unet/config.json", (_, response) => {
      response.writeHead(200, { "Content-Type": "application/json" });
      const more = () => {
        while (!response.destroyed && response.write(" ".repeat(1e5))) sent += 1e5;
        sent += 1e5;
      };
      response.on("drain", more);
      more();
    });
    assert.match(await refused("config"), /unet\/config\.json: expected at most 16000000 bytes of text, found more$/);
    assert.ok(sent < 100e6, `${sent} bytes were sent`);
  });
});
