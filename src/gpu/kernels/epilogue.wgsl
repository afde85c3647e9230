// What follows a product, before its one store: bias, time embedding, residual, SiLU.
//
// Shared by conv.wgsl and gemm.wgsl. Constants:
//   OUT_H, OUT_W     size of the output map
//   OUT_C            its channels, in vec4s
//   TIME             whether the row `time` of the sample is added to every pixel
//   RESIDUAL         how `residual` is read: 0 not at all, 1 same size, 2 upsampled by 2, 3 downsampled by 2
//   SILU             whether x·sigmoid(x) ends it

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input_a: array<vec4f>;
@group(0) @binding(3) var<storage, read> input_b: array<vec4f>;
@group(0) @binding(4) var<storage, read> weight: array<vec4f>;
@group(0) @binding(5) var<storage, read> bias: array<vec4f>;
@group(0) @binding(6) var<storage, read> time: array<vec4f>;
@group(0) @binding(7) var<storage, read> residual: array<vec4f>;

// Stores `sum` as channels 4·c .. of pixel `pixel` = (b·OUT_H + y)·OUT_W + x.
fn store(pixel: u32, c: u32, sum: vec4f) {
    if (c >= OUT_C) {
        return;
    }
    var v = sum + bias[c];
    let b = pixel / (OUT_H * OUT_W);
    if (TIME) {
        v += time[b * params.time_pitch + params.time_offset + c];
    }
    if (RESIDUAL == 1u) {
        v += residual[pixel * OUT_C + c];
    } else if (RESIDUAL != 0u) {
        let y = pixel / OUT_W % OUT_H;
        let x = pixel % OUT_W;
        if (RESIDUAL == 2u) {
            v += residual[((b * (OUT_H / 2u) + y / 2u) * (OUT_W / 2u) + x / 2u) * OUT_C + c];
        } else {
            let p = ((b * (OUT_H * 2u) + y * 2u) * (OUT_W * 2u) + x * 2u) * OUT_C + c;
            let below = p + OUT_W * 2u * OUT_C;
            v += 0.25 * (residual[p] + residual[p + OUT_C] + residual[below] + residual[below + OUT_C]);
        }
    }
    if (SILU) {
        v = v / (1.0 + exp(-v));
    }
    output[pixel * OUT_C + c] = v;
}
