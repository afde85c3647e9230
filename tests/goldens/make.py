"""Makes the golden files that the Rust tests compare with: what PyTorch and diffusers compute.

It writes, beside itself:

- `<name>/`: tiny checkpoints with random weights, each a whole diffusers `ConsistencyModelPipeline` folder,
  with `goldens.safetensors` (U-Net forwards, pipeline samples) and `goldens.json` (the samples' settings);
- `<name>/gradients.safetensors`: of most of them, the gradient of the U-Net in its parameters, by PyTorch's autograd;
- `shipped/<name>.*`: samples of each model under `weights/`, among them the picture that the page opens with;
- `scheduler.json`: schedules and scalings of `CMStochasticIterativeScheduler`;
- `randn.json`: `torch.randn` on the CPU for several seeds and sizes;
- `stats.json`: for each checkpoint its size, the spread of its outputs and the rounding error of its goldens: their
  largest difference from the same computation in f64.

Run, in an environment made from `requirements.txt`:

    python tests/goldens/make.py

It takes about half a minute on one core, needs no network and no GPU. Weights and inputs come from numpy's PCG64, so they
are the same bytes on every machine. Outputs are the same bytes on the same versions and the same kind of CPU; another
CPU may round differently in the last bits (see `max_abs_error` in stats.json for how much that can be).
"""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from diffusers.utils import logging
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent

# ---------------------------------------------------------------------------------------------------------------------
# The checkpoints
# ---------------------------------------------------------------------------------------------------------------------

RESNET = {"downsample_type": "resnet", "upsample_type": "resnet"}
RGB = {"sample_size": 16, "in_channels": 3, "out_channels": 3}
GREY = {"sample_size": 28, "in_channels": 1, "out_channels": 1}

# The shape of the published ImageNet 64 networks: classes, scale_shift, a norm in the middle block's attention.
IMAGENET_LIKE = RGB | RESNET | {
    "layers_per_block": 2,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 8,
    "attn_norm_num_groups": 4,
    # A group of one channel would take out the bias before it, so there are two channels or more in each.
    "norm_num_groups": 2,
    "num_class_embeds": 7,
}

NO_MID = RGB | {
    "layers_per_block": 1,
    "block_out_channels": (8, 12),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "mid_block_type": None,
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 4,
}

# A schedule that shares no number with the default one, so that a reader which ignores the file is caught.
OTHER_SCHEDULE = {
    "num_train_timesteps": 151,
    "sigma_min": 0.01,
    "sigma_max": 50.0,
    "sigma_data": 0.4,
    "s_noise": 1.007,
    "rho": 5.0,
}

# name: (U-Net configuration, scheduler configuration, options). `sharded` repeats the weights of `no-mid`. Gradients are as
# large as the weights, so those of a checkpoint whose operations are in others are left out.
CHECKPOINTS = {
    "attn-scale-shift": (IMAGENET_LIKE | {"block_out_channels": (4, 8, 16)}, {}, {}),
    # The shape of the LSUN 256 networks. 18 channels in heads of 8 leave a remainder: 2 heads, 16 inner channels.
    "default-shift": (
        RGB
        | RESNET
        | {
            "layers_per_block": 2,
            "block_out_channels": (4, 6, 18),
            "down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
            "attention_head_dim": 8,
            "norm_num_groups": 2,
            "norm_eps": 1e-6,
        },
        {},
        {"batches": (1, 5)},
    ),
    # Strided and upsampling convolutions; no head dim: one head over all the channels.
    "conv-resample": (
        GREY
        | {
            "layers_per_block": 1,
            "block_out_channels": (8, 12, 16),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "downsample_padding": 1,
            "attention_head_dim": None,
            "norm_num_groups": 4,
        },
        {},
        {},
    ),
    # An odd first channel count leaves a zero at the end of the time embedding.
    "padding-0": (
        GREY
        | {
            "layers_per_block": 1,
            "block_out_channels": (9, 12, 15),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "downsample_padding": 0,
            "add_attention": False,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "attention_head_dim": 4,
            "norm_num_groups": 3,
        },
        {},
        {},
    ),
    # The configuration of the trained MNIST checkpoint with a quarter of its channels and groups and half its head dim.
    # It has `scale_shift` and no `attn_norm_num_groups`, so the attention of its middle block has no norm; those of the
    # other blocks have one.
    "mnist-shape": (
        GREY
        | RESNET
        | {
            "layers_per_block": 1,
            "block_out_channels": (8, 12, 16),
            "down_block_types": ("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
            "resnet_time_scale_shift": "scale_shift",
            "attention_head_dim": 8,
            "norm_num_groups": 4,
            "num_class_embeds": 10,
        },
        {},
        {"gradients": False},
    ),
    "f16": (IMAGENET_LIKE | {"block_out_channels": (8, 12, 16), "attention_head_dim": 4}, {}, {"half": True, "gradients": False}),
    "no-mid": (NO_MID, OTHER_SCHEDULE, {"weights": "no-mid"}),
    "sharded": (NO_MID, {}, {"weights": "no-mid", "max_shard_size": "60KB", "gradients": False}),
}

# In −1554…1096, the range of 250·ln σ: the first is σ = 80, the last σ = 0.002.
TIMESTEPS = [1095.5067, -300.25, 80.9495, 414.4857, -1553.6520]

SAMPLES = [
    {"name": "sample0", "seed": 0, "batch": 2, "num_inference_steps": 1},
    {"name": "sample1", "seed": 7, "batch": 3, "timesteps": [22, 0]},
    {"name": "sample2", "seed": 123456789, "batch": 1, "num_inference_steps": 4},
]


def numpy_rng(text):
    """A generator that depends on the text only (Python's own hash changes from run to run)."""
    return np.random.Generator(np.random.PCG64(list(text.encode())))


def normal(rng, shape):
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


@torch.no_grad()
def randomise(unet, rng):
    """Draws every parameter anew: diffusers starts norms at 1 and biases near 0, where a wrong term would not show."""
    norms = {name for name, module in unet.named_modules() if isinstance(module, torch.nn.GroupNorm)}
    for name, parameter in unet.named_parameters():
        owner, kind = name.rsplit(".", 1)
        noise = normal(rng, parameter.shape)
        if owner in norms and kind == "weight":
            parameter.copy_(1 + 0.2 * noise)
        elif kind == "bias":
            parameter.copy_(0.1 * noise)
        elif owner == "class_embedding":
            parameter.copy_(0.5 * noise)
        else:
            fan_in = parameter[0].numel()  # of a convolution too: in channels × 3 × 3
            # The head is larger, so that a tenth of the pixels or so is clipped and the clipping is tested too.
            gain = 2.5 if owner == "conv_out" else 1.0
            parameter.copy_(gain * noise / fan_in**0.5)


class ExactTimesteps(torch.nn.Module):
    """The sinusoidal embedding in f64, of t rounded to f32.

    diffusers rounds t first and then stays in f32. The first rounding moves the angle of the fastest pair by up to
    6e-5, far more than the rest does, so it is kept here as a part of what diffusers computes.
    """

    def __init__(self, time_proj):
        super().__init__()
        self.channels, self.flip, self.shift = (
            time_proj.num_channels,
            time_proj.flip_sin_to_cos,
            time_proj.downscale_freq_shift,
        )

    def forward(self, timesteps):
        half = self.channels // 2
        frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / (half - self.shift))
        angles = timesteps.float().double()[:, None] * frequencies
        parts = [angles.cos(), angles.sin()] if self.flip else [angles.sin(), angles.cos()]
        return torch.nn.functional.pad(torch.cat(parts, dim=1), (0, self.channels % 2))


def in_f64(unet):
    exact = copy.deepcopy(unet).double()
    exact.time_proj = ExactTimesteps(unet.time_proj)
    return exact


def sample_in_f64(unet, scheduler, setting):
    """The multistep sampler, written a second time, in f64: it checks our reading of diffusers and the rounding."""
    config = scheduler.config
    indices = setting.get("timesteps")
    if indices is None:
        n = setting["num_inference_steps"]
        indices = [i * (config.num_train_timesteps // n) for i in range(n)]
    low, high = config.sigma_min ** (1 / config.rho), config.sigma_max ** (1 / config.rho)
    # Large σ first: index 0 is σ_max.
    ramp = np.sort(np.array(indices)) / (config.num_train_timesteps - 1)
    sigmas = (high + ramp * (low - high)) ** config.rho
    generator = torch.Generator("cpu").manual_seed(setting["seed"])
    shape = (setting["batch"], unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    draw = lambda: torch.randn(shape, generator=generator).double()  # noqa: E731
    labels = setting["class_labels"] and torch.tensor(setting["class_labels"])

    x = config.sigma_max * draw()
    for i, sigma in enumerate(sigmas):
        data, eps = config.sigma_data, config.sigma_min
        c_skip = data**2 / ((sigma - eps) ** 2 + data**2)
        c_out = (sigma - eps) * data / (sigma**2 + data**2) ** 0.5
        c_in = 1 / (sigma**2 + data**2) ** 0.5
        t = torch.tensor([250 * np.log(sigma)], dtype=torch.float64)
        x = (c_out * unet(c_in * x, t, labels).sample + c_skip * x).clamp(-1, 1)
        if i + 1 < len(sigmas):
            x = x + max(0.0, sigmas[i + 1] ** 2 - eps**2) ** 0.5 * config.s_noise * draw()
    return (x / 2 + 0.5).clamp(0, 1)


def check_every_parameter_matters(unet, inputs):
    """A test cannot see a term that does not reach the output: each tensor, made trivial, must change it."""
    reference = unet(**inputs).sample
    smallest = np.inf
    for name, parameter in unet.named_parameters():
        kept = parameter.clone()
        trivial = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.fill_(trivial)
        change = (unet(**inputs).sample - reference).abs().max().item()
        parameter.copy_(kept)
        if name.endswith("to_k.bias"):
            # It adds the same number to all the scores of a row, which softmax takes out again.
            assert change < 1e-4, (name, change)
        else:
            assert change > 2e-3, (name, change)
            smallest = min(smallest, change)
    return smallest


@torch.no_grad()
def make_checkpoint(name, unet_config, scheduler_config, options):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)

    unet = UNet2DModel(**unet_config).eval()
    randomise(unet, numpy_rng(options.get("weights", name)))
    if options.get("half"):
        unet = unet.half()
    scheduler = CMStochasticIterativeScheduler(**scheduler_config)
    pipeline = ConsistencyModelPipeline(unet, scheduler)
    pipeline.save_pretrained(folder, variant=None)
    if "max_shard_size" in options:
        (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
        unet.save_pretrained(folder / "unet", max_shard_size=options["max_shard_size"])
        assert len(list((folder / "unet").glob("*.safetensors"))) == 2
    # What is computed from is what was written: f32 arithmetic on the stored (perhaps half) weights.
    pipeline = ConsistencyModelPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    unet = pipeline.unet.eval()
    exact = in_f64(unet)
    classes = unet.config.num_class_embeds

    tensors, errors, outputs = {}, {}, []
    rng = numpy_rng(name + " inputs")
    for batch in (3, *options.get("batches", ())):
        prefix = "forward" if batch == 3 else f"forward{batch}"
        shape = (batch, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        inputs = {
            "sample": normal(rng, shape),
            "timestep": torch.tensor(TIMESTEPS[:batch], dtype=torch.float32),
        }
        if classes is not None:
            inputs["class_labels"] = torch.from_numpy(rng.permutation(classes)[:batch].astype(np.int64))
        output = unet(**inputs).sample
        tensors |= {f"{prefix}.{key}": value for key, value in (inputs | {"output": output}).items()}
        errors[prefix] = (output - exact(**inputs_f64(inputs)).sample).abs().max().item()
        outputs.append(output.flatten())
        if batch == 3:
            smallest = check_every_parameter_matters(unet, inputs)

    settings, images = [], []
    for setting in SAMPLES:
        setting = setting | {"class_labels": None}
        if classes is not None:
            setting["class_labels"] = [int(i) for i in rng.integers(0, classes, setting["batch"])]
        arguments = {key: setting[key] for key in ("num_inference_steps", "timesteps") if key in setting}
        image = pipeline(
            batch_size=setting["batch"],
            class_labels=setting["class_labels"],
            generator=torch.Generator("cpu").manual_seed(setting["seed"]),
            output_type="pt",
            **{"num_inference_steps": None} | arguments,
        ).images
        tensors[setting["name"] + ".images"] = image
        errors[setting["name"]] = (image - sample_in_f64(exact, pipeline.scheduler, setting)).abs().max().item()
        settings.append(setting)
        images.append(image.flatten())

    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "goldens.safetensors")
    (folder / "goldens.json").write_text(to_json(settings))

    output, image = torch.cat(outputs), torch.cat(images)
    stats = {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "weights_bytes": sum(f.stat().st_size for f in (folder / "unet").glob("*.safetensors")),
        "output_mean": round(output.mean().item(), 3),
        "output_std": round(output.std().item(), 3),
        "unclipped_share": round(((image > 0) & (image < 1)).float().mean().item(), 3),
        "unclipped_share_each": [round(((i > 0) & (i < 1)).float().mean().item(), 3) for i in images],
        "smallest_effect_of_a_tensor": float(f"{smallest:.1e}"),
        "max_abs_error": {key: float(f"{value:.1e}") for key, value in errors.items()},
    }
    assert stats["weights_bytes"] < 350_000, stats
    assert 0.2 < stats["output_std"] < 3, stats
    assert 0.7 < stats["unclipped_share"] < 0.99, stats
    assert max(errors.values()) < 5e-5, stats
    return stats


# Of the samples that a gradient is made for: −1 is a sample without its class. Two samples have class 2, and two class 5.
GRADIENT_LABELS = [2, 5, 2, -1, 5]


def make_gradients(name):
    """The gradient of Σ outer · F(sample, timestep) in every parameter.

    All but the features of the timesteps, which are diffusers' own in f32, is computed in f64 and rounded at the end.
    """
    folder = HERE / name
    unet = UNet2DModel.from_pretrained(folder / "unet").eval().double()
    rng = numpy_rng(name + " gradients")
    batch = len(TIMESTEPS)
    size = (unet.config.sample_size, unet.config.sample_size)
    inputs = {
        "sample": normal(rng, (batch, unet.config.in_channels, *size)),
        "timestep": torch.tensor(TIMESTEPS, dtype=torch.float32),
    }
    outer = normal(rng, (batch, unet.config.out_channels, *size))
    arguments = inputs_f64(inputs)
    if unet.class_embedding is not None:
        labels = torch.tensor(GRADIENT_LABELS)
        inputs["class_labels"] = labels
        # A sample without its class has zeros in place of the row that this index reads.
        arguments["class_labels"] = labels.clamp(min=0)
        unet.class_embedding.register_forward_hook(lambda _module, _args, rows: rows * (labels >= 0)[:, None])
    output = unet(**arguments).sample
    (output * outer.double()).sum().backward()

    gradients = {key: parameter.grad for key, parameter in unet.named_parameters()}
    for key, gradient in gradients.items():
        largest = gradient.abs().max().item()
        # `to_k.bias` has no effect on the output.
        assert largest < 1e-12 if key.endswith("to_k.bias") else largest > 1e-2, (name, key, largest)
    tensors = inputs | {"outer": outer, "output": output.detach()} | gradients
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "gradients.safetensors")


SHIPPED = (
    # What the page draws when it is opened.
    {"name": "sample0", "seed": 6, "num_inference_steps": 2, "class_labels": list(range(10))},
    {"name": "sample1", "seed": 5, "timesteps": [22, 0], "class_labels": [3, 1, 4]},
    {"name": "sample2", "seed": 2**40 + 1, "num_inference_steps": 1, "class_labels": [7]},
)


@torch.no_grad()
def make_shipped(folder):
    """Samples of a shipped model; its weights are not touched."""
    pipeline = ConsistencyModelPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    # Four of large pictures: 50 KB each.
    most = 10 if pipeline.unet.config.sample_size < 64 else 4
    settings = [setting | {"class_labels": setting["class_labels"][:most]} for setting in SHIPPED]
    settings = [setting | {"batch": len(setting["class_labels"])} for setting in settings]
    tensors = {}
    for setting in settings:
        arguments = {key: setting[key] for key in ("num_inference_steps", "timesteps") if key in setting}
        tensors[setting["name"] + ".images"] = pipeline(
            batch_size=setting["batch"],
            class_labels=setting["class_labels"],
            generator=torch.Generator("cpu").manual_seed(setting["seed"]),
            output_type="pt",
            **{"num_inference_steps": None} | arguments,
        ).images.contiguous()
    (HERE / "shipped").mkdir(exist_ok=True)
    save_file(tensors, HERE / "shipped" / f"{folder.name}.safetensors")
    (HERE / "shipped" / f"{folder.name}.json").write_text(to_json(settings))


def inputs_f64(inputs):
    return {key: value.double() if value.is_floating_point() else value for key, value in inputs.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The scheduler
# ---------------------------------------------------------------------------------------------------------------------


def make_scheduler():
    cases = []
    for n in (40, 18, 151, 201):
        config = {"num_train_timesteps": n}
        cases += [(config, {"num_inference_steps": k}) for k in (1, 2, 3, 4, 7)]
        cases += [(config, {"timesteps": t}) for t in ([22, 0], [106, 0], [39], [30, 20, 10, 0]) if t[0] < n]
    other = {"num_train_timesteps": 40, "sigma_max": 50.0, "sigma_min": 0.01, "rho": 5.0}
    cases += [(other, {"num_inference_steps": 4}), (other, {"timesteps": [22, 0]}), (other, {"timesteps": [39]})]

    result = []
    for config, arguments in cases:
        scheduler = CMStochasticIterativeScheduler(**config)
        scheduler.set_timesteps(**arguments)
        steps = len(scheduler.timesteps)
        low, high = scheduler.config.sigma_min, scheduler.config.sigma_max
        rows = {"c_skip": [], "c_out": [], "c_in": []}
        for i, sigma in enumerate(scheduler.sigmas):
            c_skip, c_out = scheduler.get_scalings_for_boundary_condition(sigma)
            scheduler._step_index = i
            c_in = scheduler.scale_model_input(torch.ones(1), None)[0]
            for key, value in (("c_skip", c_skip), ("c_out", c_out), ("c_in", c_in)):
                rows[key].append(short(value))
        # As in `step`, whose f32 squares do not quite cancel at σ_min. With one timestep no noise is added at all.
        noise = [short((s.clamp(low, high) ** 2 - low**2) ** 0.5) if steps > 1 else 0.0 for s in scheduler.sigmas[1:]]
        fields = ("num_train_timesteps", "sigma_min", "sigma_max", "sigma_data", "s_noise", "rho")
        # `timesteps` are indices when they go in and model times when they come out: two names here.
        given = {"indices" if key == "timesteps" else key: value for key, value in arguments.items()}
        result.append(
            {"config": {key: scheduler.config[key] for key in fields}}
            | given
            | {"timesteps": scheduler.timesteps.tolist(), "sigmas": [short(s) for s in scheduler.sigmas]}
            | rows
            | {"noise_scale": noise}
        )
    return result


# ---------------------------------------------------------------------------------------------------------------------
# torch.randn
# ---------------------------------------------------------------------------------------------------------------------


class RandnReference:
    """`torch.Generator("cpu").manual_seed(seed)` and `torch.randn(n, generator=...)`, in numpy. See README.md."""

    def __init__(self, seed):
        # The seed is taken as an u64 (−1 is 2^64 − 1) of which the Mersenne twister gets the low 32 bits. numpy's
        # RandomState seeds it as C++'s std::mt19937 does, and its `randint` over all of u32 is the raw output.
        self.engine = np.random.RandomState(seed % 2**64 % 2**32)
        self.cached = None

    def raw(self, n):
        return self.engine.randint(0, 2**32, size=n, dtype=np.uint32)

    def uniform_f64(self):
        high, low = (int(x) for x in self.raw(2))
        return ((high << 32 | low) & (2**53 - 1)) / 2**53

    def scalar(self):
        """Under 16 elements: Box–Muller in f64, whose sine half waits, even for a later call."""
        if self.cached is not None:
            value, self.cached = self.cached, None
            return value
        u1, u2 = self.uniform_f64(), self.uniform_f64()
        radius = np.sqrt(-2 * np.log1p(-u2))
        self.cached = radius * np.sin(2 * np.pi * u1)
        return radius * np.cos(2 * np.pi * u1)

    def block(self, u):
        """16 uniforms to 16 normals: element j is the radius, element j + 8 the angle of the pair (j, j + 8)."""
        radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - u[:8]))
        angle = np.float32(2 * np.pi) * u[8:]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])

    def uniform_f32(self, n):
        return (self.raw(n) & np.uint32(2**24 - 1)).astype(np.float32) * np.float32(2.0**-24)

    def randn(self, n):
        if n < 16:
            return np.array([self.scalar() for _ in range(n)], dtype=np.float32)
        # All the uniforms come first; a rest is not filled but the last 16 are drawn again, over what is there.
        values = self.uniform_f32(n)
        for start in range(0, n - 15, 16):
            values[start : start + 16] = self.block(values[start : start + 16])
        if n % 16:
            values[-16:] = self.block(self.uniform_f32(16))
        return values


def randn_reference(seed, sizes):
    """Successive draws from one generator."""
    reference = RandnReference(seed)
    return [reference.randn(n) for n in sizes]


SEEDS = [0, 1, 42, 2**32 + 5, 2**63 - 1, -1]
SIZES = [1, 2, 3, 15, 16, 17, 31, 32, 100, 784, 1000]
SEQUENCES = [[16, 16], [3, 3, 3, 16, 5], [20, 7, 33]]


def make_randn():
    def draw(seed, sizes):
        generator = torch.Generator("cpu").manual_seed(seed)
        drawn = [torch.randn(n, generator=generator).numpy() for n in sizes]
        for ours, theirs in zip(randn_reference(seed, sizes), drawn, strict=True):
            assert np.abs(ours - theirs).max() < 1e-6, (seed, sizes)
        return drawn

    def entry(values):
        if len(values) < 100:
            return {"n": len(values), "values": [short(x) for x in values]}
        first, last = ([short(x) for x in part] for part in (values[:8], values[-24:]))
        return {"n": len(values), "first": first, "last": last, "sum": float(values.astype(np.float64).sum())}

    engines, single, sequences = [], [], []
    for seed in SEEDS:
        raw = RandnReference(seed).raw(10)
        # Two of torch's own readings of the same outputs: 24 bits for a float, two outputs for a large integer.
        generator = torch.Generator("cpu").manual_seed(seed)
        assert np.array_equal(torch.rand(10, generator=generator).numpy() * 2**24, raw & (2**24 - 1))
        generator = torch.Generator("cpu").manual_seed(seed)
        pairs = [(int(high) << 32 | int(low)) % (2**63 - 1) for high, low in raw.reshape(5, 2)]
        assert torch.randint(0, 2**63 - 1, (5,), generator=generator).tolist() == pairs
        engines.append({"seed": seed, "mt19937_seed": seed % 2**32, "raw": raw.tolist()})
        single += [{"seed": seed} | entry(draw(seed, [n])[0]) for n in SIZES]
        sequences += [{"seed": seed, "draws": [entry(v) for v in draw(seed, s)]} for s in SEQUENCES]
    # A long draw has more chances of a rare value, such as an uniform near 0 or 1.
    long = np.abs(randn_reference(3, [2**20])[0] - draw(3, [2**20])[0]).max()
    print(f"randn: the reference is within {long:.1e} of torch over 2^20 values")
    # The shape does not matter, only the number of elements.
    generator = torch.Generator("cpu").manual_seed(0)
    assert np.array_equal(torch.randn(2, 3, 5, generator=generator).flatten().numpy(), draw(0, [30])[0])
    return {"engine": engines, "randn": single, "sequences": sequences}


# ---------------------------------------------------------------------------------------------------------------------


def short(value):
    """An f32 with as few digits as give the same f32 back."""
    value = np.float32(value)
    assert np.isfinite(value)
    return float(str(value))


def to_json(value, indent=""):
    """JSON with each list of numbers on one line."""
    inner = indent + "  "
    if isinstance(value, dict) and len(value) and not all(isinstance(v, (int, float)) for v in value.values()):
        items = [f"{inner}{json.dumps(k)}: {to_json(v, inner).lstrip()}" for k, v in value.items()]
        text = "{\n" + ",\n".join(items) + f"\n{indent}}}"
    elif isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        text = "[\n" + ",\n".join(inner + to_json(v, inner).lstrip() for v in value) + f"\n{indent}]"
    else:
        text = json.dumps(value)
    return text if indent else text + "\n"


def main():
    torch.set_num_threads(1)  # so that sums are always made in one order
    torch.use_deterministic_algorithms(True)
    logging.disable_progress_bar()
    stats = {}
    for name, (unet_config, scheduler_config, options) in CHECKPOINTS.items():
        stats[name] = make_checkpoint(name, unet_config, scheduler_config, options)
        print(name, json.dumps(stats[name]))
        if options.get("gradients", True):
            make_gradients(name)
    for folder in sorted((HERE.parent.parent / "weights").iterdir()):
        make_shipped(folder)
    (HERE / "stats.json").write_text(to_json(stats))
    (HERE / "scheduler.json").write_text(to_json(make_scheduler()))
    (HERE / "randn.json").write_text(to_json(make_randn()))
    total = sum(f.stat().st_size for f in HERE.rglob("*") if f.is_file())
    print(f"{total / 1e6:.2f} MB in all")
    assert total < 5e6


if __name__ == "__main__":
    main()
