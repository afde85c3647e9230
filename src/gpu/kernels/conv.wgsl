// A convolution, as an implicit matrix product: pixels × (taps · input channels) × output channels.
//
// Tiling: one invocation makes 4 pixels of a row × 8 output channels in registers. Neighbouring invocations (x) take
// neighbouring channels of the same pixels, so that they read the same inputs.
// Weights: [tile of 8 outputs][tap][input channel][8], zero where channels are padded.
// Traffic: each invocation reads its 4·KERNEL² input vectors per 4 channels and 32 weights per tap and 4 channels;
// each weight read feeds 4 pixels, each input read 8 channels.
//
// Parameters besides the epilogue's:
//   in_h, in_w                size of the input map, after resampling
//   a_c, b_c                  vec4s of channels of input_a and of input_b, which follows it (0: there is none)
//   tiles                     tiles of 8 output channels
// Constants:
//   KERNEL, STRIDE, PADDING   1 or 3; 1 or 2; zeros before the first row and column
//   RESAMPLE                  how the input is read: 0 as it is, 2 upsampled by 2, 3 downsampled by 2

fn source(row: u32, x: u32, c: u32, h: u32, w: u32) -> vec4f {
    // `row` = b·h + y of the stored map.
    if (c < params.a_c) {
        return input_a[(row * w + x) * params.a_c + c];
    }
    return input_b[(row * w + x) * params.b_c + c - params.a_c];
}

fn load(b: u32, y: u32, x: i32, c: u32) -> vec4f {
    if (x < 0 || x >= i32(params.in_w)) {
        return vec4f();
    }
    let ux = u32(x);
    if (RESAMPLE == 2u) {
        return source(b * (params.in_h / 2u) + y / 2u, ux / 2u, c, params.in_h / 2u, params.in_w / 2u);
    }
    if (RESAMPLE == 3u) {
        let row = b * (params.in_h * 2u) + y * 2u;
        let above = source(row, ux * 2u, c, params.in_h * 2u, params.in_w * 2u) + source(row, ux * 2u + 1u, c, params.in_h * 2u, params.in_w * 2u);
        let below = source(row + 1u, ux * 2u, c, params.in_h * 2u, params.in_w * 2u)
            + source(row + 1u, ux * 2u + 1u, c, params.in_h * 2u, params.in_w * 2u);
        return 0.25 * (above + below);
    }
    return source(b * params.in_h + y, ux, c, params.in_h, params.in_w);
}

struct Sums {
    p0: vec4f, p1: vec4f, p2: vec4f, p3: vec4f, // channels 0..4 of the four pixels
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
    let quads = (params.out_w + 3u) / 4u;
    let row = id.y / quads; // b·out_h + y
    let x = id.y % quads * 4u;
    if (tile >= params.tiles || row >= params.batch * params.out_h) {
        return;
    }
    let b = row / params.out_h;
    let y = row % params.out_h;
    let C = params.a_c + params.b_c;
    var s: Sums;
    for (var ky = 0u; ky < KERNEL; ky++) {
        let in_y = i32(y * STRIDE + ky) - i32(PADDING);
        if (in_y < 0 || in_y >= i32(params.in_h)) {
            continue;
        }
        let uy = u32(in_y);
        let first = i32(x * STRIDE) - i32(PADDING);
        let w_row = (tile * KERNEL + ky) * KERNEL * C * 8u;
        for (var c = 0u; c < C; c++) {
            let w = w_row + c * 8u;
            if (KERNEL == 3u && STRIDE == 1u) {
                // Neighbouring pixels share all but the outer columns of their windows.
                let v0 = load(b, uy, first, c);
                let v1 = load(b, uy, first + 1, c);
                let v2 = load(b, uy, first + 2, c);
                let v3 = load(b, uy, first + 3, c);
                let v4 = load(b, uy, first + 4, c);
                let v5 = load(b, uy, first + 5, c);
                s = accumulate(s, w, v0, v1, v2, v3);
                s = accumulate(s, w + C * 8u, v1, v2, v3, v4);
                s = accumulate(s, w + C * 16u, v2, v3, v4, v5);
            } else {
                for (var kx = 0u; kx < KERNEL; kx++) {
                    let x0 = first + i32(kx);
                    s = accumulate(
                        s,
                        w + kx * C * 8u,
                        load(b, uy, x0, c),
                        load(b, uy, x0 + i32(STRIDE), c),
                        load(b, uy, x0 + i32(2u * STRIDE), c),
                        load(b, uy, x0 + i32(3u * STRIDE), c),
                    );
                }
            }
        }
    }

    let pixel = row * params.out_w + x;
    let n = tile * 2u;
    store(pixel, n, s.p0);
    store(pixel, n + 1u, s.q0);
    if (x + 1u < params.out_w) {
        store(pixel + 1u, n, s.p1);
        store(pixel + 1u, n + 1u, s.q1);
    }
    if (x + 2u < params.out_w) {
        store(pixel + 2u, n, s.p2);
        store(pixel + 2u, n + 1u, s.q2);
    }
    if (x + 3u < params.out_w) {
        store(pixel + 3u, n, s.p3);
        store(pixel + 3u, n + 1u, s.q3);
    }
}
