// What a runtime's code weighs.

import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

/** The sizes by the content's hash: to compress 27 MB as far as brotli can takes a minute. */
let cache = null;

/** Keeps the sizes in a file from one run to the next. */
export function rememberSizes(file) {
  cache = { file, sizes: existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {} };
}

/** Bytes of the files together, as they are, after `gzip -9` and after brotli at quality 11, each file by itself. */
export function packedSizes(files) {
  const total = { bytes_raw: 0, bytes_gzip: 0, bytes_brotli: 0 };
  for (const file of new Set(files)) {
    const sizes = sizesOf(readFileSync(file));
    for (const key in total) total[key] += sizes[key];
  }
  return total;
}

function sizesOf(content) {
  const key = createHash("sha256").update(content).digest("hex");
  const known = cache?.sizes[key];
  if (known) return known;
  const sizes = {
    bytes_raw: content.length,
    bytes_gzip: gzipSync(content, { level: 9 }).length,
    bytes_brotli: brotliCompressSync(content, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }).length,
  };
  if (cache) {
    cache.sizes[key] = sizes;
    writeFileSync(cache.file, JSON.stringify(cache.sizes));
  }
  return sizes;
}
