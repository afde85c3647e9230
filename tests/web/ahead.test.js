// Parts of a file that are fetched at once, from a server that throttles each connection, and what goes wrong with them.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, beforeEach, test } from "node:test";

import { openBlank } from "./blank.js";
import { send } from "./server.js";

const SIZE = 1 << 20;
/** Bytes of SIZE that no part repeats. */
const file = (seed) => {
  const block = (at) => createHash("sha512").update(`${seed} ${at}`).digest();
  return Buffer.concat(Array.from({ length: SIZE / 64 }, (_, at) => block(at)));
};
const body = file("first");
const digest = (bytes) => createHash("sha256").update(bytes).digest("hex");
/** 0.8 MB/s for each connection. */
const SLOW = { chunk: 1 << 14, pause: 20 };

let server, browser, page;

before(async () => {
  ({ server, browser, page } = await openBlank());
  await page.evaluate(async () => {
    const { Download, RESTART } = await import("/download.js");
    window.download = async ({ connections, abortAt = Infinity }) => {
      const below = connections > 1 ? 20e6 : -1;
      const ahead = { connections, part: 1 << 17, after: 1 << 16, below };
      const it = new Download(`${location.origin}/file`, {}, { tries: 3, delay: 5, stall: 2000, ahead });
      const abort = new AbortController();
      const begin = performance.now();
      let [bytes, restarts, retries] = [[], 0, []];
      const onRetry = ({ reason }) => retries.push(reason);
      try {
        for await (const chunk of it.chunks({ onRetry, signal: abort.signal })) {
          if (chunk === RESTART) [bytes, restarts] = [[], restarts + 1];
          else bytes.push(chunk.slice());
          if (it.at >= abortAt) abort.abort();
        }
      } catch (error) {
        return { error: error.name, at: it.at };
      }
      const milliseconds = performance.now() - begin;
      const whole = await new Blob(bytes).arrayBuffer();
      const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
      return { hash: Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join(""), restarts, retries, milliseconds };
    };
  });
});
after(async () => {
  await browser?.close();
  await server?.stop();
});
beforeEach(() => {
  server.log.length = 0;
});

const serve = (route) => server.routes.set("/file", route);
const download = (options) => page.evaluate((options) => window.download(options), { connections: 3, ...options });
const isPart = ({ headers }) => /^bytes=\d+-\d+$/.test(headers.range ?? "");
const parts = () => server.log.filter(isPart).map(({ headers }) => headers.range);

test("three connections are faster than one where each is throttled", async () => {
  serve({ body, ...SLOW });
  const alone = await download({ connections: 1 });
  assert.deepEqual(parts(), []);
  const together = await download();
  for (const { hash, restarts, retries } of [alone, together]) {
    assert.deepEqual([hash, restarts, retries], [digest(body), 0, []]);
  }
  assert.ok(parts().length >= 6, `${parts()}`);
  assert.equal(new Set(parts()).size, parts().length, "no part is asked for twice");
  const ratio = together.milliseconds / alone.milliseconds;
  assert.ok(ratio < 0.75, `${together.milliseconds} ms of ${alone.milliseconds}`);
});

test("a server that gives no parts, or names no version, is asked once", async () => {
  for (const manner of [{ ranges: false, ...SLOW }, { etag: null, ...SLOW }]) {
    server.log.length = 0;
    serve({ body, ...manner });
    assert.equal((await download()).hash, digest(body));
    assert.deepEqual(parts(), []);
  }
});

test("a part that breaks off, is refused or is another goes on alone", async () => {
  const other = file("second");
  for (const fault of [
    (request, response) => send(request, response, body, { ...SLOW, cut: 70_000 }),
    (_, response) => response.writeHead(429).end(),
    (request, response) => send(request, response, body, { ...SLOW, ranges: false }),
    (request, response) => send(request, response, other, { ...SLOW, etag: '"another"', headers: {} }),
  ]) {
    server.log.length = 0;
    // From the second part on, so that the first one has been taken over.
    serve((request, response) => {
      const spoilt = isPart(request) && parts().length > 1;
      return spoilt ? fault(request, response) : send(request, response, body, SLOW);
    });
    const { hash, retries } = await download();
    assert.equal(hash, digest(body));
    assert.equal(retries.length, 1, `${retries}`);
  }
});

test("a file that changes on the way is the new one", async () => {
  const other = file("second");
  serve((request, response) => send(request, response, server.log.length > 3 ? other : body, SLOW));
  const { hash, restarts } = await download();
  assert.deepEqual([hash, restarts], [digest(other), 1]);
});

test("cancelling ends all connections", async () => {
  let open = 0;
  serve((request, response) => {
    open++;
    response.on("close", () => open--);
    return send(request, response, body, SLOW).catch(() => {});
  });
  const { error, at } = await download({ abortAt: 400_000 });
  assert.equal(error, "AbortError");
  assert.ok(at < SIZE && parts().length >= 3, `${at}, ${parts()}`);
  for (let i = 0; i < 40 && open; i++) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(open, 0);
});
