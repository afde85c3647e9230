// The sums of a map over its pixels, for each sample and channel.
//
// One workgroup takes one vec4 of channels of one sample; its invocations' sums are added in one order.
//
// Parameters:
//   pixels         of a map
//   in_c           its channels, in vec4s
//   offset, pitch  where the sums begin in a row and the length of a row, in vec4s

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input: array<vec4f>;

var<workgroup> partial: array<vec4f, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    // Beyond the map's channels the row is filled with zeros.
    let count = select(0u, params.pixels, group.x < params.in_c);
    var sum = vec4f();
    for (var p = thread; p < count; p += 64u) {
        sum += input[(group.y * params.pixels + p) * params.in_c + group.x];
    }
    partial[thread] = sum;
    workgroupBarrier();
    if (thread == 0u) {
        for (var i = 1u; i < 64u; i++) {
            sum += partial[i];
        }
        output[group.y * params.pitch + params.offset + group.x] = sum;
    }
}
