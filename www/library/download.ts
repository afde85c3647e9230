// A large file over HTTP: what breaks off or stalls is resumed at the byte where it was.
//
// Knows no DOM, no cache and no model.

import type { Bytes } from "./bytes.js";
import { TRICKLE } from "./connection.js";
import { ConsistencySamplerError } from "./error.js";
import { check, type HttpClient, lengthOf, statusOf, versionOf } from "./http-client.js";

/** Yielded by `Download.chunks` when the bytes so far are void and come anew from the first one. */
export const RESTART = Symbol("restart");

/** What is known of a file before its first byte comes. */
export interface Known {
  /** How many bytes are there already. */
  at?: number;
  /** Of which version they are. */
  version?: string | null;
  /** The length that the file must have. */
  size?: number | null;
  /** Whether the whole is going to be checked against a hash. */
  hashed?: boolean;
}

/** The file that is being received, byte by byte from wherever it stood. */
export class Download {
  /** How many of the file's bytes have come. */
  at: number;
  /** What names this version of the file: its ETag, or the time of its last change; null when the server has none. */
  version: string | null;
  /** The file's length; null as long as it is not known. */
  size: number | null;
  #url: string;
  #expected: number | null;
  #client: HttpClient;
  /** A hash will show whether the parts fit together, so a server without versions may be resumed too. */
  #hashed: boolean;

  constructor(url: string, { at = 0, version = null, size = null, hashed = false }: Known, client: HttpClient) {
    this.#url = url;
    this.#client = client;
    this.#hashed = hashed;
    this.#expected = size;
    this.at = at;
    this.version = version;
    this.size = size;
  }

  /**
   * The file's remaining bytes, each chunk valid until the next one is asked for.
   *
   * @param onVersion awaited before the first bytes of a version
   */
  async *chunks(onVersion?: () => Promise<void>): AsyncGenerator<Bytes | typeof RESTART> {
    let farthest = this.at;
    for (let attempt = 1; this.size === null || this.at < this.size || this.at === 0; ) {
      if (this.at && !this.version && !this.#hashed) yield this.#restart();
      const connection = this.#client.connect();
      let response: Response | null = null;
      let reason = "";
      let measured = false;
      try {
        response = await this.#client.send(connection, this.#url, { headers: this.#headers(), cache: "no-store" });
        if (this.#client.isTransient(response)) {
          reason = statusOf(response);
        } else if (this.at && (response.ok || response.status === 416) && !this.#continues(response)) {
          // Another version, or a server that knows no ranges and sends the whole.
          yield this.#restart();
          if (response.status !== 200) reason = "the server has another version of the file, or a shorter one";
        }
        if (!reason) {
          check(this.#url, response);
          measured = this.#describe(response);
          await onVersion?.();
          for await (const chunk of connection.chunks()) {
            this.at += chunk.length;
            if (this.size !== null && this.at > this.size) {
              throw new ConsistencySamplerError(
                "weights",
                `${this.#url}: expected ${this.size} bytes, the server sends more`,
              );
            }
            yield chunk;
          }
          if (this.size === null || this.at === this.size) return;
          reason = "the server closed the connection early";
        }
      } catch (error) {
        reason = await this.#client.reasonOf(error, connection, this.#url, response);
        // Without a length, what broke off at the expected size may have been the beginning of something longer.
        if (this.at === this.size && !measured) yield this.#restart();
      } finally {
        connection.close();
      }
      // What ended by stalling counts as progress if it brought more than a trickle.
      const progress = this.at - farthest;
      if (progress >= (connection.stalled ? TRICKLE : 1)) attempt = 1;
      farthest = Math.max(farthest, this.at);
      await this.#client.wait(attempt, `${this.#url}: broken off after ${this.at || farthest} bytes`, reason, response);
      attempt++;
    }
  }

  #restart(): typeof RESTART {
    [this.at, this.version, this.size] = [0, null, this.#expected];
    return RESTART;
  }

  #headers(): Record<string, string> {
    if (!this.at) return {};
    const headers: Record<string, string> = { Range: `bytes=${this.at}-` };
    // Across origins, If-Range would need a preflight, which the file servers behind hubs refuse; there the answer's
    // version is compared when it is in, and one that differs is thrown away.
    const near = new URL(this.#url).origin === location.origin;
    if (near && this.version && !this.version.startsWith("W/")) headers["If-Range"] = this.version;
    return headers;
  }

  /** Whether a response continues the bytes that are there. */
  #continues(response: Response): boolean {
    if (response.status !== 206) return false;
    const version = versionOf(response);
    if (version && this.version && version !== this.version) return false;
    const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get("Content-Range") ?? "");
    if (!range) return this.#hashed;
    return Number(range[1]) === this.at && (range[2] === "*" || !this.size || Number(range[2]) === this.size);
  }

  /** Takes over what a response says of the file, which must agree with what is known; whether it says the length. */
  #describe(response: Response): boolean {
    const length = lengthOf(response);
    if (length === null) {
      // A compressed body: its bytes cannot be counted, nor asked for by number.
      if (response.headers.has("Content-Encoding")) this.version = null;
      else this.version ??= versionOf(response);
      return false;
    }
    const size = this.at + length;
    if (this.#expected !== null && size !== this.#expected) {
      throw new ConsistencySamplerError(
        "weights",
        `${this.#url}: expected ${this.#expected} bytes, the server has ${size}`,
      );
    }
    this.size = size;
    this.version ??= versionOf(response);
    return true;
  }
}
