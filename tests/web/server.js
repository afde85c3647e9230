// A static server for the tests: the site under /, the golden checkpoints under /goldens/, and whatever a test adds.

import { createReadStream, readFileSync } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer } from "node:http";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

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
 * Starts a server on a free port.
 *
 * `routes` maps a path to what is answered there instead of a file: `{ type, body, length }`, where `body` is a string, a
 * Buffer or an iterable of Buffers, and `length` is announced whatever the body's is. `served` lists the files that were
 * answered with. `folders`, from prefix to path, are served besides the site, without its policy; `headers` go with every
 * file.
 */
export async function startServer({ folders: others = {}, headers = {} } = {}) {
  const routes = new Map();
  const served = [];
  const folders = [...Object.entries(others), ["/goldens/", GOLDENS], ["/", DIST]];
  // The page's own policy, sent as a header too, for a worker takes its policy from its headers: so it suffices there.
  const policy = /http-equiv="Content-Security-Policy"\s+content="([^"]+)"/.exec(
    readFileSync(path.join(DIST, "index.html"), "utf8"),
  )[1];

  async function answer(request, response) {
    const { pathname } = new URL(request.url, "http://localhost");
    const route = routes.get(pathname);
    if (route) {
      const { type = "application/octet-stream", length, body } = route;
      // The connection ends with the body, so that one shorter than its announced length breaks off.
      response.writeHead(200, {
        "Content-Type": type,
        Connection: "close",
        ...(length && { "Content-Length": length }),
      });
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
    served.push(file);
    const type = TYPES[path.extname(file)] ?? "application/octet-stream";
    response.writeHead(200, {
      "Content-Type": type,
      "Content-Length": found.size,
      "Cache-Control": "no-store",
      ...(!(prefix in others) && { "Content-Security-Policy": policy }),
      ...headers,
    });
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
    served,
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
