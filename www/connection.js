// One request and its bytes, under a watch: what stalls is ended.
//
// Knows no file, no range and no retry.

import { ByteReader } from "./bytes.js";

/** Fewer bytes than this in the time of a stall are no progress: a server that drips must not hold a load for hours. */
export const TRICKLE = 1024;

/** What names the version of a file that a response holds; null when the server does not say. */
export const versionOf = ({ headers }) => headers.get("ETag") ?? headers.get("Last-Modified");

/** One request, which ends when less than a trickle comes for `stall` milliseconds. */
export class Connection {
  stalled = false;
  /** How many bytes came. */
  bytes = 0;
  /** Milliseconds waited for them. */
  #milliseconds = 0;
  /** Milliseconds waited for, and bytes that came, since it last was no trickle. */
  #waited = 0;
  #came = 0;
  #abort = new AbortController();
  #timer;
  #stall;
  #reader;
  /** Whether the error under way comes from the connection, and not from who consumes its bytes. */
  #waiting = false;

  constructor(stall, signal) {
    this.#stall = stall;
    signal?.addEventListener("abort", () => this.#abort.abort(), { signal: this.#abort.signal });
  }

  async fetch(url, headers) {
    const response = await this.#patiently(fetch(url, { headers, cache: "no-store", signal: this.#abort.signal }));
    this.#reader = response.body && new ByteReader(response.body);
    return response;
  }

  async *chunks() {
    for (let chunk; (chunk = await this.#patiently(this.#reader.read())); ) {
      this.bytes += chunk.length;
      this.#came += chunk.length;
      if (this.#came >= TRICKLE) this.#came = this.#waited = 0;
      yield chunk;
    }
  }

  /** Bytes a second, not counting the time that their reader took over them. */
  get rate() {
    return (1000 * this.bytes) / this.#milliseconds;
  }

  get broken() {
    return this.#waiting;
  }

  close() {
    clearTimeout(this.#timer);
    this.#abort.abort();
  }

  async #patiently(promise) {
    this.#waiting = true;
    const begin = performance.now();
    const abort = () => {
      this.stalled = true;
      this.#abort.abort();
    };
    this.#timer = setTimeout(abort, Math.max(this.#stall - this.#waited, 1));
    const value = await promise;
    clearTimeout(this.#timer);
    const milliseconds = performance.now() - begin;
    this.#waited += milliseconds;
    this.#milliseconds += milliseconds;
    this.#waiting = false;
    return value;
  }
}
