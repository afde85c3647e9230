"""What the tests of this folder share."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4


def command_line():
    """The program that the variable CONSISTENCY_SAMPLER names, by default the release build."""
    path = Path(os.environ.get("CONSISTENCY_SAMPLER", ROOT / "target/release/consistency-sampler"))
    if not path.is_file():
        sys.exit(f"error: {path}: expected the command line, found nothing; set CONSISTENCY_SAMPLER")
    return path


def run(*command, **environment):
    """Runs a command and returns what it printed."""
    done = subprocess.run([str(c) for c in command], env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {' '.join(str(c) for c in command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def crate_samples(model, output, *options, seed=3, batch=4, steps=2):
    """Images (B, C, H, W) in [0, 1] of the command line."""
    from safetensors.numpy import load_file

    request = ["--seed", seed, "--batch", batch, "--num-inference-steps", steps, "--output", output]
    run(command_line(), "sample", "--device", "cpu", "--model", model, *request, *options)
    return load_file(output)["images"]


def diffusers_samples(pipeline, labels=None, seed=3, batch=4, steps=2):
    """The same request of a ConsistencyModelPipeline."""
    import torch

    pipeline.set_progress_bar_config(disable=True)
    # The pipeline takes `class_labels` with one number for each image.
    request = {"batch_size": batch, "num_inference_steps": steps, "output_type": "pt"}
    if labels is not None:
        request["class_labels"] = torch.tensor(labels)
    return pipeline(generator=torch.Generator().manual_seed(seed), **request).images.float().numpy()


def compare(name, found, expected, tolerance=TOLERANCE):
    assert found.shape == expected.shape, (name, found.shape, expected.shape)
    error = float(abs(found - expected).max())
    print(f"{name}: largest difference {error:.1e} in [0, 1]", flush=True)
    # Written so that NaN fails.
    if not error < tolerance:
        sys.exit(f"error: {name}: expected a difference below {tolerance}, found {error}")


class Report:
    """Prints the versions at the begin, and the time at the end."""

    def __init__(self, *packages):
        from diffusers.utils import logging

        logging.disable_progress_bar()
        # diffusers warns of id2label, in which this crate keeps the names of classes.
        logging.set_verbosity_error()
        self.begin = time.monotonic()
        print(json.dumps({"python": sys.version.split()[0]} | {name: version(name) for name in packages}), flush=True)

    def end(self):
        print(f"passed in {time.monotonic() - self.begin:.0f} s")
