/** What went wrong, as a word to decide by. */
export type ErrorCode =
  /** No usable WebGPU, and the CPU not wanted, or no worker starts here. */
  | "unsupported"
  /** No answer, or one that broke off, for the worker's script too. */
  | "network"
  /** A status other than success, or a web page in place of a file. */
  | "http"
  /** A configuration of the model that is malformed, or asks for what is not supported. */
  | "config"
  /** Weights that are not what they should be, by form, length or SHA-256. */
  | "weights"
  /** An option or an attribute that is out of its range. */
  | "input"
  /** The GPU is too small for the model, or gave up. */
  | "gpu"
  /**
   * The GPU was lost, and again while what was under way was done anew, so that only the next call brings the model back.
   */
  | "lost"
  /** Another call of this sampler is running. */
  | "busy"
  /** `dispose()` was called. */
  | "disposed"
  /** Anything else. */
  | "failed";

/** What went wrong, in one line (`message`) and as a word to decide by (`code`). */
export class ConsistencySamplerError extends Error {
  override readonly name = "ConsistencySamplerError";
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/**
 * Does something; its error gets a subject before its message, and a code unless that is null and it brings its own.
 *
 * @internal
 */
export async function failing<T>(code: ErrorCode | null, subject: string, action: () => Promise<T> | T): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw typed(code, subject, error);
  }
}

/**
 * The error that was thrown, with a subject and a code as `failing` gives them.
 *
 * @internal
 */
export function typed(code: ErrorCode | null, subject: string, error: unknown): ConsistencySamplerError {
  if (error instanceof ConsistencySamplerError) return error;
  return new ConsistencySamplerError(code ?? codeOf(error), `${subject}: ${messageOf(error)}`, { cause: error });
}

/**
 * The code that these files or the WebAssembly module gave an error; a browser's own have numbers or nothing.
 *
 * @internal
 */
export function codeOf(error: unknown): ErrorCode {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === "string" ? (code as ErrorCode) : "failed";
}

/**
 * What an error says; anything can be thrown.
 *
 * @internal
 */
export function messageOf(error: unknown): string {
  return (error as { message?: string } | null)?.message ?? String(error);
}
