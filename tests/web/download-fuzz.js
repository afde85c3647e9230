// Range, ETag and length handling of `www/library/download.ts`, driven by a seeded generator of servers, honest and not.
//
//     cargo xtask build && node tests/web/download-fuzz.js RUNS [SEED]
//
// makes RUNS downloads; a failure names the seed of its download, which `1 SEED` repeats. The network is imitated: under
// test is what answers are taken for. `download.test.js` makes a few.

import assert from "node:assert/strict";
import path from "node:path";

const [RUNS, SEED] = [Number(process.argv[2] ?? 1_000_000), Number(process.argv[3] ?? 1)];

Object.assign(globalThis, { location: { origin: "http://near" } });
const DIST = path.join(import.meta.dirname, "../../dist");
/** @type {typeof import("../../www/library/download.js")} */
const { Download } = await import(path.join(DIST, "download.js"));
/** @type {typeof import("../../www/library/http-client.js")} */
const { HttpClient } = await import(path.join(DIST, "http-client.js"));
/** @type {typeof import("../../www/library/error.js")} */
const { ConsistencySamplerError } = await import(path.join(DIST, "error.js"));

/** A generator of 32-bit numbers (mulberry32), so that a seed names a run. */
function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
  const below = (n) => next() % n;
  return { below, chance: (percent) => below(100) < percent, pick: (list) => list[below(list.length)] };
}

/** Header values that no server should send, and some that are merely rare. */
const STRANGE = ["", "bytes", "bytes */0", "bytes 0-", "bytes 5-2/3", "bytes 1-2/99999999999999999999", "*", "-1", "NaN"];
const headersOf = (entries) => {
  const map = new Map(Object.entries(entries).map(([key, value]) => [key.toLowerCase(), String(value)]));
  return { get: (key) => map.get(key.toLowerCase()) ?? null, has: (key) => map.has(key.toLowerCase()) };
};

/**
 * A server of one file that may change between requests. `honest`: each version has an ETag of its own and ranges are as
 * announced, though connections break, stall and are refused; otherwise anything may be answered.
 */
class Server {
  constructor(rng, honest) {
    this.rng = rng;
    this.honest = honest;
    this.versions = [this.#version(0)];
    this.requests = 0;
    this.ranges = rng.chance(70);
    this.etags = rng.pick(["strong", "strong", "weak", "none"]);
  }

  #version(number) {
    const length = this.rng.below(40);
    return { number, bytes: Uint8Array.from({ length }, () => this.rng.below(256)) };
  }

  get current() {
    return this.versions.at(-1);
  }

  /** One answer, in the shape of a Response. */
  async answer({ headers: asked, signal }) {
    const { rng, honest } = this;
    this.requests++;
    if (signal.aborted) throw aborted();
    if (this.requests > 1 && rng.chance(10)) this.versions.push(this.#version(this.versions.length));
    if (rng.chance(8)) throw new TypeError("Failed to fetch");
    if (rng.chance(3)) return never(signal);
    if (rng.chance(8)) return this.#response(rng.pick([408, 429, 500, 503]), {}, new Uint8Array(0), signal);
    const { bytes, number } = this.current;
    const headers = { "Content-Type": "application/octet-stream" };
    if (this.etags !== "none") headers.ETag = `${this.etags === "weak" ? "W/" : ""}"v${number}"`;
    if (this.ranges) headers["Accept-Ranges"] = "bytes";
    const range = this.ranges ? /^bytes=(\d+)-$/.exec(asked.Range ?? "") : null;
    const condition = asked["If-Range"];
    let [status, body] = [200, bytes];
    if (range && (!condition || condition === headers.ETag)) {
      const start = Number(range[1]);
      if (start >= bytes.length) {
        return this.#response(416, { "Content-Range": `bytes */${bytes.length}` }, new Uint8Array(0), signal);
      }
      [status, body] = [206, bytes.subarray(start)];
      headers["Content-Range"] = `bytes ${start}-${bytes.length - 1}/${bytes.length}`;
    }
    headers["Content-Length"] = body.length;
    if (rng.chance(10)) {
      delete headers["Content-Length"];
      if (rng.chance(50)) headers["Content-Encoding"] = "gzip";
    }
    if (!honest) {
      if (rng.chance(20)) status = rng.pick([200, 206, 206, 204, 404, 416, 302]);
      if (rng.chance(20)) headers["Content-Range"] = rng.pick(STRANGE);
      if (rng.chance(20)) headers["Content-Length"] = rng.pick([...STRANGE, "0", "7", "1e3"]);
      if (rng.chance(20)) headers.ETag = rng.pick(STRANGE);
      if (rng.chance(5)) headers["Content-Type"] = "text/html; charset=utf-8";
      if (rng.chance(20)) body = this.#version(0).bytes;
    }
    return this.#response(status, headers, body, signal);
  }

  #response(status, headers, body, signal) {
    const { rng } = this;
    const size = rng.below(8) + 1;
    const end = rng.chance(35) ? rng.below(body.length + 1) : body.length;
    // A body without a length that ends early looks whole; browsers report it as an error when it was chunked.
    const faults = headers["Content-Length"] ? ["break", "stall", "close"] : ["break", "stall"];
    const fault = end < body.length ? rng.pick(faults) : null;
    let at = 0;
    const read = async () => {
      if (signal.aborted) throw aborted();
      if (at < end) return { done: false, value: body.slice(at, (at = Math.min(at + size, end))) };
      if (fault === "break") throw new TypeError("network error");
      if (fault === "stall") return never(signal);
      return { done: true };
    };
    const ok = status >= 200 && status < 300;
    return { status, ok, statusText: "", headers: headersOf(headers), body: { getReader: () => ({ read }) } };
  }
}

/** What a fetch that brings nothing does: it ends when it is aborted, which is when the patience runs out: at once. */
function never(signal) {
  queueMicrotask(() => clock.advance());
  return new Promise((_, reject) => (signal.onabort = () => reject(aborted())));
}

const aborted = () => new DOMException("aborted", "AbortError");

/** A clock without waits, for ten million downloads: a wait between tries is over at once, a stall when nothing comes. */
const clock = {
  pending: new Map(),
  last: 0,
  set(action, milliseconds) {
    if (milliseconds === 0) queueMicrotask(action);
    else clock.pending.set(++clock.last, action);
    return clock.last;
  },
  advance() {
    const due = [...clock.pending.values()];
    clock.pending.clear();
    for (const action of due) action();
  },
};

/** One download from such a server; returns how it ended, for the count. */
async function download(seed) {
  const rng = random(seed);
  const honest = rng.chance(60);
  const server = new Server(rng, honest);
  globalThis.fetch = (_url, init) => server.answer(init);
  const hashed = rng.chance(30);
  const url = rng.pick(["http://near/w", "http://far/w"]);
  const known = { hashed, size: rng.chance(30) ? server.current.bytes.length : null };
  // Some begin with bytes of the first version from the cache, as `model-cache.ts` hands them over.
  let kept = [];
  if (rng.chance(40) && server.current.bytes.length) {
    kept = Array.from(server.current.bytes.subarray(0, rng.below(server.current.bytes.length) + 1));
    const version = server.etags === "none" ? null : `${server.etags === "weak" ? "W/" : ""}"v0"`;
    Object.assign(known, { at: kept.length, version });
  }
  const client = new HttpClient({ patience: { tries: 3, delay: 0, stall: 1 } });
  const it = new Download(url, known, client);
  let bytes = kept;
  try {
    for await (const chunk of it.chunks(async () => {})) {
      if (typeof chunk === "symbol") bytes = [];
      else bytes.push(...chunk);
      assert.equal(it.at, bytes.length, "the count is of the bytes that were handed on");
      if (server.requests > 400) assert.fail("it does not come to an end");
    }
  } catch (error) {
    if (error instanceof assert.AssertionError) throw error;
    assert.ok(error instanceof ConsistencySamplerError, `an error without a code: ${error.stack}`);
    assert.ok(["network", "http", "weights"].includes(error.code), error.code);
    assert.match(error.message, /^http:\/\/(near|far)\/w: [^\n]+$/);
    return error.code;
  }
  if (it.size !== null) assert.equal(bytes.length, it.size, "the size that was announced is the size that came");
  // Without versions nobody can tell, and with a hash nobody has to: what does not fit together is found out by that.
  if (honest && server.etags !== "none" && !hashed) {
    const same = (version) => version.bytes.length === bytes.length && bytes.every((byte, i) => byte === version.bytes[i]);
    if (server.versions.some(same)) return "whole";
    assert.fail(`[${bytes}] is none of [${server.versions.map(({ bytes }) => bytes).join("], [")}]`);
  }
  return "whole";
}

Object.assign(globalThis, {
  setTimeout: clock.set,
  clearTimeout: (timer) => clock.pending.delete(timer),
});
// Half of the time would go into stack traces that nobody reads.
if (RUNS > 1) Error.stackTraceLimit = 0;

const ends = { whole: 0, network: 0, http: 0, weights: 0 };
for (let seed = SEED; seed < SEED + RUNS; seed++) {
  try {
    ends[await download(seed)]++;
  } catch (error) {
    console.error(`seed ${seed}: ${error.stack}`);
    process.exit(1);
  }
  if (seed % 1000 === 0) await new Promise(setImmediate);
}
console.log(JSON.stringify({ runs: RUNS, seed: SEED, ends }));
