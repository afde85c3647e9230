// Where a converted model goes: a folder that a person chooses, or a .zip file that the browser downloads.

import { type Bytes, bytesOf } from "../bytes.js";
import { crc32 } from "./crc32.js";
import { element } from "./dom.js";
import { type Member, zip } from "./zip.js";

/** A file that is written at any position. */
export interface Writable {
  write(position: number, bytes: Bytes): Promise<void>;
  /** The file, once all of it is written. */
  close(): Promise<Blob>;
}

export interface Output {
  /** Makes an empty file; `size` is the length that it will have. */
  create(path: string, size: number): Promise<Writable>;
  /** Every file is there. */
  finish(): Promise<void>;
  /** Takes back what was written. */
  abandon(): Promise<void>;
}

/** Whether this browser lets a person choose a folder to write to. */
export const choosesFolders = () => "showDirectoryPicker" in window;

/** A new folder within one that a person chooses. */
export async function chooseFolder(name: string): Promise<Output> {
  const parent = await window.showDirectoryPicker({ id: "models", mode: "readwrite" });
  const absent = (error: DOMException) => error.name === "NotFoundError";
  if (!(await parent.getDirectoryHandle(name).then(() => false, absent))) {
    throw new Error(`expected no ${name} in the folder ${parent.name}, found one`);
  }
  const folder = await parent.getDirectoryHandle(name, { create: true });
  const streams: FileSystemWritableFileStream[] = [];
  return {
    async create(path) {
      const parts = path.split("/");
      const last = parts.pop() as string;
      let place = folder;
      for (const part of parts) place = await place.getDirectoryHandle(part, { create: true });
      return writer(await place.getFileHandle(last, { create: true }), streams);
    },
    async finish() {},
    async abandon() {
      await abort(streams);
      await parent.removeEntry(name, { recursive: true });
    },
  };
}

/** Where the weights of an archive lie until it is downloaded, in the origin's private file system. */
const SCRATCH = "consistency-sampler-page";
/** After so many milliseconds what lies there counts as downloaded. */
const KEPT = 3_600_000;

/** An archive named `name`.zip with one folder, which is downloaded when it is finished. */
export async function archive(name: string): Promise<Output> {
  const scratch = await openScratch();
  const blobs = new Map<string, Blob>();
  const made: string[] = [];
  const streams: FileSystemWritableFileStream[] = [];
  return {
    async create(path, size) {
      const file = await create(size);
      return {
        write: (position, bytes) => file.write(position, bytes),
        async close() {
          const blob = await file.close();
          blobs.set(path, blob);
          return blob;
        },
      };
    },
    async finish() {
      const members: Member[] = [];
      for (const [path, data] of [...blobs].sort(([a], [b]) => (a < b ? -1 : 1))) {
        let crc = 0;
        for await (const chunk of bytesOf(data.stream())) crc = crc32(chunk, crc);
        members.push({ path: `${name}/${path}`, data, crc });
      }
      const url = URL.createObjectURL(zip(members));
      element("a", { href: url, download: `${name}.zip` }).click();
      setTimeout(() => URL.revokeObjectURL(url), KEPT);
    },
    async abandon() {
      await abort(streams);
      for (const name of made) await scratch?.removeEntry(name);
    },
  };

  /** Long files lie on the disk where the browser allows it; it keeps the others as it sees fit. */
  async function create(size: number): Promise<Writable> {
    if (!scratch || size < 1e6) return collector();
    const name = crypto.randomUUID();
    made.push(name);
    return writer(await scratch.getFileHandle(name, { create: true }), streams);
  }
}

/** The folder for archives, without what lies there from before; null where the browser has none to offer. */
async function openScratch(): Promise<FileSystemDirectoryHandle | null> {
  try {
    if (!("createWritable" in FileSystemFileHandle.prototype)) return null;
    const root = await navigator.storage.getDirectory();
    const folder = await root.getDirectoryHandle(SCRATCH, { create: true });
    for await (const [name, handle] of folder.entries()) {
      const { lastModified } = await (handle as FileSystemFileHandle).getFile();
      if (lastModified < Date.now() - KEPT) await folder.removeEntry(name).catch(() => {});
    }
    return folder;
  } catch {
    return null;
  }
}

/** A writer of a file on the disk; its stream joins those that a failure ends. */
async function writer(handle: FileSystemFileHandle, streams: FileSystemWritableFileStream[]): Promise<Writable> {
  const stream = await handle.createWritable();
  streams.push(stream);
  return {
    write: (position, data) => stream.write({ type: "write", position, data }),
    async close() {
      await stream.close();
      return handle.getFile();
    },
  };
}

/** Ends what is still open, for an open file cannot be deleted. */
async function abort(streams: FileSystemWritableFileStream[]): Promise<void> {
  for (const stream of streams) await stream.abort().catch(() => {});
}

/** A file that the browser keeps. */
function collector(): Writable {
  const pieces: [position: number, piece: Blob][] = [];
  return {
    async write(position, bytes) {
      pieces.push([position, new Blob([bytes])]);
    },
    close: async () => new Blob(pieces.sort(([a], [b]) => a - b).map(([, piece]) => piece)),
  };
}
