// A server for the tests: the site under /, the golden checkpoints under /goldens/, and whatever a test adds, faults included.

import { createHash } from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { setTimeout } from "node:timers/promises";

/** The assembled site; `cargo xtask build` makes it. */
export const DIST = process.env.DIST ?? path.join(import.meta.dirname, "../../dist");
export const GOLDENS = path.join(import.meta.dirname, "../goldens");

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

/**
 * @typedef {object} Manner  how a body is sent
 * @property {string} [type]
 * @property {object} [headers]  further ones
 * @property {number} [status]
 * @property {boolean} [ranges]  whether byte ranges are served; true by default
 * @property {?string} [etag]  null for none; by default one made of the bytes
 * @property {number} [length]  announced whatever the body's is
 * @property {number} [cut]  after how many bytes of this answer the connection breaks off
 * @property {number} [stall]  after how many bytes of this answer nothing comes any more
 * @property {number} [chunk]  how many bytes are sent at a time,
 * @property {number} [pause]  and for how many milliseconds nothing follows each of them
 */

/** Sends a string, a Buffer or an iterable of Buffers, as a good server does or, in the given manner, as a bad one. */
export async function send(request, response, body, manner = {}) {
  const { type = "application/octet-stream", ranges = true, length, cut = Infinity, stall = Infinity } = manner;
  let { status = 200, chunk = 1 << 16, pause = 0 } = manner;
  const headers = { "Content-Type": type, "Cache-Control": "no-store", ...manner.headers };
  let bytes = typeof body === "string" ? Buffer.from(body) : body;
  if (Buffer.isBuffer(bytes)) {
    const etag = manner.etag === undefined ? `"${createHash("sha1").update(bytes).digest("hex")}"` : manner.etag;
    if (etag) headers.ETag = etag;
    if (ranges) headers["Accept-Ranges"] = "bytes";
    const range = ranges && status === 200 && /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    const condition = request.headers["if-range"];
    if (range && (!condition || condition === etag)) {
      const start = Number(range[1]);
      if (start >= bytes.length) {
        response.writeHead(416, { ...headers, "Content-Range": `bytes */${bytes.length}` }).end();
        return;
      }
      status = 206;
      const end = range[2] ? Math.min(Number(range[2]) + 1, bytes.length) : bytes.length;
      headers["Content-Range"] = `bytes ${start}-${end - 1}/${bytes.length}`;
      bytes = bytes.subarray(start, end);
    }
    headers["Content-Length"] = bytes.length;
  }
  if (length !== undefined) headers["Content-Length"] = length;
  // The connection ends with the body, so that one shorter than its announced length breaks off.
  response.writeHead(status, { ...headers, Connection: "close" });
  if (request.method === "HEAD") {
    response.end();
    return;
  }
  const faulty = cut < Infinity || stall < Infinity;
  if (faulty) [chunk, pause] = [Math.min(chunk, cut, stall), Math.max(pause, 5)];
  async function* parts() {
    if (!Buffer.isBuffer(bytes)) return yield* bytes;
    const end = Math.min(bytes.length, cut, stall);
    for (let at = 0; at < end; at += chunk) {
      yield bytes.subarray(at, Math.min(at + chunk, end));
      if (pause) await setTimeout(pause);
    }
  }
  await pipeline(Readable.from(parts()), response, { end: false });
  if (stall < Infinity) return;
  const short = !Buffer.isBuffer(bytes) || cut < bytes.length || length > bytes.length;
  // So that these bytes reach the reader before the end of the connection does.
  if (short) await setTimeout(300);
  if (short) response.destroy();
  else response.end();
}

/**
 * Starts a server on a free port.
 *
 * `routes` maps a path to what is answered there instead of a file: a Manner with a `body`, or a function
 * (request, response) that answers by itself. `log` has every request's method, path, query and headers, `served` the files that
 * were answered with. `folders`, from prefix to path, are served besides the site, without its policy; `headers` go with
 * every file.
 */
export async function startServer({ folders: others = {}, headers = {} } = {}) {
  const routes = new Map();
  const log = [];
  const served = [];
  const folders = [...Object.entries(others), ["/goldens/", GOLDENS], ["/", DIST]];
  // The page's own policy, sent as a header too, for a worker takes its policy from its headers: so it suffices there.
  const policy = /http-equiv="Content-Security-Policy"\s+content="([^"]+)"/.exec(
    readFileSync(path.join(DIST, "index.html"), "utf8"),
  )[1];

  async function answer(request, response) {
    const { pathname, search } = new URL(request.url, "http://localhost");
    log.push({ method: request.method, path: pathname, query: search, headers: request.headers });
    const route = routes.get(pathname);
    if (typeof route === "function") return route(request, response);
    if (route) return send(request, response, route.body, route);
    const [prefix, folder] = folders.find(([prefix]) => pathname.startsWith(prefix));
    let file = path.join(folder, path.normalize(decodeURIComponent(pathname.slice(prefix.length))));
    if (pathname.endsWith("/")) file = path.join(file, "index.html");
    const found = await stat(file).catch(() => null);
    if (!found?.isFile()) {
      response.writeHead(404, { "Content-Type": "text/plain" }).end("not found");
      return;
    }
    served.push(file);
    const type = TYPES[path.extname(file)];
    const policed = prefix in others ? {} : { "Content-Security-Policy": policy };
    await send(request, response, await readFile(file), { type, headers: { ...policed, ...headers } });
  }

  const server = createServer((request, response) => {
    // A browser that leaves, or a route that breaks off, ends the connection; the browser's side is what is tested.
    answer(request, response).catch(() => response.destroy());
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  return {
    origin: `http://127.0.0.1:${port}`,
    routes,
    log,
    served,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
