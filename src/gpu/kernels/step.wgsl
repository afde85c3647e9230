// Prepended to the kernels before and after the network: the sampler's scalars for one call.

struct Step {
    clip: u32, // whether x₀ is clamped to ±1
    c_in: f32,
    c_skip: f32,
    c_out: f32,
}

@group(0) @binding(0) var<uniform> step: Step;
