// The networks that are offered to begin with, and a trained one as the files of a model.

import type { Bytes } from "../bytes.js";
import type { Run } from "./train-messages.js";

/** What a network's pictures are. */
export interface Shape {
  size: number;
  channels: number;
}

export type Width = "tiny" | "small" | "medium";

/** The channels of each level; each halves the picture's sides. */
const CHANNELS: Record<number, Record<Width, number[]>> = {
  28: { tiny: [8, 16, 16], small: [16, 24, 32], medium: [32, 48, 64] },
  32: { tiny: [16, 16, 32], small: [24, 32, 48], medium: [32, 64, 96] },
  64: { tiny: [8, 16, 32, 48], small: [16, 24, 48, 64], medium: [24, 48, 96, 128] },
};

/** How many levels, from the last one on, attend. */
const ATTENTION: Record<number, number> = { 28: 1, 32: 1, 64: 2 };

const PIPELINE = "ConsistencyModelPipeline";
const SCHEDULER_CLASS = "CMStochasticIterativeScheduler";
const VERSION = { _diffusers_version: "0.42.1" };

/** The text of scheduler/scheduler_config.json. */
export const SCHEDULER = json({
  _class_name: SCHEDULER_CLASS,
  ...VERSION,
  clip_denoised: true,
  num_train_timesteps: 40,
  rho: 7,
  s_noise: 1,
  sigma_data: 0.5,
  sigma_max: 80,
  sigma_min: 0.002,
});

/** The text of a new network's unet/config.json; `classes` is 0 where it has none to tell apart. */
export function unetConfig({ size, channels }: Shape, width: Width, classes: number): string {
  const widths = CHANNELS[size]?.[width];
  if (!widths) throw new Error(`expected pictures of 28, 32 or 64 pixels a side, found ${size}`);
  const levels = widths.length;
  const attends = (level: number) => level >= levels - (ATTENTION[size] ?? 0);
  const types = (direction: string) => widths.map((_, level) => `${attends(level) ? "Attn" : ""}${direction}Block2D`);
  return json({
    _class_name: "UNet2DModel",
    ...VERSION,
    act_fn: "silu",
    add_attention: true,
    attention_head_dim: 16,
    attn_norm_num_groups: null,
    block_out_channels: widths,
    center_input_sample: false,
    class_embed_type: null,
    down_block_types: types("Down"),
    downsample_padding: 1,
    downsample_type: "conv",
    dropout: 0,
    flip_sin_to_cos: true,
    freq_shift: 0,
    in_channels: channels,
    layers_per_block: 1,
    mid_block_scale_factor: 1,
    mid_block_type: "UNetMidBlock2D",
    norm_eps: 1e-5,
    norm_num_groups: 8,
    num_class_embeds: classes || null,
    num_train_timesteps: null,
    out_channels: channels,
    resnet_time_scale_shift: "scale_shift",
    sample_size: size,
    time_embedding_dim: null,
    time_embedding_type: "positional",
    up_block_types: types("Up").reverse(),
    upsample_type: "conv",
  });
}

/** The files of a model by their paths. */
export function modelFiles({ unet, scheduler, classNames }: Run, weights: Bytes): Map<string, Bytes> {
  const index = {
    _class_name: PIPELINE,
    ...VERSION,
    ...(classNames.length ? { id2label: { ...classNames } } : {}),
    scheduler: ["diffusers", SCHEDULER_CLASS],
    unet: ["diffusers", "UNet2DModel"],
  };
  const bytes = (text: string) => new TextEncoder().encode(text);
  return new Map([
    ["model_index.json", bytes(json(index))],
    ["scheduler/scheduler_config.json", bytes(scheduler)],
    ["unet/config.json", bytes(unet)],
    ["unet/diffusion_pytorch_model.safetensors", weights],
  ]);
}

function json(value: object): string {
  return `${JSON.stringify(value, null, 2)}\n`;
}
