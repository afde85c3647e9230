// The gradient of a GroupNorm's input: ĝ·scale + x·slope + offset, see norm_sums.wgsl.
//
// One invocation makes one channel of one pixel. The result is one map with the channels of both inputs, each with its
// padding; padding is 0.
//
// Parameters: those of norm_sums.wgsl, and
//   add   1 when `addend`, a map of the result's shape, is added, else 0
// Constants: SILU and RESAMPLE of norm_sums.wgsl

@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@group(0) @binding(2) var<storage, read> input_a: array<f32>;
@group(0) @binding(3) var<storage, read> input_b: array<f32>;
@group(0) @binding(4) var<storage, read> outer: array<f32>;
@group(0) @binding(5) var<storage, read> sums: array<f32>;
@group(0) @binding(6) var<storage, read> addend: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let pixels = params.in_h * params.in_w;
    let pitch = params.a_pitch + params.b_pitch;
    if (id.x >= pixels * pitch) {
        return;
    }
    let b = id.y;
    let pixel = id.x / pitch;
    let k = id.x % pitch;
    var c = k;
    var x = 0.0;
    var is_real = k < params.a_real;
    if (is_real) {
        x = input_a[(b * pixels + pixel) * params.a_pitch + k];
    } else if (k >= params.a_pitch) {
        c = params.a_real + k - params.a_pitch;
        is_real = c < params.groups * params.size;
        x = input_b[(b * pixels + pixel) * params.b_pitch + k - params.a_pitch];
    }
    var v = 0.0;
    if (is_real) {
        let plane = b * 6u * params.out_pitch + c;
        let scale = sums[plane + 2u * params.out_pitch];
        let shift = sums[plane + 3u * params.out_pitch];
        v = outer_at(b, pixel, c) * slope(x * scale + shift) * scale;
        v += x * sums[plane + 4u * params.out_pitch] + sums[plane + 5u * params.out_pitch];
        for (var n = 0u; n < params.add; n++) {
            v += addend[b * pixels * pitch + id.x];
        }
    }
    output[b * pixels * pitch + id.x] = v;
}
