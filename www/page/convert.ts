// Saving the loaded model with fewer bits: the folder that `consistency-sampler convert` writes, made piece by piece.

import { type Bytes, bytesOf } from "../bytes.js";
import { ConsistencySamplerError } from "../error.js";
import type { Description } from "../model-source.js";
import { cpuModule } from "./cpu-module.js";
import type { ModelFiles } from "./model-files.js";
import type { Output } from "./output-folder.js";

/** What the weights can be stored as, with the names of their files. */
export const PRECISIONS = {
  f16: "unet/diffusion_pytorch_model.fp16.safetensors",
  int8: "unet/diffusion_pytorch_model.int8.safetensors",
} as const;

export type Precision = keyof typeof PRECISIONS;

interface Conversion {
  files: ModelFiles;
  about: Description;
  precision: Precision;
  output: Output;
  signal: AbortSignal;
  /** Told how many of the weights' bytes were read. */
  onProgress: (bytes: number) => void;
}

/** Writes the model; returns the length of its weights in bytes. After a failure nothing of it is left. */
export async function convert(conversion: Conversion): Promise<number> {
  const { about, precision, output, signal } = conversion;
  try {
    const { Hasher } = await cpuModule();
    const sums = new Map<string, string>();
    const hash = async (path: string, data: Blob) => {
      const hasher = new Hasher();
      for await (const chunk of bytesOf(data.stream())) {
        signal.throwIfAborted();
        hasher.update(chunk);
      }
      sums.set(path, hasher.finish());
    };
    const write = async (path: string, text: string) => {
      const bytes = new TextEncoder().encode(text);
      const file = await output.create(path, bytes.length);
      await file.write(0, bytes);
      return file.close();
    };
    for (const [path, text] of Object.entries(about.texts)) await hash(path, await write(path, text));
    const weights = await writeWeights(conversion);
    await hash(PRECISIONS[precision], weights);
    const lines = [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([path, sum]) => `${sum}  ${path}\n`);
    await write("SHA256SUMS", lines.join(""));
    signal.throwIfAborted();
    await output.finish();
    return weights.size;
  } catch (error) {
    // An error of the clean-up does not hide the first one.
    await output.abandon().catch(() => {});
    throw error;
  }
}

async function writeWeights({ files, about, precision, output, signal, onProgress }: Conversion): Promise<Blob> {
  const { Converter } = await cpuModule();
  const converter = new Converter(about.texts["unet/config.json"], precision, about.single);
  const written = await output.create(PRECISIONS[precision], converter.length());
  let read = 0;
  for (const file of about.weights) {
    for await (const chunk of files.chunks(file)) {
      signal.throwIfAborted();
      const pieces: [position: number, bytes: Bytes][] = [];
      converter.push(chunk, (position: number, bytes: Bytes) => pieces.push([position, bytes]));
      for (const [position, bytes] of pieces) await written.write(position, bytes);
      read += chunk.length;
      onProgress(read);
    }
    const sha256 = converter.endFile();
    if (file.sha256 && file.sha256 !== sha256) {
      throw new ConsistencySamplerError("weights", `${file.path}: expected SHA-256 ${file.sha256}, found ${sha256}`);
    }
  }
  await written.write(0, converter.finish() as Bytes);
  return written.close();
}
