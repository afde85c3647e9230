// The safetensors format, as far as the tests need it: https://github.com/huggingface/safetensors#format

const ARRAYS = { F32: Float32Array, I64: BigInt64Array, U8: Uint8Array };

/** Splits a file into its header, as an object, and its data. */
export function split(file) {
  const length = Number(file.readBigUInt64LE(0));
  return { header: JSON.parse(file.subarray(8, 8 + length)), data: file.subarray(8 + length) };
}

/** Puts a header and data together into a file. */
export function join({ header, data }) {
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, data]);
}

/** The tensors of a file by name: `{ shape, values }`, the values as a typed array. */
export function parse(file) {
  const { header, data } = split(file);
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    if (!ARRAYS[dtype]) throw new Error(`${name}: expected one of ${Object.keys(ARRAYS)}, found ${dtype}`);
    // A copy, for a typed array must begin at a multiple of its element's size.
    tensors[name] = { shape, values: new ARRAYS[dtype](Uint8Array.from(data.subarray(...data_offsets)).buffer) };
  }
  return tensors;
}
