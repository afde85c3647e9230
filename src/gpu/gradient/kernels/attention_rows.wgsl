// What the gradient of attention needs of each query: the logarithm of its scores' sum, and the product of its result with
// the result's gradient.
//
// One workgroup takes 8 queries of one head of one sample, 8 threads to a query; each takes every eighth key with a running
// maximum and sum.
// Layout: output has a vec2 for each sample, head and pixel; the rest is that of attention.wgsl.
//
// Parameters and constants: those of attention.wgsl

@group(0) @binding(1) var<storage, read_write> output: array<vec2f>;
@group(0) @binding(2) var<storage, read> input_a: array<vec4f>;
@group(0) @binding(3) var<storage, read> result: array<vec4f>;
@group(0) @binding(4) var<storage, read> outer: array<vec4f>;

const QUERIES = 8u;
const LANES = 8u;
var<workgroup> partial: array<vec3f, 64>; // maximum, sum, product

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let lane = thread % LANES;
    let head = group.y * HEAD;
    let sample = group.z * params.pixels;
    let pixel = group.x * QUERIES + thread / LANES;
    let query = sample + min(pixel, params.pixels - 1u);
    let q = query * params.pitch + head;
    let r = query * params.heads * HEAD + head;

    var maximum = -3.0e38;
    var sum = 0.0;
    for (var j = lane; j < params.pixels; j += LANES) {
        let k = (sample + j) * params.pitch + params.keys + head;
        var score = 0.0;
        for (var c = 0u; c < HEAD; c++) {
            score += dot(input_a[q + c], input_a[k + c]);
        }
        score *= SCALE;
        let larger = max(maximum, score);
        sum = sum * exp(maximum - larger) + exp(score - larger);
        maximum = larger;
    }
    var product = 0.0;
    for (var c = lane; c < HEAD; c += LANES) {
        product += dot(result[r + c], outer[r + c]);
    }
    partial[thread] = vec3f(maximum, sum, product);
    workgroupBarrier();
    if (lane == 0u && pixel < params.pixels) {
        var largest = maximum;
        for (var i = 1u; i < LANES; i++) {
            largest = max(largest, partial[thread + i].x);
        }
        var all = 0.0;
        product = 0.0;
        for (var i = 0u; i < LANES; i++) {
            let part = partial[thread + i];
            all += part.y * exp(part.x - largest);
            product += part.z;
        }
        output[(group.z * params.heads + group.y) * params.pixels + pixel] = vec2f(largest + log(all), product);
    }
}
