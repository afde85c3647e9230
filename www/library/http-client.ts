// How requests for a model are made: which origins may be asked, what is tried again, what counts as absent.
//
// Knows no DOM, no cache and no model. Every request for a model's files passes `send`.

import type { Bytes } from "./bytes.js";
import { Connection } from "./connection.js";
import { ConsistencySamplerError, messageOf } from "./error.js";
import type { Patience, Retry } from "./types.js";

const PATIENCE: Patience = { tries: 5, delay: 500, stall: 20_000 };

/** Answers that another request may better, as those from 500 on but 501 (a method that is not implemented) may. */
const TRANSIENT = [408, 425, 429];
/** Answers that say that there is no such file. */
const ABSENT = [404, 410];

/** Why a page gets no answer that its server gave. */
const UNREADABLE = "its server does not permit other sites to read it (no Access-Control-Allow-Origin)";

/** Bytes of the largest small file: ten times the index of the largest sharded model, and nothing that fills a memory. */
const LARGEST = 16e6;

export interface ClientOptions {
  patience?: Partial<Patience> | undefined;
  /** The one origin that may be asked, redirects included; every one when left out. */
  origin?: string | null;
  /** Told of each wait before another try. */
  onRetry?: (retry: Retry) => void;
  /** Ends every request at once. */
  signal?: AbortSignal;
}

/** What a server says of a file without sending it. */
export interface FileFacts {
  size: number | null;
  version: string | null;
  sha256: string | null;
}

/** A server answered with a status that is no success. */
export class StatusError extends ConsistencySamplerError {
  readonly status: number;

  constructor(url: string, response: Response) {
    super("http", `${url}: the server answered ${statusOf(response)}`);
    this.status = response.status;
  }
}

/** Another site answered, and does not permit this one to read the answer. */
class UnreadableError extends ConsistencySamplerError {}

/** Whether an error tells that a file could not be had now, which says nothing of whether it exists. */
export function isUnavailable(error: unknown): boolean {
  const { code, status } = error as { code?: unknown; status?: number };
  return code === "network" || (code === "http" && !ABSENT.includes(status as number));
}

export class HttpClient {
  readonly patience: Patience;
  readonly #options: ClientOptions;

  constructor(options: ClientOptions = {}) {
    this.patience = { ...PATIENCE, ...options.patience };
    this.#options = options;
  }

  /** A client that gives up early, for where something else serves as well. */
  hasty(): HttpClient {
    const { tries, delay, stall } = this.patience;
    const patience = { tries: Math.min(tries, 2), delay, stall: Math.min(stall, 5000) };
    return new HttpClient({ ...this.#options, patience });
  }

  connect(): Connection {
    return new Connection(this.patience.stall, this.#options.signal);
  }

  /** Sends one request on a connection. */
  async send(connection: Connection, url: string, init: RequestInit): Promise<Response> {
    const { origin, signal } = this.#options;
    signal?.throwIfAborted();
    if (!origin) return connection.fetch(url, init);
    if (new URL(url).origin !== origin) {
      throw new ConsistencySamplerError(
        "input",
        `${url}: expected an address of ${origin}, no other may be asked here`,
      );
    }
    // A frame without an origin cannot have the browser tell where a redirect leads, so that it follows none.
    const bound: RequestInit = self.origin === origin ? { mode: "same-origin" } : { redirect: "error" };
    return connection.fetch(url, { ...init, ...bound });
  }

  /** Whether a response asks for another try. */
  isTransient({ status }: Response): boolean {
    return TRANSIENT.includes(status) || (status >= 500 && status !== 501);
  }

  /** Why a request brought no response, or its body broke off; throws what is not the connection's fault. */
  async reasonOf(error: unknown, connection: Connection, url: string, response: Response | null): Promise<string> {
    const { signal, origin } = this.#options;
    signal?.throwIfAborted();
    if (error instanceof ConsistencySamplerError || !connection.broken) throw error;
    if (connection.stalled) return "nothing came for too long";
    if (!response && origin) return `${messageOf(error)} (a redirect to another site is not followed)`;
    if (!response && (await this.#answersUnread(url))) return UNREADABLE;
    return messageOf(error);
  }

  /** Waits before another try; throws when that was the last one, with `subject` before the reason. */
  async wait(attempt: number, subject: string, reason: string, response: Response | null): Promise<void> {
    const { tries, delay, stall } = this.patience;
    const { signal, onRetry } = this.#options;
    const asked = Number(response?.headers.get("Retry-After") ?? 0) * 1000 || 0;
    // Who is told to come later than a person waits gives up at once.
    if (attempt >= tries || asked > stall) {
      const later = asked ? `, to be asked again in ${asked / 1000} s` : "";
      throw new ConsistencySamplerError(reason === UNREADABLE ? "http" : "network", `${subject}: ${reason}${later}`);
    }
    const milliseconds = Math.max(delay * 2 ** (attempt - 1), asked);
    onRetry?.({ attempt, milliseconds, reason });
    await new Promise<unknown>((resolve) => {
      setTimeout(resolve, milliseconds);
      signal?.addEventListener("abort", resolve, { once: true });
    });
  }

  /** A small file, whole. */
  file(url: string): Promise<Bytes> {
    return this.#request(url, "GET", (response, connection) => bytesOf(url, response, connection));
  }

  /** A small file that a server may lack; then null. */
  optionalFile(url: string): Promise<Bytes | null> {
    return this.#optional(url, "GET", (response, connection) => bytesOf(url, response, connection));
  }

  /** What a server says of a file without sending it; null when it has no such file. */
  async probe(url: string): Promise<FileFacts | null> {
    // Some servers refuse HEAD.
    const facts = await this.#optional(url, "HEAD", async (response) => (response.ok ? factsOf(response) : "refused"));
    if (facts !== "refused") return facts;
    return this.#optional(url, "GET", async (response) => factsOf(check(url, response)));
  }

  async #request<T>(
    url: string,
    method: string,
    use: (response: Response, connection: Connection) => Promise<T>,
    optional = false,
  ): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const connection = this.connect();
      let response: Response | null = null;
      let reason: string;
      try {
        response = await this.send(connection, url, { method, cache: "no-cache" });
        if (!this.isTransient(response)) return await use(response, connection);
        reason = statusOf(response);
      } catch (error) {
        reason = await this.reasonOf(error, connection, url, response);
      } finally {
        connection.close();
      }
      if (reason === UNREADABLE && optional) throw new UnreadableError("http", reason);
      await this.wait(attempt, url, reason, response);
    }
  }

  /** What `use` makes of a response; null when there is no such file, or a web page in its place. */
  async #optional<T>(
    url: string,
    method: string,
    use: (response: Response, connection: Connection) => Promise<T>,
  ): Promise<T | null> {
    const unlessAbsent = async (response: Response, connection: Connection) =>
      ABSENT.includes(response.status) || (response.ok && isHtml(response)) ? null : use(response, connection);
    try {
      return await this.#request(url, method, unlessAbsent, true);
    } catch (error) {
      // Many sites permit others to read their files and not their 404s. Whether this was one cannot be told.
      if (error instanceof UnreadableError) return null;
      throw error;
    }
  }

  /** Whether a server of another origin answers, though this one may not read what. */
  async #answersUnread(url: string): Promise<boolean> {
    if (new URL(url).origin === location.origin) return false;
    const connection = this.connect();
    try {
      await connection.fetch(url, { method: "HEAD", mode: "no-cors", cache: "no-store" });
      return true;
    } catch {
      return false;
    } finally {
      connection.close();
    }
  }
}

/** The bytes of a response, which ends at once where it is longer than a small file may be. */
async function bytesOf(url: string, response: Response, connection: Connection): Promise<Bytes> {
  check(url, response);
  const chunks: Bytes[] = [];
  let length = 0;
  for await (const chunk of connection.chunks()) {
    length += chunk.length;
    if (length > LARGEST) {
      throw new ConsistencySamplerError("config", `${url}: expected at most ${LARGEST} bytes of text, found more`);
    }
    chunks.push(chunk.slice());
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

function factsOf(response: Response): FileFacts {
  const { headers } = response;
  // A hub's hash of a large file; on the way over a redirect it may get lost.
  const sha256 = /^"?([0-9a-f]{64})"?$/.exec(headers.get("X-Linked-ETag") ?? "")?.[1] ?? null;
  const size = (sha256 && Number(headers.get("X-Linked-Size"))) || lengthOf(response);
  return { size, version: versionOf(response), sha256 };
}

/** A successful response that is not a web page; many servers answer a wrong address with one. */
export function check(url: string, response: Response): Response {
  if (!response.ok) throw new StatusError(url, response);
  if (isHtml(response)) {
    throw new ConsistencySamplerError("http", `${url}: expected a model's file, found an HTML page`);
  }
  return response;
}

/** What names the version of the file that a response holds; null when the server does not say. */
export const versionOf = ({ headers }: Response) => headers.get("ETag") ?? headers.get("Last-Modified");
export const statusOf = ({ status, statusText }: Response) => `${status} ${statusText}`.trim();
const isHtml = ({ headers }: Response) => headers.get("Content-Type")?.startsWith("text/html") ?? false;
/** The length of a body that is sent as it is; null when it is not known. */
export const lengthOf = ({ headers }: Response) => {
  const length = headers.get("Content-Length") ?? "";
  return /^\d+$/.test(length) && !headers.has("Content-Encoding") ? Number(length) : null;
};
