// What is not to be had now is not taken for what does not exist: servers that are busy, silent, refuse methods or origins,
// for every file of a model; and what addresses, sums and variants of files people have.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";

import { newPage } from "./browser.js";
import { join, split } from "./safetensors.js";
import { GOLDENS, send, startServer } from "./server.js";
import { openBlank, useSite } from "./setup.js";

const FOLDER = "/goldens/no-mid/";
const FULL = "unet/diffusion_pytorch_model.safetensors";
const HALF = "unet/diffusion_pytorch_model.fp16.safetensors";
const CONFIGS = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"];
const SUMS = "SHA256SUMS";
const ALL = [...CONFIGS, FULL, SUMS];
const read = (file, folder = "no-mid") => readFileSync(path.join(GOLDENS, folder, file));
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");
const sumsOf = (names) => names.map((name) => `${sha256(read(name))}  ${name}\n`).join("");
/** Short waits between tries. What this machine is slow at is not taken for a silent server. */
const PATIENCE = { delay: 20, stall: 10_000 };
/** For servers that are silent. */
const IMPATIENT = { patience: { delay: 20, stall: 300 } };
const CORS = { "Access-Control-Allow-Origin": "*" };

let server, browser, page, other;

useSite((site) => ({ server, browser } = site));
before(async () => {
  other = await startServer();
});
after(() => other?.stop());
/** Each test has a browser profile of its own, hence an empty cache. */
beforeEach(async () => {
  for (const { log, routes } of [server, other]) {
    log.length = 0;
    routes.clear();
  }
  page = await newPage(browser);
  await openBlank(page, server);
  await page.evaluate(async () => {
    const { ConsistencySampler } = await import("/consistency-sampler.js");
    window.ConsistencySampler = ConsistencySampler;
    window.load = async (model, options) => {
      const notices = [];
      const progress = [];
      try {
        const onNotice = (notice) => notices.push(notice);
        const onProgress = (event) => progress.push(event);
        const sampler = await ConsistencySampler.load(model, { ...options, onNotice, onProgress });
        let pixels;
        await sampler.sample({ seed: 5, onStep: (step) => (pixels = step.pixels) });
        sampler.dispose();
        return { info: sampler.info, pixels: Array.from(pixels), notices, progress };
      } catch ({ code, message }) {
        return { error: { code, message }, notices, progress };
      }
    };
  });
});
afterEach(() => page.context().close());

const load = (model = FOLDER, options = {}) =>
  page.evaluate(([model, options]) => window.load(model, options), [model, { device: "cpu", patience: PATIENCE, ...options }]);
const kept = () => page.evaluate(() => window.ConsistencySampler.kept());

/** The pictures of the models in the goldens, by their folders. */
const pictures = new Map();
async function assertDraws(result, folder = "no-mid") {
  assert.equal(result.error, undefined, JSON.stringify(result.error));
  if (!pictures.has(folder)) {
    server.routes.clear();
    pictures.set(folder, (await load(`/goldens/${folder}/`, { cache: false })).pixels);
  }
  assert.ok(new Set(pictures.get(folder)).size > 50);
  assert.deepEqual(result.pixels, pictures.get(folder));
}
async function assertRefused(result, code, message) {
  assert.equal(result.error?.code, code, JSON.stringify(result.error ?? result.info));
  assert.match(result.error.message, message);
  assert.match(result.error.message, /^[^\n]+$/);
}

/** Answers the first `times` requests for a file with `manner` and then as it should be. */
function fault(name, manner, times = 1, body = null) {
  let left = times;
  server.routes.set(FOLDER + name, (request, response) => {
    if (left-- > 0) return typeof manner === "function" ? manner(request, response) : send(request, response, "", manner);
    return send(request, response, body ?? (name === SUMS ? sumsOf([...CONFIGS, FULL]) : read(name)));
  });
}
const serve = (name, body, manner = {}) => server.routes.set(FOLDER + name, { body, ...manner });
/** Takes a request and never answers it. */
const silence = () => {};
const requests = (name, of = server) => of.log.filter(({ path }) => path.endsWith(name)).map(({ method }) => method);

describe("a busy server", () => {
  for (const status of [408, 425, 429, 500, 502, 503, 504, 520, 524]) {
    test(`that answers ${status} to a configuration is asked again`, async () => {
      fault("unet/config.json", { status });
      const result = await load();
      assert.deepEqual(result.progress.filter(({ stage }) => stage === "waiting").map(({ retry }) => retry.attempt), [1]);
      await assertDraws(result);
    });
  }

  test("that cannot give the sums now does not have a damaged file pass", async () => {
    fault(SUMS, { status: 503 });
    const damaged = Buffer.from(read(FULL));
    damaged[damaged.length - 100] ^= 1;
    serve(FULL, damaged);
    await assertRefused(await load(), "weights", /expected SHA-256 /);
    fault(SUMS, { status: 503 }, Infinity);
    await assertRefused(await load(), "network", /SHA256SUMS: 503/);
  });

  test("that cannot say now whether there is half precision is asked again", async () => {
    const half = read(FULL, "f16");
    for (const name of CONFIGS) serve(name, read(name, "f16"));
    serve(FULL, "not asked for");
    fault(HALF, { status: 429 }, 1, half);
    const { info, error } = await load();
    assert.equal(error, undefined, JSON.stringify(error));
    assert.equal(info.bytes, half.length);
    assert.deepEqual(requests(FULL), []);
  });

  test("that says when to come again is asked then, and not before", async () => {
    fault("model_index.json", { status: 429, headers: { "Retry-After": "1" } });
    const result = await load();
    assert.deepEqual(result.progress.filter(({ retry }) => retry).map(({ retry }) => retry.milliseconds), [1000]);
    await assertDraws(result);
  });

  test("that says to come again in an hour is not waited for, and the error says so", async () => {
    fault("model_index.json", { status: 429, headers: { "Retry-After": "3600" } });
    const result = await load();
    await assertRefused(result, "network", /model_index\.json: 429 Too Many Requests, to be asked again in 3600 s$/);
    assert.deepEqual(requests("model_index.json"), ["GET"]);
  });

  test("of a hub does not cost the revision and the hashes", async () => {
    const commit = "0123456789abcdef0123456789abcdef01234567";
    const siblings = [...CONFIGS, FULL].map((rfilename) => ({ rfilename, lfs: { sha256: sha256(read(rfilename)) } }));
    const about = JSON.stringify({ sha: commit, siblings });
    let turn = 0;
    other.routes.set("/api/models/owner/model/revision/main", (request, response) =>
      send(request, response, about, { headers: CORS, status: turn++ ? 200 : 429 }),
    );
    for (const name of [...CONFIGS, FULL]) {
      other.routes.set(`/owner/model/resolve/${commit}/${name}`, { headers: CORS, body: read(name) });
    }
    const result = await load("owner/model", { hub: other.origin });
    assert.equal(result.info?.revision, commit, JSON.stringify(result.error));
    await assertDraws(result);
  });
});

describe("a silent server", () => {
  for (const name of ["SHA256SUMS", "model_index.json", HALF]) {
    test(`is not waited for without end: ${name}`, async () => {
      fault(name, silence, Infinity);
      const begin = performance.now();
      await assertRefused(await load(FOLDER, IMPATIENT), "network", /nothing came for too long$/);
      assert.ok(performance.now() - begin < 20_000);
    });
  }

  test("that stops in the middle of a configuration is asked again", async () => {
    fault("unet/config.json", (request, response) => send(request, response, read("unet/config.json"), { stall: 100 }));
    await assertDraws(await load(FOLDER, IMPATIENT));
  });

  test("is left at once when the load is cancelled", async () => {
    fault("model_index.json", silence, Infinity);
    const milliseconds = await page.evaluate(async (model) => {
      const abort = new AbortController();
      setTimeout(() => abort.abort(), 300);
      const begin = performance.now();
      await window.ConsistencySampler.load(model, { signal: abort.signal }).catch(() => {});
      return performance.now() - begin;
    }, FOLDER);
    assert.ok(milliseconds < 2000, `${milliseconds}`);
  });
});

describe("a server that refuses HEAD", () => {
  for (const status of [400, 403, 405, 501]) {
    test(`by ${status} is asked by GET`, async () => {
      const half = read(FULL, "f16");
      for (const name of CONFIGS) serve(name, read(name, "f16"));
      server.routes.set(FOLDER + HALF, (request, response) => {
        return request.method === "HEAD" ? send(request, response, "", { status }) : send(request, response, half);
      });
      const { info, error } = await load();
      assert.equal(error, undefined, JSON.stringify(error));
      assert.equal(info.bytes, half.length);
    });
  }

  test("and has no such file says so by GET", async () => {
    for (const name of [HALF, "unet/diffusion_pytorch_model.safetensors.index.fp16.json"]) {
      server.routes.set(FOLDER + name, (request, response) =>
        send(request, response, "", { status: request.method === "HEAD" ? 405 : 404 }),
      );
    }
    await assertDraws(await load());
  });
});

describe("a file that is absent", () => {
  for (const [what, manner] of [
    ["404", { status: 404 }],
    ["410", { status: 410 }],
    ["a web page in its place", { type: "text/html" }],
  ]) {
    test(`by ${what} is done without where it may be`, async () => {
      serve(SUMS, "", manner);
      serve(HALF, "", manner);
      const result = await load();
      assert.deepEqual(result.progress.filter(({ stage }) => stage === "waiting"), []);
      await assertDraws(result);
    });
  }

  test("costs no line in the console", async () => {
    await assertDraws(await load());
    assert.ok(requests(SUMS).length && requests(HALF).length, "it was asked for");
    assert.deepEqual(page.complaints, []);
  });

  test("is not one that may not be read", async () => {
    for (const status of [401, 403]) {
      serve(SUMS, "", { status });
      await assertRefused(await load(), "http", new RegExp(`SHA256SUMS: the server answered ${status}`));
    }
  });
});

describe("a copy in this browser", () => {
  const faults = {
    "is busy": { status: 503 },
    "asks to sign in": { status: 401 },
    "answers with a network's sign-in page": { type: "text/html" },
    "is silent": silence,
    "breaks off": (_request, response) => response.destroy(),
  };
  for (const [what, manner] of Object.entries(faults)) {
    for (const sums of [true, false]) {
      test(`serves where the server ${what}, ${sums ? "with" : "without"} sums`, async () => {
        if (sums) serve(SUMS, sumsOf([...CONFIGS, FULL]));
        assert.equal((await load()).error, undefined);
        for (const name of ALL) fault(name, manner, Infinity);
        const begin = performance.now();
        const result = await load(FOLDER, manner === silence ? IMPATIENT : {});
        assert.ok(performance.now() - begin < 15_000);
        assert.equal(result.notices.length, 1, JSON.stringify(result.notices));
        assert.match(result.notices[0], /cannot be loaded now \(.+\), so the copy in this browser is used$/);
        await assertDraws(result);
      });
    }
  }

  test("serves while a newer version breaks off, and gives way once that is whole", async () => {
    serve(SUMS, sumsOf([...CONFIGS, FULL]));
    assert.equal((await load()).error, undefined);
    const newer = Buffer.from(read(FULL));
    newer.fill(0, newer.length - 4000);
    serve(SUMS, `${sha256(newer)}  ${FULL}\n`);
    const half = newer.length >> 1;
    fault(FULL, (request, response) => send(request, response, newer, { cut: half }), 1);
    let turn = 0;
    server.routes.set(FOLDER + FULL, (request, response) =>
      turn++ ? send(request, response, "", { status: 503 }) : send(request, response, newer, { cut: half }),
    );
    const old = await load();
    assert.match(old.notices[0], /so the copy in this browser is used$/);
    assert.deepEqual((await kept()).map(({ complete }) => complete).sort(), [false, true]);

    serve(FULL, newer);
    server.log.length = 0;
    const result = await load();
    assert.equal(result.error, undefined, JSON.stringify(result.error));
    assert.deepEqual(result.notices, []);
    const ranges = server.log.filter(({ path }) => path.endsWith(FULL)).map(({ headers }) => headers.range);
    assert.deepEqual(ranges, [`bytes=${half}-`], "what had come of it is not asked for again");
    assert.deepEqual((await kept()).map(({ complete }) => complete), [true]);
    assert.notDeepEqual(result.pixels, old.pixels);
    assert.deepEqual((await load()).pixels, result.pixels);
    await assertDraws(old);
  });

  test("stays when a newer version turns out to be damaged", async () => {
    serve(SUMS, sumsOf([...CONFIGS, FULL]));
    assert.equal((await load()).error, undefined);
    serve(SUMS, `${sha256("another")}  ${FULL}\n`);
    await assertRefused(await load(), "weights", /expected SHA-256/);
    assert.deepEqual((await kept()).map(({ complete }) => complete), [true]);
  });

  test("does not hide that the model is gone", async () => {
    assert.equal((await load()).error, undefined);
    for (const name of ALL) serve(name, "", { status: 404 });
    await assertRefused(await load(), "http", /the server answered 404/);
  });
});

describe("another site", () => {
  const publish = (headers) => {
    for (const name of [...CONFIGS, FULL]) other.routes.set(FOLDER + name, { body: read(name), headers });
  };

  test("that permits nobody to read its files is told from no connection", async () => {
    publish({});
    await assertRefused(
      await load(`${other.origin}${FOLDER}`),
      "http",
      /^http:\/\/127\.0\.0\.1:\d+\/goldens\/no-mid\/\S+: its server does not permit other sites to read it \(no Access-Control-Allow-Origin\)$/,
    );
  });

  test("that permits to read its files and not its 404s gives its model", async () => {
    publish(CORS);
    await assertDraws(await load(`${other.origin}${FOLDER}`));
  });

  test("that is not there is no connection, and named", async () => {
    const gone = await startServer();
    await gone.stop();
    await assertRefused(await load(`${gone.origin}${FOLDER}`), "network", new RegExp(`^${gone.origin}/goldens/no-mid/`));
  });

  test("is not asked where only the own one may be, not by a redirect either", async () => {
    const options = { sameOrigin: true };
    await assertRefused(await load(`${other.origin}${FOLDER}`, options), "input", /expected an address of http/);
    await assertRefused(await load("owner/model", { ...options, hub: other.origin }), "input", /expected an address of/);
    publish(CORS);
    for (const name of [...CONFIGS, FULL, SUMS]) {
      server.routes.set(FOLDER + name, (_request, response) =>
        response.writeHead(302, { Location: `${other.origin}${FOLDER}${name}` }).end(),
      );
    }
    await assertRefused(await load(FOLDER, options), "network", /a redirect to another site is not followed/);
    assert.deepEqual(other.log, []);
    server.routes.clear();
    await assertDraws(await load(FOLDER, options));
  });
});

describe("sums", () => {
  test("of some files do not hide the others", async () => {
    serve(SUMS, sumsOf(["model_index.json"]));
    await assertDraws(await load());
    serve(SUMS, sumsOf([FULL]));
    await assertDraws(await load());
  });

  test("hold for configurations too", async () => {
    for (const name of CONFIGS) {
      serve(SUMS, sumsOf([...CONFIGS, FULL]));
      serve(name, `${read(name)} `);
      await assertRefused(await load(), "weights", new RegExp(`${name}: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}$`));
      server.routes.clear();
    }
  });

  for (const [what, line] of Object.entries({
    "with backslashes": (sum, name) => `${sum}  ${name.replaceAll("/", "\\")}`,
    "with asterisks and ./": (sum, name) => `${sum} *./${name}`,
    "with carriage returns and capitals": (sum, name) => `${sum.toUpperCase()}  ${name}\r`,
    "of the form of BSD": (sum, name) => `SHA256 (${name}) = ${sum}`,
  })) {
    test(`${what} are read and hold`, async () => {
      serve(SUMS, [...CONFIGS, FULL].map((name) => `${line(sha256(read(name)), name)}\n`).join(""));
      await assertDraws(await load());
      serve(SUMS, `# made by hand\n\n${line(sha256("another"), FULL)}\n`);
      await assertRefused(await load(), "weights", /expected SHA-256/);
    });
  }

  test("may name a card that a site's generator took away", async () => {
    serve(SUMS, `${sumsOf([...CONFIGS, FULL])}${sha256("# card")}  README.md\n`);
    await assertDraws(await load());
    assert.deepEqual(requests("README.md"), ["GET"]);
  });
});

describe("an address", () => {
  test("of a file of the model stands for the model", async () => {
    for (const name of ["model_index.json", "unet/config.json", FULL]) {
      await assertDraws(await load(`${server.origin}${FOLDER}${name}`, { cache: false }));
    }
  });

  test("of another kind of file is told what is expected", async () => {
    await assertRefused(await load(`${server.origin}/m/model.ckpt`), "input", /expected the address of a folder in the diffusers layout/);
  });

  test("keeps its query for each file", async () => {
    await assertDraws(await load(`${server.origin}${FOLDER}?token=a%20b`));
    const queries = server.log.filter(({ path }) => path.startsWith(FOLDER)).map(({ query }) => query);
    assert.ok(queries.length > 4);
    assert.deepEqual([...new Set(queries)].filter((query) => query !== ""), ["?token=a%20b"]);
  });

  for (const page of ["", "/", "/tree/main", "/blob/main/unet/config.json", "/resolve/v1/model_index.json?download=true"]) {
    test(`of a hub's page, owner/model${page}, stands for the repository`, async () => {
      const revision = page.includes("v1") ? "v1" : "main";
      const siblings = [...CONFIGS, FULL].map((rfilename) => ({ rfilename }));
      const about = JSON.stringify({ sha: "abc", siblings });
      other.routes.set(`/api/models/owner/model/revision/${revision}`, { headers: CORS, body: about });
      for (const name of [...CONFIGS, FULL]) {
        other.routes.set(`/owner/model/resolve/abc/${name}`, { headers: CORS, body: read(name) });
      }
      const result = await load(`${other.origin}/owner/model${page}`, { hub: other.origin });
      assert.equal(result.info?.name, "owner/model", JSON.stringify(result.error));
      await assertDraws(result);
    });
  }

  test("of something else on a hub is told what is expected", async () => {
    for (const path of ["/owner", "/owner/model/tree/main/v2", "/datasets/owner/model"]) {
      await assertRefused(await load(other.origin + path, { hub: other.origin }), "input", /owner\/name$/);
    }
  });

  test("of a repository that a hub does not know is told what that may mean", async () => {
    other.routes.set("/api/models/owner/model/revision/main", { headers: CORS, status: 401, body: "Unauthorized" });
    await assertRefused(
      await load("owner/model", { hub: other.origin }),
      "http",
      /^owner\/model: the hub has no such model, or it is private or gated, .*401/,
    );
  });
});

describe("files as people have them", () => {
  /** The weights, cut to the upper halves of their numbers. */
  const bf16 = () => {
    const { header: { __metadata__: _, ...header }, data } = split(read(FULL));
    const out = [];
    let at = 0;
    for (const tensor of Object.values(header)) {
      const [begin, end] = tensor.data_offsets;
      const halves = Buffer.alloc((end - begin) / 2);
      for (let i = 0; i < halves.length; i += 2) data.copy(halves, i, begin + 2 * i + 2, begin + 2 * i + 4);
      out.push(halves);
      Object.assign(tensor, { dtype: "BF16", data_offsets: [at, (at += halves.length)] });
    }
    return join({ header, data: Buffer.concat(out) });
  };
  const BF16 = "unet/diffusion_pytorch_model.bf16.safetensors";

  test("begin with a byte order mark", async () => {
    const mark = Buffer.from([0xef, 0xbb, 0xbf]);
    for (const name of CONFIGS) serve(name, Buffer.concat([mark, read(name)]));
    serve(SUMS, Buffer.concat([mark, Buffer.from(sumsOf([FULL]))]));
    await assertDraws(await load());
  });

  test("have bfloat16 weights alone", async () => {
    const weights = bf16();
    serve(FULL, "", { status: 404 });
    serve(BF16, weights);
    const { info, error } = await load();
    assert.equal(error, undefined, JSON.stringify(error));
    assert.equal(info.bytes, weights.length);
  });

  test("have weights of one other name, or of several, which is not clear", async () => {
    const files = (weights) =>
      page.evaluate(async (files) => {
        const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
        return window.load(files.map(({ path, base64 }) => ({ path, file: new File([bytes(base64)], path) })), { device: "cpu" });
      }, [...CONFIGS.map((path) => ({ path, base64: read(path).toString("base64") })), ...weights]);
    const base64 = read(FULL).toString("base64");
    const named = (name) => ({ path: `unet/diffusion_pytorch_model.${name}.safetensors`, base64 });
    await assertDraws(await files([named("non_ema")]));
    await assertRefused(await files([named("a"), named("b")]), "weights", /\.a\.safetensors, .*\.b\.safetensors: which of them is not clear$/);
  });
});
