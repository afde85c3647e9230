#!/usr/bin/env python
"""Trains a consistency model, or the denoiser that it begins with, on many GPUs and hosts by Hugging Face accelerate.

    accelerate launch tools/train_accelerate.py --recipe edm --config weights/animals/unet/config.json \
        --data images/ --output teacher/ --iterations 100000
    accelerate launch tools/train_accelerate.py --recipe ect --init teacher/ --data images/ --output mine/ --iterations 50000

Recipes and their constants are those of this crate's `train`: edm (Karras et al. 2022), ect (Geng et al. 2024) and ct (Song
et al. 2023, Algorithm 3). Images are PNGs or JPEGs of the network's size, with a sub-folder for each class or none at all.
The output is a diffusers folder with averaged weights; `training/` in it holds the state that --resume continues from.
Several hosts need an output folder that all of them see. Needs torch, diffusers, accelerate and Pillow.
"""

import argparse
import copy
import json
import math
import os
import random
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from diffusers.utils import logging
from PIL import Image

IMAGES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif"}
# What a resumed run may have otherwise than it was begun with.
FREE = {"iterations", "resume", "output", "save_every", "log_every", "workers", "mixed_precision", "data", "init", "config"}


def fail(message, everywhere=False):
    """Ends the process. What all processes find is printed by the first alone."""
    if everywhere or os.environ.get("RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(1)


class Images(torch.utils.data.Dataset):
    """A folder's images; each sub-folder is a class. Item (index, flip) is an image (C, H, W) in ±1, and its label."""

    def __init__(self, folder, channels, size):
        if not folder.is_dir():
            fail(f"{folder}: expected a folder of images, found none")
        is_image = lambda p: p.suffix.lower() in IMAGES and not p.name.startswith(".")
        images = lambda f: sorted(p for p in f.iterdir() if is_image(p))
        own = images(folder)
        folders = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))
        if own and any(images(f) for f in folders):
            fail(f"{folder}: expected every image in a sub-folder that names its class, found {len(own)} beside them")
        self.channels, self.size = channels, size
        self.classes = [] if own else [f.name for f in folders]
        self.files = [(p, 0) for p in own]
        for label, path in enumerate([] if own else folders):
            inside = images(path)
            if not inside:
                fail(f"{path}: expected images of the class, found none")
            self.files += [(p, label) for p in inside]
        if not self.files:
            fail(f"{folder}: expected PNGs or JPEGs, found none")

    def __len__(self):
        return len(self.files)

    def __getitem__(self, item):
        index, flip = item
        path, label = self.files[index]
        image = Image.open(path)
        if image.size != self.size:
            expected, found = (f"{width}×{height}" for width, height in (self.size, image.size))
            raise ValueError(f"{path}: expected {expected} pixels as the network has, found {found}")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:  # seen on black
            image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image.convert("RGBA"))
        pixels = np.asarray(image.convert("L" if self.channels == 1 else "RGB"), dtype=np.float32)
        pixels = torch.from_numpy(pixels / 127.5 - 1).view(*pixels.shape[:2], self.channels).permute(2, 0, 1)
        return pixels.flip(2) if flip else pixels, label


def batches(count, batch, seed, flip, start, rank, processes):
    """Items of a process's batches from its batch `start` on: each epoch has all images, dealt to the processes in turn."""
    epoch, order = None, None
    for position in range((start * processes + rank) * batch, sys.maxsize, processes * batch):
        items = []
        for at in range(position, position + batch):
            if at // count != epoch:
                epoch = at // count
                order = np.random.default_rng([seed, epoch]).permutation(count)
            items.append((int(order[at % count]), flip and random.Random(f"{seed} {at}").random() < 0.5))
        yield items


def column(values):
    return values.view(-1, 1, 1, 1)


def denoise(network, scheduler, x, sigma, labels, boundary=True):
    """c_skip·x + c_out·F(c_in·x, 250·ln σ): f(x, σ), whose boundary is ε = σ_min, or EDM's D(x, σ), without ε."""
    d, e = scheduler.sigma_data, scheduler.sigma_min if boundary else 0.0
    c_in = 1 / torch.sqrt(sigma**2 + d * d)
    c_skip, c_out = d * d / ((sigma - e) ** 2 + d * d), (sigma - e) * d * c_in
    output = network(column(c_in) * x, 250 * torch.log(sigma), class_labels=labels).sample.float()
    return column(c_skip) * x + column(c_out) * output


def lognormal(mean, deviation, count, scheduler, device):
    """ln σ ~ N(mean, deviation), of low discrepancy (Kingma et al. 2021): one of each 16 neighbours of 16·count."""
    drawn = torch.randn(16 * count, device=device).sort().values.view(count, 16)
    chosen = drawn.gather(1, torch.randint(16, (count, 1), device=device)).squeeze(1)
    return (mean + deviation * chosen).exp().clamp(scheduler.sigma_min, scheduler.sigma_max)


def ect_r(t, q, stages, progress, scheduler):
    """max(0, t·(1 − q^−(s+1)·(1 + 8·sigmoid(−t)))) at stage s; the run is divided evenly among the stages."""
    first, last = stages
    stage = first + min(int(progress * (last + 1 - first)), last - first)
    r = t * (1 - q ** -(stage + 1) * (1 + 8 * torch.sigmoid(-t)))
    # Levels below σ_min are taken as 0, the data.
    return torch.where(r > scheduler.sigma_min, r, torch.zeros_like(r))


def ct_levels(progress, s0=2, s1=150):
    """N(k) = ⌈√(k/K·((s₁+1)² − s₀²) + s₀²) − 1⌉ + 1."""
    return math.ceil(math.sqrt(progress * ((s1 + 1) ** 2 - s0**2) + s0**2) - 1) + 1


def ct_decay(progress, s0=2, mu0=0.9):
    """μ(k) = exp(s₀·ln μ₀/N(k))."""
    return math.exp(s0 * math.log(mu0) / ct_levels(progress))


def karras(index, count, scheduler):
    """σ_i of the Karras schedule of `count` levels; σ_0 = σ_max."""
    low, high = (s ** (1 / scheduler.rho) for s in (scheduler.sigma_min, scheduler.sigma_max))
    return (high + index / (count - 1) * (low - high)) ** scheduler.rho


def losses(arguments, scheduler, online, target, teacher, y, labels, progress, dropout_seed):
    """The loss of each image (B). `target` is the network of the consistency loss's other side, which gives no gradient."""
    clip = (lambda x: x.clamp(-1, 1)) if scheduler.clip_denoised else (lambda x: x)

    def difference(output, goal):
        if scheduler.clip_denoised:  # outputs beyond ±1 count as ±1 where the goal is ±1
            output = torch.where(goal <= -1, output.clamp(min=-1), output)
            output = torch.where(goal >= 1, output.clamp(max=1), output)
        return output - goal

    z = torch.randn_like(y)
    if arguments.recipe != "ct":
        t = lognormal(arguments.p_mean, arguments.p_std, len(y), scheduler, y.device)
    if arguments.recipe == "edm":
        torch.manual_seed(dropout_seed)
        output = denoise(online, scheduler, y + column(t) * z, t, labels, boundary=False)
        d = scheduler.sigma_data
        return (t**2 + d * d) / (t * d) ** 2 * difference(output, y).square().mean((1, 2, 3))
    if arguments.recipe == "ect":
        r = ect_r(t, arguments.q, arguments.stages, progress, scheduler)
    else:
        count = ct_levels(progress)
        index = torch.randint(count - 1, (len(y),), device=y.device)
        t, r = karras(index, count, scheduler), karras(index + 1, count, scheduler)
    x_t = y + column(t) * z
    with torch.no_grad():
        x_r = y + column(r) * z
        if teacher is not None:  # an Euler step of its ODE
            kept = column(r / t)
            x_r = kept * x_t + (1 - kept) * clip(denoise(teacher, scheduler, x_t, t, labels, boundary=False))
        torch.manual_seed(dropout_seed)
        # At σ = 0, where f is the identity, the network is not trained: it is evaluated at t, and its output masked.
        goal = denoise(target, scheduler, x_r, torch.where(r > 0, r, t), labels)
        goal = clip(torch.where(column(r > 0), goal, x_r))
    torch.manual_seed(dropout_seed)  # both sides have the same dropout mask
    squares = difference(denoise(online, scheduler, x_t, t, labels), goal).square()
    if arguments.recipe == "ct":
        return squares.mean((1, 2, 3))
    return (squares.sum((1, 2, 3)) + 1e-12).sqrt() / (t - r)  # the root has no derivative at 0


@torch.no_grad()
def average(mean, network, decay):
    """mean ← decay·mean + (1 − decay)·network."""
    torch._foreach_lerp_(list(mean.parameters()), list(network.parameters()), 1 - decay)


def load(kind, model, subfolder):
    try:
        return kind.from_pretrained(model, subfolder=subfolder)
    except (OSError, ValueError, RuntimeError) as e:
        fail(f"{model}: {str(e).splitlines()[0]}")


def new_network(path):
    """Random weights; 0 in the last layer of each block, which makes it the identity (Karras et al. 2022)."""
    try:
        network = UNet2DModel.from_config(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as e:
        fail(f"{path}: {str(e).splitlines()[0]}")
    for name, parameter in network.named_parameters():
        if name.rsplit(".", 1)[0].endswith(("conv2", "to_out.0", "conv_out")):
            torch.nn.init.zeros_(parameter)
    return network


def shape(network):
    return {name: network.config[name] for name in ("in_channels", "sample_size", "num_class_embeds")}


def save_model(folder, network, scheduler, classes):
    """Writes the diffusers folder; classes that have names keep them in model_index.json."""
    ConsistencyModelPipeline(unet=network, scheduler=scheduler).save_pretrained(folder)
    if classes != [str(i) for i in range(len(classes))]:
        index = json.loads((folder / "model_index.json").read_text())
        index["id2label"] = dict(enumerate(classes))
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def count(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {text}")
    return int(text)


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--recipe", required=True, choices=["edm", "ect", "ct"])
    add("--data", required=True, type=Path, help="folder of images, with a sub-folder for each class or none")
    add("--output", required=True, type=Path, help="the diffusers folder that is written")
    add("--config", type=Path, help="a unet/config.json to start from random weights (edm, ct)")
    add("--init", help="a model to start from, a folder or a hub id; for ect a denoiser or a consistency model")
    add("--teacher", help="the denoiser whose Euler steps take the place of those of the data (ect)")
    add("--iterations", required=True, type=count)
    add("--batch", type=count, default=64, help="images per process and network call")
    add("--accumulate", type=count, default=1, help="network calls whose gradients make one iteration")
    add("--mixed-precision", choices=["no", "bf16", "fp16"], help="by default as accelerate is configured")
    add("--lr", type=float, default=1e-4)
    add("--decay", type=float, default=0.3, help="share of the run, at its end, over which the learning rate falls to 0")
    add("--ema", type=float, default=0.999, help="decay of the averaged weights")
    add("--p-mean", type=float, help="mean of ln σ; -1.2 for edm, -1.1 for ect")
    add("--p-std", type=float, help="standard deviation of ln σ; 1.2 for edm, 2 for ect")
    add("--q", type=float, default=2.0, help="q of the step mapping (ect)")
    add("--stages", type=int, nargs=2, default=[0, 7], metavar=("FIRST", "LAST"), help="of the step mapping (ect)")
    add("--flip", action="store_true", help="mirror half of the images left to right")
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=2, help="processes that read images, for each process that trains")
    add("--save-every", type=count, default=1000, help="iterations between two saves")
    add("--log-every", type=count, default=50, help="iterations between two losses")
    add("--resume", action="store_true", help="continue the run in --output")
    arguments = parser.parse_args()
    if (arguments.config is None) == (arguments.init is None):
        fail("expected either --config or --init")
    if arguments.recipe == "ect" and arguments.init is None:
        fail("ect begins with a denoiser: expected --init")
    if arguments.teacher and arguments.recipe != "ect":
        fail("only ect takes a --teacher")
    if not 0 <= arguments.stages[0] <= arguments.stages[1] or arguments.q <= 1:
        fail("expected ascending --stages from 0 on, and --q above 1")
    defaults = {"p_mean": -1.2, "p_std": 1.2} if arguments.recipe == "edm" else {"p_mean": -1.1, "p_std": 2.0}
    vars(arguments).update({k: v for k, v in defaults.items() if getattr(arguments, k) is None})
    return arguments


def main():
    arguments = parse()
    logging.disable_progress_bar()
    torch.manual_seed(arguments.seed)
    network = load(UNet2DModel, arguments.init, "unet").float() if arguments.init else new_network(arguments.config)
    channels, size, classes = shape(network).values()
    height, width = (size, size) if isinstance(size, int) else size
    data = Images(arguments.data, channels, (width, height))
    if classes is not None and not 1 <= len(data.classes) <= classes:
        fail(f"{arguments.data}: expected sub-folders of 1 to {classes} classes as the network has, found {len(data.classes)}")
    scheduler = CMStochasticIterativeScheduler()
    if arguments.init:
        scheduler = load(CMStochasticIterativeScheduler, arguments.init, "scheduler")
    teacher = load(UNet2DModel, arguments.teacher, "unet").float() if arguments.teacher else None
    if teacher is not None and shape(teacher) != shape(network):
        fail(f"{arguments.teacher}: expected a teacher of {shape(network)}, found {shape(teacher)}")

    training = arguments.output / "training"
    state, done = training / "state", 0
    settings = {k: v for k, v in vars(arguments).items() if k not in FREE}
    settings |= {"images": len(data), "classes": data.classes, "network": shape(network)}
    if arguments.resume:
        if not (state / "run.json").exists():
            fail(f"{state}: not there, so there is no run to resume")
        run = json.loads((state / "run.json").read_text())
        done = run.pop("iteration")
        for key, before in run.items():
            if settings.get(key) != before:
                fail(f"{key}: expected {before}, with which the run was begun, found {settings.get(key)}")
    elif (arguments.output / "model_index.json").exists():
        fail(f"{arguments.output}: expected no model there, found one (--resume continues a run)")

    precision = arguments.mixed_precision
    accelerator = Accelerator(mixed_precision=precision, gradient_accumulation_steps=arguments.accumulate)
    device, is_main = accelerator.device, accelerator.is_main_process
    mean = copy.deepcopy(network).to(device).requires_grad_(False)
    target = copy.deepcopy(mean).train() if arguments.recipe == "ct" else None
    if teacher is not None:
        teacher.to(device).eval().requires_grad_(False)
    optimizer = torch.optim.RAdam(network.parameters(), lr=arguments.lr)
    network, optimizer = accelerator.prepare(network.train(), optimizer)
    bare = accelerator.unwrap_model(network)
    accelerator.register_for_checkpointing(*(part for part in (mean, target) if part is not None))
    if arguments.resume:
        accelerator.load_state(str(state))
    rank, processes = accelerator.process_index, accelerator.num_processes
    if is_main:
        parameters = sum(p.numel() for p in mean.parameters())
        print(f"{parameters:,} parameters, {len(data)} images of {max(len(data.classes), 1)} classes, {processes} × "
              f"{device.type}, mixed precision {accelerator.mixed_precision}, from iteration {done}", flush=True)

    start = done * arguments.accumulate
    order = batches(len(data), arguments.batch, arguments.seed, arguments.flip, start, rank, processes)
    options = {"num_workers": arguments.workers, "pin_memory": device.type == "cuda"}
    loader = iter(torch.utils.data.DataLoader(data, batch_sampler=order, **options))
    total, calls, began = torch.zeros((), device=device), 0, time.monotonic()
    for k in range(done, arguments.iterations):
        progress = k / arguments.iterations
        for group in optimizer.param_groups:
            group["lr"] = arguments.lr * min(1.0, (1 - progress) / max(arguments.decay, 1e-9))
        for part in range(arguments.accumulate):
            try:
                y, labels = (tensor.to(device, non_blocking=True) for tensor in next(loader))
            except (OSError, ValueError) as e:
                fail(str(e).splitlines()[-1].removeprefix("ValueError: "), everywhere=True)
            # Random numbers are a function of the seed and of where the run is, so that a resumed run draws the same.
            numbers = random.Random(f"{arguments.seed} {k} {part} {rank}")
            torch.manual_seed(numbers.getrandbits(63))
            with accelerator.accumulate(network):
                with accelerator.autocast():
                    each = losses(arguments, scheduler.config, network, bare if target is None else target, teacher, y,
                                  None if classes is None else labels, progress, numbers.getrandbits(63))
                accelerator.backward(each.mean())
                optimizer.step()
                optimizer.zero_grad()
            total, calls = total + each.detach().mean(), calls + 1
        done = k + 1
        average(mean, bare, min(arguments.ema, (2 + k) / (11 + k)))  # the first weights soon lose their share
        if target is not None:
            average(target, bare, ct_decay(progress))
        saves = done == arguments.iterations or done % arguments.save_every == 0
        if saves or done % arguments.log_every == 0:
            loss = accelerator.reduce(total / calls, "mean").item()
            if not math.isfinite(loss):
                fail(f"the loss is {loss} at iteration {done}: lower the learning rate")
            if is_main:
                print(f"iteration {done}, loss {loss:.5g}, {time.monotonic() - began:.0f} s", flush=True)
            total, calls = torch.zeros((), device=device), 0
        if saves:
            accelerator.save_state(str(training / "state.new"))
            accelerator.wait_for_everyone()
            if is_main:
                (training / "state.new" / "run.json").write_text(json.dumps(settings | {"iteration": done}) + "\n")
                shutil.rmtree(state, ignore_errors=True)
                (training / "state.new").rename(state)
                save_model(arguments.output, mean, scheduler, [] if classes is None else data.classes)
            accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
