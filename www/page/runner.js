// Who may use the model: one run at a time.
//
// What a person asks for by a button runs at once and refuses a second one; what the page draws by itself, after a slider
// or in view of a figure, waits behind it and gives way to it.

/** @typedef {(sampler: import("../consistency-sampler.js").ConsistencySampler, signal: AbortSignal) => Promise<void>} Work */

export class Runner {
  /** The loaded model; null when there is none. */
  sampler = null;
  /** Called with whether a person's run is under way, when that changes. */
  onBusy = () => {};
  /** Called with errors of what the page draws by itself. */
  onError = () => {};
  #run = null;
  #aside = null;
  /** What waits, by the key that it replaces. @type {Map<string, Work>} */
  #waiting = new Map();

  get busy() {
    return this.#run !== null;
  }

  /** Takes another model, or none; runs on the one before are ended. */
  use(sampler) {
    this.cancel();
    this.#aside?.abort();
    this.#waiting.clear();
    this.sampler?.dispose();
    this.sampler = sampler;
  }

  /** Runs what a person asked for; false if another such run is under way, or no model is there. */
  async run(work) {
    const { sampler } = this;
    if (this.#run || !sampler) return false;
    const run = (this.#run = new AbortController());
    this.onBusy(true);
    try {
      this.#aside?.abort();
      await this.#aside?.ended;
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
  cancel() {
    this.#run?.abort();
  }

  /** Does `work` when nothing else is to be done; one that still waits under the same key is replaced. */
  latest(key, work) {
    this.#waiting.set(key, work);
    this.#next();
  }

  /** Forgets what waits under a key. */
  drop(key) {
    this.#waiting.delete(key);
  }

  async #next() {
    const { sampler } = this;
    if (!sampler || this.#run || this.#aside || !this.#waiting.size) return;
    const [[key, work]] = this.#waiting;
    this.#waiting.delete(key);
    const aside = (this.#aside = new AbortController());
    aside.ended = work(sampler, aside.signal).catch((error) => {
      if (error.name === "AbortError") {
        // It gave way, and is still wanted unless something newer is.
        if (sampler === this.sampler && !this.#waiting.has(key)) this.#waiting.set(key, work);
      } else if (error.code !== "disposed") {
        this.onError(error);
      }
    });
    await aside.ended;
    this.#aside = null;
    this.#next();
  }
}
