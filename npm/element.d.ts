/** The custom element's class; `consistency-sampler/define` registers it. docs/element.md says more. */

import type { ConsistencySamplerError, EditOptions, LoadProgress, ModelInfo, Run, SampleOptions, Step } from "./consistency-sampler.js";

/** What was asked for, what it cost and what it came to. */
export interface SampleResult extends Run, Partial<Omit<EditOptions, "onStep" | "signal">> {
  images: ImageData[];
}

export interface ConsistencySamplerElementEventMap {
  progress: CustomEvent<LoadProgress>;
  step: CustomEvent<Step>;
  sample: CustomEvent<SampleResult>;
  error: CustomEvent<ConsistencySamplerError>;
}

export class ConsistencySamplerElement extends HTMLElement {
  static observedAttributes: string[];

  /** The address of a folder, or a hub id. */
  model: string;
  /** Of a hub's repository. */
  revision: string;
  /** The hub's address, for mirrors. */
  hub: string;
  /** The address of a picture to show while the weights stream. */
  poster: string;
  /** What the images show, in words. */
  alt: string;
  loading: "lazy" | "eager" | "manual";
  controls: boolean;
  /** NaN when the attribute is no whole number; so are the others. */
  get seed(): number | bigint;
  set seed(value: number | bigint | string | null | undefined);
  get steps(): number | bigint;
  set steps(value: number | null | undefined);
  get count(): number | bigint;
  set count(value: number | null | undefined);
  /** How many images a row has; null: as many as make the grid about square. */
  get columns(): number | bigint | null;
  set columns(value: number | null | undefined);
  /** One class for all, or one for each; null: drawn by the seed. */
  get classLabel(): number | bigint | (number | bigint)[] | null;
  set classLabel(value: number | number[] | null | undefined);
  /** In place of `steps`. */
  get timesteps(): number | (number | bigint)[] | null;
  set timesteps(value: number[] | null | undefined);

  /** What the model is; null until it is loaded. */
  readonly info: ModelInfo | null;
  /** Resolves to `info` as soon as the model is loaded. */
  readonly ready: Promise<ModelInfo>;
  load(): Promise<ModelInfo>;
  sample(options?: SampleOptions): Promise<SampleResult>;
  edit(options: EditOptions): Promise<SampleResult>;
  cancel(): void;

  addEventListener<K extends keyof ConsistencySamplerElementEventMap>(
    type: K,
    listener: (this: ConsistencySamplerElement, event: ConsistencySamplerElementEventMap[K]) => void,
    options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(
    type: string,
    listener: EventListenerOrEventListenerObject,
    options?: boolean | AddEventListenerOptions,
  ): void;
}

declare global {
  interface HTMLElementTagNameMap {
    "consistency-sampler": ConsistencySamplerElement;
  }
}
