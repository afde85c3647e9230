// A 1×1 convolution or linear layer: rows (pixels of all samples) × input channels × output channels.
//
// Tiling: one invocation makes ROWS rows × 8 output channels in registers; neighbouring invocations take neighbouring
// rows and the same channels.
// Weights: [tile of 8 outputs][input channel][8], as conv.wgsl with one tap.
// Traffic: each weight read feeds ROWS rows, each input read 8 channels.
//
// Parameters besides the epilogue's:
//   a_c, b_c   vec4s of channels of input_a and of input_b, which follows it (0: there is none)
//   tiles      tiles of 8 output channels
// Constants:
//   ROWS       rows of an invocation
//   THREADS    invocations of a workgroup

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let rows = params.batch * params.out_h * params.out_w;
    let blocks = (rows + ROWS - 1u) / ROWS;
    let tile = id.x / blocks;
    let row = id.x % blocks * ROWS;
    if (tile >= params.tiles) {
        return;
    }
    // Rows beyond the last one repeat it; they are not stored.
@for r in ROWS
    let row$r = min(row + $r, rows - 1u);
@end
    var sums: array<vec4f, ${2*ROWS}>;
    var w = tile * (params.a_c + params.b_c) * 8u;
    for (var c = 0u; c < params.a_c; c++) {
        let p = mat4x4f(weight_at(w), weight_at(w + 2u), weight_at(w + 4u), weight_at(w + 6u));
        let q = mat4x4f(weight_at(w + 1u), weight_at(w + 3u), weight_at(w + 5u), weight_at(w + 7u));
        w += 8u;
@for r in ROWS
        let x$r = input_a[row$r * params.a_c + c];
        sums[${2*r}] += p * x$r;
        sums[${2*r+1}] += q * x$r;
@end
    }
    for (var c = 0u; c < params.b_c; c++) {
        let p = mat4x4f(weight_at(w), weight_at(w + 2u), weight_at(w + 4u), weight_at(w + 6u));
        let q = mat4x4f(weight_at(w + 1u), weight_at(w + 3u), weight_at(w + 5u), weight_at(w + 7u));
        w += 8u;
@for r in ROWS
        let x$r = input_b[row$r * params.b_c + c];
        sums[${2*r}] += p * x$r;
        sums[${2*r+1}] += q * x$r;
@end
    }

    let count = min(ROWS, rows - row);
    for (var i = 0u; i < count; i++) {
        let pixel = row + i;
        let b = pixel / (params.out_h * params.out_w);
        store(b, pixel, 2u * tile, sums[2u * i]);
        store(b, pixel, 2u * tile + 1u, sums[2u * i + 1u]);
    }
}
