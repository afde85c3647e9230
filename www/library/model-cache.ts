// Models kept in the browser: in the origin's private file system, or in Cache Storage where that is missing (WebKitGTK).
//
// A model is an entry, a folder that holds `entry.json` and its files of weights. A file's length is the number of its
// bytes that have come; the entry is `complete` once all of them have been verified. Knows no DOM and no network;
// writing takes a worker.

import { type Bytes, bytesOf } from "./bytes.js";
import { messageOf } from "./error.js";
import type { Description, Weights } from "./model-source.js";
import type { KeptModel } from "./types.js";

const ROOT = "consistency-sampler";
const ENTRY = "entry.json";
/** The length of a part of a file in Cache Storage, which knows no appending. */
const PART = 4 << 20;

/** A file that bytes can be put behind. */
interface Appender {
  append(chunk: Bytes): void | Promise<void>;
  truncate(): void | Promise<void>;
  close(): void | Promise<void>;
}

/** Folders of files. */
interface Store {
  /** The names of the folders. */
  ids(): Promise<string[]>;
  text(id: string, path: string): Promise<string>;
  /** A file's length; 0 where there is none. */
  size(id: string, path: string): Promise<number>;
  chunks(id: string, path: string): AsyncGenerator<Bytes>;
  appender(id: string, path: string): Promise<Appender>;
  /** Deletes a folder, if it is there. */
  remove(id: string): Promise<void>;
}

/** What is known of a file that is kept. */
interface KeptFile {
  version: string | null;
  size: number | null;
  sha256: string | null;
}

/** The weights of a description without what is kept of each file (`KeptFile`). */
type About = Omit<Description, "weights"> & { weights: Pick<Weights, "path" | "url" | "size">[] };

/** What `entry.json` says. */
interface Kept {
  name: string;
  revision: string | null;
  about: About;
  complete: boolean;
  /** When it became complete, in milliseconds since 1970. */
  time?: number;
  files: Record<string, KeptFile>;
}

/** One of a model's two places: a new version is received into the one while the other has the old version whole. */
interface Slot {
  entry: Entry;
  kept: Kept | null;
}

/**
 * The cache, or null where the browser has none to offer (a page that is not a secure context, a sandboxed frame, a private
 * window, storage that a person has blocked).
 */
export async function openCache(): Promise<ModelCache | null> {
  for (const open of [PrivateFiles.open, CacheParts.open]) {
    const store = await open().catch(() => null);
    if (store) return new ModelCache(store);
  }
  return null;
}

/** Every model that is kept, whole or in part. */
class ModelCache {
  #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  async list(): Promise<KeptModel[]> {
    const models = [];
    for (const id of await this.#store.ids()) {
      const kept = await new Entry(this.#store, id).read();
      let bytes = 0;
      for (const path of Object.keys(kept?.files ?? {})) bytes += await this.#store.size(id, path);
      const { name = "?", revision = null, complete = false } = kept ?? {};
      models.push({ id, name, revision, bytes, complete });
    }
    return models;
  }

  remove(id: string): Promise<void> {
    return this.#store.remove(id);
  }

  /** The places of the model that `key` identifies. */
  slots(key: string): Promise<Slot[]> {
    return Promise.all(
      [key, `${key} new`].map(async (key) => {
        const entry = await this.#entry(key);
        return { entry, kept: await entry.read() };
      }),
    );
  }

  /** The entry that `key` identifies; it may be empty. Where there is a store, there is `crypto.subtle`. */
  async #entry(key: string): Promise<Entry> {
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(key)));
    const id = Array.from(hash.subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("");
    return new Entry(this.#store, id);
  }
}

/** A model's folder in a store. */
class Entry {
  #store: Store;
  #id: string;

  constructor(store: Store, id: string) {
    this.#store = store;
    this.#id = id;
  }

  /** What `write` wrote; null when there is nothing, or nothing legible. */
  async read(): Promise<Kept | null> {
    try {
      return JSON.parse(await this.#store.text(this.#id, ENTRY)) as Kept;
    } catch {
      return null;
    }
  }

  async write(kept: Kept): Promise<void> {
    const file = await this.appender(ENTRY);
    try {
      await file.truncate();
      await file.append(new TextEncoder().encode(JSON.stringify(kept)));
    } finally {
      await file.close();
    }
  }

  chunks(path: string): AsyncGenerator<Bytes> {
    return this.#store.chunks(this.#id, path);
  }

  size(path: string): Promise<number> {
    return this.#store.size(this.#id, path);
  }

  appender(path: string): Promise<Appender> {
    return this.#store.appender(this.#id, path);
  }

  remove(): Promise<void> {
    return this.#store.remove(this.#id);
  }
}

/** A file that is being written; what the store refuses is done without. */
export interface Copy extends Appender {
  append(chunk: Bytes): Promise<void>;
  /** Notes which version the bytes that follow belong to. */
  describe(version: { version: string | null; size: number | null }): Promise<void>;
}

/**
 * The cached copy of the model that is being loaded. Every method works without a cache too, as with one that is empty and
 * keeps nothing; when the browser refuses to store more, that is what it becomes, with a notice.
 */
export class CachedModel {
  readonly notice: (notice: string) => void;
  /** The model's places, the one that is whole first. */
  #slots: Slot[] = [];
  /** The place that is read and written; null when nothing is kept. */
  #entry: Entry | null = null;
  #kept: Kept | null = null;

  private constructor(notice: (notice: string) => void) {
    this.notice = notice;
  }

  /** `key` identifies the model; null: no cache is wanted. */
  static async open(key: string | null, notice: (notice: string) => void): Promise<CachedModel> {
    const model = new CachedModel(notice);
    const cache = key && (await openCache());
    if (!cache) return model;
    const time = ({ kept }: Slot) => (kept?.complete ? (kept.time ?? 1) : 0);
    model.#slots = (await cache.slots(key)).sort((a, b) => time(b) - time(a));
    model.#use(0);
    return model;
  }

  #use(slot: number): void {
    const { entry = null, kept = null } = this.#slots[slot] ?? {};
    [this.#entry, this.#kept] = [entry, kept];
  }

  /**
   * The description of the model that is here whole, with the hashes that were verified; null when there is none. What came of
   * a newer version is set aside.
   */
  recall(): Description | null {
    this.#use(0);
    if (!this.#kept?.complete) return null;
    const { about, files } = this.#kept;
    const unknown = { version: null, sha256: null };
    return { ...about, weights: about.weights.map((file) => ({ ...unknown, ...file, ...files[file.path] })) };
  }

  /** How many bytes of this very version of a file are here. */
  async usable({ path, sha256, version }: Weights): Promise<number> {
    const kept = this.#file(path);
    if (!this.#entry || !kept) return 0;
    if (sha256 ? sha256 !== kept.sha256 : !version || version !== kept.version) return 0;
    const bytes = await this.#entry.size(path);
    const size = kept.size ?? 0;
    return bytes > size || (this.#kept?.complete && bytes < size) ? 0 : bytes;
  }

  async *chunks({ path }: Weights): AsyncGenerator<Bytes> {
    if (this.#entry) yield* this.#entry.chunks(path);
  }

  isWhole({ path }: Weights, stored: number): boolean {
    return stored > 0 && stored === this.#file(path)?.size;
  }

  versionOf({ path }: Weights, stored: number): string | null {
    return (stored && this.#file(path)?.version) || null;
  }

  /** The hash that a whole file had when it was verified. */
  hashOf({ path }: Weights, stored: number): string | null {
    return (stored && this.#kept?.complete && this.#file(path)?.sha256) || null;
  }

  /** Makes place for a model; an older version that is whole stays until this one is. */
  async begin(about: Description): Promise<void> {
    let [files, stored, whole] = await this.#present(about);
    if (!whole && this.#kept?.complete) {
      this.#use(1);
      [files, stored, whole] = await this.#present(about);
    }
    const entry = this.#entry;
    if (!entry) return;
    const { name, revision } = about;
    const weights = about.weights.map(({ path, url, size }) => ({ path, url, size }));
    this.#kept = { name, revision, about: { ...about, weights }, complete: whole, files };
    if (whole) return;
    await this.#trying(async () => {
      if (!stored) await entry.remove();
      await this.#write();
    });
  }

  /** What of a model's files is here, how many bytes that is, and whether it is all of it. */
  async #present(about: Description): Promise<[files: Kept["files"], stored: number, whole: boolean]> {
    const files: Kept["files"] = {};
    let stored = 0;
    let whole = this.#kept?.complete ?? false;
    for (const file of about.weights) {
      const bytes = await this.usable(file);
      const kept = this.#file(file.path);
      if (bytes && kept) files[file.path] = kept;
      stored += bytes;
      whole &&= bytes > 0;
    }
    return [files, stored, whole];
  }

  /** The file to write to behind its first `stored` bytes. */
  async appender({ path, sha256 }: Weights, stored: number): Promise<Copy> {
    let file: Appender | null = null;
    const close = async () => {
      const closing = file;
      file = null;
      await closing?.close();
    };
    const trying = async (action: (file: Appender) => void | Promise<void>) => {
      const open = file;
      if (open) await this.#trying(() => action(open), close);
    };
    const entry = this.#entry;
    if (entry) {
      await this.#trying(async () => {
        file = await entry.appender(path);
        if (!stored) await file.truncate();
      });
    }
    return {
      describe: ({ version, size }) =>
        trying(async () => {
          // Not every browser tells how much room there is; one that does not refuses when it comes to writing.
          const { quota, usage = 0 } = (await navigator.storage?.estimate?.()) ?? {};
          if (quota !== undefined && size !== null && size - stored > quota - usage) {
            const [needed, free] = [size - stored, Math.max(quota - usage, 0)].map((n) => n.toLocaleString("en"));
            throw new Error(`${needed} bytes are needed, ${free} are free`);
          }
          if (this.#kept) this.#kept.files[path] = { version, size, sha256 };
          await this.#write();
        }),
      append: (chunk) => trying((file) => file.append(chunk)),
      truncate: () => trying((file) => file.truncate()),
      close: () => this.#trying(close),
    };
  }

  /** Keeps what a file turned out to be. */
  verified({ path }: Weights, sha256: string): void {
    const kept = this.#file(path);
    if (kept) kept.sha256 = sha256;
  }

  /** Every file is here and is what it should be. */
  async complete(): Promise<void> {
    const [entry, kept] = [this.#entry, this.#kept];
    if (!entry || !kept || kept.complete) return;
    kept.complete = true;
    kept.time = Date.now();
    for (const [path, file] of Object.entries(kept.files)) file.size = await entry.size(path);
    await this.#trying(async () => {
      await this.#write();
      for (const other of this.#slots) if (other.entry !== entry) await other.entry.remove();
    });
  }

  /** Drops one file, which turned out to be damaged. */
  async forget({ path }: Weights): Promise<void> {
    if (!this.#entry || !this.#kept) return;
    delete this.#kept.files[path];
    this.#kept.complete = false;
    await this.#trying(() => this.#write());
  }

  /** Drops the model, which is not what it should be. */
  async discard(): Promise<void> {
    await this.#entry?.remove().catch(() => {});
    this.#entry = null;
  }

  #file(path: string): KeptFile | undefined {
    return this.#kept?.files[path];
  }

  async #write(): Promise<void> {
    if (this.#kept) await this.#entry?.write(this.#kept);
  }

  /** Does something with the store; when the store refuses, the load goes on without one. */
  async #trying(action: () => void | Promise<void>, close?: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      await close?.().catch(() => {});
      // A model that another page is loading stays that page's.
      if (isLocked(error)) this.#entry = null;
      else await this.discard();
      this.notice(`the model is not kept in this browser: ${reasonOf(error)}`);
    }
  }
}

/** The origin's private file system. */
class PrivateFiles implements Store {
  #root: FileSystemDirectoryHandle;

  private constructor(root: FileSystemDirectoryHandle) {
    this.#root = root;
  }

  static async open(): Promise<Store> {
    const top = await navigator.storage.getDirectory();
    return new PrivateFiles(await top.getDirectoryHandle(ROOT, { create: true }));
  }

  async ids(): Promise<string[]> {
    const ids = [];
    for await (const id of this.#root.keys()) ids.push(id);
    return ids;
  }

  async text(id: string, path: string): Promise<string> {
    return (await this.#file(id, path)).text();
  }

  size(id: string, path: string): Promise<number> {
    return this.#file(id, path).then(
      ({ size }) => size,
      () => 0,
    );
  }

  async *chunks(id: string, path: string): AsyncGenerator<Bytes> {
    yield* bytesOf((await this.#file(id, path)).stream());
  }

  async appender(id: string, path: string): Promise<Appender> {
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

  remove(id: string): Promise<void> {
    return patiently(() => this.#root.removeEntry(id, { recursive: true })).catch((error: DOMException) => {
      if (error.name !== "NotFoundError") throw error;
    });
  }

  async #handle(id: string, path: string, create = false): Promise<FileSystemFileHandle> {
    const folder = await this.#root.getDirectoryHandle(id, { create });
    return folder.getFileHandle(encodeURIComponent(path), { create });
  }

  async #file(id: string, path: string): Promise<File> {
    return (await this.#handle(id, path)).getFile();
  }
}

/** Cache Storage: a file is as many responses as it has parts, the path's query being a part's number. */
class CacheParts implements Store {
  #cache: Cache;

  private constructor(cache: Cache) {
    this.#cache = cache;
  }

  static async open(): Promise<Store> {
    return new CacheParts(await caches.open(ROOT));
  }

  async ids(): Promise<string[]> {
    const paths = (await this.#cache.keys()).map(({ url }) => new URL(url).pathname);
    return [...new Set(paths.map((path) => path.split("/")[2] ?? ""))];
  }

  async text(id: string, path: string): Promise<string> {
    return new TextDecoder().decode((await this.#part(id, path, 0)) ?? undefined);
  }

  async size(id: string, path: string): Promise<number> {
    const [parts, last] = await this.#extent(id, path);
    return parts ? (parts - 1) * PART + last : 0;
  }

  async *chunks(id: string, path: string): AsyncGenerator<Bytes> {
    for (let part = 0, bytes: Bytes | null; (bytes = await this.#part(id, path, part)); part++) yield bytes;
  }

  async appender(id: string, path: string): Promise<Appender> {
    let [part, filled] = await this.#extent(id, path);
    const buffer = new Uint8Array(PART);
    if (part && filled < PART) {
      part--;
      buffer.set((await this.#part(id, path, part)) ?? []);
    } else filled = 0;
    const put = async () => {
      const headers = { "Content-Length": String(filled) };
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

  async remove(id: string): Promise<void> {
    for (const request of await this.#cache.keys()) {
      if (new URL(request.url).pathname.startsWith(`/${ROOT}/${id}/`)) await this.#cache.delete(request);
    }
  }

  /** How many parts there are, and the length of the last one. */
  async #extent(id: string, path: string): Promise<[parts: number, last: number]> {
    for (let parts = 0, last = 0; ; parts++) {
      const response = await this.#cache.match(this.#address(id, path, parts));
      if (!response) return [parts, last];
      last = Number(response.headers.get("Content-Length"));
    }
  }

  async #part(id: string, path: string, part: number): Promise<Bytes | null> {
    const response = await this.#cache.match(this.#address(id, path, part));
    return response ? new Uint8Array(await response.arrayBuffer()) : null;
  }

  #address(id: string, path: string, part: number): string {
    return `/${ROOT}/${id}/${encodeURIComponent(path)}?${part}`;
  }
}

/** A worker that was just stopped may hold a file for a moment yet. */
async function patiently<T>(action: () => Promise<T>): Promise<T> {
  for (let tries = 0; ; tries++) {
    try {
      return await action();
    } catch (error) {
      if (!isLocked(error) || tries === 10) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** Why a store refuses, in words for people where the browser's are for programmers. */
function reasonOf(error: unknown): string {
  const reasons: Record<string, string> = {
    NoModificationAllowedError: "another page is loading it",
    QuotaExceededError: "the browser gives this site no more room",
    SecurityError: "the browser does not allow this site to store anything",
  };
  return reasons[(error as Error).name] ?? messageOf(error);
}

/** Whether someone else has a file open. */
const isLocked = (error: unknown) => (error as DOMException).name === "NoModificationAllowedError";
