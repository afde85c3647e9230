// Files over HTTP, with patience: what breaks off or stalls is resumed at the byte where it was.
//
// Knows no DOM, no cache and no model. This is the only place of the page that sends requests for a model.

import type { Bytes } from "./bytes.js";
import { Connection, TRICKLE } from "./connection.js";
import { ConsistencySamplerError, failing, messageOf } from "./error.js";
import type { Patience, Retry } from "./types.js";

/** Yielded by `Download.chunks` when the bytes so far are void and come anew from the first one. */
export const RESTART = Symbol("restart");

const PATIENCE: Patience = { tries: 5, delay: 500, stall: 20_000 };

/** Answers that another request may better. */
const TRANSIENT = [408, 425, 429, 500, 502, 503, 504];

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

/** Who is told how a download goes. */
export interface Listeners {
  /** Awaited before the first bytes of a version. */
  onVersion?: () => Promise<void>;
  onRetry?: (retry: Retry) => void;
  /** Ends it at once. */
  signal?: AbortSignal;
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
  #patience: Patience;
  /** A hash will show whether the parts fit together, so a server without versions may be resumed too. */
  #hashed: boolean;

  constructor(
    url: string,
    { at = 0, version = null, size = null, hashed = false }: Known,
    patience: Partial<Patience> = {},
  ) {
    this.#url = url;
    this.#patience = { ...PATIENCE, ...patience };
    this.#hashed = hashed;
    this.#expected = size;
    this.at = at;
    this.version = version;
    this.size = size;
  }

  /** The file's remaining bytes, each chunk valid until the next one is asked for. */
  async *chunks({ onVersion, onRetry, signal }: Listeners = {}): AsyncGenerator<Bytes | typeof RESTART> {
    const { tries, delay, stall } = this.#patience;
    let farthest = this.at;
    for (let attempt = 1; this.size === null || this.at < this.size || this.at === 0; ) {
      if (this.at && !this.version && !this.#hashed) yield this.#restart();
      signal?.throwIfAborted();
      const connection = new Connection(stall, signal);
      let reason = "";
      let measured = false;
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
        signal?.throwIfAborted();
        if (error instanceof ConsistencySamplerError || !connection.broken) throw error;
        reason = connection.stalled ? "nothing came for too long" : messageOf(error);
        // Without a length, what broke off at the expected size may have been the beginning of something longer.
        if (this.at === this.size && !measured) yield this.#restart();
      } finally {
        connection.close();
      }
      // What ended by stalling counts as progress if it brought more than a trickle.
      const progress = this.at - farthest;
      if (progress >= (connection.stalled ? TRICKLE : 1)) attempt = 1;
      farthest = Math.max(farthest, this.at);
      if (attempt === tries) {
        throw new ConsistencySamplerError(
          "network",
          `${this.#url}: broken off after ${this.at || farthest} bytes: ${reason}`,
        );
      }
      const milliseconds = delay * 2 ** (attempt - 1);
      onRetry?.({ attempt, milliseconds, reason });
      await new Promise<unknown>((resolve) => {
        setTimeout(resolve, milliseconds);
        signal?.addEventListener("abort", resolve, { once: true });
      });
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

/** What a server says of a file without sending it, or null when it has no such file. */
export async function probe(
  url: string,
): Promise<{ size: number | null; version: string | null; sha256: string | null } | null> {
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
export async function fetchText(url: string): Promise<string> {
  return textOf(url, check(url, await request(url)));
}

/** The text of a file that a server may lack; then null. */
export async function fetchOptional(url: string): Promise<string | null> {
  const response = await optional(url);
  return response && textOf(url, response);
}

/** The whole text of a response, in UTF-8, which ends at once where it is longer than a text may be. */
async function textOf(url: string, response: Response): Promise<string> {
  const decoder = new TextDecoder();
  let [text, bytes] = ["", 0];
  await failing("network", url, async () => {
    const reader = response.body?.getReader();
    for (let value: Bytes | undefined; (value = (await reader?.read())?.value); ) {
      bytes += value.length;
      if (bytes > MOST_TEXT) {
        reader?.cancel().catch(() => {});
        throw new ConsistencySamplerError("config", `${url}: expected at most ${MOST_TEXT} bytes of text, found more`);
      }
      text += decoder.decode(value, { stream: true });
    }
  });
  return text + decoder.decode();
}

/** Small files are asked for a second time when the first request breaks; large ones have `Download`. */
async function request(url: string, init?: RequestInit): Promise<Response> {
  const once = () => fetch(url, { cache: "no-cache", ...init });
  return failing("network", url, () => once().catch(once));
}

/** The response for a file that may be missing; then null. */
async function optional(url: string, init?: RequestInit): Promise<Response | null> {
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
function check(url: string, response: Response): Response {
  if (!response.ok) throw new ConsistencySamplerError("http", `${url}: the server answered ${statusOf(response)}`);
  if (isHtml(response))
    throw new ConsistencySamplerError("http", `${url}: expected a model's file, found an HTML page`);
  return response;
}

/** What names the version of the file that a response holds; null when the server does not say. */
const versionOf = ({ headers }: Response) => headers.get("ETag") ?? headers.get("Last-Modified");
const statusOf = ({ status, statusText }: Response) => `${status} ${statusText}`.trim();
const isHtml = ({ headers }: Response) => headers.get("Content-Type")?.startsWith("text/html") ?? false;
const lengthOf = ({ headers }: Response) => {
  const length = headers.get("Content-Length") ?? "";
  return /^\d+$/.test(length) && !headers.has("Content-Encoding") ? Number(length) : null;
};
