#!/usr/bin/env python
"""Distils by tools/distil_trajectories.py on the CPU and loads the result elsewhere.

Run on demand; continuous integration does not. It takes about a minute on two cores.

    pip install torch diffusers safetensors pillow
    CONSISTENCY_SAMPLER=target/release/consistency-sampler python tests/python/distil_trajectories_test.py
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from checks import ROOT, Report, compare, crate_samples, diffusers_samples, run

SCRIPT = ROOT / "tools/distil_trajectories.py"
TEACHER = ROOT / "tests/goldens/attn-scale-shift"


def check_solver(tool):
    """Every state of a trajectory of Gaussian data N(0, 1/4) leads to its end: x_0 = x / (2 sqrt(1/4 + sigma^2))."""
    import torch

    teacher = SimpleNamespace(config=SimpleNamespace(in_channels=1, sample_size=4))
    tool.denoise = lambda _, x, sigma, labels: x * (0.25 / (0.25 + sigma.view(-1, 1, 1, 1) ** 2)) * 0.2
    # A fifth of it stays within +-1, where the solver clamps; the trajectory of a linear denoiser k D is known too.
    states, sigmas, ends = tool.solve(teacher, torch.zeros(3, dtype=torch.long), 64, torch.Generator().manual_seed(1))
    assert states.shape == (3, 64, 1, 4, 4) and ends.shape == (3, 1, 4, 4)
    assert (sigmas.diff() <= 0).all() and abs(sigmas[0] - 80) < 1e-4
    # dx/dsigma = x (1 - k/4/(1/4 + sigma^2)) / sigma, so x falls as sigma^(1-k) (1/4 + sigma^2)^(k/2) with k = 1/5.
    x, k = states.float(), 0.2
    shape = sigmas ** (1 - k) * (0.25 + sigmas**2) ** (k / 2)
    expected = x[:, :1] * (shape / shape[0]).view(1, -1, 1, 1, 1)
    # The highest levels differ by 1 part in 2000 for half precision.
    error = float(((x - expected) / (expected.abs() + 0.01))[:, :40].abs().max())
    print(f"solver: states are within {error:.1e} of the exact trajectory")
    assert error < 0.02, error


def main():
    report = Report("torch", "diffusers", "safetensors")
    sys.path.insert(0, str(SCRIPT.parent))
    import distil_trajectories as tool
    from diffusers import ConsistencyModelPipeline

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "mine"
        distil = [sys.executable, SCRIPT, "--teacher", TEACHER, "--output", model, "--batch", 4, "--steps", 4, "--uses", 2]
        run(*distil, "--minutes", 0.05)
        run(*distil, "--minutes", 0.1, "--resume")
        lines = (model / "training/loss.csv").read_text().splitlines()
        assert [int(line.split(",")[0]) for line in lines] == list(range(1, len(lines) + 1)), "iterations follow one another"
        found = crate_samples(model, Path(folder) / "samples.safetensors", "--class-labels", "0,1,1,0")
        compare("distilled", found, diffusers_samples(ConsistencyModelPipeline.from_pretrained(model), [0, 1, 1, 0]))
    check_solver(tool)
    report.end()


if __name__ == "__main__":
    main()
