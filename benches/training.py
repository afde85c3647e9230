"""Images per second of EDM pretraining: this crate's `train` beside PyTorch's diffusers, in turn, on this machine.

    cargo build --release --features cli,train && python benches/training.py --data mnist/ [--rounds 3] [--batch 64] [--devices cpu,gpu]

Both train the network of --model with RAdam at a constant rate and an average of the weights; PyTorch takes random images, since it is
the network that is timed. A round's first iterations warm up and do not count. Needs the packages of
tests/goldens/requirements.txt.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel

ROOT = Path(__file__).parent.parent
WARM_UP = 2


def ours(device, options):
    """Median images per second of `consistency-sampler train`, from the times in its loss.csv."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        subprocess.run(
            [ROOT / "target/release/consistency-sampler", "train", "--recipe", "edm", "--device", device,
             "--data", options.data, "--init", options.model, "--output", output, "--batch", str(options.batch),
             "--iterations", str(options.iterations + WARM_UP), "--grid-every", "1000000"],
            check=True, capture_output=True)  # fmt: skip
        lines = (output / "training/loss.csv").read_text().splitlines()[1:]
        seconds = [float(line.split(",")[1]) for line in lines]
        shutil.rmtree(output)
    return options.batch * options.iterations / (seconds[-1] - seconds[WARM_UP - 1])


def pytorch(options):
    """The same in PyTorch."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = json.loads((Path(options.model) / "unet/config.json").read_text())
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    model = UNet2DModel(**config).to(device)
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-4)
    size, channels = config["sample_size"], config["in_channels"]
    for iteration in range(options.iterations + WARM_UP):
        if iteration == WARM_UP:
            begin = time.perf_counter()
        y = torch.randn(options.batch, channels, size, size, device=device)
        sigma = torch.exp(torch.randn(options.batch, 1, 1, 1, device=device) * 1.2 - 1.2)
        labels = torch.randint(0, 10, (options.batch,), device=device)
        total = sigma**2 + 0.25
        x = y + sigma * torch.randn_like(y)
        output = model(x / total.sqrt(), sigma.flatten().log() / 4, class_labels=labels).sample
        denoised = x * 0.25 / total + output * sigma * 0.5 / total.sqrt()
        loss = ((denoised - y).square().sum((1, 2, 3)) * (total / (sigma * 0.5) ** 2).flatten()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(average, model.parameters()):
                a.lerp_(p, 0.001)
        loss.item()
    return options.batch * options.iterations / (time.perf_counter() - begin)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default=ROOT / "weights/mnist")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--devices", default="cpu")
    options = parser.parse_args()
    found = {name: [] for name in [*options.devices.split(","), "PyTorch"]}
    for _ in range(options.rounds):
        for name, rates in found.items():
            rates.append(pytorch(options) if name == "PyTorch" else ours(name, options))
            print(f"{name}: {rates[-1]:.1f} img/s", flush=True)
    for name, rates in found.items():
        ratios = [rate / torch_rate for rate, torch_rate in zip(rates, found["PyTorch"])]
        print(f"{name}: median {statistics.median(rates):.1f} img/s, {statistics.median(ratios):.2f} × PyTorch's")


if __name__ == "__main__":
    main()
