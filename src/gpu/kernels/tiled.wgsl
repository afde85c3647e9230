// A 3×3 or 1×1 convolution as an implicit matrix product through shared memory, for GPUs with many cores.
//
// Tiling: a workgroup of ACROSS × DOWN invocations makes (DOWN · ROWS) pixels × (ACROSS · 4 · VECTORS) output channels;
// pixels of all samples follow one another. It walks over the taps and, for each, over 16 input channels at a time:
// both operands of such a step are brought to shared memory, where an invocation reads ROWS input vectors and
// 4 · VECTORS weight vectors for every 16 · ROWS · VECTORS multiply-adds. The next step's operands are
// on their way from memory while this one is computed.
// Weights: as conv.wgsl.
// Traffic: each input is read 9 times for every ACROSS · 4 · VECTORS output channels, each weight once for every
// DOWN · ROWS pixels.
// Slices: where a launch has few outputs, SLICES teams of ACROSS × DOWN invocations share the steps of one tile, and their
// sums are added at the end in the teams' order.
//
// Parameters besides the epilogue's:
//   in_h, in_w  size of the input map, after upsampling
//   up          1 when the input is read upsampled by 2, else 0
//   a_c, b_c    vec4s of channels of input_a and of input_b, which follows it (0: there is none)
//   tiles       tiles of 8 output channels
//   padding     zeros before the first row and column
// Constants:
//   SIDE               3 or 1, the taps of a row
//   STRIDE             1 or 2
//   ACROSS, DOWN       invocations of a workgroup, along channels and pixels
//   ROWS, VECTORS      pixels and vec4s of channels of an invocation
//   Operand, Matrix    vec4f and mat4x4f, or vec4h and mat4x4h: products of 4 in half precision, whose sums are added in f32
//   SLICES             teams of a workgroup; with more than one, DOWN · ROWS is at most 16
//   A_LOADS, B_LOADS   vec4s of either operand that an invocation brings for a step

const THREADS = ACROSS * DOWN; // invocations of a team
const COLUMNS = ACROSS * VECTORS; // vec4s of output channels of a workgroup

var<workgroup> a_tile: array<Operand, SLICES * DOWN * ROWS * 4u>; // [team][pixel][4 vec4s of input channels]
var<workgroup> b_tile: array<Operand, SLICES * 16u * COLUMNS>; // [team][input channel][vec4 of output channels]

// Input vec4 `c` of a sample's pixel (y, x) after upsampling; zeros outside.
fn load_input(b: u32, y: i32, x: i32, c: u32) -> vec4f {
    let inside = y >= 0 && x >= 0 && y < i32(params.in_h) && x < i32(params.in_w);
    if (!inside || c >= params.a_c + params.b_c) {
        return vec4f();
    }
    let row = b * (params.in_h >> params.up) + (u32(y) >> params.up);
    let pixel = row * (params.in_w >> params.up) + (u32(x) >> params.up);
    if (c < params.a_c) {
        return input_a[pixel * params.a_c + c];
    }
    return input_b[pixel * params.b_c + c - params.a_c];
}

@compute @workgroup_size(THREADS * SLICES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) local: u32) {
    let slice = local / THREADS;
    let thread = local % THREADS;
    let pixels = params.batch * params.out_h * params.out_w;
    let first = group.x * DOWN * ROWS;
    let channels = params.a_c + params.b_c;
    let chunks = (channels + 3u) / 4u;
    let steps = SIDE * SIDE * chunks;
    let rounds = (steps + SLICES - 1u) / SLICES;
    let column = thread % ACROSS;
    let row = thread / ACROSS * ROWS;
    // Where this invocation reads in the tiles.
    let a_at = (slice * DOWN * ROWS + row) * 4u;
    let b_at = slice * 16u * COLUMNS + column;

    // What this invocation brings: where in the tiles, and from which pixel or output channels.
@for i in A_LOADS
    let a_part$i = thread + $i * THREADS;
    let a_slot$i = slice * DOWN * ROWS * 4u + a_part$i;
    let a_pixel$i = min(first + a_part$i / 4u, pixels - 1u);
    let a_b$i = a_pixel$i / (params.out_h * params.out_w);
    let a_y$i = i32(a_pixel$i / params.out_w % params.out_h * STRIDE) - i32(params.padding);
    let a_x$i = i32(a_pixel$i % params.out_w * STRIDE) - i32(params.padding);
    let a_c$i = a_part$i % 4u;
    var a$i: vec4f;
@end
    // A run of 8 weight vectors (4 inputs × 8 outputs) is whole in memory; runs of neighbouring tiles follow in a step.
@for i in B_LOADS
    let b_run$i = (thread + $i * THREADS) / 8u;
    let b_part$i = thread % 8u;
    let b_tile$i = b_run$i % (COLUMNS / 2u);
    let b_c$i = b_run$i / (COLUMNS / 2u);
    let b_from$i = group.y * (COLUMNS / 2u) + b_tile$i;
    let b_slot$i = slice * 16u * COLUMNS + (b_c$i * 4u + b_part$i / 2u) * COLUMNS + b_tile$i * 2u + b_part$i % 2u;
    var b$i: vec4f;
@end

    var sums: array<vec4f, ${ROWS*VECTORS}>;
    for (var round = 0u; round <= rounds; round++) {
        // The operands of this round's step; after the last round there are none, only its products are left. A step beyond
        // the last one has no weights.
        if (round < rounds) {
            let step = round * SLICES + slice;
            let kx = step % SIDE;
            let ky = step / SIDE / chunks;
            let c = step / SIDE % chunks * 4u;
@for i in A_LOADS
            a$i = load_input(a_b$i, a_y$i + i32(ky), a_x$i + i32(kx), c + a_c$i);
@end
@for i in B_LOADS
            b$i = vec4f();
            if (b_from$i < params.tiles && c + b_c$i < channels && step < steps) {
                b$i = weight_at((((b_from$i * SIDE + ky) * channels + c + b_c$i) * SIDE + kx) * 8u + b_part$i);
            }
@end
        }
        if (round > 0u) {
@for k in 4
            {
@for r in ROWS
                let x$r = a_tile[a_at + ${4*r+k}];
@end
@for v in VECTORS
                {
                    let w = Matrix(
                        b_tile[b_at + ${4*k} * COLUMNS + $v * ACROSS],
                        b_tile[b_at + ${4*k+1} * COLUMNS + $v * ACROSS],
                        b_tile[b_at + ${4*k+2} * COLUMNS + $v * ACROSS],
                        b_tile[b_at + ${4*k+3} * COLUMNS + $v * ACROSS],
                    );
@for r in ROWS
                    sums[${VECTORS*r+v}] += vec4f(w * x$r);
@end
                }
@end
            }
@end
        }
        workgroupBarrier();
@for i in A_LOADS
        a_tile[a_slot$i] = Operand(a$i);
@end
@for i in B_LOADS
        b_tile[b_slot$i] = Operand(b$i);
@end
        workgroupBarrier();
    }

    if (SLICES > 1u) {
@for i in ROWS*VECTORS
        b_tile[($i * SLICES + slice) * THREADS + thread] = Operand(sums[$i]);
@end
        workgroupBarrier();
@for i in ROWS*VECTORS
        sums[$i] = vec4f();
        for (var s = 0u; s < SLICES; s++) {
            sums[$i] += vec4f(b_tile[($i * SLICES + s) * THREADS + thread]);
        }
@end
    }
    // Each team stores its share.
@for r in ROWS
    if (first + row + $r < pixels) {
        let pixel = first + row + $r;
        let b = pixel / (params.out_h * params.out_w);
@for v in VECTORS
        if (${VECTORS*r+v} % SLICES == slice) {
            store(b, pixel, group.y * COLUMNS + $v * ACROSS + column, sums[${VECTORS*r+v}]);
        }
@end
    }
@end
}
