// After the network: x₀ = c_skip·x + c_out·F, clamped to ±1 if asked.
//
// x and x₀ are the sampler's (B, C, H, W); F is the network's (B, H, W, C padded to 4).
//
// Constants:
//   CHANNELS   of an image (1 or 3)
//   PIXELS     of an image

@group(0) @binding(1) var<storage, read_write> denoised: array<f32>;
@group(0) @binding(2) var<storage, read> network: array<vec4f>;
@group(0) @binding(3) var<storage, read> state: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= PIXELS) {
        return;
    }
    let f = network[id.y * PIXELS + id.x];
    for (var c = 0u; c < CHANNELS; c++) {
        let i = (id.y * CHANNELS + c) * PIXELS + id.x;
        var x0 = step.c_skip * state[i] + step.c_out * f[c];
        if (step.clip != 0u) {
            x0 = clamp(x0, -1.0, 1.0);
        }
        denoised[i] = x0;
    }
}
