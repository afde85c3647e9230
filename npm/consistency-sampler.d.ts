/** Samples of a consistency model, made in a Web Worker on the GPU. docs/element.md says more. */

/** What a loaded model is. */
export interface ModelInfo {
  /** The folder's address, or the hub id. */
  name: string;
  /** Of a hub's repository, the commit. */
  revision: string | null;
  /** Where the model says it. */
  licence: string | null;
  /** Where the folder gives them. */
  classNames: string[] | null;
  /** Of the weights' files. */
  bytes: number;
  /** What computes: the GPU through WebGPU, or one core of the CPU in WebAssembly. */
  processor: "gpu" | "cpu";
  /** The GPU, in the browser's words, which may be none; or "CPU". */
  device: string;
  /** How many weights the network has. */
  parameters: number;
  /** Height and width of an image, in pixels. */
  sampleSize: [height: number, width: number];
  /** 1 for grey, 3 for red, green, blue. */
  channels: number;
  /** How many classes can be asked for; null when the model knows none. */
  numClassEmbeds: number | null;
  /** How many noise levels the full schedule has. */
  numTrainTimesteps: number;
  /** The lowest noise level: a standard deviation, where data lies in −1…1. */
  sigmaMin: number;
  /** The highest noise level. */
  sigmaMax: number;
}

/** How far a load is. */
export interface LoadProgress {
  /** The download, the wait before it is taken up again, or the compilation of the GPU's programs. */
  stage: "weights" | "waiting" | "shaders";
  /** How many of the weights' bytes have come. */
  bytes: number;
  /** Bytes to receive; null when the server does not say. */
  total: number | null;
  /** The average since the connection was made. */
  bytesPerSecond: number;
  /** At that speed; null when the total is not known. */
  secondsLeft: number | null;
  /** With "waiting". */
  retry?: { attempt: number; milliseconds: number; reason: string };
}

/** What a network call came to. */
export interface Step {
  /** 0 for the first network call. */
  index: number;
  /** How many network calls make the picture. */
  steps: number;
  /** The noise level that this call started from. */
  sigma: number;
  /** count × height × width × RGBA, one image after another. */
  pixels: Uint8ClampedArray<ArrayBuffer>;
  /** Whether the picture is finished. */
  last: boolean;
}

/** What a run cost. */
export interface Run {
  networkCalls: number;
  milliseconds: number;
}

/** RGBA, row by row. */
export type Picture = ImageData | { width: number; height: number; data: Uint8ClampedArray | Uint8Array };

/** Two 64-bit seeds, mixed: amount 0 is the request's own, 1 the other's. */
export interface Blend {
  seed: number | bigint;
  amount: number;
}

/** Where an image's noise comes from: a seed, or what lies between two noises; amount from 0 to 1. */
export type Noise = number | bigint | { from: Noise; to: Noise; amount: number };

/** Options that every call of the network has. */
export interface CallOptions {
  /** 0 to 2⁶⁴ − 1, 0 by default: one stream of noise for all images; or a noise for each image. */
  seed?: number | bigint | Noise[];
  /** A class for each image, or one for all; drawn by the seed when left out. */
  classLabels?: number[];
  /** Stops after the network call under way. */
  signal?: AbortSignal;
}

export interface RunOptions extends CallOptions {
  /** How many images; 1 by default. */
  count?: number;
  /** How many network calls. */
  numInferenceSteps?: number;
  /** Instead: descending indices of the schedule, the most noise last. */
  timesteps?: number[];
  /** Makes all noise slerp(noise(seed), noise(blend.seed), amount). */
  blend?: Blend;
  /** Called after each network call. */
  onStep?: (step: Step) => void;
}

export type SampleOptions = RunOptions;

export type EditKind = "inpaint" | "colorize" | "super-resolution" | "stroke" | "denoise" | "interpolate";

export interface EditOptions extends RunOptions {
  kind: EditKind;
  /** Of the model's size, as all pictures. */
  image: Picture;
  /** inpaint: white where pixels are to be generated. */
  mask?: Picture;
  /** super-resolution: pixels along a side of the patches whose means are kept. */
  patch?: number;
  /** denoise: standard deviation of the noise in the picture; interpolate: of the noise that is added, 5.38 by default. */
  sigma?: number;
  /** interpolate: the picture at the other end. */
  to?: Picture;
  /** interpolate: how far each result is on the way, from 0 to 1. */
  amounts?: number[];
}

export interface DenoiseOptions extends CallOptions {
  image: Picture;
  /** From `info.sigmaMin` to `info.sigmaMax`. */
  sigma: number;
}

export interface LoadOptions {
  /** Of a hub's repository: a branch, a tag or a commit; `main` by default. */
  revision?: string;
  /** The hub's address, for mirrors. */
  hub?: string | URL;
  /** Whether to keep the model in the browser, and to look for it there first; true by default. */
  cache?: boolean;
  /** What must compute; by default the GPU and, in a browser without WebGPU, the CPU, with a notice. */
  device?: "gpu" | "cpu";
  /** With connections that break or stall. */
  patience?: { tries?: number; delay?: number; stall?: number };
  /** Called a few times a second. */
  onProgress?: (progress: LoadProgress) => void;
  /** Told what a person should know though it goes on, later also that a lost GPU was replaced. */
  onNotice?: (notice: string) => void;
  /** Stops the load at once. */
  signal?: AbortSignal;
}

/** A model that this browser keeps. */
export interface KeptModel {
  id: string;
  name: string;
  revision: string | null;
  bytes: number;
  complete: boolean;
}

export type ErrorCode =
  | "unsupported"
  | "network"
  | "http"
  | "config"
  | "weights"
  | "input"
  | "gpu"
  | "lost"
  | "busy"
  | "disposed"
  | "failed";

/** What went wrong, in one line (`message`) and as a word to decide by (`code`). */
export class ConsistencySamplerError extends Error {
  constructor(code: ErrorCode, message: string);
  readonly name: "ConsistencySamplerError";
  readonly code: ErrorCode;
}

/** A loaded model. */
export class ConsistencySampler {
  private constructor();
  /** Loads a model: the address of a folder, a hub id, or files. */
  static load(
    model: string | URL | Iterable<File | { path: string; file: File }>,
    options?: LoadOptions,
  ): Promise<ConsistencySampler>;
  /** The models that are kept in this browser, in whole or in part. */
  static kept(): Promise<KeptModel[]>;
  /** Deletes one of them. */
  static forget(id: string): Promise<void>;
  readonly info: ModelInfo;
  /** The noise levels of a run. */
  schedule(options: {
    numInferenceSteps?: number;
    timesteps?: number[];
  }): Promise<{ timesteps: number[]; sigmas: number[] }>;
  /** Samples images. */
  sample(options?: SampleOptions): Promise<Run>;
  /** Changes a picture. */
  edit(options: EditOptions): Promise<Run>;
  /** x = image + σ·z and f(x, σ), as RGBA. */
  denoise(options: DenoiseOptions): Promise<{
    noisy: Uint8ClampedArray<ArrayBuffer>;
    denoised: Uint8ClampedArray<ArrayBuffer>;
  }>;
  /** Gives the model up. */
  dispose(): void;
}
