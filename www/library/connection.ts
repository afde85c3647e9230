// One request and its bytes, under a watch: what stalls is ended.
//
// Knows no file, no range and no retry.

import { ByteReader, type Bytes } from "./bytes.js";

/** Fewer bytes than this in the time of a stall are no progress: a server that drips must not hold a load for hours. */
export const TRICKLE = 1024;

/** One request, which ends when less than a trickle comes for `stall` milliseconds. */
export class Connection {
  stalled = false;
  /** Whether the error under way comes from the connection, and not from who consumes its bytes. */
  broken = false;
  /** Milliseconds waited for, and bytes that came, since it last was no trickle. */
  #waited = 0;
  #came = 0;
  #abort = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #stall: number;
  #reader: ByteReader | null = null;

  constructor(stall: number, signal: AbortSignal | undefined) {
    this.#stall = stall;
    signal?.addEventListener("abort", () => this.#abort.abort(), { signal: this.#abort.signal });
  }

  async fetch(url: string, init: RequestInit): Promise<Response> {
    const response = await this.#watched(fetch(url, { ...init, signal: this.#abort.signal }));
    this.#reader = response.body && new ByteReader(response.body);
    return response;
  }

  /** The body's bytes, each chunk valid until the next one is asked for. */
  async *chunks(): AsyncGenerator<Bytes> {
    const reader = this.#reader;
    for (let chunk: Bytes | null; reader && (chunk = await this.#watched(reader.read())); ) {
      this.#came += chunk.length;
      if (this.#came >= TRICKLE) this.#came = this.#waited = 0;
      yield chunk;
    }
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#abort.abort();
  }

  async #watched<T>(promise: Promise<T>): Promise<T> {
    this.broken = true;
    const begin = performance.now();
    const abort = () => {
      this.stalled = true;
      this.#abort.abort();
    };
    this.#timer = setTimeout(abort, Math.max(this.#stall - this.#waited, 1));
    const value = await promise;
    clearTimeout(this.#timer);
    this.#waited += performance.now() - begin;
    this.broken = false;
    return value;
  }
}
