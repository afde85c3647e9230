// The sum of several arrays that lie one after the other, in their order.
//
// Parameters:
//   count    vec4s of one array
//   copies   how many there are

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> copies: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
    let i = id.y * groups.x * 64u + id.x;
    if (i >= params.count) {
        return;
    }
    var sum = vec4f();
    for (var n = 0u; n < params.copies; n++) {
        sum += copies[n * params.count + i];
    }
    output[i] = sum;
}
