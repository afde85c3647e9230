// Pictures and masks as text for an address: what follows its # is never sent to a server.

import { bytesOf } from "../bytes.js";
import type { Pixels } from "./dom.js";

/** What a text is read as. */
export interface Size {
  width: number;
  height: number;
  /** 1 or 3. */
  channels: number;
}

/** The longest text that a link may hold; some programs cut longer ones. */
const LONGEST = 30_000;

/**
 * A picture as text: deflated channels, base64url.
 *
 * @param pixels RGBA, opaque
 * @param channels 1 or 3
 * @throws {RangeError} when it is too large for a link
 */
export async function pictureText(pixels: ArrayLike<number>, channels: number): Promise<string> {
  const bytes = new Uint8Array((pixels.length / 4) * channels);
  for (let i = 0; i < bytes.length; i++) bytes[i] = pixels[4 * Math.floor(i / channels) + (i % channels)] ?? 0;
  return encode(bytes);
}

/** The inverse of `pictureText`; null when the text is no picture of that size. */
export async function parsePicture(text: string, { width, height, channels }: Size): Promise<Pixels | null> {
  const bytes = await decode(text, width * height * channels);
  if (!bytes) return null;
  const pixels = new Uint8ClampedArray(width * height * 4).fill(255);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) pixels[4 * i + c] = bytes[i * channels + (channels === 1 ? 0 : c)] ?? 0;
  }
  return { pixels, width, height };
}

/** A mask of ones and zeros as text. */
export async function maskText(hole: Uint8Array): Promise<string> {
  const bytes = new Uint8Array(Math.ceil(hole.length / 8));
  hole.forEach((isHole, i) => {
    bytes[i >> 3] = (bytes[i >> 3] ?? 0) | (isHole << (i & 7));
  });
  return encode(bytes);
}

/** The inverse of `maskText`; null when the text is no mask of that size. */
export async function parseMask(text: string, { width, height }: Size): Promise<Uint8Array<ArrayBuffer> | null> {
  const bytes = await decode(text, Math.ceil((width * height) / 8));
  return bytes && Uint8Array.from({ length: width * height }, (_, i) => ((bytes[i >> 3] ?? 0) >> (i & 7)) & 1);
}

async function encode(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const deflated = await through(new CompressionStream("deflate-raw"), bytes);
  const text = btoa(String.fromCharCode(...deflated.subarray(0, LONGEST)));
  if (deflated.length > LONGEST || text.length > LONGEST) throw new RangeError("the picture is too large for a link");
  return text.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

async function decode(text: string, length: number): Promise<Uint8Array | null> {
  try {
    const deflated = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    const bytes = await through(new DecompressionStream("deflate-raw"), deflated, length);
    return bytes.length === length ? bytes : null;
  } catch {
    return null;
  }
}

/** Sends bytes through a stream; no more than `most` bytes are read from it, for a small text can hold a large one. */
async function through(
  stream: GenericTransformStream,
  bytes: Uint8Array<ArrayBuffer>,
  most = Infinity,
): Promise<Uint8Array> {
  const parts: Uint8Array<ArrayBuffer>[] = [];
  let length = 0;
  for await (const part of bytesOf(new Blob([bytes]).stream().pipeThrough(stream))) {
    parts.push(part.slice());
    length += part.length;
    if (length > most) throw new RangeError("longer than expected");
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}
