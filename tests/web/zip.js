// Archives that the page makes, read.

import assert from "node:assert/strict";
import { crc32 } from "node:zlib";

/** The members of an archive by their paths; each has the CRC that the archive says. */
export function unzip(bytes) {
  const files = {};
  let at = 0;
  for (; bytes.readUInt32LE(at) === 0x04034b50; ) {
    const [crc, size, name] = [bytes.readUInt32LE(at + 14), bytes.readUInt32LE(at + 18), bytes.readUInt16LE(at + 26)];
    const begin = at + 30 + name;
    const data = bytes.subarray(begin, begin + size);
    assert.equal(crc32(data), crc);
    files[bytes.subarray(at + 30, begin).toString()] = data;
    at = begin + size;
  }
  assert.equal(bytes.readUInt32LE(bytes.length - 6), at, "the end names the place of the directory");
  assert.equal(bytes.readUInt16LE(bytes.length - 12), Object.keys(files).length);
  return files;
}
