// The types of the public interface.

/** What a loaded model is. */
export interface ModelInfo {
  /** The folder's address, or the hub id. */
  name: string;
  /** Of a hub's repository, the commit. */
  revision: string | null;
  /** Where the model says it. */
  licence: string | null;
  /** Where the folder gives them (`id2label` in model_index.json). */
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

/** A load that is taken up again after a wait. */
export interface Retry {
  /** How often it was tried. */
  attempt: number;
  /** How long the wait is. */
  milliseconds: number;
  /** What happened. */
  reason: string;
}

/** How far a load is. */
export interface LoadProgress {
  /** The download, the wait before it is taken up again, or the compilation of the GPU's programs. */
  stage: "weights" | "waiting" | "shaders";
  /** How many of the weights' bytes have come; fewer again when a file has to begin anew. */
  bytes: number;
  /** Bytes to receive; null when the server does not say or compresses. */
  total: number | null;
  /** The average since the connection was made. */
  bytesPerSecond: number;
  /** At that speed; null when the total is not known. */
  secondsLeft: number | null;
  /** With "waiting". */
  retry?: Retry;
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

/** How far a network call is that takes its time. */
export interface CallProgress {
  /** 0 for the first network call. */
  index: number;
  /** How much of it is done, from 0 to 1. */
  done: number;
}

/** What a run cost. */
export interface Run {
  /** How many network calls there were. */
  networkCalls: number;
  /** From the first to the last. */
  milliseconds: number;
}

/** RGBA, row by row. */
export type Picture = ImageData | { width: number; height: number; data: Uint8ClampedArray | Uint8Array };

/** Two 64-bit seeds, mixed: amount 0 is the request's own, 1 the other's. */
export interface Blend {
  seed: number | bigint;
  amount: number;
}

/**
 * Where an image's noise comes from: a seed, or what lies between two noises (slerp); amount from 0 to 1, at most 64 within
 * one another.
 */
export type Noise = number | bigint | { from: Noise; to: Noise; amount: number };

/** Options that every call of the network has. */
export interface CallOptions {
  /**
   * 0 to 2⁶⁴ − 1, 0 by default: one stream of noise for all images; or a noise for each image, which is then the one that
   * this noise makes alone.
   */
  seed?: number | bigint | Noise[];
  /** A class for each image, or one for all; drawn by the seed when left out. */
  classLabels?: number[];
  /** Stops a GPU within a tenth of a second, and a CPU after the network call under way. */
  signal?: AbortSignal;
}

/** Which noise levels a run has: a number of steps, or the steps themselves. */
export interface ScheduleOptions {
  /** How many network calls; 1 by default. */
  numInferenceSteps?: number;
  /** Instead: descending indices of the schedule below `info.numTrainTimesteps`, the most noise (0) last. */
  timesteps?: number[];
}

/** Options of a run. */
export interface RunOptions extends CallOptions, ScheduleOptions {
  /** How many images; 1 by default. */
  count?: number;
  /**
   * Makes all noise slerp(noise(seed), noise(blend.seed), amount), amount from 0 (this seed's sample) to 1 (the other's):
   * variations of a sample when it is small, a path between two samples otherwise. Classes that are drawn stay those of
   * `seed`.
   */
  blend?: Blend;
  /** Called after each network call. */
  onStep?: (step: Step) => void;
  /** Called a few times a second within a network call that is long enough to be cut into pieces, on a GPU. */
  onProgress?: (progress: CallProgress) => void;
}

export type SampleOptions = RunOptions;

/**
 * inpaint: pixels where the mask is black are kept, exactly, the hole is generated; colorize: the luma of each pixel is kept;
 * super-resolution: the mean of each patch of each channel is kept; stroke: a picture that follows strokes; denoise: noise of
 * standard deviation `sigma` is taken away; interpolate: pictures from `image` to `to`.
 */
export type EditKind = "inpaint" | "colorize" | "super-resolution" | "stroke" | "denoise" | "interpolate";

/**
 * Options of an edit. `count` is 1 by default, 8 for interpolate; steps are for the first four kinds, which take 8 evenly
 * spaced ones by default, stroke two at σ 5.38 and 2.24.
 */
export interface EditOptions extends RunOptions {
  kind: EditKind;
  /** Of the model's size, as all pictures. */
  image: Picture;
  /** inpaint: white where pixels are to be generated. */
  mask?: Picture;
  /** super-resolution: pixels along a side of a patch, a divisor of height and width. */
  patch?: number;
  /**
   * denoise: standard deviation of the noise in the picture, whose range is −1 to 1; interpolate: of the noise under which
   * the two pictures are mixed, 5.38 by default. From `info.sigmaMin` to `info.sigmaMax`.
   */
  sigma?: number;
  /** interpolate: the picture at the other end. */
  to?: Picture;
  /** interpolate: how far each result is on the way, from 0 to 1; evenly spaced when left out. */
  amounts?: number[];
}

export interface DenoiseOptions extends CallOptions {
  /** Of the model's size. */
  image: Picture;
  /** From `info.sigmaMin` to `info.sigmaMax`. */
  sigma: number;
}

/** What a model is to a network call that is looked at: RGBA. */
export interface Denoised {
  /** x/√(1 + σ²), clamped. */
  noisy: Uint8ClampedArray<ArrayBuffer>;
  /** f(x, σ). */
  denoised: Uint8ClampedArray<ArrayBuffer>;
}

/** With requests that bring nothing or break off. */
export interface Patience {
  /** How many requests in a row may bring nothing new. */
  tries: number;
  /** Milliseconds before the second of them; each further one waits twice as long. */
  delay: number;
  /** Milliseconds after which a connection counts as broken if fewer than 1024 bytes came in them. */
  stall: number;
}

/**
 * A model: a hub id, `owner/name` or `owner/name@revision`; or the address of a folder, relative to the document, told from a
 * hub id by a slash at its beginning or end; or the files of a folder.
 */
export type ModelLocation = string | URL | Iterable<File | { path: string; file: File }>;

export interface LoadOptions {
  /** Of a hub's repository: a branch, a tag or a commit; `main` by default. */
  revision?: string;
  /** The hub's address, for mirrors. */
  hub?: string | URL;
  /** Whether to keep the model in the browser, and to look for it there first; true by default. Files are never kept. */
  cache?: boolean;
  /** What must compute; by default the GPU and, in a browser without WebGPU, the CPU, with a notice. */
  device?: "gpu" | "cpu";
  /** With connections that break or stall. */
  patience?: Partial<Patience>;
  /** Whether only the document's own origin may be asked for the model, redirects included; false by default. */
  sameOrigin?: boolean;
  /** Called a few times a second. */
  onProgress?: (progress: LoadProgress) => void;
  /**
   * Told what a person should know though it goes on: that the model could not be kept, that there is no connection and the
   * kept copy is used, or that the CPU computes; later, too, that the GPU or its worker was lost: the model is loaded again,
   * and what was under way begins anew.
   */
  onNotice?: (notice: string) => void;
  /** Stops the load at once and frees the GPU; what has come stays in the cache, and the next load goes on from there. */
  signal?: AbortSignal;
}

/** A model that this browser keeps, in whole or in part. */
export interface KeptModel {
  id: string;
  name: string;
  revision: string | null;
  bytes: number;
  complete: boolean;
}
