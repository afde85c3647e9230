"""Times PyTorch on the shapes of forward.rs: eager, f32, TF32 off, on CUDA if there is one.

    python benches/pytorch.py [mnist | rgb32 | imagenet64 …] [--batch 1,16]

needs torch and diffusers. Prints milliseconds (medians) and GFLOP/s of the 256 → 256 convolution.
"""

import argparse
import re
import statistics
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel

ROUNDS = 7


def configurations():
    """The configurations that forward.rs holds, by their names in lower case."""
    import json

    source = Path(__file__).with_name("forward.rs").read_text()
    found = re.findall(r'const (\w+): &str = r#"(.*?)"#;', source, re.DOTALL)
    return {name.lower(): json.loads(text) for name, text in found}


def milliseconds(device, f):
    """The median time of a call, after one that does not count."""

    def run():
        if device == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        f()
        if device == "cuda":
            torch.cuda.synchronize()
        return 1e3 * (time.perf_counter() - begin)

    run()
    return statistics.median(run() for _ in range(ROUNDS))


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["mnist", "rgb32", "imagenet64"])
    parser.add_argument("--batch", default="1,16")
    arguments = parser.parse_args()

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(torch.__version__, torch.cuda.get_device_name() if device == "cuda" else "cpu")

    conv = torch.nn.Conv2d(256, 256, 3, padding=1).to(device)
    x = torch.randn(16, 256, 32, 32, device=device)
    took = milliseconds(device, lambda: conv(x))
    print(f"256 → 256 at 32², batch 16: {2 * 9 * 256 * 256 * 16 * 32 * 32 / took / 1e6:.1f} GFLOP/s")

    known = configurations()
    for name in arguments.models:
        config = {key: value for key, value in known[name].items() if key != "_class_name"}
        model = UNet2DModel(**config).to(device).eval()
        for batch in map(int, arguments.batch.split(",")):
            x = torch.randn(batch, model.config.in_channels, model.config.sample_size, model.config.sample_size, device=device)
            t = torch.full((batch,), 100.0, device=device)
            labels = torch.zeros(batch, dtype=torch.long, device=device) if model.config.num_class_embeds else None
            took = milliseconds(device, lambda: model(x, t, class_labels=labels))
            print(f"{name}, batch {batch}: {took:.3f} ms")


if __name__ == "__main__":
    main()
