// Models kept in the browser: in the origin's private file system, or in Cache Storage where that is missing.
//
// A model is an entry, a folder that holds `entry.json` and its files of weights. A file's length is the number of its
// bytes that have come; the entry is `complete` once all of them have been verified. Knows no DOM and no network;
// writing takes a worker.

import { bytesOf } from "./bytes.js";

const ROOT = "consistency-sampler";
const ENTRY = "entry.json";
/** The length of a part of a file in Cache Storage, which knows no appending. */
const PART = 4 << 20;

/**
 * The cache, or null where the browser has none to offer (a page that is not a secure context, a private window).
 */
export async function openCache() {
  for (const Store of [PrivateFiles, CacheParts]) {
    const store = await Store.open().catch(() => null);
    if (store) return new ModelCache(store);
  }
  return null;
}

/** Every model that is kept, whole or in part. */
export class ModelCache {
  #store;

  constructor(store) {
    this.#store = store;
  }

  /** @returns {Promise<{ id: string, name: string, revision: ?string, bytes: number, complete: boolean }[]>} */
  async list() {
    const models = [];
    for (const id of await this.#store.ids()) {
      const entry = await new Entry(this.#store, id).read();
      let bytes = 0;
      for (const path of Object.keys(entry?.files ?? {})) bytes += await this.#store.size(id, path);
      models.push({ id, name: entry?.name ?? "?", revision: entry?.revision ?? null, bytes, complete: entry?.complete ?? false });
    }
    return models;
  }

  remove(id) {
    return this.#store.remove(id);
  }

  /** The entry of the model that `key` identifies; it may be empty. */
  async entry(key) {
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(key)));
    return new Entry(this.#store, Array.from(hash.subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join(""));
  }
}

class Entry {
  #store;
  #id;

  constructor(store, id) {
    this.#store = store;
    this.#id = id;
  }

  /** What `write` wrote; null when there is nothing, or nothing legible. */
  async read() {
    try {
      return JSON.parse(await this.#store.text(this.#id, ENTRY));
    } catch {
      return null;
    }
  }

  async write(value) {
    const file = await this.#store.appender(this.#id, ENTRY);
    try {
      await file.truncate();
      await file.append(new TextEncoder().encode(JSON.stringify(value)));
    } finally {
      await file.close();
    }
  }

  chunks(path) {
    return this.#store.chunks(this.#id, path);
  }

  size(path) {
    return this.#store.size(this.#id, path);
  }

  /** The file to append to: `append(chunk)`, `truncate()`, `close()`. */
  appender(path) {
    return this.#store.appender(this.#id, path);
  }

  remove() {
    return this.#store.remove(this.#id);
  }
}

/**
 * The place of the model that is being loaded. Every method works without a cache too, as with one that is empty and
 * keeps nothing; when the browser refuses to store more, that is what it becomes, with a notice.
 */
export class Shelf {
  notice;
  #entry = null;
  /** What `entry.json` says: `{ name, revision, about, complete, files: { path: { version, size, sha256 } } }`. */
  #kept = null;

  /** @param {?string} key  identifies the model; null: no cache is wanted */
  static async open(key, notice) {
    const shelf = new Shelf();
    shelf.notice = notice;
    const cache = key && (await openCache());
    if (!cache) return shelf;
    shelf.#entry = await cache.entry(key);
    shelf.#kept = await shelf.#entry.read();
    return shelf;
  }

  /** The description of the model that is here whole, with the hashes that were verified; null when there is none. */
  recall() {
    if (!this.#kept?.complete) return null;
    const { about, files } = this.#kept;
    return { ...about, weights: about.weights.map((file) => ({ ...file, ...files[file.path] })) };
  }

  /** How many bytes of this very version of a file are here. */
  async usable({ path, sha256, version }) {
    const kept = this.#kept?.files[path];
    if (!this.#entry || !kept) return 0;
    if (sha256 ? sha256 !== kept.sha256 : !version || version !== kept.version) return 0;
    const bytes = await this.#entry.size(path);
    return bytes > kept.size || (this.#kept.complete && bytes < kept.size) ? 0 : bytes;
  }

  chunks({ path }) {
    return this.#entry.chunks(path);
  }

  isWhole({ path }, stored) {
    return stored > 0 && stored === this.#kept.files[path].size;
  }

  versionOf({ path }, stored) {
    return stored ? this.#kept.files[path].version : null;
  }

  /** The hash that a whole file had when it was verified. */
  hashOf({ path }, stored) {
    return stored && this.#kept.complete ? this.#kept.files[path].sha256 : null;
  }

  /** Makes place for a model. */
  async begin(about) {
    if (!this.#entry) return;
    const files = {};
    let [stored, whole] = [0, this.#kept?.complete ?? false];
    for (const file of about.weights) {
      const bytes = await this.usable(file);
      if (bytes) files[file.path] = this.#kept.files[file.path];
      stored += bytes;
      whole &&= bytes > 0;
    }
    const { name, revision } = about;
    const weights = about.weights.map(({ path, url, size }) => ({ path, url, size }));
    this.#kept = { name, revision, about: { ...about, weights }, complete: whole, files };
    if (whole) return;
    await this.#trying(async () => {
      if (!stored) await this.#entry.remove();
      await this.#write();
    });
  }

  /** The file to write to behind its first `stored` bytes. */
  async appender({ path, sha256 }, stored) {
    let file = null;
    const close = async () => {
      const closing = file;
      file = null;
      await closing?.close();
    };
    const trying = (action) => file && this.#trying(() => action(file), close);
    if (this.#entry) {
      await this.#trying(async () => {
        file = await this.#entry.appender(path);
        if (!stored) await file.truncate();
      });
    }
    return {
      /** Notes which version the bytes that follow belong to. */
      describe: ({ version, size }) =>
        trying(async () => {
          // Without an estimate the store itself refuses what is too much.
          const { quota = Infinity, usage = 0 } = (await navigator.storage?.estimate?.()) ?? {};
          if (size - stored > quota - usage) {
            const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
            const free = megabytes(Math.max(quota - usage, 0));
            throw new Error(`it needs ${megabytes(size - stored)} of storage, ${free} are free`);
          }
          this.#kept.files[path] = { version, size, sha256 };
          await this.#write();
        }),
      append: (chunk) => trying(() => file.append(chunk)),
      truncate: () => trying(() => file.truncate()),
      close: () => this.#trying(close),
    };
  }

  /** Keeps what a file turned out to be. */
  verified({ path }, sha256) {
    const kept = this.#kept?.files[path];
    if (kept) kept.sha256 = sha256;
  }

  /** Every file is here and is what it should be. */
  async complete() {
    if (!this.#entry || this.#kept.complete) return;
    this.#kept.complete = true;
    for (const { path } of this.#kept.about.weights) this.#kept.files[path].size = await this.#entry.size(path);
    await this.#trying(() => this.#write());
  }

  /** Drops one file, which turned out to be damaged. */
  async forget({ path }) {
    if (!this.#entry) return;
    delete this.#kept.files[path];
    this.#kept.complete = false;
    await this.#trying(() => this.#write());
  }

  /** Drops the model, which is not what it should be. */
  async discard() {
    await this.#entry?.remove().catch(() => {});
    this.#entry = null;
  }

  #write() {
    return this.#entry.write(this.#kept);
  }

  /** Does something with the store; when the store refuses, the load goes on without one. */
  async #trying(action, close) {
    try {
      await action();
    } catch (error) {
      await close?.().catch(() => {});
      // A model that another page is loading stays that page's.
      if (error.name === "NoModificationAllowedError") this.#entry = null;
      else await this.discard();
      this.notice(`the model is not kept in this browser: ${error.message}`);
    }
  }
}

/** The origin's private file system. */
class PrivateFiles {
  #root;

  static async open() {
    const top = await navigator.storage.getDirectory();
    const files = new PrivateFiles();
    files.#root = await top.getDirectoryHandle(ROOT, { create: true });
    return files;
  }

  async ids() {
    const ids = [];
    for await (const id of this.#root.keys()) ids.push(id);
    return ids;
  }

  async text(id, path) {
    return (await this.#file(id, path)).text();
  }

  async size(id, path) {
    return this.#file(id, path).then(({ size }) => size, () => 0);
  }

  async *chunks(id, path) {
    yield* bytesOf((await this.#file(id, path)).stream());
  }

  async appender(id, path) {
    const handle = await this.#handle(id, path, true);
    const access = await patiently(() => handle.createSyncAccessHandle());
    return {
      append(chunk) {
        const written = access.write(chunk, { at: access.getSize() });
        if (written < chunk.length) throw new Error("the storage is full");
      },
      truncate: () => access.truncate(0),
      close: () => access.close(),
    };
  }

  remove(id) {
    return patiently(() => this.#root.removeEntry(id, { recursive: true })).catch((error) => {
      if (error.name !== "NotFoundError") throw error;
    });
  }

  async #handle(id, path, create = false) {
    const folder = await this.#root.getDirectoryHandle(id, { create });
    return folder.getFileHandle(encodeURIComponent(path), { create });
  }

  async #file(id, path) {
    return (await this.#handle(id, path)).getFile();
  }
}

/** Cache Storage: a file is as many responses as it has parts, the path's query being a part's number. */
class CacheParts {
  #cache;

  static async open() {
    const parts = new CacheParts();
    parts.#cache = await caches.open(ROOT);
    return parts;
  }

  async ids() {
    const paths = (await this.#cache.keys()).map(({ url }) => new URL(url).pathname);
    return [...new Set(paths.map((path) => path.split("/")[2]))];
  }

  async text(id, path) {
    return (await this.#cache.match(this.#address(id, path, 0))).text();
  }

  async size(id, path) {
    const [parts, last] = await this.#extent(id, path);
    return parts ? (parts - 1) * PART + last : 0;
  }

  async *chunks(id, path) {
    for (let part = 0; ; part++) {
      const response = await this.#cache.match(this.#address(id, path, part));
      if (!response) return;
      yield new Uint8Array(await response.arrayBuffer());
    }
  }

  async appender(id, path) {
    let [part, filled] = await this.#extent(id, path);
    let buffer = new Uint8Array(PART);
    if (part && filled < PART) {
      part--;
      buffer.set(new Uint8Array(await (await this.#cache.match(this.#address(id, path, part))).arrayBuffer()));
    } else filled = 0;
    const put = async () => {
      const headers = { "Content-Length": filled };
      await this.#cache.put(this.#address(id, path, part), new Response(buffer.slice(0, filled), { headers }));
    };
    return {
      append: async (chunk) => {
        for (let at = 0; at < chunk.length; ) {
          const taken = chunk.subarray(at, at + PART - filled);
          buffer.set(taken, filled);
          at += taken.length;
          filled += taken.length;
          if (filled < PART) continue;
          await put();
          [part, filled] = [part + 1, 0];
        }
      },
      truncate: async () => {
        const [parts] = await this.#extent(id, path);
        for (let k = 0; k < parts; k++) await this.#cache.delete(this.#address(id, path, k));
        [part, filled] = [0, 0];
      },
      close: async () => {
        if (filled) await put();
      },
    };
  }

  async remove(id) {
    for (const request of await this.#cache.keys()) {
      if (new URL(request.url).pathname.startsWith(`/${ROOT}/${id}/`)) await this.#cache.delete(request);
    }
  }

  /** How many parts there are, and the length of the last one. */
  async #extent(id, path) {
    for (let parts = 0, last = 0; ; parts++) {
      const response = await this.#cache.match(this.#address(id, path, parts));
      if (!response) return [parts, last];
      last = Number(response.headers.get("Content-Length"));
    }
  }

  #address(id, path, part) {
    return `/${ROOT}/${id}/${encodeURIComponent(path)}?${part}`;
  }
}

/** A worker that was just stopped may hold a file for a moment yet. */
async function patiently(action) {
  for (let tries = 0; ; tries++) {
    try {
      return await action();
    } catch (error) {
      if (error.name !== "NoModificationAllowedError" || tries === 10) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}
