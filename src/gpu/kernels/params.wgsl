// Prepended to every kernel of the network, after the constants and the struct `Params` that the recorder writes: the
// batch size, where this layer's slice of the time projections begins in a row and the length of a row (both in vec4s),
// and the sizes that the kernel's header names.
//
// Maps are (B, H, W, C) with C padded to a multiple of 4 and read as vec4s. Padding holds finite numbers of no
// meaning: whoever reads it multiplies it by a zero weight.

@group(0) @binding(0) var<uniform> params: Params;
