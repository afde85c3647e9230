// A static server for the tests: the site under /, the golden checkpoints under /goldens/, and whatever a test adds.

import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));

/** The assembled site; `cargo xtask build` makes it. */
export const DIST = process.env.DIST ?? path.join(here, "../../dist");
export const GOLDENS = path.join(here, "../goldens");

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css",
  ".js": "text/javascript",
  ".json": "application/json",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};

/**
 * Starts a server on a free port.
 *
 * `routes` maps a path to what is answered there: `{ status, type, body }`, where `body` is a string, a Buffer or an
 * iterable of Buffers, sent with the pauses that the iterable makes. `redirects` maps one folder onto another.
 */
export async function startServer() {
  const routes = new Map();
  const folders = [["/goldens/", GOLDENS], ["/", DIST]];
  const requests = [];

  async function answer(request, response) {
    const { pathname } = new URL(request.url, "http://localhost");
    requests.push(pathname);
    const route = routes.get(pathname);
    if (route) {
      const { status = 200, type = "application/octet-stream", length, body = "" } = route;
      response.writeHead(status, { "Content-Type": type, ...(length && { "Content-Length": length }) });
      await pipeline(Readable.from(typeof body === "string" || Buffer.isBuffer(body) ? [body] : body), response);
      return;
    }
    const [prefix, folder] = folders.find(([prefix]) => pathname.startsWith(prefix));
    let file = path.join(folder, path.normalize(decodeURIComponent(pathname.slice(prefix.length))));
    if (pathname.endsWith("/")) file = path.join(file, "index.html");
    const found = await stat(file).catch(() => null);
    if (!found?.isFile()) {
      response.writeHead(404, { "Content-Type": "text/plain" }).end("not found");
      return;
    }
    const type = TYPES[path.extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { "Content-Type": type, "Content-Length": found.size, "Cache-Control": "no-store" });
    await pipeline(createReadStream(file), response);
  }

  const server = createServer((request, response) => {
    // A browser that leaves, or a route that breaks off, ends the connection; the browser's side is what is tested.
    answer(request, response).catch(() => response.destroy());
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    routes,
    requests,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
