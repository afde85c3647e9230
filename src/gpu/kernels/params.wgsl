// Prepended to every kernel, after the constants that the recorder writes (see mod.rs).
//
// Maps are (B, H, W, C) with C padded to a multiple of 4 and read as vec4s. Padding holds finite numbers of no
// meaning: whoever reads it multiplies it by a zero weight.

struct Params {
    batch: u32,
    // Where this layer's slice of the time projections begins in a row, and the length of a row; in vec4s.
    time_offset: u32,
    time_pitch: u32,
}

@group(0) @binding(0) var<uniform> params: Params;
