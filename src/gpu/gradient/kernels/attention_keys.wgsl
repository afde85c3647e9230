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
        var scores = vec4f();
        var alongs = vec4f();
@for i in 4
        let j$i = min(tile + lane * 4u + $i, params.pixels - 1u);
        let q$i = (sample + j$i) * params.pitch + head;
        let g$i = (sample + j$i) * params.heads * HEAD + head;
@end
        for (var c = 0u; c < HEAD; c++) {
            let mine = input_a[k + c];
            let own = input_a[v + c];
            scores += vec4f(dot(mine, input_a[q0 + c]), dot(mine, input_a[q1 + c]), dot(mine, input_a[q2 + c]), dot(mine, input_a[q3 + c]));
            alongs += vec4f(dot(own, outer[g0 + c]), dot(own, outer[g1 + c]), dot(own, outer[g2 + c]), dot(own, outer[g3 + c]));
        }
@for i in 4
        let p$i = exp(scores[$i] * SCALE - rows[row + j$i].x);
        factors[key * TILE + lane * 4u + $i] = vec2f(p$i * (alongs[$i] - rows[row + j$i].y) * SCALE, p$i);
@end
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
