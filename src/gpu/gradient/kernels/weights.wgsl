// The gradient of a product's weights: for every tap, input and output channel the sum over all pixels of the input there
// times the result's gradient.
//
// Tiling: one invocation makes 8 outputs × 4 · INPUTS inputs × one row of taps in registers, and walks over its share of
// the rows of all maps, COLUMNS pixels at a time. Neighbouring invocations take neighbouring inputs and the same outputs.
// The pixels' products are added before they go to the sums, which a software GPU keeps in memory.
// The sums of the shares are stored one after the other; reduce.wgsl adds them, always in one order.
// Layout: the gradient lies as the weights do, see conv.wgsl.
// Traffic: for COLUMNS pixels an invocation reads 2 · COLUMNS gradient vectors and INPUTS · WINDOW input vectors and does
// 32 · SIDE · INPUTS · COLUMNS multiply-adds.
//
// Parameters:
//   in_h, in_w    size of the input map, after upsampling
//   up            1 when the input is read upsampled by 2, else 0
//   padding       zeros before the first row and column
//   out_h, out_w  size of the result
//   out_c         its channels, in vec4s
//   x_c           vec4s of channels of the input
//   first         where they begin among the channels that the weights have
//   channels      vec4s of channels that the weights have
//   tiles         tiles of 8 output channels
//   shares        shares of the rows
//   size          vec4s of the weights
// Constants:
//   SIDE, STRIDE  of the product
//   COLUMNS       pixels at a time
//   WINDOW        input columns that these read, (COLUMNS − 1) · STRIDE + SIDE
//   INPUTS        vec4s of input channels of an invocation

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input: array<vec4f>;
@group(0) @binding(3) var<storage, read> outer: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let blocks = (params.x_c + INPUTS - 1u) / INPUTS;
    let c = id.x % blocks * INPUTS;
    let tile = id.x / blocks % params.tiles;
    let ky = id.x / blocks / params.tiles;
    if (ky >= SIDE) {
        return;
    }
    let rows = params.batch * params.out_h;
    let share = (rows + params.shares - 1u) / params.shares;
    let end = min((id.y + 1u) * share, rows);
    let stored_h = params.in_h >> params.up;
    let stored_w = params.in_w >> params.up;
    // A last tile of 4 channels has no second vec4.
    let second = min(2u * tile + 1u, params.out_c - 1u);
    let has_second = f32(2u * tile + 1u < params.out_c);
@for n in INPUTS
    let c$n = min(c + $n, params.x_c - 1u);
@end

    var sums: array<vec4f, ${8*SIDE*INPUTS}>;
    for (var row = id.y * share; row < end; row++) {
        let b = row / params.out_h;
        let in_y = i32(row % params.out_h * STRIDE + ky) - i32(params.padding);
        if (in_y < 0 || in_y >= i32(params.in_h)) {
            continue;
        }
        let begin = (b * stored_h + (u32(in_y) >> params.up)) * stored_w;
        for (var x = 0u; x < params.out_w; x += COLUMNS) {
@for i in COLUMNS
            let at$i = (row * params.out_w + min(x + $i, params.out_w - 1u)) * params.out_c;
            let real$i = f32(x + $i < params.out_w);
            let g$i = real$i * outer[at$i + 2u * tile];
            let h$i = real$i * has_second * outer[at$i + second];
@end
            let first_x = i32(x * STRIDE) - i32(params.padding);
@for i in WINDOW
            let x$i = clamp(first_x + $i, 0, i32(params.in_w) - 1);
            let inside$i = f32(x$i == first_x + $i);
            let column$i = (begin + (u32(x$i) >> params.up)) * params.x_c;
@end
@for n in INPUTS
@for i in WINDOW
            let v$n_$i = inside$i * input[column$i + c$n];
@end
@for k in SIDE
@for j in 4
            sums[${8*SIDE*n+8*k+2*j}] += vec4f()
@for i in COLUMNS
                + v$n_${i*STRIDE+k}[$j] * g$i
@end
            ;
            sums[${8*SIDE*n+8*k+2*j+1}] += vec4f()
@for i in COLUMNS
                + v$n_${i*STRIDE+k}[$j] * h$i
@end
            ;
@end
@end
@end
        }
    }

    let run = 8u * SIDE;
    let to = id.y * params.size + ((tile * SIDE + ky) * params.channels + params.first + c) * run;
    for (var i = 0u; i < min(INPUTS, params.x_c - c) * run; i++) {
        output[to + i] = sums[i];
    }
}
