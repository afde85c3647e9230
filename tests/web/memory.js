// Measures how much the page's memory grows while a large checkpoint loads in a headless Chromium. Prints one JSON object.
//
//     python tools/random_checkpoint.py imagenet64 target/imagenet64-f16 --half
//     cargo xtask build && (cd tests/web && CHROME=/usr/bin/chromium node memory.js ../../target/imagenet64-f16)
//
// The load ends when every tensor is on the GPU; the network is not run, which takes minutes on a software GPU. What is
// counted is the private memory of the renderer processes (RssAnon in /proc, so Linux only): the heaps of JavaScript and
// WebAssembly in page and worker, garbage included, and all that the browser keeps beside them there. With --heap it is
// what the page itself is told, `performance.measureUserAgentSpecificMemory()`: what is reachable of both heaps.
// --no-cache loads without the cache; DIST names another assembled site, so that two builds can be measured in turn.

import { createReadStream, existsSync, readFileSync, statSync } from "node:fs";
import path from "node:path";

import { launch, newPage } from "./browser.js";
import { startServer } from "./server.js";

const model = path.resolve(process.argv[2]);
const cache = !process.argv.includes("--no-cache");
const heap = process.argv.includes("--heap");
// A page is told its memory only when it is isolated from others.
const headers = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
const server = await startServer({ headers });
server.routes.set("/blank", { type: "text/html", body: "<!doctype html><title>blank</title>", headers });
for (const name of ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]) {
  server.routes.set(`/model/${name}`, { type: "application/json", body: readFileSync(path.join(model, name)) });
}
const names = ["", ".fp16", ".int8"].map((variant) => `unet/diffusion_pytorch_model${variant}.safetensors`);
const name = names.find((name) => existsSync(path.join(model, name)));
const weights = path.join(model, name);
const { size } = statSync(weights);
server.routes.set(`/model/${name}`, (request, response) => {
  response.writeHead(200, { "Content-Type": "application/octet-stream", "Content-Length": size, ETag: '"1"' });
  if (request.method === "HEAD") response.end();
  else createReadStream(weights, { highWaterMark: 1 << 20 }).pipe(response);
});

const browser = await launch(heap ? ["--enable-blink-features=ForceEagerMeasureMemory"] : []);
const page = await newPage(browser);
await page.goto(`${server.origin}/blank`);
const cdp = await browser.newBrowserCDPSession();

/** Private memory of all renderers together, or the page's own count, in bytes. */
async function memory() {
  if (heap) return page.evaluate(async () => (await performance.measureUserAgentSpecificMemory()).bytes);
  const { processInfo } = await cdp.send("SystemInfo.getProcessInfo");
  let sum = 0;
  for (const { type, id } of processInfo) {
    if (type !== "renderer") continue;
    sum += 1024 * Number(/^RssAnon:\s+(\d+)/m.exec(readFileSync(`/proc/${id}/status`, "utf8"))?.[1] ?? 0);
  }
  return sum;
}

await page.evaluate(async () => {
  const { ConsistencySampler } = await import("/consistency-sampler.js");
  window.ConsistencySampler = ConsistencySampler;
});
await new Promise((resolve) => setTimeout(resolve, 2000));
const before = await memory();
let peak = before;
let measuring = false;
const samples = setInterval(async () => {
  if (measuring) return;
  measuring = true;
  peak = Math.max(peak, await memory().catch(() => 0));
  measuring = false;
}, 100);
const begin = performance.now();
const { last, notices, error } = await page.evaluate(async (cache) => {
  const abort = new AbortController();
  let last = { bytes: 0, stage: "none" };
  const notices = [];
  const onProgress = (event) => {
    last = event;
    if (event.stage === "shaders") abort.abort();
  };
  const onNotice = (notice) => notices.push(notice);
  const error = await window.ConsistencySampler.load("/model/", { cache, onProgress, onNotice, signal: abort.signal }).catch((e) => e);
  return { last, notices, error: `${error.name}: ${error.message}` };
}, cache);
const seconds = (performance.now() - begin) / 1000;
clearInterval(samples);
const megabytes = (bytes) => Math.round(bytes / 1e5) / 10;
console.log(
  JSON.stringify({
    counted: heap ? "page" : "renderers",
    cache,
    file_mb: megabytes(size),
    loaded_mb: megabytes(last.bytes),
    stage: last.stage,
    ended: error,
    notices,
    seconds: Math.round(seconds * 10) / 10,
    memory_before_mb: megabytes(before),
    peak_mb: megabytes(peak),
    growth_mb: megabytes(peak - before),
  }),
);
await browser.close();
await server.stop();
