// A 3×3 convolution, as an implicit matrix product: pixels × (taps · input channels) × output channels.
//
// Tiling: one invocation makes 8 pixels of a row × 8 output channels in registers. Neighbouring invocations (x) take
// neighbouring channels of the same pixels, so that they read the same inputs.
// Weights: [tile of 8 outputs][tap][input channel][8], zero where channels are padded.
// Traffic: for 4 input channels and a row of 3 taps an invocation reads 10 input vectors and 24 weight vectors and
// does 768 multiply-adds with them. Where loads are dear (a software GPU gathers every lane by itself) their number is
// what counts, hence the wide tile; addresses and edge tests are made once per row of taps, not once per load.
//
// Parameters besides the epilogue's:
//   in_h, in_w  size of the input map, after resampling
//   a_c         vec4s of channels of input_a
//   tiles       tiles of 8 output channels
// Constants:
//   STRIDE     1 or 2
//   PADDING    zeros before the first row and column
//   RESAMPLE   how the input is read: 1 as it is, 2 upsampled by 2, 3 downsampled by 2

// Where channel 0 of pixel x lies in the stored row `row`; beyond the edges, that of the edge.
fn address(row: u32, x: i32) -> u32 {
    let inside = u32(clamp(x, 0, i32(params.in_w) - 1));
    if (RESAMPLE == 2u) {
        return (row * (params.in_w / 2u) + inside / 2u) * params.a_c;
    }
    if (RESAMPLE == 3u) {
        return (row * (params.in_w * 2u) + inside * 2u) * params.a_c;
    }
    return (row * params.in_w + inside) * params.a_c;
}

// 1 inside of the map, 0 in its padding.
fn visible(x: i32) -> f32 {
    return select(0.0, 1.0, x >= 0 && x < i32(params.in_w));
}

fn load(address: u32, factor: f32) -> vec4f {
    if (RESAMPLE == 3u) {
        let below = address + params.in_w * 2u * params.a_c;
        let above_sum = input_a[address] + input_a[address + params.a_c];
        return 0.25 * factor * (above_sum + input_a[below] + input_a[below + params.a_c]);
    }
    return factor * input_a[address];
}

struct Sums {
    // Channels 0..4 of the eight pixels, then channels 4..8.
    p0: vec4f, p1: vec4f, p2: vec4f, p3: vec4f, p4: vec4f, p5: vec4f, p6: vec4f, p7: vec4f,
    q0: vec4f, q1: vec4f, q2: vec4f, q3: vec4f, q4: vec4f, q5: vec4f, q6: vec4f, q7: vec4f,
}

fn accumulate(
    sums: Sums, w: u32,
    x0: vec4f, x1: vec4f, x2: vec4f, x3: vec4f, x4: vec4f, x5: vec4f, x6: vec4f, x7: vec4f,
) -> Sums {
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
    s.p4 += x4.x * a0 + x4.y * a1 + x4.z * a2 + x4.w * a3;
    s.q4 += x4.x * b0 + x4.y * b1 + x4.z * b2 + x4.w * b3;
    s.p5 += x5.x * a0 + x5.y * a1 + x5.z * a2 + x5.w * a3;
    s.q5 += x5.x * b0 + x5.y * b1 + x5.z * b2 + x5.w * b3;
    s.p6 += x6.x * a0 + x6.y * a1 + x6.z * a2 + x6.w * a3;
    s.q6 += x6.x * b0 + x6.y * b1 + x6.z * b2 + x6.w * b3;
    s.p7 += x7.x * a0 + x7.y * a1 + x7.z * a2 + x7.w * a3;
    s.q7 += x7.x * b0 + x7.y * b1 + x7.z * b2 + x7.w * b3;
    return s;
}

fn store_pair(pixel: u32, n: u32, p: vec4f, q: vec4f) {
    store(pixel, n, p);
    store(pixel, n + 1u, q);
}

@compute @workgroup_size(8, 8)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let tile = id.x;
    let octets = (params.out_w + 7u) / 8u;
    let row = id.y / octets; // b·out_h + y
    let x = id.y % octets * 8u;
    if (tile >= params.tiles || row >= params.batch * params.out_h) {
        return;
    }
    let b = row / params.out_h;
    let y = row % params.out_h;
    let first = i32(x * STRIDE) - i32(PADDING);
    let channels = params.a_c;
    var s: Sums;
    for (var ky = 0u; ky < 3u; ky++) {
        let in_y = i32(y * STRIDE + ky) - i32(PADDING);
        if (in_y < 0 || in_y >= i32(params.in_h)) {
            continue;
        }
        var in_row = b * params.in_h + u32(in_y);
        if (RESAMPLE == 2u) {
            in_row = b * (params.in_h / 2u) + u32(in_y) / 2u;
        } else if (RESAMPLE == 3u) {
            in_row = (b * params.in_h + u32(in_y)) * 2u;
        }
        let w_row = (tile * 3u + ky) * 3u * channels * 8u;
        if (STRIDE == 1u) {
            // Neighbouring pixels share all but the outer columns of their windows.
            let o0 = address(in_row, first + 0);
            let o1 = address(in_row, first + 1);
            let o2 = address(in_row, first + 2);
            let o3 = address(in_row, first + 3);
            let o4 = address(in_row, first + 4);
            let o5 = address(in_row, first + 5);
            let o6 = address(in_row, first + 6);
            let o7 = address(in_row, first + 7);
            let o8 = address(in_row, first + 8);
            let o9 = address(in_row, first + 9);
            let m0 = visible(first + 0);
            let m1 = visible(first + 1);
            let m2 = visible(first + 2);
            let m3 = visible(first + 3);
            let m4 = visible(first + 4);
            let m5 = visible(first + 5);
            let m6 = visible(first + 6);
            let m7 = visible(first + 7);
            let m8 = visible(first + 8);
            let m9 = visible(first + 9);
            for (var c = 0u; c < channels; c++) {
                let v0 = load(o0 + c, m0);
                let v1 = load(o1 + c, m1);
                let v2 = load(o2 + c, m2);
                let v3 = load(o3 + c, m3);
                let v4 = load(o4 + c, m4);
                let v5 = load(o5 + c, m5);
                let v6 = load(o6 + c, m6);
                let v7 = load(o7 + c, m7);
                let v8 = load(o8 + c, m8);
                let v9 = load(o9 + c, m9);
                let w = w_row + c * 8u;
                s = accumulate(s, w, v0, v1, v2, v3, v4, v5, v6, v7);
                s = accumulate(s, w + channels * 8u, v1, v2, v3, v4, v5, v6, v7, v8);
                s = accumulate(s, w + channels * 16u, v2, v3, v4, v5, v6, v7, v8, v9);
            }
        } else {
            for (var kx = 0u; kx < 3u; kx++) {
                let start = first + i32(kx);
                let o0 = address(in_row, start);
                let o1 = address(in_row, start + i32(1u * STRIDE));
                let o2 = address(in_row, start + i32(2u * STRIDE));
                let o3 = address(in_row, start + i32(3u * STRIDE));
                let o4 = address(in_row, start + i32(4u * STRIDE));
                let o5 = address(in_row, start + i32(5u * STRIDE));
                let o6 = address(in_row, start + i32(6u * STRIDE));
                let o7 = address(in_row, start + i32(7u * STRIDE));
                let m0 = visible(start);
                let m1 = visible(start + i32(1u * STRIDE));
                let m2 = visible(start + i32(2u * STRIDE));
                let m3 = visible(start + i32(3u * STRIDE));
                let m4 = visible(start + i32(4u * STRIDE));
                let m5 = visible(start + i32(5u * STRIDE));
                let m6 = visible(start + i32(6u * STRIDE));
                let m7 = visible(start + i32(7u * STRIDE));
                for (var c = 0u; c < channels; c++) {
                    s = accumulate(
                        s, w_row + (kx * channels + c) * 8u,
                        load(o0 + c, m0), load(o1 + c, m1), load(o2 + c, m2), load(o3 + c, m3),
                        load(o4 + c, m4), load(o5 + c, m5), load(o6 + c, m6), load(o7 + c, m7),
                    );
                }
            }
        }
    }

    let pixel = row * params.out_w + x;
    let n = tile * 2u;
    let count = params.out_w - x;
    store_pair(pixel, n, s.p0, s.q0);
    if (count > 1u) { store_pair(pixel + 1u, n, s.p1, s.q1); }
    if (count > 2u) { store_pair(pixel + 2u, n, s.p2, s.q2); }
    if (count > 3u) { store_pair(pixel + 3u, n, s.p3, s.q3); }
    if (count > 4u) { store_pair(pixel + 4u, n, s.p4, s.q4); }
    if (count > 5u) { store_pair(pixel + 5u, n, s.p5, s.q5); }
    if (count > 6u) { store_pair(pixel + 6u, n, s.p6, s.q6); }
    if (count > 7u) { store_pair(pixel + 7u, n, s.p7, s.q7); }
}
