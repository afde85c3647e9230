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
        var scores = vec4f();
        var alongs = vec4f();
@for i in 4
        let k$i = (sample + min(tile + lane * 4u + $i, params.pixels - 1u)) * params.pitch + params.keys + head;
        let v$i = k$i + params.values - params.keys;
@end
        for (var c = 0u; c < HEAD; c++) {
            let mine = input_a[q + c];
            let own = outer[g + c];
            scores += vec4f(dot(mine, input_a[k0 + c]), dot(mine, input_a[k1 + c]), dot(mine, input_a[k2 + c]), dot(mine, input_a[k3 + c]));
            alongs += vec4f(dot(own, input_a[v0 + c]), dot(own, input_a[v1 + c]), dot(own, input_a[v2 + c]), dot(own, input_a[v3 + c]));
        }
        let four = exp(scores * SCALE - row.x) * (alongs - row.y) * SCALE;
@for i in 4
        factors[query * TILE + lane * 4u + $i] = four[$i];
@end
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
