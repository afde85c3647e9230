// A product's weights turned round: inputs and outputs change places and the taps run backwards, so that the product of the
// result's gradient with them is the input's gradient.
//
// Both orders are those of conv.wgsl: [tile of 8 outputs][row of taps][input vec4][column of taps][4 inputs][8].
// One invocation makes one vec4 of the turned weights.
//
// Parameters:
//   channels   vec4s of the product's input channels, which become outputs
//   out_c      vec4s of its output channels, which become inputs
//   count      vec4s of the turned weights
// Constants:
//   SIDE       3 or 1, the taps of a row

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> weight: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let i = id.y * groups.x * 64u + id.x;
    if (i >= params.count) {
        return;
    }
    let o = i / (8u * SIDE) % params.out_c * 4u + i / 2u % 4u;
    let kx = i / 8u % SIDE;
    let row = i / (8u * SIDE) / params.out_c;
    let ky = row % SIDE;
    let c = row / SIDE * 2u + i % 2u;
    var v = vec4f();
    if (c < params.channels) {
        let tap = ((o / 8u * SIDE + SIDE - 1u - ky) * params.channels + c) * SIDE + SIDE - 1u - kx;
        let begin = tap * 32u + o % 8u;
        v = vec4f(weight[begin], weight[begin + 8u], weight[begin + 16u], weight[begin + 24u]);
    }
    output[i] = v;
}
