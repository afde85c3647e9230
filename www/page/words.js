// How the page says numbers and recipes.

export const many = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
export const sigma = (value) => String(Number(value.toPrecision(3)));
export const percent = (share) => `${Math.round(100 * share)} %`;
export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
export const duration = (milliseconds) =>
  milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;

/**
 * A noise in words: a seed, or what lies between two noises.
 *
 * @param {import("./samples.js").Noise} noise
 */
export function noiseWords(noise) {
  if (typeof noise === "number") return `seed ${noise}`;
  const [from, to] = [noise.from, noise.to].map((end) => noiseWords(end).replace(/^seed /, ""));
  return `seed ${from}, ${percent(noise.amount)} towards ${to}`;
}

/** A noise where there is little room: "8", or "8+" for one that lies near it. */
export function shortNoise(noise) {
  return typeof noise === "number" ? String(noise) : `${shortNoise(noise.from).replace(/\+$/, "")}+`;
}
