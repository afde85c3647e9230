// The page's side of one runtime in a worker.

/** A runtime, by the name of its worker: "ours", "onnx" or "burn". */
export class Runtime {
  #worker;
  #pending = new Map();
  #lastId = 0;

  constructor(name) {
    this.#worker = new Worker(`/bench/${name}.js`, { type: "module" });
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#pending.get(id);
      this.#pending.delete(id);
      if (error) reject(new Error(`${name}: ${error}`));
      else resolve(result);
    };
    this.#worker.onerror = ({ message }) => {
      for (const { reject } of this.#pending.values()) reject(new Error(`${name}: ${message ?? "no worker"}`));
    };
  }

  call(method, params) {
    return new Promise((resolve, reject) => {
      const id = ++this.#lastId;
      this.#pending.set(id, { resolve, reject });
      this.#worker.postMessage({ id, method, params });
    });
  }

  stop() {
    this.#worker.terminate();
  }
}
