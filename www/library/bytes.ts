// Streams of bytes read into one buffer that is used again and again: what a browser allocates for each chunk otherwise
// piles up faster than it is collected while a model loads.

/** The buffer's length: long enough that a read costs little beside its bytes. */
const LENGTH = 256 << 10;

export type Bytes = Uint8Array<ArrayBuffer>;

export class ByteReader {
  /** Reads the next chunk, wherever it lies. */
  #next: () => Promise<ReadableStreamReadResult<Bytes>>;

  constructor(stream: ReadableStream<Bytes>) {
    try {
      const reader = stream.getReader({ mode: "byob" });
      let buffer = new ArrayBuffer(LENGTH);
      this.#next = async () => {
        const result = await reader.read(new Uint8Array(buffer));
        // The buffer went with the view, and comes back with it.
        if (result.value) buffer = result.value.buffer;
        return result as ReadableStreamReadResult<Bytes>;
      };
    } catch {
      // A stream that cannot fill a buffer that it is given.
      const reader = stream.getReader();
      this.#next = () => reader.read();
    }
  }

  /** The next bytes, which are valid until the next call; null at the end. */
  async read(): Promise<Bytes | null> {
    const { done, value } = await this.#next();
    return done ? null : value;
  }
}

/** All bytes of a stream, each chunk valid until the next one is asked for. */
export async function* bytesOf(stream: ReadableStream<Bytes>): AsyncGenerator<Bytes> {
  const reader = new ByteReader(stream);
  for (let chunk: Bytes | null; (chunk = await reader.read()); ) yield chunk;
}
