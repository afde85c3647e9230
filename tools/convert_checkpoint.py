#!/usr/bin/env python
"""Converts a checkpoint that holds only a pickle (`.bin`) to safetensors.

    python tools/convert_checkpoint.py MODEL OUTPUT [--half]

MODEL is a folder in the diffusers layout. OUTPUT becomes one with the same configuration and
`unet/diffusion_pytorch_model.safetensors` (with --half: `….fp16.safetensors`, whose values are rounded to half precision),
and a SHA256SUMS. Needs torch and safetensors. Pickles are read with `weights_only`, so that none of their code runs.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

STEM = "diffusion_pytorch_model"
CONFIGS = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--half", action="store_true", help="store half precision")
    arguments = parser.parse_args()

    pickles = sorted((arguments.model / "unet").glob(f"{STEM}*.bin"))
    if len(pickles) != 1:
        found = [p.name for p in pickles]
        parser.error(f"{arguments.model / 'unet'}: expected one {STEM}*.bin, found {found}")
    tensors = torch.load(pickles[0], map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        parser.error(f"{pickles[0]}: expected a dictionary of tensors")
    dtype = torch.float16 if arguments.half else None
    # A copy of each: safetensors takes no tensors that share memory.
    tensors = {name: t.detach().to(dtype=dtype).contiguous().clone() for name, t in tensors.items()}
    if arguments.half and not all(t.isfinite().all() for t in tensors.values()):
        parser.error(f"{pickles[0]}: some values are too large for half precision")

    for name in CONFIGS:
        target = arguments.output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(arguments.model / name, target)
    weights = arguments.output / "unet" / (f"{STEM}.fp16.safetensors" if arguments.half else f"{STEM}.safetensors")
    save_file(tensors, weights, metadata={"format": "pt"})
    write_sums(arguments.output, [*CONFIGS, weights.relative_to(arguments.output).as_posix()])
    print(f"{weights}: {len(tensors)} tensors, {weights.stat().st_size} bytes")


def write_sums(folder, names):
    """Writes SHA256SUMS as sha256sum does."""
    lines = []
    for name in names:
        with open(folder / name, "rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    (folder / "SHA256SUMS").write_text("".join(lines))


if __name__ == "__main__":
    main()
