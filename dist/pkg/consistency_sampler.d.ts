/* tslint:disable */
/* eslint-disable */

/**
 * A WebGPU device.
 */
export class Device {
    private constructor();
    free(): void;
    [Symbol.dispose](): void;
    /**
     * The adapter's name, as far as the browser tells it.
     */
    description(): string;
    /**
     * Asks the browser for its fastest GPU; throws when there is none.
     */
    static request(): Promise<Device>;
}

/**
 * A model whose weights are arriving.
 */
export class Loader {
    free(): void;
    [Symbol.dispose](): void;
    /**
     * Ends the file and returns the model; throws when the file was too short.
     */
    finish(): Promise<Model>;
    /**
     * Reads the two configuration files, allocates the weights on the GPU and starts compiling the kernels.
     */
    constructor(device: Device, unet_config_json: string, scheduler_config_json: string);
    /**
     * Takes the next bytes of `diffusion_pytorch_model.safetensors`; complete tensors go to the GPU.
     */
    push(chunk: Uint8Array | number[]): void;
}

/**
 * A model that is ready to sample.
 */
export class Model {
    private constructor();
    free(): void;
    [Symbol.dispose](): void;
    /**
     * Lets the running `sample` stop after the network call under way.
     */
    cancel(): void;
    /**
     * The bare network, as `UNet2DModel` is called: `sample` (B × C × H × W), `timestep` (B), `class_labels` (B) if
     * the model has classes. Resolves to B × C × H × W values.
     */
    forward(sample: Float32Array | number[], timestep: Float32Array | number[], class_labels?: Uint32Array | number[] | null): Promise<Float32Array>;
    /**
     * `{parameters, sampleSize: [height, width], channels, numClassEmbeds | null, numTrainTimesteps, sigmaMin,
     * sigmaMax}`.
     */
    info(): object;
    /**
     * Draws samples; calls `on_step` after each network call with
     * `{index, steps, sigma, pixels: Uint8ClampedArray (count × height × width RGBA), last}`.
     *
     * `options`: `{seed, count, classLabels?, numInferenceSteps?, timesteps?}`. Resolves to
     * `{cancelled, networkCalls, milliseconds}`.
     */
    sample(options: object, on_step: Function): Promise<object>;
    /**
     * `{timesteps, sigmas}` of a number of evenly spaced steps or of an explicit list; throws for bad ones.
     */
    schedule(num_inference_steps?: number | null, timesteps?: Uint32Array | number[] | null): object;
}

/**
 * Runs when the module is loaded: a panic, which would be a defect of this crate, is at least readable.
 */
export function start(): void;

export type InitInput = RequestInfo | URL | Response | BufferSource | WebAssembly.Module;

export interface InitOutput {
    readonly memory: WebAssembly.Memory;
    readonly __wbg_device_free: (a: number, b: number) => void;
    readonly __wbg_loader_free: (a: number, b: number) => void;
    readonly __wbg_model_free: (a: number, b: number) => void;
    readonly device_description: (a: number) => [number, number];
    readonly device_request: () => any;
    readonly loader_finish: (a: number) => any;
    readonly loader_new: (a: number, b: number, c: number, d: number, e: number) => [number, number, number];
    readonly loader_push: (a: number, b: number, c: number) => [number, number];
    readonly model_cancel: (a: number) => void;
    readonly model_forward: (a: number, b: number, c: number, d: number, e: number, f: number, g: number) => any;
    readonly model_info: (a: number) => [number, number, number];
    readonly model_sample: (a: number, b: any, c: any) => any;
    readonly model_schedule: (a: number, b: number, c: number, d: number) => [number, number, number];
    readonly start: () => void;
    readonly wasm_bindgen__convert__closures_____invoke__h0d23409ac1894656: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h0d23409ac1894656_16: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h0d23409ac1894656_17: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h51a50f1332ac35d6: (a: number, b: number, c: any, d: any) => void;
    readonly wasm_bindgen__convert__closures_____invoke__hd3965b95f461f62f: (a: number, b: number, c: any) => [number, number];
    readonly wasm_bindgen__convert__closures_____invoke__h1ab5705c14eb6175: (a: number, b: number, c: any) => void;
    readonly wasm_bindgen__convert__closures_____invoke__h1ab5705c14eb6175_15: (a: number, b: number, c: any) => void;
    readonly __wbindgen_malloc: (a: number, b: number) => number;
    readonly __wbindgen_realloc: (a: number, b: number, c: number, d: number) => number;
    readonly __wbindgen_free: (a: number, b: number, c: number) => void;
    readonly __wbindgen_exn_store: (a: number) => void;
    readonly __externref_table_alloc: () => number;
    readonly __wbindgen_externrefs: WebAssembly.Table;
    readonly __wbindgen_destroy_closure: (a: number, b: number) => void;
    readonly __externref_table_dealloc: (a: number) => void;
    readonly __wbindgen_start: () => void;
}

export type SyncInitInput = BufferSource | WebAssembly.Module;

/**
 * Instantiates the given `module`, which can either be bytes or
 * a precompiled `WebAssembly.Module`.
 *
 * @param {{ module: SyncInitInput }} module - Passing `SyncInitInput` directly is deprecated.
 *
 * @returns {InitOutput}
 */
export function initSync(module: { module: SyncInitInput } | SyncInitInput): InitOutput;

/**
 * If `module_or_path` is {RequestInfo} or {URL}, makes a request and
 * for everything else, calls `WebAssembly.instantiate` directly.
 *
 * @param {{ module_or_path: InitInput | Promise<InitInput> }} module_or_path - Passing `InitInput` directly is deprecated.
 *
 * @returns {Promise<InitOutput>}
 */
export default function __wbg_init (module_or_path?: { module_or_path: InitInput | Promise<InitInput> } | InitInput | Promise<InitInput>): Promise<InitOutput>;
