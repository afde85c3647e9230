"""Makes `edits.*` and `requests.*`: Algorithm 4 of Song et al. 2023 in NumPy, with diffusers' U-Net as F.

`edits` holds batches of f32 pictures. `requests` holds RGBA pictures and options as a page gives them, for the whole way from
pixels to pixels: edits, the single denoising call, samples of blended seeds.

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


def slerp(a, b, share):
    """Between two noises, along the arc."""
    angle = np.arccos((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    return (np.sin((1 - share) * angle) * a + np.sin(share * angle) * b) / np.sin(angle)


def interpolate(f, case, shape):
    """Samples from the noises between two."""
    a, b = (torch.randn(shape[1:], generator=torch.Generator().manual_seed(s)).double().numpy() for s in case["seeds"])
    z = np.stack([slerp(a, b, share) for share in case["shares"]])
    return f(f.config.sigma_max * z, f.config.sigma_max, case["class_labels"])


def within_range(x, y, axis_to_last, q):
    """Moves each pixel or patch of x along q until, clamped to ±1, its component along q is y's."""
    forward, back = axis_to_last
    x, wanted = forward(x), (forward(y) * q).sum(-1, keepdims=True)
    low, high = np.full_like(wanted, -1e3), np.full_like(wanted, 1e3)
    for _ in range(80):
        middle = (low + high) / 2
        less = (np.clip(x + q * middle, -1, 1) * q).sum(-1, keepdims=True) < wanted
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return back(np.clip(x + q * high, -1, 1))


def picture_of(rgba, channels):
    """RGBA bytes as (1, C, H, W) in [−1, 1]."""
    x = rgba[..., :3].astype(np.float64) / 127.5 - 1
    return np.moveaxis(x[..., :1] if channels == 1 else x, -1, 0)[None]


def request(f, case, images, channels):
    """What a page gets for the options of a case: pictures in about [−1, 1]."""
    options = case["options"]
    labels, count = options["classLabels"], options.get("count", 1)
    generators = [torch.Generator().manual_seed(options["seed"])]
    if "blend" in options:
        generators.append(torch.Generator().manual_seed(options["blend"]["seed"]))

    def draw(shape):
        zs = [torch.randn(shape, generator=g).double().numpy() for g in generators]
        if len(zs) == 1:
            return zs[0]
        return np.stack([slerp(a, b, options["blend"]["amount"]) for a, b in zip(*zs)])

    c = f.config
    sigmas = [f.karras(t) for t in reversed(options.get("timesteps", []))]
    if case["method"] == "sample":
        shape = (count, channels, *images["size"])
        z, x = draw(shape), None
        for sigma in sigmas:
            if x is None:
                x = f(c.sigma_max * z, sigma, labels)
            else:
                x = f(x + np.sqrt(sigma**2 - c.sigma_min**2) * c.s_noise * draw(shape), sigma, labels)
        return {"images": x}
    y = picture_of(images["image"], channels)
    if case["method"] == "denoise":
        sigma = options["sigma"]
        x = y + sigma * draw(y.shape)
        return {"noisy": x / np.sqrt(1 + sigma**2), "denoised": f(x, sigma, labels)}
    kind = options["kind"]
    if kind == "denoise":
        return {"images": f(np.repeat(y, count, 0), options["sigma"], labels)}
    if kind == "interpolate":
        sigma = options["sigma"]
        z = draw(y.shape)
        a, b = y + sigma * z, picture_of(images["to"], channels) + sigma * z
        return {"images": f(np.concatenate([slerp(a, b, share) for share in options["amounts"]]), sigma, labels)}
    algorithm = {"kind": kind, "seed": options["seed"], "class_labels": labels, "sigmas": sigmas}
    if kind == "inpaint":
        algorithm["hole"] = images["mask"][..., 0] > 127
    if kind == "stroke":
        algorithm["sigmas"] = [5.38, 2.24]
    y = np.repeat(y, count, 0)
    if kind == "super-resolution":
        p = algorithm["patch"] = options["patch"]
        axis = (lambda x: patches(x, p)), (lambda x: unpatches(x, p))
        return {"images": within_range(edit(f, algorithm, y), y, axis, np.full(p * p, 1 / p))}
    if kind == "colorize":
        q = np.array([0.2989, 0.5870, 0.1140])
        axis = (lambda x: np.moveaxis(x, 1, -1)), (lambda x: np.moveaxis(x, -1, 1))
        return {"images": within_range(edit(f, algorithm, y), y, axis, q / np.sqrt((q * q).sum()))}
    return {"images": edit(f, algorithm, y)}


def requests():
    """The cases of `requests.*`."""
    rng = np.random.Generator(np.random.PCG64(8))
    cases, tensors = [], {}
    for checkpoint, channels, size, patch, labels in [("attn-scale-shift", 3, 16, 4, [3, 5]), ("mnist-shape", 1, 28, 7, [9, 0])]:
        f = Function(checkpoint)
        common = {"seed": 11, "classLabels": labels}
        steps = {"count": 2, "timesteps": [30, 20, 10, 0]}
        one = {"classLabels": labels[:1]}
        kinds = [
            ("edit", {"kind": "inpaint"} | steps, ["image", "mask"]),
            ("edit", {"kind": "super-resolution", "patch": patch} | steps, ["image"]),
            ("edit", {"kind": "stroke", "count": 2}, ["image"]),
            ("edit", {"kind": "denoise", "sigma": 0.7, "count": 2}, ["image"]),
            ("edit", {"kind": "interpolate", "sigma": 5.38, "amounts": [0.25, 1.0], "count": 2}, ["image", "to"]),
            ("denoise", {"sigma": 2.5} | one, ["image"]),
            ("sample", {"count": 2, "timesteps": [22, 0], "blend": {"seed": 12, "amount": 0.3}}, []),
        ]
        if channels == 3:
            kinds.append(("edit", {"kind": "colorize"} | steps, ["image"]))
        for method, options, pictures in kinds:
            name = f"{checkpoint}.{options.get('kind', 'blend' if method == 'sample' else 'noise')}"
            case = {"name": name, "checkpoint": checkpoint, "method": method, "options": common | options, "pictures": pictures}
            images = {}
            for key in pictures:
                rgba = rng.integers(0, 256, (size, size, 4), dtype=np.uint8)
                if key == "mask":
                    rgba[...] = rng.choice([0, 255], (size, size, 1), p=[0.6, 0.4])
                elif channels == 1:
                    rgba[...] = rgba[..., :1]
                rgba[..., 3] = 255
                images[key] = tensors[f"{name}.{key}"] = rgba
            for key, x in request(f, case, images | {"size": (size, size)}, channels).items():
                tensors[f"{name}.{key}"] = np.ascontiguousarray(np.clip(x / 2 + 0.5, 0, 1), dtype=np.float32)
            cases.append(case)
    write("requests", cases, tensors)


def write(stem, cases, tensors):
    save_file(tensors, HERE / f"{stem}.safetensors")
    (HERE / f"{stem}.json").write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")
    print(f"{stem}: {len(cases)} cases")


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
    write("edits", cases, tensors)
    requests()


if __name__ == "__main__":
    main()
