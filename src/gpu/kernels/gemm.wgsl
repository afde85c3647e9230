// A 1×1 convolution or linear layer: rows (pixels of all samples) × input channels × output channels.
//
// Tiling: one invocation makes 4 rows × 8 output channels in registers; neighbouring invocations (x) take
// neighbouring channels of the same rows.
// Weights: [tile of 8 outputs][input channel][8], as conv.wgsl with one tap.
// Traffic: each weight read feeds 4 rows, each input read 8 channels.
//
// Parameters besides the epilogue's:
//   a_c, b_c   vec4s of channels of input_a and of input_b, which follows it (0: there is none)
//   tiles      tiles of 8 output channels

struct Sums {
    p0: vec4f, p1: vec4f, p2: vec4f, p3: vec4f, // channels 0..4 of the four rows
    q0: vec4f, q1: vec4f, q2: vec4f, q3: vec4f, // channels 4..8
}

fn accumulate(sums: Sums, w: u32, x0: vec4f, x1: vec4f, x2: vec4f, x3: vec4f) -> Sums {
    var s = sums;
    let a0 = weight[w];
    let b0 = weight[w + 1u];
    let a1 = weight[w + 2u];
    let b1 = weight[w + 3u];
    let a2 = weight[w + 4u];
    let b2 = weight[w + 5u];
    let a3 = weight[w + 6u];
    let b3 = weight[w + 7u];
    s.p0 += x0.x * a0 + x0.y * a1 + x0.z * a2 + x0.w * a3;
    s.q0 += x0.x * b0 + x0.y * b1 + x0.z * b2 + x0.w * b3;
    s.p1 += x1.x * a0 + x1.y * a1 + x1.z * a2 + x1.w * a3;
    s.q1 += x1.x * b0 + x1.y * b1 + x1.z * b2 + x1.w * b3;
    s.p2 += x2.x * a0 + x2.y * a1 + x2.z * a2 + x2.w * a3;
    s.q2 += x2.x * b0 + x2.y * b1 + x2.z * b2 + x2.w * b3;
    s.p3 += x3.x * a0 + x3.y * a1 + x3.z * a2 + x3.w * a3;
    s.q3 += x3.x * b0 + x3.y * b1 + x3.z * b2 + x3.w * b3;
    return s;
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let tile = id.x;
    let rows = params.batch * params.out_h * params.out_w;
    let row = id.y * 4u;
    if (tile >= params.tiles || row >= rows) {
        return;
    }
    // Rows beyond the last one repeat it; they are not stored.
    let r1 = min(row + 1u, rows - 1u);
    let r2 = min(row + 2u, rows - 1u);
    let r3 = min(row + 3u, rows - 1u);
    let C = params.a_c + params.b_c;
    let w = tile * C * 8u;
    var s: Sums;
    for (var c = 0u; c < params.a_c; c++) {
        s = accumulate(
            s,
            w + c * 8u,
            input_a[row * params.a_c + c],
            input_a[r1 * params.a_c + c],
            input_a[r2 * params.a_c + c],
            input_a[r3 * params.a_c + c],
        );
    }
    for (var c = 0u; c < params.b_c; c++) {
        s = accumulate(
            s,
            w + (params.a_c + c) * 8u,
            input_b[row * params.b_c + c],
            input_b[r1 * params.b_c + c],
            input_b[r2 * params.b_c + c],
            input_b[r3 * params.b_c + c],
        );
    }

    let n = tile * 2u;
    store(row, n, s.p0);
    store(row, n + 1u, s.q0);
    if (row + 1u < rows) {
        store(r1, n, s.p1);
        store(r1, n + 1u, s.q1);
    }
    if (row + 2u < rows) {
        store(r2, n, s.p2);
        store(r2, n + 1u, s.q2);
    }
    if (row + 3u < rows) {
        store(r3, n, s.p3);
        store(r3, n + 1u, s.q3);
    }
}
