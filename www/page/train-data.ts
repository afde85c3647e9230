// From a person's pictures, and from the masks of animals, to what a network learns from.

import type { Bytes } from "../bytes.js";
import { failing } from "../error.js";
import { context2d, type Pixels } from "./dom.js";
import { kept } from "./edit-tools.js";
import { readPicture } from "./picture-file.js";
import type { Animals, Images } from "./train-messages.js";
import type { Shape } from "./train-network.js";

/** The most bytes of pictures, scaled. */
const MOST_BYTES = 256e6;
const PICTURE = /\.(png|jpe?g|webp|gif|bmp|avif)$/i;

/** A file with its path below what was chosen. */
export interface PlacedFile {
  path: string;
  file: File;
}

/** Pictures in classes. */
export interface Collection {
  /** The names of the classes; one class has none. */
  classes: string[];
  pictures: (PlacedFile & { label: number })[];
  /** Files that are no pictures. */
  leftOut: string[];
}

/** Pictures that were read. */
export interface ReadPictures {
  images: Images;
  classes: string[];
  leftOut: string[];
}

/**
 * Sorts files into classes: sub-folders in alphabetical order, otherwise one class.
 *
 * @throws {Error} one line, for no pictures at all, or pictures beside classes
 */
export function collect(files: PlacedFile[]): Collection {
  const visible = files.filter(({ path }) => !/(^|\/)(\.|__MACOSX\/|Thumbs\.db$|desktop\.ini$)/.test(path));
  const isPicture = ({ path, file }: PlacedFile) => file.type.startsWith("image/") || PICTURE.test(path);
  const pictures = visible.filter(isPicture);
  const leftOut = visible.filter((file) => !isPicture(file)).map(({ path }) => path);
  if (!pictures.length) throw new Error(`expected pictures, found ${list(leftOut) || "nothing"}`);
  const folders = pictures.map(({ path }) => path.split("/").slice(0, -1));
  let shared = 0;
  while (folders.every((folder) => folder.length > shared && folder[shared] === folders[0]?.[shared])) shared++;
  const names = folders.map((folder) => folder[shared] ?? null);
  const classes = [...new Set(names)].filter((name) => name !== null).sort((a, b) => (a < b ? -1 : 1));
  const beside = pictures.find((_, i) => names[i] === null);
  if (classes.length && beside) {
    throw new Error(`expected each picture in a sub-folder, its class, found ${beside.path} beside ${list(classes)}`);
  }
  const labelled = pictures.map((picture, i) => ({ ...picture, label: Math.max(classes.indexOf(names[i] ?? ""), 0) }));
  return { classes, pictures: labelled, leftOut };
}

/** Reads pictures at a size, those of a class without a readable one left out with it. */
export async function readPictures(
  { classes, pictures, leftOut }: Collection,
  { size, channels }: Shape,
  onProgress: (read: number) => void,
): Promise<ReadPictures> {
  const bytes = pictures.length * channels * size * size;
  if (bytes > MOST_BYTES) {
    const most = Math.floor(MOST_BYTES / (channels * size * size));
    throw new Error(`expected at most ${most.toLocaleString("en")} pictures of this size, found ${pictures.length}`);
  }
  const read: { pixels: Pixels; label: number }[] = [];
  const refused = [...leftOut];
  for (const [i, { file, path, label }] of pictures.entries()) {
    onProgress(i);
    try {
      read.push({ pixels: await readPicture(file, { width: size, height: size }, [0, 0, 0]), label });
    } catch {
      refused.push(path);
    }
  }
  if (!read.length) throw new Error(`expected pictures that this browser can read, found ${list(refused)}`);
  const found = [...new Set(read.map(({ label }) => label))].sort((a, b) => a - b);
  const labelled = read.map(({ pixels, label }) => ({ pixels, label: found.indexOf(label) }));
  const names = found.flatMap((label) => classes[label] ?? []);
  return { images: imagesOf(labelled, channels), classes: names.length > 1 ? names : [], leftOut: refused };
}

/** Pictures as a network sees them: planes of bytes, grey ones their luma. */
export function imagesOf(pictures: { pixels: Pixels; label: number }[], channels: number): Images {
  const [first] = pictures;
  const area = first ? first.pixels.width * first.pixels.height : 0;
  const pixels: Bytes = new Uint8Array(pictures.length * channels * area);
  pictures.forEach(({ pixels: { pixels: rgba } }, n) => {
    const seen = channels === 1 ? kept.luma(rgba.slice()) : rgba;
    for (let c = 0; c < channels; c++) {
      const plane = (n * channels + c) * area;
      for (let i = 0; i < area; i++) pixels[plane + i] = seen[4 * i + c] ?? 0;
    }
  });
  return { kind: "images", pixels, labels: Uint32Array.from(pictures, ({ label }) => label) };
}

/** Fetches the masks of animals; returns them with the names of their classes. */
export async function readAnimals(): Promise<{ animals: Animals; classes: string[] }> {
  const folder = new URL("../data/animals/", import.meta.url);
  return failing("network", folder.href, async () => {
    const fetched = async (name: string) => {
      const response = await fetch(new URL(name, folder));
      if (!response.ok) throw new Error(`expected ${name}, found HTTP status ${response.status}`);
      return response;
    };
    const [picture, text] = await Promise.all([fetched("masks.png"), fetched("parts.json")]);
    const [bitmap, parts] = await Promise.all([picture.blob().then((blob) => createImageBitmap(blob)), text.text()]);
    const { width, height } = bitmap;
    const context = context2d(new OffscreenCanvas(width, height), { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    const { data } = context.getImageData(0, 0, width, height);
    const masks: Bytes = new Uint8Array(width * height);
    for (let i = 0; i < masks.length; i++) masks[i] = data[4 * i] ?? 0;
    const { classes_by_ears: classes } = JSON.parse(parts) as { classes_by_ears: string[] };
    return { animals: { kind: "animals", masks, width, parts }, classes };
  });
}

/** Some of many, in words. */
export function list(names: string[], most = 3): string {
  const more = names.length - most;
  return [...names.slice(0, most), ...(more > 0 ? [`${more} more`] : [])].join(", ");
}

/** An error's line about files that were left out; empty when there is none. */
export const leftOutWords = (names: string[]) =>
  names.length ? `Left out, for this browser reads no picture in them: ${list(names)}` : "";
