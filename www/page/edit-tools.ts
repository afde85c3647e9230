// What the editing tools know without a model: colours to paint with, sizes of patches, what of a picture is kept.

import type { Pixels } from "./dom.js";

/** Red, green, blue, 0 to 255. */
export type Colour = [red: number, green: number, blue: number];

type Swatch = [name: string, colour: Colour];

/** Colours with their names, the one to begin with first. */
export function paletteOf(channels: number): [Swatch, ...Swatch[]] {
  const greys: [Swatch, ...Swatch[]] = [
    ["white", [255, 255, 255]],
    ["light grey", [192, 192, 192]],
    ["grey", [128, 128, 128]],
    ["dark grey", [64, 64, 64]],
    ["black", [0, 0, 0]],
  ];
  if (channels === 1) return greys;
  return [
    ["red", [200, 45, 45]],
    ["orange", [230, 130, 40]],
    ["yellow", [240, 205, 70]],
    ["green", [70, 150, 60]],
    ["teal", [50, 150, 150]],
    ["blue", [60, 90, 200]],
    ["violet", [130, 70, 180]],
    ["pink", [230, 130, 170]],
    ["skin", [225, 175, 140]],
    ["brown", [120, 75, 40]],
    ["slate", [32, 34, 44]],
    ...greys,
  ];
}

/** Sides of patches that tile a picture and leave something to be found, up to an eighth of it. */
export function patchesOf(width: number, height: number): number[] {
  const most = Math.min(width, height) / 2;
  return [2, 4, 7, 8, 14, 16, 32]
    .filter((patch) => patch <= most && width % patch === 0 && height % patch === 0)
    .slice(0, 4);
}

/** What the model gets to know of a picture, in place: RGBA in, RGBA out. */
export const kept = {
  /** The luma of each pixel (ITU-R BT.601), as a grey. */
  luma(pixels: Pixels["pixels"]): Pixels["pixels"] {
    for (let at = 0; at < pixels.length; at += 4) {
      const [r = 0, g = 0, b = 0] = pixels.subarray(at, at + 3);
      if (r === g && g === b) continue;
      pixels.fill(0.2989 * r + 0.587 * g + 0.114 * b, at, at + 3);
    }
    return pixels;
  },

  /** The mean of each patch of each channel. */
  means(pixels: Pixels["pixels"], width: number, patch: number): Pixels["pixels"] {
    const height = pixels.length / 4 / width;
    for (let top = 0; top < height; top += patch) {
      for (let left = 0; left < width; left += patch) {
        for (let c = 0; c < 3; c++) {
          const cells = Array.from(
            { length: patch * patch },
            (_, i) => 4 * ((top + Math.floor(i / patch)) * width + left + (i % patch)) + c,
          );
          const mean = cells.reduce((sum, at) => sum + (pixels[at] ?? 0), 0) / cells.length;
          for (const at of cells) pixels[at] = mean;
        }
      }
    }
    return pixels;
  },
};
