#!/usr/bin/env python
"""What this crate writes is loaded by diffusers, and what diffusers writes by the command line, with the same samples.

Run on demand; continuous integration does not. It takes about half a minute.

    pip install torch diffusers safetensors
    CONSISTENCY_SAMPLER=target/release/consistency-sampler python tests/python/round_trip_test.py
"""

import json
import tempfile
from pathlib import Path

from checks import ROOT, Report, command_line, compare, crate_samples, diffusers_samples, run

SHIPPED = ROOT / "weights/mnist"
LABELS = [3, 1, 4, 1]
# Of arithmetic in half precision, whose numbers have 11 bits, as a share of the largest output.
HALF_ARITHMETIC = 2e-2


def main():
    import torch
    from diffusers import ConsistencyModelPipeline

    report = Report("torch", "diffusers", "safetensors", "huggingface_hub")
    print(run(command_line(), "--version").strip())
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        labels = ["--class-labels", ",".join(str(label) for label in LABELS)]

        def crate(model, *options):
            return crate_samples(model, folder / "samples.safetensors", *labels, *options)

        def load(model, **options):
            return ConsistencyModelPipeline.from_pretrained(model, **options)

        # From the crate to diffusers.
        shipped = diffusers_samples(load(SHIPPED), LABELS)
        compare("weights/mnist, diffusers", shipped, crate(SHIPPED))
        print(run(command_line(), "convert", "--model", SHIPPED, "--precision", "f16", "--output", folder / "half",
                  "--device", "cpu").strip())
        half = load(folder / "half", variant="fp16", torch_dtype=torch.float32)
        compare("convert --precision f16, variant fp16", diffusers_samples(half, LABELS), crate(folder / "half"))
        half = load(folder / "half", variant="fp16", torch_dtype=torch.float16)
        assert half.unet.dtype == torch.float16
        # Here the pipeline draws other noise, in half precision, so the networks are compared.
        generator = torch.Generator().manual_seed(0)
        sample, timestep = torch.randn(4, 1, 28, 28, generator=generator), torch.tensor(300.0)
        with torch.no_grad():
            arguments = {"class_labels": torch.tensor(LABELS), "return_dict": False}
            expected = load(SHIPPED).unet(sample, timestep, **arguments)[0]
            found = half.unet(sample.half(), timestep, **arguments)[0].float()
        error = float((found - expected).abs().max() / expected.abs().max())
        print(f"convert --precision f16, float16 arithmetic: relative difference of the network's output {error:.1e}")
        assert error < HALF_ARITHMETIC
        run(command_line(), "convert", "--model", folder / "half", "--precision", "f32", "--output", folder / "single",
            "--device", "cpu")
        compare("convert --precision f32, diffusers", diffusers_samples(load(folder / "single"), LABELS), crate(folder / "half"))
        # The name of full precision beside the variant: both are there, each is read by its name.
        run(command_line(), "convert", "--model", SHIPPED, "--precision", "f32", "--output", folder / "half", "--device", "cpu")
        compare("both variants, diffusers' default", diffusers_samples(load(folder / "half"), LABELS), shipped)

        # From diffusers to the crate.
        pipeline = load(SHIPPED)
        for name, options in {
            "plain": {},
            "sharded": {"max_shard_size": "1MB"},
            "variant": {"variant": "fp16"},
            "sharded-variant": {"variant": "fp16", "max_shard_size": "1MB"},
        }.items():
            pipeline.save_pretrained(folder / name, **options)
            files = sorted(p.name for p in (folder / name / "unet").iterdir() if p.suffix == ".safetensors")
            assert len(files) == 1 or "sharded" in name and len(files) > 1, files
            compare(f"save_pretrained {name} {json.dumps(options)}, {len(files)} files", crate(folder / name), shipped)
        half = load(SHIPPED, torch_dtype=torch.float16)
        rounded = load(SHIPPED, torch_dtype=torch.float16).to(torch.float32)
        expected = diffusers_samples(rounded, LABELS)
        for name, options in {
            "float16": {},
            "float16-variant": {"variant": "fp16"},
            "float16-sharded": {"max_shard_size": "500KB"},
        }.items():
            half.save_pretrained(folder / name, **options)
            compare(f"save_pretrained {name} {json.dumps(options)}", crate(folder / name), expected)
        bfloat = load(SHIPPED, torch_dtype=torch.bfloat16)
        bfloat.save_pretrained(folder / "bfloat16")
        expected = diffusers_samples(bfloat.to(torch.float32), LABELS)
        compare("save_pretrained bfloat16 {}", crate(folder / "bfloat16"), expected)
    report.end()


if __name__ == "__main__":
    main()
