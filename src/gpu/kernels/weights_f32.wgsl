// Weights of a product as f32: 16 bytes a vec4.

@group(0) @binding(4) var<storage, read> weight: array<vec4f>;

fn weight_at(i: u32) -> vec4f {
    return weight[i];
}

// What a sum of products is multiplied with, for the output channels 4·c ..
fn scaled(sum: vec4f, c: u32) -> vec4f {
    return sum;
}
