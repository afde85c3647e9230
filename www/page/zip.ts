// ZIP files whose members are stored as they are (APPNOTE.TXT 6.3, without ZIP64).

/** A member of an archive. */
export interface Member {
  path: string;
  data: Blob;
  /** CRC-32 of the data. */
  crc: number;
}

/** The longest archive without ZIP64. */
const LONGEST = 2 ** 32 - 1;
/** 1 January 1980, the first day that the format knows. */
const DATE = 0x21;

/** An archive. Its members stay where they are: the browser reads them when the archive is read. */
export function zip(members: Member[]): Blob {
  const parts: BlobPart[] = [];
  const directory: Uint8Array<ArrayBuffer>[] = [];
  let at = 0;
  for (const { path, data, crc } of members) {
    const name = new TextEncoder().encode(path);
    // Version 2.0, names in UTF-8, stored, time and date, CRC, both sizes, lengths of the name and of nothing more.
    const facts = `2:20 2:${0x800} 2:0 2:0 2:${DATE} 4:${crc} 4:${data.size} 4:${data.size} 2:${name.length} 2:0`;
    const header = fields(`4:${0x04034b50} ${facts}`);
    // No comment, disk 0, no attributes, where the header is.
    directory.push(fields(`4:${0x02014b50} 2:20 ${facts} 2:0 2:0 2:0 4:0 4:${at}`), name);
    parts.push(header, name, data);
    at += header.length + name.length + data.size;
  }
  const size = directory.reduce((sum, { length }) => sum + length, 0);
  const count = members.length;
  const end = fields(`4:${0x06054b50} 2:0 2:0 2:${count} 2:${count} 4:${size} 4:${at} 2:0`);
  const total = at + size + end.length;
  if (total > LONGEST) throw new Error(`expected at most ${LONGEST} bytes in a .zip file, found ${total}`);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

/** Numbers in little-endian order, each as its width in bytes, a colon and its value. */
function fields(list: string): Uint8Array<ArrayBuffer> {
  const bytes = list.split(" ").flatMap((field) => {
    const [width = 0, value = 0] = field.split(":").map(Number);
    return Array.from({ length: width }, (_, i) => Math.floor(value / 256 ** i) % 256);
  });
  return Uint8Array.from(bytes);
}
