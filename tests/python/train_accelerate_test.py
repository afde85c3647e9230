#!/usr/bin/env python
"""Trains by tools/train_accelerate.py in two processes on the CPU and loads the results elsewhere.

Run on demand; continuous integration does not. It takes about two minutes on two cores.

    pip install torch diffusers accelerate safetensors pillow
    CONSISTENCY_SAMPLER=target/release/consistency-sampler python tests/python/train_accelerate_test.py

Each recipe trains a tiny network on a dozen PNGs for a few iterations. An interrupted and resumed run must have the
weights of one that went through. diffusers and the command line must load the result and draw the same samples from it.
"""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from checks import ROOT, Report, compare, crate_samples, diffusers_samples, run

CLASSES = ["dark", "light"]
CONFIG = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": [8, 16],
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "attention_head_dim": 8, "norm_num_groups": 4, "num_class_embeds": 2, "resnet_time_scale_shift": "scale_shift",
    "downsample_type": "resnet", "upsample_type": "resnet", "dropout": 0.1,
}
SCRIPT = ROOT / "tools/train_accelerate.py"
SETTINGS = ["--batch", 4, "--log-every", 1, "--save-every", 3, "--workers", 1, "--flip", "--lr", 1e-3]


def write_images(folder):
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for base, name in zip((0, 128), CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(6):
            pixels = base + 127 * generator.random((8, 8, 3))
            Image.fromarray(pixels.astype("uint8")).save(folder / name / f"{i}.png")


def train(*options, processes=2):
    # `accelerate launch --cpu` starts one process, however many are asked for, so that the CPU is named by the variable.
    launch = ["-m", "accelerate.commands.launch", "--num_machines", 1, "--dynamo_backend", "no", "--mixed_precision", "no"]
    several = ["--multi_gpu", "--num_processes", processes, "--main_process_port", 0] if processes > 1 else ["--cpu"]
    environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    printed = run(sys.executable, *launch, *several, SCRIPT, *SETTINGS, *options, **environment)
    assert f"{processes} × cpu" in printed, printed
    return printed


def largest_difference(a, b):
    from safetensors.torch import load_file

    a, b = (load_file(folder / "unet/diffusion_pytorch_model.safetensors") for folder in (a, b))
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def check_formulas():
    """Scalings against diffusers' scheduler; schedules against the values of the crate's tests."""
    import torch
    from diffusers import CMStochasticIterativeScheduler

    sys.path.insert(0, str(SCRIPT.parent))
    import train_accelerate as tool

    scheduler = CMStochasticIterativeScheduler()
    scheduler.set_timesteps(timesteps=[22, 0])
    x, output = torch.randn(2, 1, 3, 4, 4).unbind(0)
    forward = lambda sample, timestep: output * sample + timestep / 1000  # in place of a network
    network = lambda sample, timestep, class_labels: SimpleNamespace(sample=forward(sample, timestep))
    for i, timestep in enumerate(scheduler.timesteps):
        scheduler._step_index, sigma = i, scheduler.sigmas[i]
        c_skip, c_out = scheduler.get_scalings_for_boundary_condition(sigma)
        expected = c_skip * x + c_out * forward(scheduler.scale_model_input(x, timestep), timestep)
        found = tool.denoise(network, scheduler.config, x, sigma.view(1), None)
        assert (found - expected).abs().max() < 1e-4, sigma
    assert abs(tool.karras(torch.tensor(18), 40, scheduler.config) - 3.519699) < 1e-5
    assert (tool.ct_levels(0.0), tool.ct_levels(1.0)) == (2, 151)
    assert abs(tool.ct_decay(0.0) - 0.9) < 1e-12

    def r(t, q, stage):
        return float(tool.ect_r(torch.tensor(t, dtype=torch.float64), q, (stage, stage), 0.0, scheduler.config))

    assert r(0.1, 2.0, 0) == 0.0
    assert abs(r(80.0, 256.0, 0) / (80.0 * (1 - 1 / 256)) - 1) < 1e-9
    assert r(3.0, 256.0, 0) == r(3.0, 2.0, 7)
    orders = [tool.batches(12, 3, 0, False, start, rank, 2) for start, rank in ((0, 0), (0, 1), (1, 0), (1, 1))]
    first = [[index for index, _ in next(order)] for order in orders]
    assert sorted(sum(first, [])) == list(range(12)), "an epoch has all images, over processes and iterations"
    print("formulas: scalings, schedules and the order of the images are right")


def main():
    import torch
    from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel

    report = Report("torch", "diffusers", "accelerate", "safetensors")
    check_formulas()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_images(folder / "images")
        (folder / "config.json").write_text(json.dumps(CONFIG))
        # Begun with --config, the network's output is 0 at first, and samples say little about its weights.
        torch.manual_seed(1)
        scheduler = CMStochasticIterativeScheduler()
        ConsistencyModelPipeline(UNet2DModel(**CONFIG), scheduler).save_pretrained(folder / "random")
        data = ["--data", folder / "images"]

        through, resumed = folder / "through", folder / "resumed"
        # Without decay of the learning rate the first iterations do not depend on how many there will be.
        denoiser = [*data, "--recipe", "edm", "--init", folder / "random", "--accumulate", 2, "--decay", 0]
        train(*denoiser, "--output", through, "--iterations", 6)
        train(*denoiser, "--output", resumed, "--iterations", 3)
        printed = train(*denoiser, "--output", resumed, "--iterations", 6, "--resume")
        assert "from iteration 3" in printed and "iteration 6," in printed, printed
        difference = largest_difference(through, resumed)
        print(f"resumed: the weights differ by {difference:.1e} from those of a run that went through")
        assert difference < 1e-6

        tuned, nothing = folder / "ect", folder / "ct"
        options = ["--iterations", 4, "--mixed-precision", "bf16"]
        train(*data, "--recipe", "ect", "--init", through, "--teacher", through, "--output", tuned, *options)
        train(*data, "--recipe", "ct", "--config", folder / "config.json", "--output", nothing, *options, processes=1)

        for name, model in (("edm", through), ("ect", tuned), ("ct", nothing)):
            index = json.loads((model / "model_index.json").read_text())
            assert index["id2label"] == {"0": "dark", "1": "light"}, index
            found = crate_samples(model, folder / "samples.safetensors", "--class-labels", "0,1,1,0")
            expected = diffusers_samples(ConsistencyModelPipeline.from_pretrained(model), [0, 1, 1, 0])
            compare(name, found, expected)
            print(f"{name}: the samples' standard deviation is {found.std():.2f}")
    report.end()


if __name__ == "__main__":
    main()
