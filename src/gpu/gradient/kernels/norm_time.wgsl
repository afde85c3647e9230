// The gradients of a norm's scales and shifts by time, of the sums that norm_sums.wgsl leaves: with y = x̂·weight + bias
// Σ ĝ·y for the scales, and Σ ĝ for the shifts, which follow them.
//
// Parameters:
//   channels       of the norm
//   planes         those with padding
//   width          vec4s that are written; zeros follow the shifts
//   offset, pitch  where the scales begin in a row and the length of a row, in vec4s

@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@group(0) @binding(2) var<storage, read> sums: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= params.width * 4u) {
        return;
    }
    let plane = id.y * 6u * params.planes;
    var v = 0.0;
    if (id.x < params.channels) {
        v = weight[id.x] * sums[plane + params.planes + id.x] + bias[id.x] * sums[plane + id.x];
    } else if (id.x < 2u * params.channels) {
        v = sums[plane + id.x - params.channels];
    }
    output[(id.y * params.pitch + params.offset) * 4u + id.x] = v;
}
