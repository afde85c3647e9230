// The gradient of SiLU: g·s·(1 + v·(1 − s)), s = sigmoid(v).
//
// Parameters: count, vec4s of a sample.

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> value: array<vec4f>;
@group(0) @binding(3) var<storage, read> outer: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= params.count) {
        return;
    }
    let i = id.y * params.count + id.x;
    let v = value[i];
    let s = 1.0 / (1.0 + exp(-v));
    output[i] = outer[i] * s * (1.0 + v * (1.0 - s));
}
