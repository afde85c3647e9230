// What the page's thread (`runtime.ts`) and the worker (`worker.ts`) say to each other.

import type { ErrorCode } from "./error.js";
import type { Source } from "./model-source.js";
import type {
  CallProgress,
  DenoiseOptions,
  Denoised,
  EditKind,
  EditOptions,
  LoadOptions,
  LoadProgress,
  ModelInfo,
  Run,
  RunOptions,
  ScheduleOptions,
  Step,
} from "./types.js";

/** A load's options, which decide how it goes and not which model it is. */
export interface LoadParams {
  source: Source;
  cached: boolean;
  device: LoadOptions["device"];
  patience: LoadOptions["patience"];
  /** The one origin that may be asked; null for every one. */
  origin: string | null;
}

/** A load tells how far it is, and what a person should know. */
export type LoadEvent = LoadProgress | { notice: string };

/** A sample, or with `kind` an edit. */
export type SampleParams = Omit<RunOptions, "onStep" | "onProgress" | "signal"> &
  Partial<Omit<EditOptions, keyof RunOptions | "kind">> & { kind: EditKind | "" | null };

/** How a run ends. */
export type RunResult = (Run & { cancelled?: false }) | { cancelled: true };

/** The worker's methods: what they take, what they tell on the way, and what they answer. */
export interface Methods {
  load: { params: LoadParams; event: LoadEvent; result: ModelInfo };
  schedule: { params: ScheduleOptions; event: never; result: { timesteps: number[]; sigmas: number[] } };
  sample: { params: SampleParams; event: Step | CallProgress; result: RunResult };
  denoise: {
    params: Partial<Omit<DenoiseOptions, "signal">> & { count: number };
    event: never;
    result: (Denoised & { cancelled?: false }) | { cancelled: true };
  };
}

export type Method = keyof Methods;

/** Calls a method; `id` names the call, `model` the model. */
export type Call<M extends Method = Method> = {
  [K in M]: { method: K; id: number; model: number; params: Methods[K]["params"] };
}[M];

/** What the page's thread says. */
export type ToWorker =
  | Call
  /** Takes a call of the network back, or stops it after the network call under way. */
  | { method: "cancel"; id: number }
  /** Frees a model. */
  | { method: "dispose"; model: number }
  /** The first message: asks the worker to hold a lock as long as it lives, and says where the WebAssembly modules are. */
  | { method: "begin"; lock: string; modules: Record<ModelInfo["processor"], string> };

/** What a worker says to those that help it: which network it is, then any number of parts of batches. */
export type ToHelper =
  | { method: "help"; module: string; config: string; weights: Float32Array }
  | { method: "share"; input: [Float32Array, Float32Array, Uint32Array] };

/** An error as the page is told of it; after a fatal one the worker is of no use. */
export interface WorkerError {
  code: ErrorCode;
  message: string;
  fatal?: boolean;
}

/** What the worker says: of each call any number of events, then its result or its error. */
export type FromWorker =
  | { type: "event"; id: number; event: Methods[Method]["event"] }
  | { type: "result"; id: number; result: Methods[Method]["result"] }
  | { type: "error"; id: number; error: WorkerError }
  /** The lock is held. */
  | { type: "watched"; lock: string };
