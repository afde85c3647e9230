// Weights of a product as signed bytes n, in the order of those as f32: 4 bytes a vec4. A weight is n times the scale of
// its output channel. unpack4x8snorm gives n / 127; the scales follow the biases, and are taken once for each output.

@group(0) @binding(4) var<storage, read> weight: array<u32>;

fn weight_at(i: u32) -> vec4f {
    return unpack4x8snorm(weight[i]);
}

fn scaled(sum: vec4f, c: u32) -> vec4f {
    return sum * (127.0 * bias[params.tiles * 2u + c]);
}
