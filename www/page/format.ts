// How the page says numbers and recipes.

import { megabytes as number } from "../display.js";
import type { Noise } from "./samples.js";

export { many } from "../display.js";

export const sigma = (value: number) => String(Number(value.toPrecision(3)));
export const percent = (share: number) => `${Math.round(100 * share)} %`;
export const megabytes = (bytes: number) => `${number(bytes)} MB`;
export const duration = (milliseconds: number) =>
  milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;

/** A noise in words: a seed, or what lies between two noises. */
export function noiseWords(noise: Noise): string {
  if (typeof noise === "number") return `seed ${noise}`;
  const end = (noise: Noise) => noiseWords(noise).replace(/^seed /, "");
  return `seed ${end(noise.from)}, ${percent(noise.amount)} towards ${end(noise.to)}`;
}

/** A noise where there is little room: "8", or "8+" for one that lies near it. */
export function shortNoise(noise: Noise): string {
  return typeof noise === "number" ? String(noise) : `${shortNoise(noise.from).replace(/\+$/, "")}+`;
}
