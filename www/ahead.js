// Parts of a file that are fetched at once, ahead of the one that is being read, and given out in order: servers that
// throttle each connection then send several times as much.
//
// Nothing is decided here about what a failure means: the bytes end, `reason` says why, and `Download` goes on alone.

import { Connection, versionOf } from "./connection.js";

/**
 * @typedef {object} Parallel
 * @property {number} connections  how many parts are fetched at once
 * @property {number} part  bytes of a part; so many of each are held at most
 * @property {number} after  bytes that the first connection brings before it is judged
 * @property {number} below  bytes a second that are too few for more connections to be of no use
 */

/** @type {Parallel} */
export const AHEAD = { connections: 3, part: 4 << 20, after: 4 << 20, below: 20e6 };

export class Ahead {
  /** The first byte of the first part. */
  from;
  /** Why the bytes ended before the file did; null while they have not. */
  reason = null;
  #parts = [];
  #next;
  #open;
  #limits;

  /**
   * @param {number} from  where the first part begins
   * @param {(range: string) => [string, object]} ask  address and headers for a range
   * @param {{ size: number, version: ?string, hashed: boolean }} file  what each answer must agree with
   * @param {Parallel & { stall: number }} limits
   * @param {AbortSignal} [signal]
   */
  constructor(from, ask, file, limits, signal) {
    this.from = this.#next = from;
    this.#limits = { ...limits, size: file.size };
    this.#open = (range, buffer) => new Part(range, buffer, ask, file, new Connection(limits.stall, signal));
    for (let i = 0; i < limits.connections; i++) this.#begin(new Uint8Array(limits.part));
  }

  /** Whether who has read up to `from` may leave the rest to these parts. */
  get isGood() {
    return this.#parts[0].isGood;
  }

  /** The file from `from` to its end, each chunk valid until the next one is asked for. */
  async *chunks() {
    for (let part; (part = this.#parts[0]); this.#parts.shift(), this.#begin(part.buffer)) {
      for (let bytes; (bytes = await part.read()); ) yield bytes;
      if (part.reason !== null) {
        this.reason = part.reason;
        return;
      }
    }
  }

  /** Ends all requests; null, to forget it by. */
  close() {
    for (const part of this.#parts) part.close();
    return null;
  }

  #begin(buffer) {
    const { part, size } = this.#limits;
    const [from, to] = [this.#next, Math.min(this.#next + part, size)];
    if (from >= size) return;
    this.#parts.push(this.#open({ from, to }, buffer));
    this.#next = to;
  }
}

/** One part on its way. */
class Part {
  /** Reused for a later one. */
  buffer;
  reason = null;
  /** Whether the server's answer is what was asked for. */
  #answered = false;
  #ended = false;
  #filled = 0;
  #given = 0;
  #connection;
  #wake = () => {};

  constructor(range, buffer, ask, file, connection) {
    this.buffer = buffer;
    this.#connection = connection;
    this.#fill(range, ask, file);
  }

  get isGood() {
    return this.#answered && this.reason === null;
  }

  /** The bytes that have come since, as soon as there are any; null at the end. */
  async read() {
    while (this.#given === this.#filled && !this.#ended) await new Promise((resolve) => (this.#wake = resolve));
    const bytes = this.buffer.subarray(this.#given, this.#filled);
    this.#given = this.#filled;
    return bytes.length ? bytes : null;
  }

  close() {
    this.#connection.close();
  }

  async #fill({ from, to }, ask, file) {
    const connection = this.#connection;
    try {
      const response = await connection.fetch(...ask(`${from}-${to - 1}`));
      if (!isPart(response, from, to, file)) throw new Error("the server has no such part of this version");
      this.#answered = true;
      for await (const chunk of connection.chunks()) {
        if (this.#filled + chunk.length > to - from) throw new Error("the server sends more than was asked for");
        this.buffer.set(chunk, this.#filled);
        this.#filled += chunk.length;
        this.#wake();
      }
      if (this.#filled < to - from) throw new Error("the server closed the connection early");
    } catch (error) {
      this.reason = connection.stalled ? "nothing came for too long" : (error.message ?? String(error));
    }
    this.#ended = true;
    connection.close();
    this.#wake();
  }
}

/** Whether a response holds the bytes `from` up to `to` of the file. */
function isPart(response, from, to, { size, version, hashed }) {
  const { status, headers } = response;
  if (status !== 206 || headers.has("Content-Encoding")) return false;
  const found = versionOf(response);
  if (version && found ? found !== version : !hashed) return false;
  const range = headers.get("Content-Range");
  // Another origin may hide it; then the hash must do.
  return range === null ? hashed : range === `bytes ${from}-${to - 1}/${size}`;
}
