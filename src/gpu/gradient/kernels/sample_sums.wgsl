// The sums of vectors over the samples, each perhaps times one plus a scale of its sample: the gradients of biases, and of
// norms' weights.
//
// Parameters:
//   count          vec4s of the sum
//   offset, pitch  where a vector begins in a row of `input` and the length of a row, in vec4s
//   scaled         1 when (1 + scale) of the row `time` applies, else 0

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input: array<vec4f>;
@group(0) @binding(3) var<storage, read> time: array<vec4f>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
    if (id.x >= params.count) {
        return;
    }
    var sum = vec4f();
    for (var b = 0u; b < params.batch; b++) {
        var v = input[b * params.pitch + params.offset + id.x];
        for (var n = 0u; n < params.scaled; n++) {
            v *= 1.0 + time[b * params.time_pitch + params.time_offset + id.x];
        }
        sum += v;
    }
    output[id.x] = sum;
}
