// What a sample is, and how it is drawn: the recipe decides every pixel.

import type {
  ConsistencySampler,
  EditKind,
  ModelInfo,
  Run,
  RunOptions,
  ScheduleOptions,
  Step,
} from "../consistency-sampler.js";
import { columnsFor } from "../display.js";
import type { Pixels } from "./dom.js";

/**
 * Where a sample's noise comes from: a seed, 0 to 2⁵³ − 1; or a point on the great circle from one noise to another,
 * `amount` of the way.
 */
export type Noise = number | { from: Noise; to: Noise; amount: number };

export interface Recipe {
  noise: Noise;
  /** A number of network calls, or a list of timesteps: "22,0". */
  steps: string;
  /** The class; null where the model knows none. */
  label: number | null;
}

export interface Sample {
  recipe: Recipe;
  /** The kind of edit that made it; null for a sample from noise alone. */
  edit: EditKind | null;
  /** Its address or hub id. */
  model: string;
  /** Where the model gives it. */
  className: string | null;
  width: number;
  height: number;
  /** The picture after each network call, RGBA. */
  steps: { sigma: number; pixels: Pixels["pixels"] }[];
  /** Whether the last network call has been made. */
  finished: boolean;
  /** How many made it. */
  networkCalls: number;
  /** How long the run took in which it was made. */
  milliseconds: number;
  /** How many pictures were made in that run. */
  count: number;
}

/** Sees samples grow. */
export type OnStep = (step: Step, samples: Sample[]) => void;

/** A number of steps, or a list of timesteps, as the sampler takes it. */
export function scheduleOf(steps: string): ScheduleOptions {
  return steps.includes(",") ? { timesteps: steps.split(",").map(Number) } : { numInferenceSteps: Number(steps) };
}

/** Draws samples together, all in as many steps as the first. */
export async function draw(
  sampler: ConsistencySampler,
  recipes: [Recipe, ...Recipe[]],
  { onStep, ...more }: Pick<RunOptions, "onProgress" | "signal"> & { onStep?: OnStep } = {},
): Promise<[Sample, ...Sample[]]> {
  const samples = recipes.map((recipe) => blank(sampler.info, recipe, recipes.length)) as [Sample, ...Sample[]];
  const options = {
    seed: recipes.map(({ noise }) => noise),
    count: recipes.length,
    classLabels: recipes[0].label === null ? undefined : recipes.map(({ label }) => label ?? 0),
    ...scheduleOf(recipes[0].steps),
    ...more,
  };
  const landed = (step: Step) => {
    addStep(step, samples);
    onStep?.(step, samples);
  };
  finish(samples, await sampler.sample({ ...options, onStep: landed }));
  return samples;
}

/** A sample of which nothing has been drawn yet. */
export function blank(
  { name, sampleSize: [height, width], classNames }: ModelInfo,
  recipe: Recipe,
  count: number,
  edit: EditKind | null = null,
): Sample {
  const className = (recipe.label !== null && classNames?.[recipe.label]) || null;
  return {
    recipe,
    edit,
    model: name,
    className,
    width,
    height,
    steps: [],
    finished: false,
    networkCalls: 0,
    milliseconds: 0,
    count,
  };
}

/** Hands each sample its part of a step's pixels. */
export function addStep(step: Step, samples: Sample[]): void {
  const length = step.pixels.length / samples.length;
  samples.forEach((sample, i) => {
    sample.steps.push({ sigma: step.sigma, pixels: step.pixels.slice(i * length, (i + 1) * length) });
  });
}

/** Notes what the run took. */
export function finish(samples: Sample[], { networkCalls, milliseconds }: Run): void {
  for (const sample of samples) Object.assign(sample, { finished: true, networkCalls, milliseconds });
}

/** The pixels of a sample after one of its steps, the last by default. */
export function pixelsOf({ steps, width, height }: Sample, step = steps.length - 1): Pixels {
  return { pixels: steps[step]?.pixels ?? new Uint8ClampedArray(4 * width * height), width, height };
}

/** Samples side by side, one pixel between them, after one of their steps, the last by default. */
export function grid(samples: Sample[], step?: number): Pixels {
  const { width, height } = samples[0] ?? { width: 0, height: 0 };
  const columns = columnsFor(samples.length);
  const [across, down] = [columns * (width + 1) - 1, (samples.length / columns) * (height + 1) - 1];
  const pixels = new Uint8ClampedArray(across * down * 4);
  samples.forEach((sample, i) => {
    const from = pixelsOf(sample, step).pixels;
    const [left, top] = [(i % columns) * (width + 1), Math.floor(i / columns) * (height + 1)];
    for (let y = 0; y < height; y++) {
      pixels.set(from.subarray(y * width * 4, (y + 1) * width * 4), ((top + y) * across + left) * 4);
    }
  });
  return { pixels, width: across, height: down };
}

/** A seed that nobody chose. */
export function randomSeed(): number {
  return crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
}

/** A noise as the address has it: "8", or "(8,99,0.3)" for 30 % of the way from 8 to 99. */
export function noiseText(noise: Noise): string {
  if (typeof noise === "number") return String(noise);
  return `(${noiseText(noise.from)},${noiseText(noise.to)},${noise.amount})`;
}

/** The inverse of `noiseText`; null when the text is none. */
export function parseNoise(text: string): Noise | null {
  let at = 0;
  const take = (pattern: RegExp) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (!found) throw new SyntaxError(text);
    at = pattern.lastIndex;
    return Number(found[0]);
  };
  const noise = (depth: number): Noise => {
    if (text[at] !== "(") {
      const seed = take(/\d{1,16}/y);
      if (!Number.isSafeInteger(seed)) throw new SyntaxError(text);
      return seed;
    }
    if (depth > 32) throw new SyntaxError(text);
    at++;
    const from = noise(depth + 1);
    take(/,/y);
    const to = noise(depth + 1);
    take(/,/y);
    const amount = take(/0(\.\d+)?|1/y);
    take(/\)/y);
    return { from, to, amount };
  };
  try {
    const parsed = noise(0);
    return at === text.length ? parsed : null;
  } catch {
    return null;
  }
}
