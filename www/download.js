// Files over HTTP, with patience: what breaks off or stalls is resumed at the byte where it was.
//
// Knows no DOM, no cache and no model. This is the only place of the page that sends requests for a model.

import { AHEAD, Ahead } from "./ahead.js";
import { Connection, TRICKLE, versionOf } from "./connection.js";

/** An error with a code of ConsistencySamplerError. */
export class Failure extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** Yielded by `Download.chunks` when the bytes so far are void and come anew from the first one. */
export const RESTART = Symbol("restart");

/**
 * @typedef {object} Patience
 * @property {number} tries  how many requests in a row may bring nothing new
 * @property {number} delay  milliseconds before the second of them; each further one waits twice as long
 * @property {number} stall  milliseconds after which a connection counts as broken if fewer than 1024 bytes came in them
 * @property {import("./ahead.js").Parallel} ahead  when more connections than one are used
 */

/** @type {Patience} */
export const PATIENCE = { tries: 5, delay: 500, stall: 20_000, ahead: AHEAD };

/** Answers that another request may better. */
const TRANSIENT = [408, 425, 429, 500, 502, 503, 504];

/** The file that is being received, byte by byte from wherever it stood. */
export class Download {
  /** How many of the file's bytes have come. */
  at;
  /** What names this version of the file: its ETag, or the time of its last change; null when the server has none. */
  version;
  /** The file's length; null as long as it is not known. */
  size;
  #url;
  #expected;
  #patience;
  /** A hash will show whether the parts fit together, so a server without versions may be resumed too. */
  #hashed;
  /** Whether it has been tried to fetch several parts at once: what fails there goes on alone. */
  #parallel = false;

  /**
   * @param {string} url
   * @param {object} known
   * @param {number} [known.at]  how many bytes are there already
   * @param {?string} [known.version]  of which version they are
   * @param {?number} [known.size]  the length that the file must have
   * @param {boolean} [known.hashed]  whether the whole is going to be checked against a hash
   * @param {Partial<Patience>} [patience]
   */
  constructor(url, { at = 0, version = null, size = null, hashed = false }, patience = {}) {
    this.#url = url;
    this.#patience = { ...PATIENCE, ...patience };
    this.#hashed = hashed;
    this.#expected = size;
    this.at = at;
    this.version = version;
    this.size = size;
  }

  /**
   * The file's remaining bytes, each chunk valid until the next one is asked for.
   *
   * @param {object} [listeners]
   * @param {() => Promise<void>} [listeners.onVersion]  awaited before the first bytes of a version
   * @param {(retry: { attempt: number, milliseconds: number, reason: string }) => void} [listeners.onRetry]
   * @param {AbortSignal} [listeners.signal]  ends it at once
   * @returns {AsyncGenerator<Uint8Array | RESTART>}
   */
  async *chunks({ onVersion, onRetry, signal } = {}) {
    const { tries, delay } = this.#patience;
    let farthest = this.at;
    for (let attempt = 1; this.size === null || this.at < this.size || this.at === 0; ) {
      if (this.at && !this.version && !this.#hashed) yield this.#restart();
      signal?.throwIfAborted();
      const connection = new Connection(this.#patience.stall, signal);
      let [reason, ahead, measured] = [null, null, false];
      try {
        const response = await connection.fetch(this.#url, this.#headers());
        if (TRANSIENT.includes(response.status)) {
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
            let bytes = chunk;
            if (ahead && this.at + chunk.length >= ahead.from) {
              if (ahead.isGood) bytes = chunk.subarray(0, ahead.from - this.at);
              else ahead = ahead.close();
            }
            this.at += bytes.length;
            if (this.size !== null && this.at > this.size) {
              throw new Failure("weights", `${this.#url}: expected ${this.size} bytes, the server sends more`);
            }
            yield bytes;
            if (this.at === ahead?.from) break;
            ahead ??= this.#runAhead(connection, response, signal);
          }
          if (this.at === ahead?.from) {
            connection.close();
            for await (const chunk of ahead.chunks()) {
              this.at += chunk.length;
              yield chunk;
            }
            signal?.throwIfAborted();
            reason = ahead.reason;
          }
          if (this.size === null || this.at === this.size) return;
          reason ??= "the server closed the connection early";
        }
      } catch (error) {
        signal?.throwIfAborted();
        if (error instanceof Failure || !connection.broken) throw error;
        reason = connection.stalled ? "nothing came for too long" : (error.message ?? String(error));
        // Without a length, what broke off at the expected size may have been the beginning of something longer.
        if (this.at === this.size && !measured) yield this.#restart();
      } finally {
        connection.close();
        ahead?.close();
      }
      // What ended by stalling counts as progress if it brought more than a trickle.
      const progress = this.at - farthest;
      if (progress >= (connection.stalled ? TRICKLE : 1)) attempt = 1;
      farthest = Math.max(farthest, this.at);
      if (attempt === tries) {
        throw new Failure("network", `${this.#url}: broken off after ${this.at || farthest} bytes: ${reason}`);
      }
      const milliseconds = delay * 2 ** (attempt - 1);
      onRetry?.({ attempt, milliseconds, reason });
      await new Promise((resolve) => {
        setTimeout(resolve, milliseconds);
        signal?.addEventListener("abort", resolve, { once: true });
      });
      attempt++;
    }
  }

  #restart() {
    [this.at, this.version, this.size] = [0, null, this.#expected];
    return RESTART;
  }

  /** Opens more connections where they may help: when this one is slow, much is left, and the server gives parts. */
  #runAhead(connection, response, signal) {
    const { part, after, below } = this.#patience.ahead;
    const resumable = this.size !== null && (this.version || this.#hashed);
    const gives = response.status === 206 || response.headers.get("Accept-Ranges") === "bytes";
    if (this.#parallel || !resumable || !gives || connection.bytes < after || this.size - this.at < 2 * part) return null;
    if (connection.rate > below) return null;
    this.#parallel = true;
    const { ahead, stall } = this.#patience;
    const expected = { size: this.size, version: this.version, hashed: this.#hashed };
    const ask = (range) => [this.#url, this.#headers(range)];
    return new Ahead(this.at + part, ask, expected, { ...ahead, stall }, signal);
  }

  #headers(range = this.at ? `${this.at}-` : null) {
    if (!range) return {};
    const headers = { Range: `bytes=${range}` };
    // Across origins, If-Range would need a preflight, which the file servers behind hubs refuse; there the answer's
    // version is compared when it is in, and one that differs is thrown away.
    const near = new URL(this.#url).origin === location.origin;
    if (near && this.version && !this.version.startsWith("W/")) headers["If-Range"] = this.version;
    return headers;
  }

  /** Whether a response continues the bytes that are there. */
  #continues(response) {
    if (response.status !== 206) return false;
    const version = versionOf(response);
    if (version && this.version && version !== this.version) return false;
    const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get("Content-Range") ?? "");
    if (!range) return this.#hashed;
    return Number(range[1]) === this.at && (range[2] === "*" || !this.size || Number(range[2]) === this.size);
  }

  /** Takes over what a response says of the file, which must agree with what is known; whether it says the length. */
  #describe(response) {
    const length = lengthOf(response);
    if (length === null) {
      // A compressed body: its bytes cannot be counted, nor asked for by number.
      if (response.headers.has("Content-Encoding")) this.version = null;
      else this.version ??= versionOf(response);
      return false;
    }
    const size = this.at + length;
    if (this.#expected !== null && size !== this.#expected) {
      throw new Failure("weights", `${this.#url}: expected ${this.#expected} bytes, the server has ${size}`);
    }
    this.size = size;
    this.version ??= versionOf(response);
    return true;
  }
}

/** What a server says of a file without sending it: `{ size, version, sha256 }`, or null when it has no such file. */
export async function probe(url) {
  const response = await optional(url, { method: "HEAD" });
  if (!response) return null;
  const { headers } = response;
  // A hub's hash of a large file; on the way over a redirect it may get lost.
  const sha256 = /^"?([0-9a-f]{64})"?$/.exec(headers.get("X-Linked-ETag") ?? "")?.[1] ?? null;
  const size = (sha256 && Number(headers.get("X-Linked-Size"))) || lengthOf(response);
  return { size, version: versionOf(response), sha256 };
}

/** Bytes of the largest text: ten times the index of the largest sharded model, and nothing that fills a memory. */
const MOST_TEXT = 16e6;

/** The text of a small file. */
export async function fetchText(url) {
  return textOf(url, check(url, await request(url)));
}

/** The text of a file that a server may lack; then null. */
export async function fetchOptional(url) {
  const response = await optional(url);
  return response && textOf(url, response);
}

/** The whole text of a response, in UTF-8, which ends at once where it is longer than a text may be. */
async function textOf(url, response) {
  const decoder = new TextDecoder();
  let [text, bytes] = ["", 0];
  await failing("network", url, async () => {
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      bytes += part.value.length;
      if (bytes > MOST_TEXT) {
        reader.cancel().catch(() => {});
        throw new Failure("config", `${url}: expected at most ${MOST_TEXT} bytes of text, found more`);
      }
      text += decoder.decode(part.value, { stream: true });
    }
  });
  return text + decoder.decode();
}

/** Does something; its error gets a subject before its message, and a code unless that is null and it brings its own. */
export async function failing(code, subject, action) {
  try {
    return await action();
  } catch (error) {
    if (error instanceof Failure) throw error;
    throw Object.assign(new Failure(code ?? codeOf(error), `${subject}: ${error.message ?? error}`), { cause: error });
  }
}

/** The code that these files or the WebAssembly module gave an error; a browser's own have numbers or nothing. */
export function codeOf(error) {
  return typeof error?.code === "string" ? error.code : "failed";
}

/** Small files are asked for a second time when the first request breaks; large ones have `Download`. */
async function request(url, init) {
  const once = () => fetch(url, { cache: "no-cache", ...init });
  return failing("network", url, () => once().catch(once));
}

/** The response for a file that may be missing; then null. */
async function optional(url, init) {
  try {
    const response = await request(url, init);
    return response.ok && !isHtml(response) ? response : null;
  } catch (error) {
    // Another site's 404 may lack the permission to be read, and then looks like no connection. If there is none, the
    // files that must be there will show it.
    if (new URL(url).origin === location.origin) throw error;
    return null;
  }
}

/** A successful response that is not a web page; many servers answer a wrong address with one. */
function check(url, response) {
  if (!response.ok) throw new Failure("http", `${url}: the server answered ${statusOf(response)}`);
  if (isHtml(response)) throw new Failure("http", `${url}: expected a model's file, found an HTML page`);
  return response;
}

const statusOf = ({ status, statusText }) => `${status} ${statusText}`.trim();
const isHtml = ({ headers }) => headers.get("Content-Type")?.startsWith("text/html") ?? false;
const lengthOf = ({ headers }) => {
  const length = headers.get("Content-Length") ?? "";
  return /^\d+$/.test(length) && !headers.has("Content-Encoding") ? Number(length) : null;
};
