// What a sample is, and how it is drawn: the recipe decides every pixel.

/**
 * Where a sample's noise comes from: a seed, 0 to 2⁵³ − 1; or a point on the great circle from one noise to another,
 * `amount` of the way.
 *
 * @typedef {number | { from: Noise, to: Noise, amount: number }} Noise
 */

/**
 * @typedef {object} Recipe
 * @property {Noise} noise
 * @property {string} steps  a number of network calls, or a list of timesteps: "22,0"
 * @property {?number} label  the class; null where the model knows none
 */

/**
 * @typedef {object} Sample
 * @property {Recipe} recipe
 * @property {?string} edit  the kind of edit that made it; null for a sample from noise alone
 * @property {string} model  its address or hub id
 * @property {?string} className  where the model gives it
 * @property {number} width
 * @property {number} height
 * @property {{ sigma: number, pixels: Uint8ClampedArray }[]} steps  the picture after each network call, RGBA
 * @property {boolean} finished  whether the last network call has been made
 * @property {number} networkCalls  that made it
 * @property {number} milliseconds  that the run took in which it was made
 * @property {number} count  how many pictures were made in that run
 */

/** A number of steps, or a list of timesteps, as the sampler takes it. */
export function scheduleOf(steps) {
  return steps.includes(",") ? { timesteps: steps.split(",").map(Number) } : { numInferenceSteps: Number(steps) };
}

/**
 * Draws samples together, all in as many steps as the first; `onStep(step, samples)` sees them grow.
 *
 * @param {import("../consistency-sampler.js").ConsistencySampler} sampler
 * @param {Recipe[]} recipes
 * @returns {Promise<Sample[]>}
 */
export async function draw(sampler, recipes, { onStep, signal } = {}) {
  const samples = recipes.map((recipe) => blank(sampler.info, recipe, recipes.length));
  const options = {
    seed: recipes.map(({ noise }) => noise),
    count: recipes.length,
    classLabels: recipes[0].label === null ? undefined : recipes.map(({ label }) => label),
    ...scheduleOf(recipes[0].steps),
    signal,
  };
  const landed = (step) => {
    land(step, samples);
    onStep?.(step, samples);
  };
  return finish(samples, await sampler.sample({ ...options, onStep: landed }));
}

/** A sample of which nothing has been drawn yet. */
export function blank({ name, sampleSize: [height, width], classNames }, recipe, count, edit = null) {
  const className = classNames?.[recipe.label] ?? null;
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
export function land(step, samples) {
  const length = step.pixels.length / samples.length;
  samples.forEach((sample, i) => {
    sample.steps.push({ sigma: step.sigma, pixels: step.pixels.slice(i * length, (i + 1) * length) });
  });
}

/** Notes what the run took. */
export function finish(samples, { networkCalls, milliseconds }) {
  for (const sample of samples) Object.assign(sample, { finished: true, networkCalls, milliseconds });
  return samples;
}

/** The pixels of a sample after one of its steps, the last by default. */
export function pixelsOf(sample, step = sample.steps.length - 1) {
  return { pixels: sample.steps[step].pixels, width: sample.width, height: sample.height };
}

/** Samples side by side, one pixel between them, after one of their steps, the last by default. */
export function grid(samples, step) {
  const [{ width, height }] = samples;
  let columns = Math.ceil(Math.sqrt(samples.length));
  while (samples.length % columns) columns++;
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
export function dice() {
  return crypto.getRandomValues(new Uint32Array(1))[0];
}

/**
 * A noise as the address has it: "8", or "(8,99,0.3)" for 30 % of the way from 8 to 99.
 *
 * @param {Noise} noise
 */
export function noiseText(noise) {
  if (typeof noise === "number") return String(noise);
  return `(${noiseText(noise.from)},${noiseText(noise.to)},${noise.amount})`;
}

/** The inverse of `noiseText`; null when the text is none. */
export function parseNoise(text) {
  let at = 0;
  const take = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (!found) throw new SyntaxError(text);
    at = pattern.lastIndex;
    return Number(found[0]);
  };
  const noise = (depth) => {
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
