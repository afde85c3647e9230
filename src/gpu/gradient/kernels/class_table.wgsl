// The gradient of a table of classes: for each row the sum over the samples of that class.
//
// Parameters:
//   dim    length of a row in vec4s
//   rows   of the table

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> labels: array<u32>;
@group(0) @binding(3) var<storage, read> outer: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let i = id.y * groups.x * 64u + id.x;
    if (i >= params.rows * params.dim) {
        return;
    }
    var sum = vec4f();
    for (var b = 0u; b < params.batch; b++) {
        if (labels[b] == i / params.dim) {
            sum += outer[b * params.dim + i % params.dim];
        }
    }
    output[i] = sum;
}
