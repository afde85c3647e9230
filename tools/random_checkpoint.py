#!/usr/bin/env python
"""Writes a checkpoint of a published architecture at full size, with random weights.

    python tools/random_checkpoint.py imagenet64 target/imagenet64-f16 --half
    python tools/random_checkpoint.py lsun256 target/lsun256

The same seed gives the same weights. Needs torch and diffusers, and as much memory as the weights have bytes.
"""

import argparse
from pathlib import Path

import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel

IMAGENET64 = dict(
    sample_size=64, in_channels=3, out_channels=3, layers_per_block=3, block_out_channels=(192, 384, 576, 768),
    down_block_types=("ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3),
    up_block_types=(*["AttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"),
    attention_head_dim=64, attn_norm_num_groups=32, num_class_embeds=1000, resnet_time_scale_shift="scale_shift",
    downsample_type="resnet", upsample_type="resnet",
)
LSUN256 = dict(
    sample_size=256, in_channels=3, out_channels=3, layers_per_block=2,
    block_out_channels=(256, 256, 512, 512, 1024, 1024),
    down_block_types=(*["ResnetDownsampleBlock2D"] * 3, *["AttnDownBlock2D"] * 3),
    up_block_types=(*["AttnUpBlock2D"] * 3, *["ResnetUpsampleBlock2D"] * 3),
    attention_head_dim=64, num_class_embeds=None, resnet_time_scale_shift="default",
    downsample_type="resnet", upsample_type="resnet",
)
ARCHITECTURES = {"imagenet64": (IMAGENET64, 295_899_267), "lsun256": (LSUN256, 526_304_771)}


def network(name, seed=0):
    """The U-Net of that architecture with weights that the seed decides, in f32."""
    config, expected = ARCHITECTURES[name]
    torch.manual_seed(seed)
    unet = UNet2DModel(**config).eval().requires_grad_(False)
    parameters = sum(p.numel() for p in unet.parameters())
    assert parameters == expected, f"{name}: expected {expected} parameters, found {parameters}"
    # diffusers begins with norms of weight 1 and bias 0, with which a mistake in them would not show.
    for key, parameter in unet.named_parameters():
        if "norm" in key:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return unet


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--half", action="store_true", help="store half precision")
    arguments = parser.parse_args()

    unet = network(arguments.architecture, arguments.seed)
    if arguments.half:
        unet = unet.half()
    ConsistencyModelPipeline(unet=unet, scheduler=CMStochasticIterativeScheduler()).save_pretrained(arguments.output)
    weights = arguments.output / "unet/diffusion_pytorch_model.safetensors"
    print(f"{weights}: {weights.stat().st_size} bytes")


if __name__ == "__main__":
    main()
