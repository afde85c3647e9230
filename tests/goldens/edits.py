"""Makes `edits.safetensors` and `edits.json`: Algorithm 4 of Song et al. 2023 in NumPy, with diffusers' U-Net as F.

Written from the paper with the orthogonal matrices spelled out (by QR), unlike the Rust, which needs only their first
column. Pictures are random; what is compared is the algorithm. Run after make.py, in the same environment:

    python tests/goldens/edits.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import CMStochasticIterativeScheduler, UNet2DModel
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent


def orthogonal(first_column):
    """An orthogonal matrix whose first column is parallel to the given one."""
    n = len(first_column)
    basis = np.concatenate([np.asarray(first_column, dtype=np.float64)[:, None], np.eye(n)[:, : n - 1]], axis=1)
    return np.linalg.qr(basis)[0]


def patches(x, p):
    """(B, C, H, W) to (B, C, H/p, W/p, p²)."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h // p, p, w // p, p).transpose(0, 1, 2, 4, 3, 5).reshape(b, c, h // p, w // p, p * p)


def unpatches(x, p):
    """The inverse of `patches`."""
    b, c, h, w, _ = x.shape
    return x.reshape(b, c, h, w, p, p).transpose(0, 1, 2, 4, 3, 5).reshape(b, c, h * p, w * p)


def transform(case, shape):
    """A, its inverse and Ω of a case."""
    kind = case["kind"]
    if kind == "inpaint":
        omega = np.array(case["hole"], dtype=np.float64).reshape(1, 1, *shape[2:])
        return (lambda x: x), (lambda x: x), omega
    if kind == "colorize":
        q = orthogonal([0.2989, 0.5870, 0.1140])
        omega = np.array([0.0, 1.0, 1.0]).reshape(1, 3, 1, 1)
        forward = lambda x: np.einsum("bchw,cd->bdhw", x, q)
        back = lambda x: np.einsum("bdhw,cd->bchw", x, q)
        return forward, back, omega
    if kind == "super-resolution":
        p = case["patch"]
        q = orthogonal(np.ones(p * p))
        omega = np.ones(p * p)
        omega[0] = 0.0
        return (lambda x: patches(x, p) @ q), (lambda x: unpatches(x @ q.T, p)), omega
    assert kind == "stroke"
    return (lambda x: x), (lambda x: x), np.ones((1, 1, 1, 1))


class Function:
    """f(x, σ) of a golden checkpoint."""

    def __init__(self, name):
        self.unet = UNet2DModel.from_pretrained(HERE / name / "unet").eval()
        self.config = CMStochasticIterativeScheduler.from_pretrained(HERE / name / "scheduler").config

    def karras(self, i):
        c = self.config
        low, high = c.sigma_min ** (1 / c.rho), c.sigma_max ** (1 / c.rho)
        return (high + i / (c.num_train_timesteps - 1) * (low - high)) ** c.rho

    def __call__(self, x, sigma, labels):
        c = self.config
        d, e = c.sigma_data, c.sigma_min
        with torch.no_grad():
            output = self.unet(
                torch.tensor(x / np.sqrt(sigma**2 + d**2), dtype=torch.float32),
                torch.full((len(x),), 250 * np.log(sigma), dtype=torch.float32),
                class_labels=torch.tensor(labels) if labels else None,
            ).sample.double().numpy()  # fmt: skip
        f = d**2 / ((sigma - e) ** 2 + d**2) * x + (sigma - e) * d / np.sqrt(sigma**2 + d**2) * output
        return np.clip(f, -1, 1) if c.clip_denoised else f


def edit(f, case, y):
    """Algorithm 4."""
    generator = torch.Generator().manual_seed(case["seed"])
    draw = lambda: torch.randn(y.shape, generator=generator).double().numpy()
    forward, back, omega = transform(case, y.shape)
    keep = lambda x: back(forward(y) * (1 - omega) + forward(x) * omega)
    # As printed, a stroke picture would be multiplied by 1 − Ω = 0; the text starts from the picture.
    x = y if case["kind"] == "stroke" else back(forward(y) * (1 - omega))
    sigmas = case["sigmas"]
    x = x + sigmas[0] * draw()
    x = keep(f(x, sigmas[0], case["class_labels"]))
    for sigma in sigmas[1:]:
        x = x + np.sqrt(sigma**2 - f.config.sigma_min**2) * f.config.s_noise * draw()
        x = keep(f(x, sigma, case["class_labels"]))
    return x


def interpolate(f, case, shape):
    """Samples from the noises between two."""
    a, b = (torch.randn(shape[1:], generator=torch.Generator().manual_seed(s)).double().numpy() for s in case["seeds"])
    angle = np.arccos((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    shares = case["shares"]
    z = np.stack([(np.sin((1 - s) * angle) * a + np.sin(s * angle) * b) / np.sin(angle) for s in shares])
    return f(f.config.sigma_max * z, f.config.sigma_max, case["class_labels"])


def main():
    rng = np.random.Generator(np.random.PCG64(4))
    cases, tensors = [], {}
    for checkpoint, channels, size, patch, classes in [("attn-scale-shift", 3, 16, 4, 7), ("mnist-shape", 1, 28, 7, 10)]:
        f = Function(checkpoint)
        common = {"checkpoint": checkpoint, "class_labels": [int(v) for v in rng.integers(0, classes, 2)]}
        spaced = [f.karras(i) for i in (0, 10, 20, 30)]
        hole = [int(v) for v in rng.random(size * size) < 0.4]
        kinds = [
            {"kind": "inpaint", "hole": hole, "sigmas": spaced, "seed": 1},
            {"kind": "super-resolution", "patch": patch, "sigmas": spaced, "seed": 2},
            {"kind": "stroke", "sigmas": [5.38, 2.24], "seed": 3},
            {"kind": "denoise", "sigmas": [1.5]},
            {"kind": "interpolate", "seeds": [4, 5], "shares": [0.25, 0.5]},
        ]
        if channels == 3:
            kinds.append({"kind": "colorize", "sigmas": spaced, "seed": 6})
        for case in kinds:
            case = common | {"name": f"{checkpoint}.{case['kind']}"} | case
            y = rng.uniform(-1, 1, (2, channels, size, size)).astype(np.float32)
            if case["kind"] == "denoise":
                y += 1.5 * rng.standard_normal(y.shape).astype(np.float32)
                x = f(y.astype(np.float64), 1.5, case["class_labels"])
            elif case["kind"] == "interpolate":
                x = interpolate(f, case, y.shape)
            else:
                x = edit(f, case, y.astype(np.float64))
            tensors[f"{case['name']}.y"] = y
            tensors[f"{case['name']}.x"] = x.astype(np.float32)
            cases.append(case)
    save_file(tensors, HERE / "edits.safetensors")
    (HERE / "edits.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
