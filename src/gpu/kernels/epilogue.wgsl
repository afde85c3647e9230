// What follows a product, before its one store: bias, time embedding, residual, SiLU.
//
// Shared by conv.wgsl and gemm.wgsl. Parameters:
//   out_h, out_w     size of the output map
//   out_c            its channels, in vec4s
// Constants:
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

// Stores `sum` as channels 4·c .. of pixel `pixel` = (b·out_h + y)·out_w + x.
fn store(pixel: u32, c: u32, sum: vec4f) {
    if (c >= params.out_c) {
        return;
    }
    var v = sum + bias[c];
    let b = pixel / (params.out_h * params.out_w);
    if (TIME) {
        v += time[b * params.time_pitch + params.time_offset + c];
    }
    if (RESIDUAL == 1u) {
        v += residual[pixel * params.out_c + c];
    } else if (RESIDUAL != 0u) {
        let y = pixel / params.out_w % params.out_h;
        let x = pixel % params.out_w;
        if (RESIDUAL == 2u) {
            v += residual[((b * (params.out_h / 2u) + y / 2u) * (params.out_w / 2u) + x / 2u) * params.out_c + c];
        } else {
            let p = ((b * (params.out_h * 2u) + y * 2u) * (params.out_w * 2u) + x * 2u) * params.out_c + c;
            let below = p + params.out_w * 2u * params.out_c;
            v += 0.25 * (residual[p] + residual[p + params.out_c] + residual[below] + residual[below + params.out_c]);
        }
    }
    if (SILU) {
        v = v / (1.0 + exp(-v));
    }
    output[pixel * params.out_c + c] = v;
}
