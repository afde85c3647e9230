// The gradient of attention's queries: Σ over the keys of p·(g·v − product)·k/√d, with p = exp(score − logarithm).
//
// One workgroup takes 8 queries of one head of one sample, 8 threads to a query, and walks over the keys 32 at a time. A
// thread makes 4 factors, then adds the keys' channels that it owns.
// Layout: output has the shape of input_a; the rest is that of attention.wgsl.
//
// Parameters and constants: those of attention.wgsl

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input_a: array<vec4f>;
@group(0) @binding(3) var<storage, read> outer: array<vec4f>;
@group(0) @binding(4) var<storage, read> rows: array<vec2f>;

const QUERIES = 8u;
const LANES = 8u;
const TILE = 32u;
const OWNED = (HEAD + LANES - 1u) / LANES;
var<workgroup> factors: array<f32, 256>; // (QUERIES, TILE)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let query = thread / LANES;
    let lane = thread % LANES;
    let head = group.y * HEAD;
    let sample = group.z * params.pixels;
    let pixel = group.x * QUERIES + query;
    let inside = min(pixel, params.pixels - 1u);
    let q = (sample + inside) * params.pitch + head;
    let g = (sample + inside) * params.heads * HEAD + head;
    let row = rows[(group.z * params.heads + group.y) * params.pixels + inside];

    var result: array<vec4f, OWNED>;
    for (var tile = 0u; tile < params.pixels; tile += TILE) {
        for (var i = 0u; i < 4u; i++) {
            let j = min(tile + lane * 4u + i, params.pixels - 1u);
            let k = (sample + j) * params.pitch + params.keys + head;
            let v = k + params.values - params.keys;
            var score = 0.0;
            var along = 0.0;
            for (var c = 0u; c < HEAD; c++) {
                score += dot(input_a[q + c], input_a[k + c]);
                along += dot(outer[g + c], input_a[v + c]);
            }
            factors[query * TILE + lane * 4u + i] = exp(score * SCALE - row.x) * (along - row.y) * SCALE;
        }
        workgroupBarrier();
        for (var i = 0u; i < min(TILE, params.pixels - tile); i++) {
            let factor = factors[query * TILE + i];
            let k = (sample + tile + i) * params.pitch + params.keys + head;
            for (var o = 0u; o < OWNED; o++) {
                result[o] += factor * input_a[k + min(lane + o * LANES, HEAD - 1u)];
            }
        }
        workgroupBarrier();
    }
    if (pixel < params.pixels) {
        for (var o = 0u; o < OWNED; o++) {
            let c = lane + o * LANES;
            if (c < HEAD) {
                output[q + c] = result[o];
            }
        }
        // Between the queries' channels and the keys' there may be padding.
        if (group.y == 0u && lane == 0u) {
            for (var c = params.heads * HEAD; c < params.keys; c++) {
                output[q + c] = vec4f();
            }
        }
    }
}
