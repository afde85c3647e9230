// What the tab that trains and its worker tell each other, and what of a run is kept.

import type { Bytes } from "../bytes.js";

/** A phase's loss: of a denoiser (EDM), of consistency training (ECT), of a teacher's trajectories. */
export type Recipe = "edm" | "ect" | "trajectories";

export interface Phase {
  recipe: Recipe;
  learningRate: number;
  /** How long it takes. */
  seconds: number;
}

/** Pictures as bytes. */
export interface Images {
  kind: "images";
  /** n × channels × height × width. */
  pixels: Bytes;
  labels: Uint32Array<ArrayBuffer>;
}

/** The masks that animals are composed of. */
export interface Animals {
  kind: "animals";
  /** Grey, row by row. */
  masks: Bytes;
  width: number;
  /** The text of parts.json. */
  parts: string;
}

export type Data = Images | Animals;

/** What a run is begun with. */
export interface Run {
  /** When, in milliseconds. */
  begun: number;
  /** The data, in words. */
  about: string;
  /** The model that it begins with; null for random weights. */
  from: string | null;
  device: "gpu" | "cpu";
  /** The text of unet/config.json. */
  unet: string;
  /** The text of scheduler/scheduler_config.json. */
  scheduler: string;
  size: number;
  /** Empty when the model knows no classes. */
  classNames: string[];
  /** The class of each picture that shows how far the network is. */
  shown: number[];
  seed: number;
  batch: number;
  /** By how many pixels an image is moved at random. */
  shift: number;
  phases: [Phase, ...Phase[]];
}

/** Losses in the order of time, fewer than there were iterations: each point is the mean of some that follow one another. */
export interface Curve {
  points: Point[];
  /** How many losses make a point. */
  width: number;
  /** Those of the next point. */
  sum: number;
  count: number;
}

export interface Point {
  phase: number;
  /** Seconds since the beginning of the run, pauses left out. */
  at: number;
  loss: number;
}

/** How far a run is. */
export interface Progress {
  /** Index of the phase. */
  phase: number;
  /** Seconds in this phase. */
  spent: number;
  /** Iterations in this phase. */
  iteration: number;
  /** How often the learning rate was halved. */
  halvings: number;
  curve: Curve;
  /** Whether the last phase is over. */
  ended: boolean;
}

export type ToTrainer =
  | { type: "begin"; run: Run; data: Data; initial: boolean }
  /** The bytes of the initial weights, file by file. */
  | { type: "weights"; chunk: Bytes; single: boolean }
  | { type: "endFile" }
  | { type: "finishWeights" }
  /** Goes on with the kept run that was begun then. */
  | { type: "resume"; begun: number }
  | { type: "pause" }
  | { type: "go" }
  | { type: "keep" }
  | { type: "export" };

export type FromTrainer =
  | { type: "ready"; run: Run; weightCount: number; device: string }
  | { type: "progress"; progress: Progress; imagesPerSecond: number; going: boolean }
  /** RGBA of the pictures that show how far the network is. */
  | { type: "samples"; pixels: Uint8ClampedArray<ArrayBuffer>; recipe: Recipe; calls: number }
  /** `kept`: the browser has it as it is now. */
  | { type: "paused"; kept: boolean }
  | { type: "note"; text: string }
  /** diffusion_pytorch_model.safetensors. */
  | { type: "weights"; bytes: Bytes }
  /** It can do no more; `again`: another worker may go on. */
  | { type: "failed"; message: string; again: boolean };
