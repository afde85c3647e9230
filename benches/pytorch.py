"""Times PyTorch on the shapes of shapes/mod.rs: eager and compiled, f32 with TF32 off and on, bf16, on CUDA if there is one.

    python benches/pytorch.py [mnist | rgb32 | imagenet64 …] [--batch 1,16] [--json FILE]

needs torch and diffusers; without CUDA f32 is timed alone, and not compiled. Prints milliseconds (medians) and GFLOP/s of
the 256 → 256 convolution.
"""

import argparse
import json
import re
import statistics
import time
from pathlib import Path

import torch
from diffusers import UNet2DModel

ROUNDS = 7


def configurations():
    """The configurations that shapes/mod.rs holds, by their names in lower case."""
    source = (Path(__file__).with_name("shapes") / "mod.rs").read_text()
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
    parser.add_argument("--json")
    arguments = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    print(*report.values())

    def precision(name):
        """Sets TF32; returns the type to compute in."""
        torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        torch.backends.cudnn.allow_tf32 = name == "tf32"
        return torch.bfloat16 if name == "bf16" else torch.float32

    precision("f32")
    conv = torch.nn.Conv2d(256, 256, 3, padding=1).to(device)
    x = torch.randn(16, 256, 32, 32, device=device)
    took = milliseconds(device, lambda: conv(x))
    report["conv256"] = {"gigaflops": 2 * 9 * 256 * 256 * 16 * 32 * 32 / took / 1e6}
    print(f"256 → 256 at 32², batch 16: {report['conv256']['gigaflops']:.1f} GFLOP/s")

    known = configurations()
    report["forwards"] = []
    for name in arguments.models:
        config = {key: value for key, value in known[name].items() if key != "_class_name"}
        model = UNet2DModel(**config).to(device).eval()
        for kind in ["f32", "tf32", "bf16"] if device == "cuda" else ["f32"]:
            dtype = precision(kind)
            model = model.to(dtype)
            runs = {"eager": model}
            if device == "cuda":
                runs["compiled"] = torch.compile(model)
            for how, run in runs.items():
                for batch in map(int, arguments.batch.split(",")):
                    size = model.config.sample_size
                    x = torch.randn(batch, model.config.in_channels, size, size, device=device, dtype=dtype)
                    t = torch.full((batch,), 100.0, device=device)
                    labels = torch.zeros(batch, dtype=torch.long, device=device) if model.config.num_class_embeds else None
                    took = milliseconds(device, lambda: run(x, t, class_labels=labels))
                    about = {"model": name, "batch": batch, "precision": kind, "how": how, "milliseconds": took}
                    report["forwards"].append(about)
                    print(f"{name}, batch {batch}, {kind}, {how}: {took:.3f} ms", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
