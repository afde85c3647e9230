// A run as the page has it: the worker that trains, replaced when it fails, and what it says.

import type { Bytes } from "../bytes.js";
import type { Data, FromTrainer, Run, ToTrainer } from "./train-messages.js";
import type { InitialWeights } from "./train-plan.js";

/** A worker that fails so often within so many milliseconds is not replaced any more. */
const MOST_FAILURES = 3;
const WHILE = 60_000;

type Told = Exclude<FromTrainer, { type: "weights" }>;

export class Session {
  /** Whether the run is to go on by itself. */
  going = true;
  #begun: number;
  #tell: (message: Told) => void;
  #worker: Worker;
  /** When workers failed, in milliseconds. */
  #failures: number[] = [];
  #exports: { resolve: (bytes: Bytes) => void; reject: (error: Error) => void }[] = [];

  private constructor(begun: number, tell: (message: Told) => void) {
    this.#begun = begun;
    this.#tell = tell;
    this.#worker = this.#start();
  }

  /** Begins a run; `initial` are its initial weights, piece by piece, where they are not random. */
  static begin(run: Run, data: Data, initial: InitialWeights | null, tell: (message: Told) => void): Session {
    const session = new Session(run.begun, tell);
    session.#send({ type: "begin", run, data, initial: initial !== null });
    if (initial) {
      session.#sendWeights(initial).catch((error: Error) => {
        session.end();
        tell({ type: "failed", message: error.message, again: false });
      });
    }
    return session;
  }

  /** Goes on with the run that is kept and was begun then. */
  static resume(begun: number, tell: (message: Told) => void): Session {
    const session = new Session(begun, tell);
    session.#send({ type: "resume", begun });
    return session;
  }

  pause(): void {
    this.going = false;
    this.#send({ type: "pause" });
  }

  go(): void {
    this.going = true;
    this.#send({ type: "go" });
  }

  /** Has the state kept as it is now. */
  keep(): void {
    this.#send({ type: "keep" });
  }

  /** The averaged weights of now, as a safetensors file. */
  weights(): Promise<Bytes> {
    return new Promise((resolve, reject) => {
      this.#exports.push({ resolve, reject });
      this.#send({ type: "export" });
    });
  }

  /** The page is left: its worker must not keep others from going on with the run while the page lies in a cache. */
  suspend(): void {
    this.#worker.terminate();
    this.#refuse("the page was left");
  }

  /** The page is back from the cache. */
  wake(): void {
    this.#worker = this.#start();
    this.#send({ type: "resume", begun: this.#begun });
  }

  end(): void {
    this.#worker.terminate();
    this.#refuse("the run has ended");
  }

  async #sendWeights({ single, files }: InitialWeights): Promise<void> {
    for await (const file of files) {
      for await (const chunk of file) {
        // The bytes are those of a buffer that is used again.
        const own = chunk.slice();
        this.#worker.postMessage({ type: "weights", chunk: own, single } satisfies ToTrainer, [own.buffer]);
      }
      this.#send({ type: "endFile" });
    }
    this.#send({ type: "finishWeights" });
  }

  #send(message: ToTrainer): void {
    this.#worker.postMessage(message);
  }

  #start(): Worker {
    const worker = new Worker(new URL("train-worker.js", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<FromTrainer>) => this.#receive(data);
    worker.onerror = (event) => {
      event.preventDefault();
      const message = event.message || "expected the worker that trains, found that its script does not start";
      this.#receive({ type: "failed", message, again: Boolean(event.message) });
    };
    return worker;
  }

  #receive(message: FromTrainer): void {
    if (message.type === "weights") this.#exports.shift()?.resolve(message.bytes);
    else if (message.type === "failed") this.#failed(message);
    else this.#tell(message);
    if (message.type === "ready" && !this.going) this.#send({ type: "pause" });
  }

  /** Another worker goes on from the last kept state. */
  #failed(message: Extract<FromTrainer, { type: "failed" }>): void {
    this.#worker.terminate();
    this.#refuse(message.message);
    const now = Date.now();
    this.#failures = [...this.#failures.filter((time) => time > now - WHILE), now];
    if (!message.again || this.#failures.length > MOST_FAILURES) {
      this.#tell({ ...message, again: false });
      return;
    }
    this.#tell({ type: "note", text: `${message.message}: going on from the last kept state` });
    this.wake();
  }

  #refuse(reason: string): void {
    for (const { reject } of this.#exports.splice(0)) reject(new Error(reason));
  }
}
