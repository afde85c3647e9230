// A map twice as large with zeros between the pixels: what the gradient of a product of stride 2 is a product of.
//
// Parameters: height, width, channels of the input, channels in vec4s.

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    let count = 4u * params.height * params.width * params.channels;
    if (id.x >= count) {
        return;
    }
    let c = id.x % params.channels;
    let y = id.x / params.channels / (2u * params.width);
    let x = id.x / params.channels % (2u * params.width);
    var v = vec4f();
    if (y % 2u == 0u && x % 2u == 0u) {
        v = input[((id.y * params.height + y / 2u) * params.width + x / 2u) * params.channels + c];
    }
    output[id.y * count + id.x] = v;
}
