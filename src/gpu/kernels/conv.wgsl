// A 3×3 convolution, as an implicit matrix product: pixels × (taps · input channels) × output channels.
//
// Tiling: one invocation makes a block of ROWS × COLUMNS pixels × 8 output channels in registers, with no shared memory
// and no barrier. Neighbouring invocations take neighbouring blocks and the same channels, so that they read the same
// weights.
// Weights: [tile of 8 outputs][row of taps][input vec4][column of taps][4 inputs][8], zero where channels are padded.
// Traffic: for 4 input channels and a row of taps an invocation reads ROWS · WINDOW input vectors and 24 weight
// vectors and does 96 · ROWS · COLUMNS multiply-adds. Where loads are dear (a software GPU gathers every lane by itself)
// their number is what counts, hence the wide block; addresses and edge tests are made once per row of taps.
//
// Parameters besides the epilogue's:
//   in_h, in_w  size of the input map, after upsampling
//   up          1 when the input is read upsampled by 2, else 0
//   a_c         vec4s of channels of input_a
//   tiles       tiles of 8 output channels
//   padding     zeros before the first row and column
// Constants:
//   ROWS, COLUMNS   pixels of a block
//   WINDOW          input columns that it reads, (COLUMNS − 1) · STRIDE + 3
//   STRIDE          1 or 2
//   THREADS         invocations of a workgroup

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let across = (params.out_w + COLUMNS - 1u) / COLUMNS;
    let down = (params.out_h + ROWS - 1u) / ROWS;
    let blocks = params.batch * down * across;
    let tile = id.x / blocks;
    let block = id.x % blocks;
    if (tile >= params.tiles) {
        return;
    }
    let b = block / (down * across);
    let y = block / across % down * ROWS;
    let x = block % across * COLUMNS;
    let first_x = i32(x * STRIDE) - i32(params.padding);
    let stored_h = params.in_h >> params.up;
    let stored_w = params.in_w >> params.up;

    // Where the columns lie in a stored row (beyond the edges, that of the edge), and 0 for those of the padding.
@for i in WINDOW
    let x$i = u32(clamp(first_x + $i, 0, i32(params.in_w) - 1));
    let column$i = (x$i >> params.up) * params.a_c;
    let inside$i = f32(i32(x$i) == first_x + $i);
@end
    var sums: array<vec4f, ${2*ROWS*COLUMNS}>;
    var w = tile * 72u * params.a_c;
    for (var ky = 0u; ky < 3u; ky++) {
@for r in ROWS
        let in_y$r = i32((y + $r) * STRIDE + ky) - i32(params.padding);
        let y$r = u32(clamp(in_y$r, 0, i32(params.in_h) - 1));
        let row$r = (b * stored_h + (y$r >> params.up)) * stored_w * params.a_c;
        let visible$r = f32(i32(y$r) == in_y$r);
@for i in WINDOW
        let at$r_$i = row$r + column$i;
        let factor$r_$i = visible$r * inside$i;
@end
@end
        for (var c = 0u; c < params.a_c; c++) {
@for r in ROWS
@for i in WINDOW
            let v$r_$i = factor$r_$i * input_a[at$r_$i + c];
@end
@end
@for kx in 3
            let p${kx} = mat4x4f(weight_at(w + ${8*kx}), weight_at(w + ${8*kx+2}), weight_at(w + ${8*kx+4}), weight_at(w + ${8*kx+6}));
            let q${kx} = mat4x4f(weight_at(w + ${8*kx+1}), weight_at(w + ${8*kx+3}), weight_at(w + ${8*kx+5}), weight_at(w + ${8*kx+7}));
@for r in ROWS
@for i in COLUMNS
            sums[${2*COLUMNS*r+2*i}] += p${kx} * v$r_${i*STRIDE+kx};
            sums[${2*COLUMNS*r+2*i+1}] += q${kx} * v$r_${i*STRIDE+kx};
@end
@end
@end
            w += 24u;
        }
    }

    for (var i = 0u; i < ROWS * COLUMNS; i++) {
        let out_y = y + i / COLUMNS;
        let out_x = x + i % COLUMNS;
        if (out_y < params.out_h && out_x < params.out_w) {
            let pixel = (b * params.out_h + out_y) * params.out_w + out_x;
            store(b, pixel, 2u * tile, sums[2u * i]);
            store(b, pixel, 2u * tile + 1u, sums[2u * i + 1u]);
        }
    }
}
