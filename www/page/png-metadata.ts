// Text in PNG files: chunks of the PNG specification (third edition), sections 11.3.3.2 (tEXt) and 11.3.3.4 (iTXt).

import { crc32 } from "./crc32.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

/**
 * Puts texts into a PNG, right behind its header: as tEXt where Latin-1 suffices, else as iTXt, not compressed.
 *
 * @param texts by keyword: 1 to 79 characters of Latin-1
 */
export function withText(png: Uint8Array, texts: Record<string, string>): Uint8Array<ArrayBuffer> {
  if (SIGNATURE.some((byte, i) => png[i] !== byte)) throw new Error("expected a PNG, found another file");
  const header = SIGNATURE.length + 12 + 13; // IHDR: length, type and CRC around 13 bytes
  const chunks = Object.entries(texts).map(([keyword, text]) => textChunk(keyword, text));
  return join([png.subarray(0, header), ...chunks, png.subarray(header)]);
}

function textChunk(keyword: string, text: string): Uint8Array {
  if (!/^[\x21-\x7e](?:[\x20-\x7e]{0,77}[\x21-\x7e])?$/.test(keyword))
    throw new Error(`not a keyword of PNG: ${keyword}`);
  const name = latin1(keyword);
  if (/^[\n\x20-\x7e\xa1-\xff]*$/.test(text)) return chunk("tEXt", join([name, [0], latin1(text)]));
  // No compression, by method 0; no language, no translated keyword.
  return chunk("iTXt", join([name, [0, 0, 0, 0, 0], new TextEncoder().encode(text)]));
}

function chunk(type: string, data: Uint8Array): Uint8Array {
  const body = join([latin1(type), data]);
  return join([uint32(data.length), body, uint32(crc32(body))]);
}

const latin1 = (text: string) => Uint8Array.from(text, (character) => character.charCodeAt(0));
const uint32 = (value: number) => [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];

function join(parts: ArrayLike<number>[]): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}
