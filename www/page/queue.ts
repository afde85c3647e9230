// The queue for the model: one run at a time.
//
// What a person asks for by a button runs at once and refuses a second one; what the page draws by itself, after a slider
// or in view of a figure, waits behind it and gives way to it.

import type { ConsistencySampler } from "../consistency-sampler.js";
import { codeOf } from "../error.js";

export type Work = (sampler: ConsistencySampler, signal: AbortSignal) => Promise<void>;

export class Queue {
  /** The loaded model; null when there is none. */
  sampler: ConsistencySampler | null = null;
  /** Called with whether a person's run is under way, when that changes. */
  onBusy: (busy: boolean) => void = () => {};
  /** Called with errors of what the page draws by itself. */
  onError: (error: unknown) => void = () => {};
  #run: AbortController | null = null;
  /** What the page draws by itself, and when it will be over. */
  #background: { abort: AbortController; ended: Promise<void> } | null = null;
  /** What waits, by the key that it replaces. */
  #waiting = new Map<string, Work>();

  get busy(): boolean {
    return this.#run !== null;
  }

  /** Takes another model, or none; runs on the one before are ended. */
  use(sampler: ConsistencySampler | null): void {
    this.cancel();
    this.#background?.abort.abort();
    this.#waiting.clear();
    this.sampler?.dispose();
    this.sampler = sampler;
  }

  /** Runs what a person asked for; false if another such run is under way, or no model is there. */
  async run(work: Work): Promise<boolean> {
    const { sampler } = this;
    if (this.#run || !sampler) return false;
    const run = new AbortController();
    this.#run = run;
    this.onBusy(true);
    try {
      this.#background?.abort.abort();
      await this.#background?.ended;
      run.signal.throwIfAborted();
      await work(sampler, run.signal);
      return true;
    } finally {
      this.#run = null;
      this.onBusy(false);
      this.#next();
    }
  }

  /** Stops the person's run after the network call under way. */
  cancel(): void {
    this.#run?.abort();
  }

  /** Does `work` when nothing else is to be done; one that still waits under the same key is replaced. */
  latest(key: string, work: Work): void {
    this.#waiting.set(key, work);
    this.#next();
  }

  async #next(): Promise<void> {
    const { sampler } = this;
    const [next] = this.#waiting;
    if (!sampler || this.#run || this.#background || !next) return;
    const [key, work] = next;
    this.#waiting.delete(key);
    const abort = new AbortController();
    const background = { abort, ended: Promise.resolve() };
    this.#background = background;
    background.ended = work(sampler, abort.signal).catch((error: unknown) => {
      if (isAbort(error)) {
        // It gave way, and is still wanted unless something newer is.
        if (sampler === this.sampler && !this.#waiting.has(key)) this.#waiting.set(key, work);
      } else if (codeOf(error) !== "disposed") {
        this.onError(error);
      }
    });
    await background.ended;
    this.#background = null;
    this.#next();
  }
}

/** Whether an error says that a run was cancelled. */
export const isAbort = (error: unknown) => (error as Error).name === "AbortError";
