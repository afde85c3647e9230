// The files of the model that is loaded, read once more: from the browser's copy, a person's own files or the network.

import { type Bytes, bytesOf } from "../bytes.js";
import type { ModelInfo } from "../consistency-sampler.js";
import { Download, RESTART } from "../download.js";
import { ConsistencySamplerError } from "../error.js";
import { HttpClient } from "../http-client.js";
import { CachedModel } from "../model-cache.js";
import { addressOf, type Description, describe, keyOf, type Source, sourceOf, type Weights } from "../model-source.js";
import { cpuModule } from "./cpu-module.js";
import type { Choice } from "./model-picker.js";

/** A model that is loaded. */
export interface Loaded {
  info: ModelInfo;
  /** What a person chose. */
  model: Choice;
  /** Whether no other site may be asked. */
  sameOrigin: boolean;
}

/** How a file of weights stores its elements; all that are read are here. */
export type Dtype = "F32" | "BF16" | "F16" | "I8";

const README = "README.md";

export class ModelFiles {
  readonly #source: Source;
  readonly #client: HttpClient;
  readonly #info: ModelInfo;
  #cache: CachedModel | null = null;

  constructor({ info, model, sameOrigin }: Loaded, signal: AbortSignal) {
    this.#source = sourceOf(model, document.baseURI);
    this.#client = new HttpClient({ origin: sameOrigin ? location.origin : null, signal });
    this.#info = info;
  }

  /** The page of the model on its hub; null for other models. */
  get page(): string | null {
    const source = this.#source;
    if (!("repository" in source)) return null;
    return `${source.hub}/${source.repository}/tree/${encodeURIComponent(this.#info.revision ?? source.revision)}`;
  }

  /** The text of README.md; null when there is none. */
  async readme(): Promise<string | null> {
    const source = this.#source;
    if ("files" in source) return (await source.files.find(({ path }) => path === README)?.file.text()) ?? null;
    const bytes = await this.#client.hasty().optionalFile(addressOf(source, README, this.#info.revision));
    return bytes && new TextDecoder().decode(bytes);
  }

  /** The small files, and which weights there are; from the browser's copy where it is of this version. */
  async describe(): Promise<Description> {
    const source = this.#source;
    const { name, revision } = this.#info;
    this.#cache = await CachedModel.open(keyOf(source), () => {});
    const kept = this.#cache.recall();
    if (kept && kept.revision === revision && kept.name === name) return kept;
    const pinned = "repository" in source && revision ? { ...source, revision } : source;
    return describe(pinned, { client: this.#client, sha256: async (bytes) => (await cpuModule()).sha256(bytes) });
  }

  /** The bytes of a file of weights, each chunk valid until the next one is asked for. */
  async *chunks(file: Weights): AsyncGenerator<Bytes> {
    const stored = file.file ? 0 : ((await this.#cache?.usable(file)) ?? 0);
    if (file.file) yield* bytesOf(file.file.stream() as ReadableStream<Bytes>);
    else if (this.#cache?.isWhole(file, stored)) yield* this.#cache.chunks(file);
    else {
      const known = { size: file.size, hashed: Boolean(file.sha256) };
      for await (const chunk of new Download(file.url, known, this.#client).chunks()) {
        if (chunk === RESTART) {
          const reason = "expected the rest of the file after a break, found another version: try again";
          throw new ConsistencySamplerError("network", `${file.url}: ${reason}`);
        }
        yield chunk;
      }
    }
  }

  /** How the weights are stored, by the header of the first file: the narrowest kind of element. */
  async dtype({ weights }: Description): Promise<Dtype> {
    const [file] = weights;
    let bytes = new Uint8Array();
    for await (const chunk of file ? this.chunks(file) : []) {
      bytes = joined(bytes, chunk);
      if (bytes.length < 8) continue;
      const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
      if (bytes.length < 8 + length) continue;
      const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length))) as Header;
      const found = new Set(Object.values(header).map(({ dtype }) => dtype));
      const narrowest = (["I8", "F16", "BF16", "F32"] as const).find((dtype) => found.has(dtype));
      if (narrowest) return narrowest;
      break;
    }
    throw new ConsistencySamplerError("weights", `${file?.path}: expected tensors in its header, found none`);
  }
}

type Header = Record<string, { dtype?: string }>;

function joined(a: Uint8Array, b: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(a.length + b.length);
  bytes.set(a);
  bytes.set(b, a.length);
  return bytes;
}
