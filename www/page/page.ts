// What the page's views share.

import type { CallProgress, ModelInfo } from "../consistency-sampler.js";
import type { Gallery } from "./gallery.js";
import type { Loaded } from "./model-files.js";
import type { Choice } from "./model-picker.js";
import type { Queue, Work } from "./queue.js";
import type { Sample } from "./samples.js";

export interface Page {
  queue: Queue;
  gallery: Gallery;
  /** Runs what a person asked for, and says how it ended. */
  foreground: (work: Work) => Promise<void>;
  /** A person chose a sample. */
  choose: (sample: Sample) => void;
  /** Puts what is on the screen into the address. */
  updateAddress: () => Promise<void>;
  /** The address that reproduces what is on the screen. */
  link: () => Promise<URL>;
  /** Shows how far a network call is. */
  progress: (progress: CallProgress) => void;
  /** The model that is loaded; null when there is none. */
  loaded: () => Loaded | null;
  /** Loads a model and samples it in the first tab. */
  sampleModel: (model: Choice) => Promise<void>;
  say: (words: string) => void;
  fail: (error: unknown) => void;
}

/** What the address says of a tab; what is missing, or null, is left out. */
export type Address = Record<string, string | number | null | undefined>;

/** A tab of the page. */
export interface TabView {
  /** Another model is there. */
  use(info: ModelInfo): void;
  /** The tab is open. */
  opened(): Promise<void>;
  /** What the address says of this tab, and what of it stays behind the #. */
  address(): Promise<{ query: Address; hash?: Record<string, string> }>;
  /** Sets the tab to what the address says; returns what it gets wrong, in words. */
  restore(query: URLSearchParams, hash: URLSearchParams): Promise<string[]>;
  /** The gallery keeps other samples than before. */
  keptChanged?(): void;
}
