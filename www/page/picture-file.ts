// A picture of one's own, made into one of the model's: cropped to the middle, scaled by areas, laid on the ground where
// it is transparent.

import { context2d, type Pixels } from "./dom.js";
import type { Colour } from "./edit-tools.js";

/** The most pixels of a picture that is decoded: as RGBA they are 200 MB. */
const MOST_PIXELS = 50e6;

/** The most bytes of a file, whatever it holds. */
const MOST_BYTES = 100e6;

/** How much of a file is read to find its size in pixels. */
const HEAD = 1 << 18;

interface Size {
  width: number;
  height: number;
}

/**
 * Reads a picture file and fits it to a size.
 *
 * @param ground what transparent pixels are laid on
 * @throws {Error} one line that names the file and says what is wrong with it
 */
export async function readPicture(file: File, { width, height }: Size, ground: Colour): Promise<Pixels> {
  const name = file.name || "the picture";
  if (!file.size) throw new Error(`${name}: expected a picture, found an empty file`);
  if (file.size > MOST_BYTES) {
    throw new Error(`${name}: expected at most ${MOST_BYTES / 1e6} MB, found ${Math.round(file.size / 1e6)} MB`);
  }
  // Before anything is decoded: a small file can hold a picture that no memory holds.
  const head = new DataView(await file.slice(0, HEAD).arrayBuffer());
  checkSize(name, sizeOf(head));
  let bitmap: ImageBitmap;
  try {
    const options: ImageBitmapOptions = { premultiplyAlpha: "none", colorSpaceConversion: "default" };
    // Not every browser takes options.
    bitmap = await createImageBitmap(file, options).catch(() => createImageBitmap(file));
  } catch {
    throw new Error(`${name}: expected a picture that this browser can read, found ${file.type || "something else"}`);
  }
  try {
    checkSize(name, bitmap);
    return fit(bitmap, { width, height }, ground);
  } finally {
    bitmap.close();
  }
}

function checkSize(name: string, size: Size | null): void {
  if (!size || size.width * size.height <= MOST_PIXELS) return;
  const megapixels = (pixels: number) => `${Math.round(pixels / 1e6)} megapixels`;
  throw new Error(
    `${name}: expected at most ${megapixels(MOST_PIXELS)}, found ${size.width} × ${size.height} = ` +
      megapixels(size.width * size.height),
  );
}

/** Width and height as the head of a PNG, GIF, JPEG, WebP or BMP tells them; null where it does not. */
export function sizeOf(head: DataView): Size | null {
  const has = (at: number, text: string) =>
    at + text.length <= head.byteLength && [...text].every((c, i) => head.getUint8(at + i) === c.charCodeAt(0));
  if (head.byteLength < 30) return null;
  if (has(0, "\x89PNG")) return { width: head.getUint32(16), height: head.getUint32(20) };
  if (has(0, "GIF8")) return { width: head.getUint16(6, true), height: head.getUint16(8, true) };
  if (has(0, "BM")) return { width: head.getInt32(18, true), height: Math.abs(head.getInt32(22, true)) };
  if (has(0, "RIFF") && has(8, "WEBP")) return webpSize(head, has);
  if (has(0, "\xff\xd8")) return jpegSize(head);
  return null;
}

function webpSize(head: DataView, has: (at: number, text: string) => boolean): Size | null {
  const uint24 = (at: number) => head.getUint16(at, true) | (head.getUint8(at + 2) << 16);
  if (has(12, "VP8X")) return { width: uint24(24) + 1, height: uint24(27) + 1 };
  if (has(12, "VP8L")) {
    const bits = head.getUint32(21, true);
    return { width: (bits & 0x3fff) + 1, height: ((bits >>> 14) & 0x3fff) + 1 };
  }
  if (has(12, "VP8 ")) return { width: head.getUint16(26, true) & 0x3fff, height: head.getUint16(28, true) & 0x3fff };
  return null;
}

/** The first frame header (SOF) among a JPEG's segments. */
function jpegSize(head: DataView): Size | null {
  for (let at = 2; at + 9 < head.byteLength && head.getUint8(at) === 0xff; at += 2 + head.getUint16(at + 2)) {
    const marker = head.getUint8(at + 1);
    const frame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (frame) return { width: head.getUint16(at + 7), height: head.getUint16(at + 5) };
  }
  return null;
}

/** The middle of a picture, as large as its shape allows, scaled to width × height. */
export function fit(source: ImageBitmap | OffscreenCanvas, { width, height }: Size, ground: Colour): Pixels {
  const scale = Math.min(source.width / width, source.height / height);
  const [w, h] = [width * scale, height * scale];
  const [left, top] = [(source.width - w) / 2, (source.height - h) / 2];
  // No more than some pixels of the source for each of the result are looked at, each with the area that it covers.
  const fine = Math.max(1, Math.min(16, Math.round(scale)));
  const canvas = new OffscreenCanvas(width * fine, height * fine);
  const context = context2d(canvas, { willReadFrequently: true });
  context.fillStyle = `rgb(${ground.join()})`;
  context.fillRect(0, 0, canvas.width, canvas.height);
  // A whole multiple needs no smoothing, and then each pixel stays what it is.
  context.imageSmoothingEnabled = scale !== fine;
  context.imageSmoothingQuality = "high";
  context.drawImage(source, left, top, w, h, 0, 0, canvas.width, canvas.height);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  return average(data, width, height, fine);
}

/** The mean of each patch of `patch` × `patch` pixels, as one pixel. */
function average(data: Uint8ClampedArray, width: number, height: number, patch: number): Pixels {
  const pixels = new Uint8ClampedArray(width * height * 4);
  const across = width * patch;
  for (let i = 0; i < width * height; i++) {
    const corner = (Math.floor(i / width) * across + (i % width)) * patch;
    for (let c = 0; c < 4; c++) {
      let sum = 0;
      for (let y = 0; y < patch; y++) {
        for (let x = 0; x < patch; x++) sum += data[4 * (corner + y * across + x) + c] ?? 0;
      }
      pixels[4 * i + c] = sum / (patch * patch);
    }
  }
  return { pixels, width, height };
}
