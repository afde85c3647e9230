#!/usr/bin/env python
"""Composes animals as src/train/animals.rs does, and writes their hashes to tests/goldens/animals/pictures.json.

    python tests/goldens/animals.py

Needs numpy and Pillow. numpy's RandomState is the engine of torch.Generator("cpu") (MT19937, the seed as one word).
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parent / "animals"
# Seed, size, number of pictures.
CASES = [(1, 64, 28), (2, 128, 5), (3, 32, 40), (4, 16, 14)]


class Generator:
    def __init__(self, seed):
        self.engine = np.random.RandomState(seed)

    def next_u32(self):
        return int(self.engine.randint(0, 2**32, dtype=np.uint32))

    def below(self, bound):
        return self.next_u32() % bound

    def uniform(self):
        high = self.next_u32()
        return ((high << 32 | self.next_u32()) & (2**53 - 1)) / 2**53


def colour(text):
    digits = text[1:]
    step = len(digits) // 3
    return np.array([int(digits[i : i + step] * (3 - step), 16) for i in range(0, len(digits), step)], np.float64)


def fill(tone, fur):
    if tone == "base":
        return fur
    for word, sign in [("lighter", 1), ("darker", -1)]:
        if tone.startswith(word):
            return np.clip(fur + sign * float(tone[len(word) :]), 0, 255)
    return colour(tone)


def compose(parts, masks, kind, size, generator):
    """One animal as bytes, (3, size, size)."""
    fur = colour(parts["fur"][generator.below(len(parts["fur"]))])
    ground = colour(parts["ground"][generator.below(len(parts["ground"]))])
    side = parts["size"]
    image = np.ones((side, side, 3)) * ground
    for group in parts["order"]:
        probability = parts["probability"].get(group)
        if probability is not None and generator.uniform() >= probability:
            continue
        members = parts["parts"][group]
        for tone, mask in members[kind if group == "ears" else generator.below(len(members))]:
            a = masks[mask][..., None]
            image = image * (1 - a) + fill(tone, fur) * a
    block = side // size
    # Summed one by one, so that halves are rounded as in Rust.
    total = np.zeros((size, size, 3))
    for y in range(block):
        for x in range(block):
            total = total + image[y::block, x::block]
    return np.rint(total / block**2).astype(np.uint8).transpose(2, 0, 1)


def main():
    parts = json.loads((FOLDER / "parts.json").read_text())
    sheet = np.asarray(Image.open(FOLDER / "masks.png").convert("L"), np.float64) / 255
    side, columns = parts["size"], parts["columns"]
    corners = [(i // columns * side, i % columns * side) for i in range(parts["masks"])]
    masks = [sheet[y : y + side, x : x + side] for y, x in corners]
    pictures = []
    for seed, size, count in CASES:
        generator = Generator(seed)
        kinds = len(parts["classes_by_ears"])
        animals = [compose(parts, masks, i % kinds, size, generator) for i in range(count)]
        sha256 = hashlib.sha256(np.stack(animals).tobytes()).hexdigest()
        pictures.append({"seed": seed, "size": size, "count": count, "sha256": sha256})
    (FOLDER / "pictures.json").write_text(json.dumps(pictures, indent=1) + "\n")


if __name__ == "__main__":
    main()
