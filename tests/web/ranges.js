// Measures what parallel byte ranges would gain: the time to fetch one file in a headless Chromium by 1, 2 and 4 connections
// at once, from servers on this machine that send freely, so much a second for each connection, or so much in all. Prints
// one JSON object; rates are in MB/s.
//
//     cd tests/web && CHROME=/usr/bin/chromium node ranges.js

import { once } from "node:events";
import { createServer } from "node:http";
import { setTimeout } from "node:timers/promises";

import { launch, newPage } from "./browser.js";

const SIZE = 32 << 20;
const PART = 4 << 20;
const TICK = 20;
const body = Buffer.alloc(SIZE, 7);

/** A server whose connections get `each` bytes a second, and all of them together `all`. */
async function serve({ each = Infinity, all = Infinity }) {
  let open = 0;
  const server = createServer(async (request, response) => {
    const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range);
    if (!range) return response.writeHead(200, { "Content-Type": "text/html" }).end("<!doctype html>");
    const [from, to] = range.slice(1).map(Number);
    response.writeHead(206, { "Content-Length": to + 1 - from, "Cache-Control": "no-store" });
    open++;
    for (let at = from; at <= to && !response.destroyed; ) {
      const share = Math.min(each, all / open);
      const end = share === Infinity ? to + 1 : Math.min(to + 1, at + Math.max(1, (share * TICK) / 1000));
      response.write(body.subarray(at, (at = Math.ceil(end))));
      if (share < Infinity) await setTimeout(TICK);
    }
    open--;
    response.end();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return { origin: `http://127.0.0.1:${port}/`, stop: () => server.close() };
}

const browser = await launch();
const result = {};
for (const [name, limits] of Object.entries({
  free: {},
  "4 MB/s for each connection": { each: 4e6 },
  "4 MB/s in all": { all: 4e6 },
})) {
  const server = await serve(limits);
  const page = await newPage(browser);
  await page.goto(server.origin);
  result[name] = {};
  for (const connections of [1, 2, 4]) {
    const seconds = await page.evaluate(
      async ({ connections, size, part }) => {
        const begin = performance.now();
        let next = 0;
        const work = async () => {
          while (next < size) {
            const from = next;
            next += part;
            const headers = { Range: `bytes=${from}-${Math.min(next, size) - 1}` };
            await (await fetch("/file", { headers, cache: "no-store" })).arrayBuffer();
          }
        };
        await Promise.all(Array.from({ length: connections }, work));
        return (performance.now() - begin) / 1000;
      },
      { connections, size: SIZE, part: PART },
    );
    result[name][connections] = Math.round(SIZE / seconds / 1e5) / 10;
  }
  await page.context().close();
  server.stop();
}
console.log(JSON.stringify(result));
await browser.close();
