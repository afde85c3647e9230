// What a run is begun with: from the choices of a person to a network, its phases and their numbers.

import type { Bytes } from "../bytes.js";
import type { ModelInfo } from "../consistency-sampler.js";
import { type Loaded, ModelFiles } from "./model-files.js";
import { randomSeed } from "./samples.js";
import type { Data, Phase, Recipe, Run } from "./train-messages.js";
import { SCHEDULER, type Shape, unetConfig, type Width } from "./train-network.js";

export type Source = "animals" | "pictures" | "drawings";

/** How the phases are called. */
export const NAMES: Record<Recipe, string> = {
  edm: "Denoiser",
  ect: "Consistency training",
  trajectories: "Distillation",
};

/** By how many pixels a drawing is moved: there are few of them. */
export const SHIFT = 2;
/** Adam's, at the beginning of a phase. */
const LEARNING_RATES: Record<Recipe, number> = { edm: 1.5e-3, ect: 1e-3, trajectories: 1e-3 };
/** Of a model that is good already. */
const FINE_TUNING = 3e-4;
/** Images of an iteration. */
const BATCH = { gpu: 64, cpu: 16 };
/** How many pictures show how far the network is. */
const SHOWN = { gpu: 15, cpu: 9 };
/** Kinds of animals, and the size of their masks. */
const ANIMALS = { classes: 14, size: 128 };
/** The most weights that are trained in a browser: with averages and moments they are 320 MB. */
const MOST_WEIGHTS = 20e6;

/** What a run learns from. */
export interface Material {
  data: Data;
  /** The names of its classes; none where there is one class. */
  classes: string[];
  /** In words. */
  about: string;
}

/** What is chosen for a run. */
export interface Choices {
  source: Source;
  material: Material;
  device: "gpu" | "cpu";
  seconds: number;
}

/** What is chosen for a new network. */
export interface NewNetwork {
  shape: Shape;
  width: Width;
  /** The denoiser's share of the time. */
  share: number;
  second: Exclude<Recipe, "edm">;
}

/** Files of weights, each in chunks that are valid until the next one is asked for. */
export interface InitialWeights {
  /** Whether one file holds all of them. */
  single: boolean;
  files: AsyncIterable<AsyncIterable<Bytes>>;
}

/** Why a loaded model is no beginning for pictures of so many classes; null when it is one. */
export function obstacle(info: ModelInfo | null, source: Source, classes: number): string | null {
  if (!info) return "No model is loaded yet";
  const { channels, numClassEmbeds, parameters, sampleSize } = info;
  const [height, width] = sampleSize;
  const millions = (weights: number) => `${Math.round(weights / 1e6)} million weights`;
  if (parameters > MOST_WEIGHTS) {
    return `The loaded model has ${millions(parameters)}, at most ${millions(MOST_WEIGHTS)} are trained here`;
  }
  if (height !== width) return `The loaded model's pictures are ${sampleSize.join(" × ")}, square ones are needed`;
  const wanted = source === "animals" ? ANIMALS.classes : classes;
  if (source === "animals" && channels !== 3) return "The loaded model's pictures are grey, animals are in colour";
  if (source === "animals" && ANIMALS.size % width) {
    return `The loaded model's pictures are ${width} pixels wide, animals of that size cannot be composed`;
  }
  if (wanted > 1 && wanted > (numClassEmbeds ?? 0)) {
    return `The loaded model knows ${numClassEmbeds ?? "no"} classes, ${wanted} are needed`;
  }
  return null;
}

/** A run that begins with random weights and has both phases. */
export function planNew(choices: Choices, { shape, width, share, second }: NewNetwork): Run {
  const { classes } = choices.material;
  const phase = (recipe: Recipe, share: number): Phase => ({
    recipe,
    learningRate: LEARNING_RATES[recipe],
    seconds: choices.seconds * share,
  });
  return {
    ...common(choices),
    from: null,
    unet: unetConfig(shape, width, classes.length),
    scheduler: SCHEDULER,
    size: shape.size,
    classNames: classes,
    shown: turns(SHOWN[choices.device], classes.length),
    phases: [phase("edm", share), phase(second, 1 - share)],
  };
}

/** A run that begins with a consistency model, and where its weights are. */
export async function planFineTuning(choices: Choices, loaded: Loaded): Promise<[Run, InitialWeights]> {
  const files = new ModelFiles(loaded, new AbortController().signal);
  const { texts, single, weights } = await files.describe();
  const { numClassEmbeds, classNames, sampleSize, name } = loaded.info;
  const { classes } = choices.material;
  const named = (_: unknown, label: number) => classes[label] ?? classNames?.[label] ?? String(label);
  const run: Run = {
    ...common(choices),
    from: name,
    unet: texts["unet/config.json"],
    scheduler: texts["scheduler/scheduler_config.json"],
    size: sampleSize[0],
    classNames: Array.from({ length: numClassEmbeds ?? 0 }, named),
    shown: turns(SHOWN[choices.device], classes.length),
    phases: [{ recipe: "ect", learningRate: FINE_TUNING, seconds: choices.seconds }],
  };
  const chunks = async function* () {
    for (const file of weights) yield files.chunks(file);
  };
  return [run, { single, files: chunks() }];
}

const common = ({ source, material, device }: Choices) => ({
  begun: Date.now(),
  about: material.about,
  device,
  seed: randomSeed(),
  batch: BATCH[device],
  shift: source === "drawings" ? SHIFT : 0,
});

/** Classes in turn, or zeros where there are none to tell apart. */
const turns = (count: number, classes: number) => Array.from({ length: count }, (_, i) => (classes ? i % classes : 0));
