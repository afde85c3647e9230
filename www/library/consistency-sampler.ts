/**
 * Samples of a consistency model, made in a Web Worker on the GPU, or on the CPU in browsers without WebGPU.
 *
 *     const sampler = await ConsistencySampler.load("weights/mnist/");
 *     await sampler.sample({ seed: 7, count: 4, numInferenceSteps: 2, onStep: ({ pixels }) => draw(pixels) });
 *
 * Every promise rejects with a ConsistencySamplerError, or with the signal's reason (an AbortError unless the caller
 * chose another) once its signal is aborted. docs/element.md says more.
 *
 * @packageDocumentation
 */

import { ConsistencySamplerError, typed } from "./error.js";
import type { LoadEvent, Method, Methods } from "./messages.js";
import { openCache } from "./model-cache.js";
import { sourceOf } from "./model-source.js";
import { type Answer, baseAddress, place, SharedModel } from "./runtime.js";
import type {
  CallProgress,
  Denoised,
  DenoiseOptions,
  EditOptions,
  KeptModel,
  LoadOptions,
  ModelInfo,
  ModelLocation,
  Picture,
  Run,
  RunOptions,
  SampleOptions,
  ScheduleOptions,
  Step,
} from "./types.js";

export type { ErrorCode } from "./error.js";
export type * from "./types.js";
export { ConsistencySamplerError };

/**
 * A loaded model. All samplers of a page share one worker and one GPU device, and those of one address share the
 * weights, which go with the last of them (`dispose`).
 */
export class ConsistencySampler {
  /**
   * The address of worker.js, beside which pkg/ and pkg-cpu/ are. Needed where a bundler has moved this file away from
   * them; set it before the first load.
   */
  static workerUrl: string | URL | null = null;

  readonly info!: ModelInfo;
  #model: SharedModel;
  #onEvent: (event: LoadEvent) => void;
  /** The calls under way, each with the function that rejects its promise. */
  #calls = new Map<Answer<unknown>, (reason: unknown) => void>();
  #running = false;
  /** What calls reject with once the sampler is at its end. */
  #ended: { reason: unknown } | null = null;

  private constructor(model: (onEvent: (event: LoadEvent) => void) => SharedModel, options: LoadOptions) {
    const { onNotice, onProgress } = options;
    this.#onEvent = (event) => ("notice" in event ? onNotice?.(event.notice) : onProgress?.(event));
    this.#model = model(this.#onEvent);
  }

  /**
   * Loads a model in the diffusers layout (a `ConsistencyModelPipeline`), wherever it is. Requests go to the address that
   * is named, or to the hub, and to where that redirects them, and nowhere else.
   */
  static async load(model: ModelLocation, options: LoadOptions = {}): Promise<ConsistencySampler> {
    // A caller without types may give null.
    options ??= {};
    const { cache: cached = true, device, patience, sameOrigin, signal } = options;
    signal?.throwIfAborted();
    let sampler: ConsistencySampler;
    try {
      if (!globalThis.Worker) {
        throw new ConsistencySamplerError("unsupported", "no Worker here: expected a page or a dedicated worker");
      }
      place.workerUrl = ConsistencySampler.workerUrl;
      const base = baseAddress();
      const origin = sameOrigin ? new URL(base).origin : null;
      const source = sourceOf(model, base, options);
      sampler = new ConsistencySampler(
        (holder) => SharedModel.hold(source, { cached, device, patience, origin }, holder),
        options,
      );
    } catch (error) {
      throw typed("input", "expected an address, a hub id or files, and options", error);
    }
    const abort = () => sampler.#end(signal?.reason);
    signal?.addEventListener("abort", abort);
    try {
      const info = await sampler.#until({ answer: sampler.#model.loaded, cancel() {} });
      return Object.assign(sampler, { info });
    } catch (error) {
      sampler.dispose();
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** The models that are kept in this browser, in whole or in part. */
  static async kept(): Promise<KeptModel[]> {
    return (await openCache())?.list() ?? [];
  }

  /** Deletes one of them. */
  static async forget(id: string): Promise<void> {
    await (await openCache())?.remove(id);
  }

  /** The noise levels of a run: give the number of steps or the steps themselves. */
  async schedule(options: ScheduleOptions): Promise<{ timesteps: number[]; sigmas: number[] }> {
    const { numInferenceSteps, timesteps } = options ?? {};
    return this.#until(this.#call("schedule", { numInferenceSteps, timesteps }));
  }

  /** Samples images. The same options give the same pixels on the same device. */
  sample(options: SampleOptions = {}): Promise<Run> {
    const { signal, onStep, onProgress, ...params } = options ?? {};
    return this.#run("sample", { ...params, kind: null }, signal, told(onStep, onProgress));
  }

  /**
   * Changes a picture without further training (Song et al. 2023, Algorithm 4). Pictures are `ImageData`, or of its form,
   * and of the model's size; a grey model sees their luma, transparent pixels are seen on black.
   */
  edit(options: EditOptions): Promise<Run> {
    // A caller without types may leave anything out, which the worker then names.
    const { kind, image, mask, to, signal, onStep, onProgress, ...more }: Partial<EditOptions> = options ?? {};
    const count = more.amounts?.length ?? (kind === "interpolate" ? 8 : 1);
    const pictures = { image: portable(image), mask: portable(mask), to: portable(to) };
    return this.#run("sample", { count, ...more, kind: kind ?? "", ...pictures }, signal, told(onStep, onProgress));
  }

  /**
   * One network call that shows what the model sees and makes of it: x = image + σ·z with the seed's noise z, and f(x, σ),
   * as RGBA. `classLabels` is one class here.
   */
  async denoise(options: DenoiseOptions): Promise<Denoised> {
    // A caller without types may pass `onStep` here too, which no worker can be sent.
    const { image, signal, onStep: _, onProgress: __, ...params }: Partial<DenoiseOptions & RunOptions> = options ?? {};
    return this.#run("denoise", { ...params, count: 1, image: portable(image) }, signal);
  }

  /** Gives the model up, and the GPU memory with it unless another sampler has the same; later calls reject. */
  dispose(): void {
    this.#end(new ConsistencySamplerError("disposed", "this sampler has been disposed of"));
  }

  /** `reason` is what calls under way and later ones reject with. */
  #end(reason: unknown): void {
    if (this.#ended) return;
    this.#ended = { reason };
    for (const [call, reject] of this.#calls) {
      call.cancel();
      reject(reason);
    }
    this.#model.leave(this.#onEvent);
  }

  /** A call of the network, of which a sampler has one at a time; those of others who share the model go first. */
  async #run<M extends "sample" | "denoise">(
    method: M,
    params: Methods[M]["params"],
    signal: AbortSignal | undefined,
    onEvent?: (event: Methods[M]["event"]) => void,
  ): Promise<Exclude<Methods[M]["result"], { cancelled: true }>> {
    signal?.throwIfAborted();
    if (this.#running) throw new ConsistencySamplerError("busy", "one call at a time: another one is running");
    const call = this.#call(method, params, onEvent);
    this.#running = true;
    signal?.addEventListener("abort", call.cancel);
    try {
      const { cancelled, ...result } = await this.#until(call);
      if (cancelled) throw signal?.reason;
      return result as Exclude<Methods[M]["result"], { cancelled: true }>;
    } finally {
      this.#running = false;
      signal?.removeEventListener("abort", call.cancel);
    }
  }

  #call<M extends Method>(
    method: M,
    params: Methods[M]["params"],
    onEvent?: (event: Methods[M]["event"]) => void,
  ): Answer<Methods[M]["result"]> {
    if (this.#ended) throw this.#ended.reason;
    try {
      return this.#model.call(method, params, onEvent);
    } catch (error) {
      // An option that no worker can be sent, such as a function.
      throw typed("input", "options", error);
    }
  }

  /** A call's answer, unless the sampler ends before. */
  #until<T>(call: Answer<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#calls.set(call, reject);
      call.answer.then(resolve, reject).finally(() => this.#calls.delete(call));
    });
  }
}

/** Who is told of a run's events. */
const told = (onStep: RunOptions["onStep"], onProgress: RunOptions["onProgress"]) => (event: Step | CallProgress) =>
  "done" in event ? onProgress?.(event) : onStep?.(event);

/** A picture as it goes to the worker. */
function portable<P extends Picture | undefined>(picture: P): P {
  if (picture?.data?.constructor !== Uint8Array) return picture;
  const { width, height, data } = picture;
  return { width, height, data: new Uint8ClampedArray(data.buffer, data.byteOffset, data.length) } as P;
}
