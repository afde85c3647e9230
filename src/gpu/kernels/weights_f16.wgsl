// Weights of a product as f16, in the order of those as f32: 8 bytes a vec4, computed with as f32.

@group(0) @binding(4) var<storage, read> weight: array<vec2u>;

fn weight_at(i: u32) -> vec4f {
    let halves = weight[i];
    return vec4f(unpack2x16float(halves.x), unpack2x16float(halves.y));
}

fn scaled(sum: vec4f, c: u32) -> vec4f {
    return sum;
}
