#!/usr/bin/env python
"""Distils an EDM denoiser into a consistency model by regression on whole trajectories of its probability flow ODE.

    tools/distil_trajectories.py --teacher teacher/ --output mine/ --minutes 60
    tools/distil_trajectories.py --teacher teacher/ --output mine/ --minutes 90 --resume

The teacher solves the ODE from noise at sigma_max (DPM-Solver++(2M), Lu et al. 2022, on Karras's noise levels). Every state x
on the way is an input of the student, the end of the trajectory is the answer that it learns: f(x, sigma) = x_0, the definition
of a consistency function (Song et al. 2023) without bootstrapped targets. No data is read. A trajectory is used several
times, each time at a level drawn anew. The distance of the two pictures is the Charbonnier distance of their pixels, of
their means over 4x4 and of their differences between neighbouring pixels. Beyond +-1, where the sampler clamps, nothing is asked.

The output is a diffusers folder with averaged weights; `training/` in it has the state that --resume continues from and
sheets of samples in one and in two calls. Needs torch and diffusers; runs on a GPU where torch finds one.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from PIL import Image

SIGMA_MIN, SIGMA_MAX, SIGMA_DATA, RHO = 0.002, 80.0, 0.5, 7.0
# Lowest level that the student learns. Below it the pictures are finished.
SIGMA_LOW = 0.05
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def network(unet, x, sigma, labels):
    """F(c_in x, c_noise), in bf16 where that is faster."""
    column = sigma.view(-1, 1, 1, 1)
    scaled = (x / (column**2 + SIGMA_DATA**2).sqrt()).contiguous(memory_format=torch.channels_last)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        labels = labels if unet.config.num_class_embeds else None
        return unet(scaled, 250 * torch.log(sigma), labels).sample.float()


def denoise(unet, x, sigma, labels):
    """EDM's denoiser: D(x, sigma) = c_skip x + c_out F."""
    s = sigma.view(-1, 1, 1, 1)
    total = s**2 + SIGMA_DATA**2
    return SIGMA_DATA**2 / total * x + s * SIGMA_DATA / total.sqrt() * network(unet, x, sigma, labels)


def consistency(unet, x, sigma, labels):
    """The consistency function f(x, sigma), which is x at sigma_min."""
    s = sigma.view(-1, 1, 1, 1)
    c_skip = SIGMA_DATA**2 / ((s - SIGMA_MIN) ** 2 + SIGMA_DATA**2)
    c_out = SIGMA_DATA * (s - SIGMA_MIN) / (s**2 + SIGMA_DATA**2).sqrt()
    return c_skip * x + c_out * network(unet, x, sigma, labels)


def levels(steps, shift):
    """Karras's noise levels from sigma_max down, those between moved by `shift` of a step (0 to 1)."""
    position = (torch.arange(steps) + shift).clamp(max=steps - 1) / (steps - 1)
    position[0] = 0
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    return (high + position * (low - high)) ** RHO


@torch.no_grad()
def solve(teacher, labels, steps, generator):
    """Trajectories from noise: states (B, steps, C, H, W), levels (steps) and ends (B, C, H, W)."""
    sigmas = levels(steps, torch.rand(1, generator=generator).item() * 0.9).to(DEVICE)
    config = teacher.config
    shape = (len(labels), config.in_channels, config.sample_size, config.sample_size)
    x = torch.randn(shape, generator=generator).to(DEVICE) * SIGMA_MAX
    states, previous, last = [], None, None
    for i in range(steps):
        states.append(x.half().cpu())
        answer = denoise(teacher, x, sigmas[i].expand(len(labels)), labels).clamp(-1, 1)
        if i + 1 == steps:
            return torch.stack(states, 1), sigmas.cpu(), answer.half().cpu()
        step = math.log(sigmas[i] / sigmas[i + 1])
        ahead = answer
        if previous is not None:
            ahead = answer + (answer - previous) * step / (2 * last)
        x = sigmas[i + 1] / sigmas[i] * x - math.expm1(-step) * ahead
        previous, last = answer, step


class Trajectories:
    """The last `size` trajectories. Half precision: a state's rounding error is 1/2000 of its noise."""

    def __init__(self, size, steps, shape):
        self.states = torch.empty((size, steps, *shape), dtype=torch.half)
        self.ends = torch.empty((size, *shape), dtype=torch.half)
        self.sigmas = torch.empty((size, steps))
        self.labels = torch.empty(size, dtype=torch.long)
        self.made = 0

    def add(self, states, sigmas, ends, labels):
        at = torch.arange(self.made, self.made + len(labels)) % len(self.labels)
        self.states[at], self.sigmas[at], self.ends[at], self.labels[at] = states, sigmas, ends, labels.cpu()
        self.made += len(labels)

    def draw(self, batch, first, generator):
        """A batch of x, sigma, end and label. A share `first` is at sigma_max, the others are uniform over the levels."""
        rows = torch.randint(min(self.made, len(self.labels)), (batch,), generator=generator)
        useful = (self.sigmas[rows] > SIGMA_LOW).sum(1)
        column = (torch.rand(batch, generator=generator) * useful).long()
        column[: round(first * batch)] = 0
        pick = self.states[rows, column], self.sigmas[rows, column], self.ends[rows], self.labels[rows]
        return [t.to(DEVICE, torch.long if t.dtype == torch.long else torch.float) for t in pick]


def charbonnier(difference, width=0.02):
    return ((difference**2 + width**2).sqrt() - width).mean((1, 2, 3))


def distance(answer, target):
    """Per sample. Its minimum over many targets is near their median: one of their colours, not the mean of all."""
    answer = answer.clamp(-1, 1)
    difference = answer - target
    across, down = difference[..., :, 1:] - difference[..., :, :-1], difference[..., 1:, :] - difference[..., :-1, :]
    return charbonnier(difference) + charbonnier(F.avg_pool2d(difference, 4)) + charbonnier(across) + charbonnier(down)


class Muon:
    """Muon (Jordan et al. 2024) for hidden matrices, Adam for all else, with one learning rate (Liu et al. 2025)."""

    def __init__(self, model):
        edge = ("conv_in.", "conv_out.", "class_embedding.")
        named = list(model.named_parameters())
        self.matrices = [p for n, p in named if p.ndim > 1 and not n.startswith(edge)]
        self.momenta = [torch.zeros_like(p) for p in self.matrices]
        self.adam = torch.optim.Adam([p for n, p in named if p.ndim <= 1 or n.startswith(edge)], betas=(0.9, 0.99))

    @torch.no_grad()
    def step(self, rate):
        self.adam.param_groups[0]["lr"] = rate
        self.adam.step()
        self.adam.zero_grad()
        for p, momentum in zip(self.matrices, self.momenta):
            momentum.lerp_(p.grad, 0.05)
            x = p.grad.lerp(momentum, 0.95).flatten(1)
            tall = x.shape[0] > x.shape[1]
            x = x.T if tall else x
            x = x / (x.norm() + 1e-30)
            for _ in range(5):
                square = x @ x.T
                x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
            x = x.T if tall else x
            p.sub_(x.reshape(p.shape), alpha=rate * 0.2 * max(x.shape) ** 0.5)
            p.grad = None

    def state(self):
        return {"momenta": self.momenta, "adam": self.adam.state_dict()}

    def load(self, state):
        for mine, theirs in zip(self.momenta, state["momenta"]):
            mine.copy_(theirs)
        self.adam.load_state_dict(state["adam"])


@torch.no_grad()
def sheet(unet, second, path, columns=10, rows=4):
    """Samples of one noise: in one call, or in two with the second at level `second`."""
    generator = torch.Generator().manual_seed(7)
    count, config = columns * rows, unet.config
    shape = (count, config.in_channels, config.sample_size, config.sample_size)
    labels = (torch.arange(count) % (config.num_class_embeds or 1)).to(DEVICE)
    x = torch.randn(shape, generator=generator).to(DEVICE) * SIGMA_MAX
    image = consistency(unet, x, torch.full((count,), SIGMA_MAX, device=DEVICE), labels).clamp(-1, 1)
    if second:
        x = image + torch.randn(shape, generator=generator).to(DEVICE) * second
        image = consistency(unet, x, torch.full((count,), second, device=DEVICE), labels).clamp(-1, 1)
    image = ((image + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    lines = [np.concatenate(list(image[r * columns : (r + 1) * columns]), 1) for r in range(rows)]
    Image.fromarray(np.concatenate(lines).squeeze()).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="an EDM denoiser, a diffusers folder")
    parser.add_argument("--init", type=Path, help="a model to start from [default: the teacher]")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True, help="length of training, summed over interruptions")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16, help="teacher's calls per trajectory")
    parser.add_argument("--uses", type=float, default=6, help="how often a trajectory is used, in the mean")
    parser.add_argument("--keep", type=int, default=6000, help="trajectories in memory")
    parser.add_argument("--first", type=float, default=0.35, help="share of a batch at sigma_max")
    parser.add_argument("--lr", type=float, default=7e-4)
    parser.add_argument("--decay", type=float, default=0.6, help="share of the run over which the rate falls to 0")
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--second", type=float, default=2.0, help="level of the second call in the sheets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    for name, low, high in [("batch", 1, math.inf), ("steps", 2, math.inf), ("first", 0, 1), ("decay", 0, 1), ("ema", 0, 1)]:
        value = getattr(options, name)
        if not low <= value <= high:
            parser.error(f"--{name}: expected {low} to {high}, found {value}")
    if options.keep < options.batch * 4:
        parser.error(f"--keep: expected four batches at least ({options.batch * 4}), found {options.keep}")
    schedule = json.loads((options.teacher / "scheduler/scheduler_config.json").read_text())
    expected = {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX, "sigma_data": SIGMA_DATA, "rho": RHO}
    found = {name: schedule.get(name, value) for name, value in expected.items()}
    if found != expected:
        parser.error(f"--teacher: expected a scheduler with {expected}, found {found}")
    holds_run = (options.output / "training/state.pt").exists()
    if holds_run != options.resume:
        parser.error(f"--output: {options.output} holds " + ("a run: --resume continues it" if holds_run else "no run to resume"))
    if not options.resume and (options.output / "model_index.json").exists():
        parser.error(f"--output: {options.output} holds a model that is no run of this script: name another folder")

    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    load = lambda folder: UNet2DModel.from_pretrained(folder / "unet").to(DEVICE, memory_format=torch.channels_last)
    teacher = load(options.teacher).eval().requires_grad_(False)
    student, average = load(options.init or options.teacher), load(options.init or options.teacher).requires_grad_(False)
    optimizer = Muon(student)
    folder = options.output / "training"
    folder.mkdir(parents=True, exist_ok=True)
    iteration, spent = 0, 0.0
    if options.resume:
        state = torch.load(folder / "state.pt", map_location=DEVICE)
        student.load_state_dict(state["student"])
        average.load_state_dict(state["average"])
        optimizer.load(state["optimizer"])
        iteration, spent = state["iteration"], state["spent"]
        generator.manual_seed(options.seed + iteration)

    config = student.config
    kept = Trajectories(options.keep, options.steps, (config.in_channels, config.sample_size, config.sample_size))
    used = 0

    def save():
        ConsistencyModelPipeline(average, CMStochasticIterativeScheduler.from_config(schedule)).save_pretrained(options.output)
        # diffusers does not keep the classes' names.
        index = json.loads((options.output / "model_index.json").read_text())
        index["id2label"] = json.loads((options.teacher / "model_index.json").read_text()).get("id2label")
        (options.output / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if v is not None}, indent=2))
        state = {"student": student.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state()}
        torch.save({**state, "iteration": iteration, "spent": spent}, folder / "state.new")
        os.replace(folder / "state.new", folder / "state.pt")
        for second in [0, options.second]:
            sheet(average, second, folder / f"samples-{iteration:06}-{2 if second else 1}.png")

    since, saved, mean = time.time(), time.time(), None
    log = open(folder / "loss.csv", "a")
    while spent < options.minutes * 60:
        while kept.made < options.batch * 4 or kept.made * options.uses < used:
            labels = torch.randint(config.num_class_embeds or 1, (options.batch,), generator=generator).to(DEVICE)
            kept.add(*solve(teacher, labels, options.steps, generator), labels)
        x, sigma, target, labels = kept.draw(options.batch, options.first, generator)
        used += options.batch
        loss = distance(consistency(student, x, sigma, labels), target)
        if not torch.isfinite(loss).all():
            raise SystemExit(f"iteration {iteration}: the loss is {loss.tolist()}, expected finite numbers")
        loss.mean().backward()
        left = 1 - spent / (options.minutes * 60)
        optimizer.step(options.lr * min(1, left / max(options.decay, 1e-9), (iteration + 1) / 20))
        iteration += 1
        with torch.no_grad():
            decay = min(options.ema, (1 + iteration) / (10 + iteration))
            for a, p in zip(average.parameters(), student.parameters()):
                a.lerp_(p, 1 - decay)
        now = time.time()
        spent, since = spent + now - since, now
        log.write(f"{iteration},{spent:.1f},{loss[: round(options.first * options.batch)].mean():.5f},{loss.mean():.5f}\n")
        log.flush()
        mean = loss.mean().item() if mean is None else 0.95 * mean + 0.05 * loss.mean().item()
        if iteration % 20 == 0:
            print(f"iteration {iteration}, loss {mean:.4f}, {kept.made} trajectories, {spent:.0f} s", flush=True)
        if iteration in (50, 150) or now - saved > 600:
            save()
            saved = time.time()
    save()


if __name__ == "__main__":
    main()
