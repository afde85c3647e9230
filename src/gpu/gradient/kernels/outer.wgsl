// The loss's gradient in the network's result, from the caller's (B, C, H, W) to (B, H, W, C padded to 4).
//
// Parameters:
//   channels   of an image (1 or 3)
//   pixels     of an image

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> outer: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= params.pixels) {
        return;
    }
    var v = vec4f();
    for (var c = 0u; c < params.channels; c++) {
        v[c] = outer[(id.y * params.channels + c) * params.pixels + id.x];
    }
    output[id.y * params.pixels + id.x] = v;
}
