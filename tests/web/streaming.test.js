// Loading a model over bad connections, from a hub, from files, from the cache.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import { launchProfile, newPage } from "./browser.js";
import { DIST, GOLDENS, send, startServer } from "./server.js";
import { openBlank, useSite } from "./setup.js";

const WEIGHTS = "unet/diffusion_pytorch_model.safetensors";
/** A small model, so that most of the time goes into what is tested. */
const MODEL = path.join(GOLDENS, "no-mid");
const CONFIGS = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"];
const read = (file, folder = MODEL) => readFileSync(path.join(folder, file));
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
/** Short waits between tries. What this machine is slow at is not taken for a broken connection. */
const PATIENCE = { delay: 20, stall: 10_000 };
/** For connections on which nothing comes any more. */
const IMPATIENT = { patience: { delay: 20, stall: 400 } };

let server, browser, page;

useSite((site) => ({ server, browser } = site));
/** Each test has a browser profile of its own, hence an empty cache. */
beforeEach(async () => {
  server.log.length = 0;
  server.routes.clear();
  const sums = [WEIGHTS, ...CONFIGS].map((name) => `${sha256(read(name))}  ${name}\n`);
  server.routes.set("/goldens/no-mid/SHA256SUMS", { type: "text/plain", body: sums.join("") });
  page = await newPage(browser);
  await openBlank(page, server);
  await prepare();
});
afterEach(() => page.context().close());

/** Defines `load` in the page: it resolves to what can be told of a load and of the picture it leads to. */
async function prepare() {
  await page.evaluate(async () => {
    const { ConsistencySampler } = await import("/consistency-sampler.js");
    window.ConsistencySampler = ConsistencySampler;
    window.load = async (model, options = {}) => {
      const progress = [];
      const notices = [];
      try {
        const onProgress = (event) => progress.push(event);
        const onNotice = (notice) => notices.push(notice);
        const sampler = await ConsistencySampler.load(model, { ...options, onProgress, onNotice });
        let pixels;
        await sampler.sample({ seed: 5, count: 1, numInferenceSteps: 1, onStep: (step) => (pixels = step.pixels) });
        sampler.dispose();
        return { info: sampler.info, pixels: Array.from(pixels), progress, notices };
      } catch ({ name, code, message }) {
        return { error: { name, code, message }, progress, notices };
      }
    };
  });
}

const load = (model, options) =>
  page.evaluate(([model, options]) => window.load(model, options), [model, { device: "cpu", patience: PATIENCE, ...options }]);
/** The model's picture, loaded over a good connection without a cache; made once. */
let picture;
async function assertWhole({ pixels, error }) {
  assert.equal(error, undefined, JSON.stringify(error));
  picture ??= (await load("/goldens/no-mid/", { cache: false })).pixels;
  assert.ok(new Set(picture).size > 50);
  assert.deepEqual(pixels, picture);
}
const requests = (file) => server.log.filter(({ method, path }) => method === "GET" && path.endsWith(file));
/** Answers each request for the weights in the manner of its turn, the last one being that of all further ones. */
function weights(body, ...manners) {
  let turn = 0;
  server.routes.set(`/goldens/no-mid/${WEIGHTS}`, (request, response) => {
    const manner = manners[Math.min(turn, manners.length - 1)] ?? {};
    if (request.method === "GET") turn++;
    return send(request, response, manner.body ?? body, manner);
  });
}
/** Takes the hashes away, so that the file's own form and the server's word are all there is. */
const withoutSums = () => server.routes.delete("/goldens/no-mid/SHA256SUMS");

describe("a connection", () => {
  test("that breaks off is resumed at the byte it had, on condition that the file is the same", async () => {
    const file = read(WEIGHTS);
    const [a, b] = [Math.floor(file.length / 3), Math.floor(file.length / 4)];
    weights(file, { cut: a, etag: '"v1"' }, { cut: b, etag: '"v1"' }, { etag: '"v1"' });
    const result = await load("/goldens/no-mid/");
    await assertWhole(result);
    const ranges = requests(WEIGHTS).slice(0, 3).map(({ headers }) => [headers.range, headers["if-range"]]);
    assert.deepEqual(ranges, [
      [undefined, undefined],
      [`bytes=${a}-`, '"v1"'],
      [`bytes=${a + b}-`, '"v1"'],
    ]);
    const waits = result.progress.filter(({ stage }) => stage === "waiting");
    assert.deepEqual(waits.map(({ retry }) => retry.attempt), [1, 1], "an attempt that brings bytes starts the count anew");
    const counts = result.progress.map(({ bytes }) => bytes);
    assert.deepEqual(counts, counts.toSorted((x, y) => x - y), "the progress never goes back");
    assert.equal(counts.at(-1), file.length);
  });

  test("to a server without ranges begins anew", async () => {
    const file = read(WEIGHTS);
    weights(file, { cut: 60_000, ranges: false }, { ranges: false });
    withoutSums();
    await assertWhole(await load("/goldens/no-mid/"));
  });

  test("to a file that was replaced meanwhile begins anew", async () => {
    const file = read(WEIGHTS);
    const other = Buffer.from(file);
    other.fill(0, file.length - 1000);
    weights(file, { body: other, cut: file.length - 5000 }, {});
    withoutSums();
    await assertWhole(await load("/goldens/no-mid/"));
    assert.equal(requests(WEIGHTS)[1].headers["if-range"] !== undefined, true);
  });

  test("on which nothing comes any more is given up and resumed", async () => {
    const file = read(WEIGHTS);
    weights(file, { stall: 70_000 }, {});
    const result = await load("/goldens/no-mid/", IMPATIENT);
    await assertWhole(result);
    assert.equal(requests(WEIGHTS)[1].headers.range, "bytes=70000-");
    assert.equal(result.progress.find(({ stage }) => stage === "waiting").retry.reason, "nothing came for too long");
  });

  test("that is slow shows how much came, how fast, and how long it will take", async () => {
    const file = read(WEIGHTS);
    weights(file, { chunk: Math.ceil(file.length / 20), pause: 60 });
    const { progress } = await load("/goldens/no-mid/");
    const middle = progress.filter(({ stage, bytes }) => stage === "weights" && bytes > file.length / 3 && bytes < file.length / 2);
    assert.ok(middle.length, "some progress is told on the way");
    for (const { bytes, total, bytesPerSecond, secondsLeft } of middle) {
      assert.equal(total, file.length);
      assert.ok(Math.abs(secondsLeft * bytesPerSecond - (total - bytes)) < 1);
      assert.ok(secondsLeft > 0.2 && secondsLeft < 5, `${secondsLeft} s`);
    }
  });

  test("that never works is given up after the last try, with waits that double", async () => {
    const begin = Date.now();
    weights(read(WEIGHTS), { status: 503, body: "later" });
    const { error, progress } = await load("/goldens/no-mid/");
    assert.equal(error.code, "network");
    assert.match(error.message, /\.safetensors: broken off after 0 bytes: 503 Service Unavailable$/);
    assert.equal(requests(WEIGHTS).length, 5);
    assert.deepEqual(progress.map(({ retry }) => retry.milliseconds), [20, 40, 80, 160]);
    assert.ok(Date.now() - begin >= 300);
  });

  test("is cancelled at once, wherever it is", async () => {
    weights(read(WEIGHTS), { stall: 50_000 });
    const { name, milliseconds } = await page.evaluate(async () => {
      const abort = new AbortController();
      let begin = 0;
      const onProgress = ({ bytes }) => {
        if (!bytes || begin) return;
        begin = 1;
        setTimeout(() => {
          begin = performance.now();
          abort.abort();
        }, 50);
      };
      const error = await window.ConsistencySampler.load("/goldens/no-mid/", { signal: abort.signal, onProgress }).catch((e) => e);
      return { name: error.name, milliseconds: performance.now() - begin };
    });
    assert.equal(name, "AbortError");
    assert.ok(milliseconds < 50, `${milliseconds} ms`);
  });
});

describe("a file", () => {
  test("whose length is not what the server says is told from one that breaks off", async () => {
    const file = read(WEIGHTS);
    withoutSums();
    weights(file, { length: file.length + 1000, cut: file.length });
    const { error } = await load("/goldens/no-mid/");
    assert.equal(error.code, "network");
    assert.match(error.message, new RegExp(`broken off after ${file.length} bytes`));
  });

  test("that is shorter than its header says is truncated", async () => {
    const file = read(WEIGHTS);
    withoutSums();
    weights(file.subarray(0, file.length - 10), {});
    const { error } = await load("/goldens/no-mid/");
    assert.equal(error.code, "weights");
    assert.match(error.message, /the file is truncated in \S+: expected \d+ bytes of tensors, found \d+$/);
    assert.deepEqual(await page.evaluate(() => window.ConsistencySampler.kept()), [], "it is not kept");
  });

  test("with one bit changed does not have its hash, and is not kept", async () => {
    const file = read(WEIGHTS);
    const other = Buffer.from(file);
    other[file.length - 100] ^= 1;
    weights(other, {});
    const { error } = await load("/goldens/no-mid/");
    assert.equal(error.code, "weights");
    assert.ok(error.message.endsWith(`expected SHA-256 ${sha256(file)}, found ${sha256(other)}`), error.message);
    assert.deepEqual(await page.evaluate(() => window.ConsistencySampler.kept()), []);
  });

  test("that is a web page, has an absurd header, or has sums that are none", async () => {
    withoutSums();
    weights(Buffer.from("<!doctype html><title>Sign in</title>"), { type: "text/html" });
    assert.match((await load("/goldens/no-mid/")).error.message, /expected a model's file, found an HTML page$/);
    weights(Buffer.from("<html><title>Sign in</title>"), {});
    assert.match((await load("/goldens/no-mid/")).error.message, /found text that looks like HTML$/);
    const long = Buffer.alloc(64);
    long.writeBigUInt64LE(1n << 40n);
    weights(long, {});
    assert.match((await load("/goldens/no-mid/")).error.message, /header of 2 to 16777216 bytes, found a length of 1099511627776$/);
    server.routes.set("/goldens/no-mid/SHA256SUMS", { type: "text/plain", body: "no such thing" });
    assert.match((await load("/goldens/no-mid/")).error.message, /SHA256SUMS: expected lines of a SHA-256 and a name, found "no such thing"$/);
  });
});

describe("the cache", () => {
  for (const storage of ["the private file system", "Cache Storage"]) {
    /** Loads like `load`, in a worker and a page without a private file system where the storage is the other one. */
    const without = async () => {
      if (storage !== "Cache Storage") return;
      // As WebKitGTK is.
      const code = "Object.defineProperty(Object.getPrototypeOf(navigator), 'storage', { value: undefined });\n";
      const worker = readFileSync(path.join(DIST, "worker.js"), "utf8");
      server.routes.set("/worker.js", { type: "text/javascript", body: code + worker });
      await page.evaluate(code);
    };

    test(`keeps a model in ${storage}, beyond a reload and without a connection, until it is deleted`, async () => {
      await without();
      const file = read(WEIGHTS);
      await assertWhole(await load("/goldens/no-mid/"));
      const [kept, ...others] = await page.evaluate(() => window.ConsistencySampler.kept());
      assert.deepEqual(others, []);
      assert.deepEqual([kept.bytes, kept.complete], [file.length, true]);
      assert.ok(kept.name.endsWith("/goldens/no-mid/"));

      await page.reload();
      await prepare();
      await without();
      server.log.length = 0;
      await assertWhole(await load("/goldens/no-mid/"));
      assert.deepEqual(requests(WEIGHTS), [], "the weights are not asked for again");

      for (const name of ["SHA256SUMS", WEIGHTS, ...CONFIGS]) {
        server.routes.set(`/goldens/no-mid/${name}`, (_request, response) => response.destroy());
      }
      const offline = await load("/goldens/no-mid/");
      await assertWhole(offline);
      assert.equal(offline.notices.length, 1);
      assert.match(offline.notices[0], /so the copy in this browser is used$/);

      await page.evaluate((id) => window.ConsistencySampler.forget(id), kept.id);
      assert.deepEqual(await page.evaluate(() => window.ConsistencySampler.kept()), []);
      assert.equal((await load("/goldens/no-mid/")).error.code, "network");
    });

    test(`keeps what came of a load that broke off in ${storage}`, async () => {
      await without();
      const file = read(WEIGHTS);
      const half = file.length >> 1;
      weights(file, { cut: half }, { status: 503 });
      assert.equal((await load("/goldens/no-mid/")).error.code, "network");
      const [kept] = await page.evaluate(() => window.ConsistencySampler.kept());
      assert.deepEqual([kept.bytes, kept.complete], [half, false]);

      server.log.length = 0;
      weights(file, {});
      await assertWhole(await load("/goldens/no-mid/"));
      assert.deepEqual(requests(WEIGHTS).map(({ headers }) => headers.range), [`bytes=${half}-`]);
      assert.equal((await page.evaluate(() => window.ConsistencySampler.kept()))[0].complete, true);
    });
  }

  test("keeps what came of a load that was cancelled", async () => {
    const file = read(WEIGHTS);
    weights(file, { stall: 30_000 }, {});
    await page.evaluate(async () => {
      const abort = new AbortController();
      const onProgress = ({ bytes }) => bytes && setTimeout(() => abort.abort(), 200);
      await window.ConsistencySampler.load("/goldens/no-mid/", { signal: abort.signal, onProgress }).catch(() => {});
    });
    await assertWhole(await load("/goldens/no-mid/"));
    assert.equal(requests(WEIGHTS)[1].headers.range, "bytes=30000-");
  });

  test("sees that a file has changed on the server", async () => {
    withoutSums();
    await assertWhole(await load("/goldens/no-mid/"));
    const other = Buffer.from(read(WEIGHTS));
    other.fill(0, other.length - 4000);
    weights(other, {});
    const { pixels, notices } = await load("/goldens/no-mid/");
    assert.deepEqual(notices, []);
    assert.notDeepEqual(pixels, picture);
    assert.equal((await page.evaluate(() => window.ConsistencySampler.kept())).length, 1, "the old copy is gone");
  });

  test("does not trust a copy that was damaged", async () => {
    await assertWhole(await load("/goldens/no-mid/"));
    await page.evaluate(async () => {
      const root = await (await navigator.storage.getDirectory()).getDirectoryHandle("consistency-sampler");
      for await (const folder of /** @type {any} */ (root).values()) {
        for await (const file of folder.values()) {
          if (!file.name.endsWith(".safetensors")) continue;
          const { size } = await file.getFile();
          const writable = await file.createWritable({ keepExistingData: true });
          await writable.write({ type: "write", position: size - 100, data: new Uint8Array(50) });
          await writable.close();
        }
      }
    });
    server.log.length = 0;
    await assertWhole(await load("/goldens/no-mid/"));
    assert.equal(requests(WEIGHTS).length, 1, "it is fetched anew");
  });

  for (const sums of [true, false]) {
    test(`that has no room is done without, with a notice, ${sums ? "with" : "without"} a hash`, async () => {
      // Only a profile on a disk keeps to its quota.
      const folder = mkdtempSync(path.join(tmpdir(), "profile-"));
      const context = await launchProfile(folder);
      try {
        page = await context.newPage();
        await openBlank(page, server);
        await prepare();
        const client = await context.newCDPSession(page);
        await client.send("Storage.overrideQuotaForOrigin", { origin: server.origin, quotaSize: 50_000 });
        if (!sums) withoutSums();
        const result = await load("/goldens/no-mid/");
        await assertWhole(result);
        assert.equal(result.notices.length, 1, JSON.stringify(result.notices));
        assert.match(result.notices[0], /^the model is not kept in this browser: .+/);
        assert.deepEqual(await page.evaluate(() => window.ConsistencySampler.kept()), []);
      } finally {
        await context.close();
        rmSync(folder, { recursive: true, force: true });
        page = await newPage(browser);
      }
    });
  }

  test("is left alone when it is not wanted", async () => {
    await assertWhole(await load("/goldens/no-mid/", { cache: false }));
    assert.deepEqual(await page.evaluate(() => window.ConsistencySampler.kept()), []);
  });
});

describe("a hub", () => {
  const COMMIT = "0123456789abcdef0123456789abcdef01234567";
  let hub, storage;

  /** Imitates a hub's public addresses, with large files on another origin that answers no preflights. */
  before(async () => {
    hub = await startServer();
    storage = await startServer();
  });
  after(async () => {
    await hub?.stop();
    await storage?.stop();
  });
  beforeEach(() => {
    for (const server of [hub, storage]) {
      server.log.length = 0;
      server.routes.clear();
    }
  });

  const CORS = { "Access-Control-Allow-Origin": "*" };
  const EXPOSED = { ...CORS, "Access-Control-Expose-Headers": "ETag, X-Linked-ETag, X-Linked-Size, Content-Range" };

  /** Serves `files` as owner/model at every revision; `api: false` is a mirror that has the files alone. */
  function publish(files, { api = true, manners = [] } = {}) {
    const large = (name) => name.endsWith(".safetensors") || name.endsWith(".bin");
    for (const revision of ["main", COMMIT, "v1"]) {
      if (api) {
        const siblings = Object.entries(files).map(([rfilename, body]) => ({
          rfilename,
          size: body.length,
          ...(large(rfilename) && { lfs: { sha256: sha256(body), size: body.length, pointerSize: 134 } }),
        }));
        const body = JSON.stringify({ id: "owner/model", sha: COMMIT, siblings, cardData: { license: "mit" } });
        hub.routes.set(`/api/models/owner/model/revision/${revision}`, { type: "application/json", headers: CORS, body });
      }
      for (const [name, body] of Object.entries(files)) {
        const address = `/owner/model/resolve/${revision}/${name}`;
        if (!large(name)) {
          hub.routes.set(address, { headers: CORS, body });
          continue;
        }
        // A mirror answers itself; a hub redirects to its storage.
        const linked = { "X-Linked-ETag": `"${sha256(body)}"`, "X-Linked-Size": body.length };
        if (!api) hub.routes.set(address, { headers: { ...EXPOSED, ...linked }, body });
        else {
          hub.routes.set(address, (_request, response) =>
            response.writeHead(302, { ...EXPOSED, ...linked, Location: `${storage.origin}/blob/${name}` }).end(),
          );
          let turn = 0;
          storage.routes.set(`/blob/${name}`, (request, response) => {
            if (request.method === "OPTIONS") return void response.writeHead(405).end();
            const manner = manners[Math.min(turn++, manners.length - 1)] ?? {};
            return send(request, response, body, { headers: CORS, ...manner });
          });
        }
      }
    }
  }

  const complete = () =>
    Object.fromEntries([...CONFIGS, WEIGHTS].map((name) => [name, read(name)]));
  const paths = (server) => server.log.map(({ path }) => path);

  test("gives a model by its id, with hashes, licence and commit, over a storage that redirects and breaks off", async () => {
    const file = read(WEIGHTS);
    publish(complete(), { manners: [{ cut: 30_000 }, {}] });
    const elsewhere = [];
    const named = [server.origin, hub.origin, storage.origin];
    page.on("request", (request) => named.includes(new URL(request.url()).origin) || elsewhere.push(request.url()));
    const result = await load("owner/model", { hub: hub.origin });
    await assertWhole(result);
    assert.deepEqual(
      [result.info.name, result.info.revision, result.info.licence, result.info.bytes],
      ["owner/model", COMMIT, "mit", file.length],
    );
    assert.deepEqual(storage.log.map(({ method, headers }) => [method, headers.range]), [
      ["GET", undefined],
      ["GET", "bytes=30000-"],
    ]);
    assert.deepEqual(elsewhere, [], "nothing else is asked for anything");
    assert.deepEqual(page.complaints, []);
  });

  test("is not asked again for a commit that is here", async () => {
    publish(complete());
    await assertWhole(await load(`owner/model@${COMMIT}`, { hub: hub.origin }));
    hub.log.length = 0;
    await assertWhole(await load("owner/model", { hub: hub.origin, revision: COMMIT }));
    assert.deepEqual(paths(hub), []);
  });

  test("that gives other bytes than its hash says is not believed", async () => {
    const files = complete();
    publish(files);
    const other = Buffer.from(files[WEIGHTS]);
    other[other.length - 1] ^= 64;
    storage.routes.set(`/blob/${WEIGHTS}`, { headers: CORS, body: other });
    const { error } = await load("owner/model", { hub: hub.origin });
    assert.ok(error.message.endsWith(`expected SHA-256 ${sha256(files[WEIGHTS])}, found ${sha256(other)}`), error.message);
  });

  test("that offers half precision is asked for that", async () => {
    const half = path.join(GOLDENS, "f16");
    const files = Object.fromEntries(
      CONFIGS.map((name) => [name, read(name, half)]),
    );
    files[WEIGHTS] = Buffer.from("not asked for");
    files["unet/diffusion_pytorch_model.fp16.safetensors"] = read(WEIGHTS, half);
    publish(files);
    const { info, error } = await load("owner/model@v1", { hub: hub.origin });
    assert.equal(error, undefined, JSON.stringify(error));
    assert.equal(info.bytes, files["unet/diffusion_pytorch_model.fp16.safetensors"].length);
  });

  for (const api of [true, false]) {
    const where = api ? "a hub" : "a mirror that has the files alone";
    test(`gives weights in several files from ${where}`, async () => {
      const folder = path.join(GOLDENS, "sharded");
      const names = readdirSync(path.join(folder, "unet")).map((name) => `unet/${name}`);
      const files = [...names, "model_index.json", "scheduler/scheduler_config.json"].map((name) => [name, read(name, folder)]);
      publish(Object.fromEntries(files), { api });
      const { info, error } = await load("owner/model", { hub: hub.origin });
      assert.equal(error, undefined, JSON.stringify(error));
      const shards = names.filter((name) => name.endsWith(".safetensors"));
      assert.ok(shards.length > 1);
      assert.equal(info.bytes, shards.reduce((sum, name) => sum + read(name, folder).length, 0));
    });
  }

  test("whose header alone has the hash is verified by it", async () => {
    const files = complete();
    publish(files, { api: false });
    const wrong = sha256("something else");
    const headers = { ...EXPOSED, "X-Linked-ETag": `"${wrong}"`, "X-Linked-Size": files[WEIGHTS].length };
    hub.routes.set(`/owner/model/resolve/main/${WEIGHTS}`, { headers, body: files[WEIGHTS] });
    const { error } = await load("owner/model", { hub: hub.origin });
    assert.match(error.message, new RegExp(`expected SHA-256 ${wrong}, found ${sha256(files[WEIGHTS])}$`));
  });

  test("that has a pickle alone leads to its conversion", async () => {
    const { [WEIGHTS]: file, ...files } = complete();
    publish({ ...files, "unet/diffusion_pytorch_model.bin": file });
    const { error } = await load("owner/model", { hub: hub.origin });
    assert.match(error.message, /\.bin: a pickle, .*convert it with tools\/convert_checkpoint\.py/);
    assert.ok(existsSync(path.join(import.meta.dirname, "../../tools/convert_checkpoint.py")));
    assert.deepEqual(storage.log, [], "the pickle is not fetched");
  });

  test("that does not have the model says so", async () => {
    const { error } = await load("owner/model", { hub: hub.origin });
    assert.match(error.message, /its server does not permit other sites to read it/);
    publish({});
    const other = await load("owner/model", { hub: hub.origin });
    assert.match(other.error.message, /\/owner\/model\/resolve\/\S+: \S+/);
  });
});

describe("files of one's own", () => {
  const given = (names, rename = (name) => name) =>
    names.map((name) => ({ path: rename(name), base64: read(name).toString("base64") }));
  const loadFiles = (files) =>
    page.evaluate(async (files) => {
      const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
      return window.load(files.map(({ path, base64 }) => ({ path, file: new File([bytes(base64)], path.split("/").at(-1)) })), { device: "cpu" });
    }, files);
  const names = [...CONFIGS, WEIGHTS];

  test("in a folder, or loose, are a model and are not kept", async () => {
    await assertWhole(await loadFiles(given(names, (name) => `downloads/mine/${name}`)));
    await assertWhole(await loadFiles(given(names, (name) => path.basename(name))));
    assert.deepEqual(await page.evaluate(() => window.ConsistencySampler.kept()), []);
    assert.equal(requests(WEIGHTS).length, 0, "nothing is fetched");
  });

  test("that lack one are told which", async () => {
    const { error } = await loadFiles(given(names.filter((name) => !name.startsWith("scheduler"))));
    assert.match(error.message, /^scheduler\/scheduler_config\.json: not among the files/);
  });
});
