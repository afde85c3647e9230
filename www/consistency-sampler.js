/**
 * Samples of a consistency model, made in a Web Worker on the GPU, or on the CPU in browsers without WebGPU.
 *
 *     const sampler = await ConsistencySampler.load("weights/mnist/");
 *     await sampler.sample({ seed: 7, count: 4, numInferenceSteps: 2, onStep: ({ pixels }) => draw(pixels) });
 *
 * Every promise rejects with a ConsistencySamplerError, or with the signal's reason (an AbortError unless the caller
 * chose another) once its signal is aborted.
 */

import { ConsistencySamplerError } from "./error.js";
import { openCache } from "./model-cache.js";
import { sourceOf } from "./model-source.js";
import { SharedModel } from "./runtime.js";

export { ConsistencySamplerError };

/**
 * @typedef {object} ModelInfo
 * @property {string} name  the folder's address, or the hub id
 * @property {?string} revision  of a hub's repository, the commit; else null
 * @property {?string} licence  where the model says it
 * @property {?string[]} classNames  where the folder gives them (`id2label` in model_index.json)
 * @property {number} bytes  of the weights' files
 * @property {"gpu" | "cpu"} processor  what computes: the GPU through WebGPU, or one core of the CPU in WebAssembly
 * @property {string} device  the GPU, in the browser's words, which may be none; or "CPU"
 * @property {number} parameters  how many weights the network has
 * @property {[number, number]} sampleSize  height and width of an image, in pixels
 * @property {number} channels  1 for grey, 3 for red, green, blue
 * @property {?number} numClassEmbeds  how many classes can be asked for; null when the model knows none
 * @property {number} numTrainTimesteps  how many noise levels the full schedule has
 * @property {number} sigmaMin  the lowest noise level (standard deviation; data lies in -1…1)
 * @property {number} sigmaMax  the highest noise level
 */

/**
 * @typedef {object} LoadProgress
 * @property {"weights" | "waiting" | "shaders"} stage  what is under way: the download, or the wait before it is taken up
 *   again, then the compilation of the GPU's programs
 * @property {number} bytes  how many of the weights' bytes have come; fewer again when a file has to begin anew
 * @property {?number} total  bytes to receive; null when the server does not say or compresses
 * @property {number} bytesPerSecond  the average since the connection was made
 * @property {?number} secondsLeft  at that speed; null when the total is not known
 * @property {{ attempt: number, milliseconds: number, reason: string }} [retry]  with "waiting": how often it was tried,
 *   how long the wait is, what happened
 */

/**
 * @typedef {object} Step
 * @property {number} index  0 for the first network call
 * @property {number} steps  how many network calls make the picture
 * @property {number} sigma  the noise level that this call started from
 * @property {Uint8ClampedArray} pixels  count × height × width × RGBA, one image after another
 * @property {boolean} last  whether the picture is finished
 */

/**
 * @typedef {object} Run
 * @property {number} networkCalls  how many there were
 * @property {number} milliseconds  from the first to the last
 */

/**
 * @typedef {ImageData | { width: number, height: number, data: Uint8ClampedArray | Uint8Array }} Picture  RGBA, row by row
 */

/**
 * Where an image's noise comes from: a seed, or what lies between two noises (slerp).
 *
 * @typedef {number | bigint | { from: Noise, to: Noise, amount: number }} Noise  amount from 0 to 1; at most 64 within one
 *   another
 */

/**
 * A loaded model. All samplers of a page share one worker and one GPU device, and those of one address share the
 * weights, which go with the last of them (`dispose`).
 */
export class ConsistencySampler {
  /** @type {ModelInfo} */
  info;
  #model;
  #onEvent;
  /** The calls under way, each with the function that rejects its promise. */
  #calls = new Map();
  #running = false;
  #ended = null;

  /**
   * Loads a model in the diffusers layout (a `ConsistencyModelPipeline`), wherever it is. Requests go to the address that
   * is named, or to the hub, and to where that redirects them, and nowhere else.
   *
   * @param {string | URL | Iterable<File | { path: string, file: File }>} model  a hub id, `owner/name` or
   *   `owner/name@revision`; or the address of a folder, relative to the document, told from a hub id by a slash at its
   *   beginning or end; or the files of a folder
   * @param {object} [options]
   * @param {string} [options.revision]  of a hub's repository: a branch, a tag or a commit; `main` by default
   * @param {string | URL} [options.hub]  the hub's address, for mirrors
   * @param {boolean} [options.cache]  whether to keep the model in the browser, and to look for it there first; true by
   *   default. Files are never kept
   * @param {"gpu" | "cpu"} [options.device]  what must compute; by default the GPU and, in a browser without WebGPU, the
   *   CPU, with a notice
   * @param {Partial<import("./download.js").Patience>} [options.patience]  with connections that break or stall
   * @param {(progress: LoadProgress) => void} [options.onProgress]  called a few times a second
   * @param {(notice: string) => void} [options.onNotice]  told what a person should know though it goes on: that
   *   the model could not be kept, that there is no connection and the kept copy is used, or that the CPU computes; later,
   *   too, that the GPU or its worker was lost: the model is loaded again, and what was under way begins anew
   * @param {AbortSignal} [options.signal]  stops the load at once and frees the GPU; what has come stays in the cache,
   *   and the next load goes on from there
   * @returns {Promise<ConsistencySampler>}
   */
  static async load(model, { revision, hub, cache = true, device, patience, onProgress, onNotice, signal } = {}) {
    signal?.throwIfAborted();
    let source;
    try {
      source = sourceOf(model, document.baseURI, { hub, revision });
    } catch (error) {
      throw new ConsistencySamplerError("input", error.message);
    }
    const sampler = new ConsistencySampler();
    const abort = () => sampler.#end(signal.reason);
    signal?.addEventListener("abort", abort);
    sampler.#onEvent = (event) => (event.notice ? onNotice?.(event.notice) : onProgress?.(event));
    sampler.#model = SharedModel.hold(source, { cached: cache, device, patience }, sampler.#onEvent);
    try {
      sampler.info = await sampler.#until({ answer: sampler.#model.loaded, cancel() {} });
      return sampler;
    } catch (error) {
      sampler.dispose();
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /**
   * The models that are kept in this browser, in whole or in part.
   *
   * @returns {Promise<{ id: string, name: string, revision: ?string, bytes: number, complete: boolean }[]>}
   */
  static async kept() {
    return (await openCache())?.list() ?? [];
  }

  /** Deletes one of them. */
  static async forget(id) {
    await (await openCache())?.remove(id);
  }

  /**
   * The noise levels of a sampling run: give the number of steps or the steps themselves.
   *
   * @param {object} options
   * @param {number} [options.numInferenceSteps]
   * @param {number[]} [options.timesteps]  descending indices below `info.numTrainTimesteps`
   * @returns {Promise<{ timesteps: number[], sigmas: number[] }>}
   */
  async schedule({ numInferenceSteps, timesteps }) {
    return this.#until(this.#call("schedule", { numInferenceSteps, timesteps }));
  }

  /**
   * Samples images. The same options give the same pixels on the same device.
   *
   * @param {object} options
   * @param {number | bigint | Noise[]} [options.seed]  0 to 2⁶⁴ − 1, 0 by default: one stream of noise for all images; or
   *   a noise for each image, which is then the one that this noise makes alone
   * @param {number} [options.count]  how many images; 1 by default
   * @param {number[]} [options.classLabels]  a class for each image, or one for all; drawn by the seed when left out
   * @param {number} [options.numInferenceSteps]  how many network calls; 1 by default
   * @param {number[]} [options.timesteps]  instead of `numInferenceSteps`: descending indices of the schedule
   * @param {{ seed: number | bigint, amount: number }} [options.blend]  makes all noise slerp(noise(seed),
   *   noise(blend.seed), amount), amount from 0 (this seed's sample) to 1 (the other's): variations of a sample when it is
   *   small, a path between two samples otherwise. Classes that are drawn stay those of `seed`
   * @param {(step: Step) => void} [options.onStep]  called after each network call
   * @param {AbortSignal} [options.signal]  stops after the network call under way
   * @returns {Promise<Run>}
   */
  sample(options = {}) {
    return this.#run("sample", { ...options, kind: null });
  }

  /**
   * Changes a picture without further training (Song et al. 2023, Algorithm 4). Pictures are `ImageData`, or of its form,
   * and of the model's size; a grey model sees their luma, transparent pixels are seen on black.
   *
   * @param {object} options
   * @param {"inpaint" | "colorize" | "super-resolution" | "stroke" | "denoise" | "interpolate"} options.kind
   *   inpaint: pixels where the mask is black are kept, exactly, the hole is generated; colorize: the luma of each pixel
   *   is kept; super-resolution: the mean of each patch of each channel is kept; stroke: a picture that follows strokes;
   *   denoise: noise of standard deviation `sigma` is taken away; interpolate: pictures from `image` to `to`
   * @param {Picture} options.image  the picture
   * @param {Picture} [options.mask]  inpaint: white where pixels are to be generated
   * @param {number} [options.patch]  super-resolution: pixels along a side of a patch, a divisor of height and width
   * @param {number} [options.sigma]  denoise: standard deviation of the noise in the picture, whose range is −1 to 1;
   *   interpolate: of the noise under which the two pictures are mixed, 5.38 by default. From `info.sigmaMin` to
   *   `info.sigmaMax`
   * @param {Picture} [options.to]  interpolate: the picture at the other end
   * @param {number[]} [options.amounts]  interpolate: how far each result is on the way, from 0 to 1; evenly spaced when
   *   left out
   * @param {number} [options.count]  how many different results; 1 by default, 8 for interpolate
   * @param {number | bigint} [options.seed]  as in `sample`, and so are the others; steps are for the first four kinds,
   *   which take 8 evenly spaced ones by default, stroke two at σ 5.38 and 2.24
   * @param {number[]} [options.classLabels]
   * @param {number} [options.numInferenceSteps]
   * @param {number[]} [options.timesteps]
   * @param {{ seed: number | bigint, amount: number }} [options.blend]
   * @param {(step: Step) => void} [options.onStep]  called after each network call, with what is kept in place
   * @param {AbortSignal} [options.signal]
   * @returns {Promise<Run>}
   */
  edit({ kind = "", image, mask, to, ...options } = {}) {
    const count = options.amounts?.length ?? (kind === "interpolate" ? 8 : 1);
    return this.#run("sample", { count, ...options, kind, image: portable(image), mask: portable(mask), to: portable(to) });
  }

  /**
   * One network call that shows what the model sees and makes of it: x = image + σ·z with the seed's noise z, and f(x, σ).
   *
   * @param {object} options
   * @param {Picture} options.image  of the model's size
   * @param {number} options.sigma  from `info.sigmaMin` to `info.sigmaMax`
   * @param {number | bigint} [options.seed]  0 by default
   * @param {number[]} [options.classLabels]  one class; drawn by the seed when left out
   * @param {AbortSignal} [options.signal]  makes it reject when the call is over
   * @returns {Promise<{ noisy: Uint8ClampedArray, denoised: Uint8ClampedArray }>}  RGBA; `noisy` is x/√(1 + σ²), clamped
   */
  async denoise({ image, ...options } = {}) {
    const result = await this.#run("denoise", { ...options, count: 1, image: portable(image) });
    options.signal?.throwIfAborted();
    return result;
  }

  /** Gives the model up, and the GPU memory with it unless another sampler has the same; later calls reject. */
  dispose() {
    this.#end(new ConsistencySamplerError("disposed", "this sampler has been disposed of"));
  }

  /** `reason` is what calls under way and later ones reject with. */
  #end(reason) {
    if (this.#ended) return;
    this.#ended = { reason };
    for (const [call, reject] of this.#calls) {
      call.cancel();
      reject(reason);
    }
    this.#model.leave(this.#onEvent);
  }

  /** A call of the network, of which a sampler has one at a time; those of others who share the model go first. */
  async #run(method, { onStep, signal, ...options }) {
    signal?.throwIfAborted();
    if (this.#running) throw new ConsistencySamplerError("busy", "one call at a time: another one is running");
    const call = this.#call(method, options, onStep);
    this.#running = true;
    signal?.addEventListener("abort", call.cancel);
    try {
      const { cancelled, ...result } = await this.#until(call);
      if (cancelled) throw signal.reason;
      return result;
    } finally {
      this.#running = false;
      signal?.removeEventListener("abort", call.cancel);
    }
  }

  #call(method, params, onEvent) {
    if (this.#ended) throw this.#ended.reason;
    try {
      return this.#model.call(method, params, onEvent);
    } catch (error) {
      // An option that no worker can be sent, such as a function.
      throw new ConsistencySamplerError("input", `options: ${error.message}`);
    }
  }

  /** A call's answer, unless the sampler ends before. */
  #until(call) {
    return new Promise((resolve, reject) => {
      this.#calls.set(call, reject);
      call.answer.then(resolve, reject).finally(() => this.#calls.delete(call));
    });
  }
}

/** A picture as it goes to the worker. */
function portable(picture) {
  if (picture?.data?.constructor !== Uint8Array) return picture;
  const { width, height, data } = picture;
  return { width, height, data: new Uint8ClampedArray(data.buffer, data.byteOffset, data.length) };
}
