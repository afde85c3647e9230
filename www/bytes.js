// Streams of bytes read into one buffer that is used again and again: what a browser allocates for each chunk otherwise
// piles up faster than it is collected while a model loads.

/** The buffer's length: long enough that a read costs little beside its bytes. */
const LENGTH = 256 << 10;

export class ByteReader {
  #reader;
  /** Null where a stream cannot fill a buffer that it is given. */
  #buffer = null;

  /** @param {ReadableStream<Uint8Array>} stream */
  constructor(stream) {
    try {
      this.#reader = stream.getReader({ mode: "byob" });
      this.#buffer = new ArrayBuffer(LENGTH);
    } catch {
      this.#reader = stream.getReader();
    }
  }

  /** The next bytes, which are valid until the next call; null at the end. */
  async read() {
    const { done, value } = await this.#reader.read(...(this.#buffer ? [new Uint8Array(this.#buffer)] : []));
    // The buffer went with the view, and comes back with it.
    if (this.#buffer && value) this.#buffer = value.buffer;
    return done ? null : value;
  }
}

/** All bytes of a stream, each chunk valid until the next one is asked for. */
export async function* bytesOf(stream) {
  const reader = new ByteReader(stream);
  for (let chunk; (chunk = await reader.read()); ) yield chunk;
}
