// The gradients of attention's keys and values: sums over the queries of p·(g·v − product)·q/√d and of p·g.
//
// As attention_queries.wgsl, with keys and queries in each other's place.
//
// Parameters and constants: those of attention.wgsl

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input_a: array<vec4f>;
@group(0) @binding(3) var<storage, read> outer: array<vec4f>;
@group(0) @binding(4) var<storage, read> rows: array<vec2f>;

const KEYS = 8u;
const LANES = 8u;
const TILE = 32u;
const OWNED = (HEAD + LANES - 1u) / LANES;
var<workgroup> factors: array<vec2f, 256>; // (KEYS, TILE), of the queries and of the result's gradient

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let key = thread / LANES;
    let lane = thread % LANES;
    let head = group.y * HEAD;
    let sample = group.z * params.pixels;
    let pixel = group.x * KEYS + key;
    let k = (sample + min(pixel, params.pixels - 1u)) * params.pitch + params.keys + head;
    let v = k + params.values - params.keys;
    let row = (group.z * params.heads + group.y) * params.pixels;

    var of_key: array<vec4f, OWNED>;
    var of_value: array<vec4f, OWNED>;
    for (var tile = 0u; tile < params.pixels; tile += TILE) {
        for (var i = 0u; i < 4u; i++) {
            let j = min(tile + lane * 4u + i, params.pixels - 1u);
            let q = (sample + j) * params.pitch + head;
            let g = (sample + j) * params.heads * HEAD + head;
            var score = 0.0;
            var along = 0.0;
            for (var c = 0u; c < HEAD; c++) {
                score += dot(input_a[q + c], input_a[k + c]);
                along += dot(outer[g + c], input_a[v + c]);
            }
            let p = exp(score * SCALE - rows[row + j].x);
            factors[key * TILE + lane * 4u + i] = vec2f(p * (along - rows[row + j].y) * SCALE, p);
        }
        workgroupBarrier();
        for (var i = 0u; i < min(TILE, params.pixels - tile); i++) {
            let factor = factors[key * TILE + i];
            let q = (sample + tile + i) * params.pitch + head;
            let g = (sample + tile + i) * params.heads * HEAD + head;
            for (var o = 0u; o < OWNED; o++) {
                let c = min(lane + o * LANES, HEAD - 1u);
                of_key[o] += factor.x * input_a[q + c];
                of_value[o] += factor.y * outer[g + c];
            }
        }
        workgroupBarrier();
    }
    if (pixel < params.pixels) {
        for (var o = 0u; o < OWNED; o++) {
            let c = lane + o * LANES;
            if (c < HEAD) {
                output[k + c] = of_key[o];
                output[v + c] = of_value[o];
            }
        }
        // Behind the keys' channels and the values' there may be padding.
        if (group.y == 0u && lane == 0u) {
            for (var c = params.heads * HEAD; c < params.keys; c++) {
                output[k + c] = vec4f();
                output[v + c] = vec4f();
            }
        }
    }
}
