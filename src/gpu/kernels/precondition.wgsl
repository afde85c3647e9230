// Before the network: c_in·x, from the sampler's (B, C, H, W) to the network's (B, H, W, C padded to 4).
//
// Constants:
//   CHANNELS   of an image (1 or 3)
//   PIXELS     of an image

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> state: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= PIXELS) {
        return;
    }
    var v = vec4f();
    for (var c = 0u; c < CHANNELS; c++) {
        v[c] = step.c_in * state[(id.y * CHANNELS + c) * PIXELS + id.x];
    }
    output[id.y * PIXELS + id.x] = v;
}
