#!/usr/bin/env python
"""Compares a published architecture at full size with diffusers: one forward on the same random weights.

    cargo build --release --features cli --bin consistency-sampler
    python tools/compare_full_size.py imagenet64
    python tools/compare_full_size.py lsun256 --device cpu

Works in target/full-size/, which needs the room of the weights in f32 (1.2 and 2.1 GB). The weights are in memory once
for diffusers and, after that has ended, once for this crate. Fails when the outputs differ by more than 1e-3 of the largest
expected value.
"""

import argparse
import json
import math
import multiprocessing
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-3


def diffusers(name, folder):
    """Writes the checkpoint, an input and diffusers' output; prints what it took."""
    import torch
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline
    from random_checkpoint import network
    from safetensors.torch import save_file

    unet = network(name)
    if not (folder / "model_index.json").exists():
        ConsistencyModelPipeline(unet=unet, scheduler=CMStochasticIterativeScheduler()).save_pretrained(folder)
    size = unet.config.sample_size
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(1, 3, size, size, generator=generator)
    timestep = torch.tensor([250 * math.log(3.0)])
    labels = None if unet.config.num_class_embeds is None else torch.tensor([207])
    begin = time.monotonic()
    with torch.no_grad():
        output = unet(sample, timestep, class_labels=labels).sample
    seconds = time.monotonic() - begin
    tensors = {"sample": sample, "timestep": timestep} | ({} if labels is None else {"class_labels": labels})
    save_file(tensors, folder / "input.safetensors")
    save_file({"sample": output.contiguous()}, folder / "expected.safetensors")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"diffusers": {"forward_s": round(seconds, 1), "peak_gb": round(peak, 2)}}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architecture", choices=["imagenet64", "lsun256"])
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    arguments = parser.parse_args()
    folder = ROOT / "target/full-size" / arguments.architecture
    folder.mkdir(parents=True, exist_ok=True)

    # A process of its own gives its memory back.
    child = multiprocessing.get_context("spawn").Process(target=diffusers, args=(arguments.architecture, folder))
    child.start()
    child.join()
    if child.exitcode:
        sys.exit(child.exitcode)

    begin = time.monotonic()
    program = ROOT / "target/release/consistency-sampler"
    files = ["--input", folder / "input.safetensors", "--output", folder / "output.safetensors"]
    subprocess.run([program, "forward", "--device", arguments.device, "--model", folder, *files], check=True)
    seconds = time.monotonic() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6

    from safetensors.numpy import load_file

    expected, found = (load_file(folder / f"{name}.safetensors")["sample"] for name in ["expected", "output"])
    assert expected.shape == found.shape, (expected.shape, found.shape)
    error = float(abs(found - expected).max() / abs(expected).max())
    result = {"load_and_forward_s": round(seconds, 1), "peak_gb_of_both": round(peak, 2), "relative_error": error}
    print(json.dumps({arguments.architecture: {"device": arguments.device, "output_std": float(expected.std()), **result}}))
    # Written so that NaN fails.
    if not error <= TOLERANCE:
        sys.exit(f"error: expected a relative error of at most {TOLERANCE}, found {error}")


if __name__ == "__main__":
    main()
