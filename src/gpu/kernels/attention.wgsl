// softmax(q·kᵀ/√d)·v for every head, without storing the scores.
//
// One workgroup takes QUERIES queries of one head of one sample, 8 threads to a query, and walks over the keys 32 at a
// time with a running maximum and sum (the "online" softmax of Milakov & Gimelshein 2018). A thread makes 4 scores,
// then adds the values' channels that it owns.
// Layout: input_a holds q, k and v side by side in every pixel, each as heads of HEAD vec4s (zero padded).
// Traffic: keys and values are read once per QUERIES queries.
//
// Parameters:
//   pixels           pixels of a map
//   heads            number of heads
//   pitch            vec4s of a pixel in input_a
//   keys, values     where k and v begin in a pixel, in vec4s
// Constants:
//   HEAD             vec4s of a head
//   QUERIES          queries of a workgroup
//   SCALE            1/√(channels of a head)

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input_a: array<vec4f>;

const LANES = 8u;
const TILE = 32u;
const OWNED = (HEAD + LANES - 1u) / LANES;
// (QUERIES, TILE) each. With two of them a tile needs two barriers: scores are read before the second, weights after it.
var<workgroup> scores: array<f32, QUERIES * TILE>;
var<workgroup> weights: array<f32, QUERIES * TILE>;

@compute @workgroup_size(QUERIES * LANES)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let query = thread / LANES;
    let lane = thread % LANES;
    let head = group.y * HEAD;
    let sample = group.z * params.pixels;
    let pixel = group.x * QUERIES + query;
    let q = (sample + min(pixel, params.pixels - 1u)) * params.pitch + head;

    var maximum = -3.0e38;
    var sum = 0.0;
    var result: array<vec4f, OWNED>;
    for (var tile = 0u; tile < params.pixels; tile += TILE) {
        let j = tile + lane * 4u;
        let k0 = (sample + min(j, params.pixels - 1u)) * params.pitch + params.keys + head;
        let k1 = (sample + min(j + 1u, params.pixels - 1u)) * params.pitch + params.keys + head;
        let k2 = (sample + min(j + 2u, params.pixels - 1u)) * params.pitch + params.keys + head;
        let k3 = (sample + min(j + 3u, params.pixels - 1u)) * params.pitch + params.keys + head;
        var dots = vec4f();
        for (var c = 0u; c < HEAD; c++) {
            let v = input_a[q + c];
            dots += vec4f(dot(v, input_a[k0 + c]), dot(v, input_a[k1 + c]), dot(v, input_a[k2 + c]), dot(v, input_a[k3 + c]));
        }
        // Keys beyond the last pixel weigh nothing.
        let outside = vec4u(j, j + 1u, j + 2u, j + 3u) >= vec4u(params.pixels);
        dots = select(dots * SCALE, vec4f(-3.0e38), outside);
        let mine = query * TILE + lane * 4u;
        scores[mine] = dots.x;
        scores[mine + 1u] = dots.y;
        scores[mine + 2u] = dots.z;
        scores[mine + 3u] = dots.w;
        workgroupBarrier();

        var new_maximum = maximum;
        for (var i = 0u; i < TILE; i++) {
            new_maximum = max(new_maximum, scores[query * TILE + i]);
        }
        let fade = exp(maximum - new_maximum);
        maximum = new_maximum;
        let own = exp(dots - vec4f(maximum));
        weights[mine] = own.x;
        weights[mine + 1u] = own.y;
        weights[mine + 2u] = own.z;
        weights[mine + 3u] = own.w;
        workgroupBarrier();

        sum *= fade;
        for (var o = 0u; o < OWNED; o++) {
            result[o] *= fade;
        }
        let count = min(TILE, params.pixels - tile);
        for (var i = 0u; i < count; i++) {
            let weight = weights[query * TILE + i];
            sum += weight;
            let v = (sample + tile + i) * params.pitch + params.values + head;
            for (var o = 0u; o < OWNED; o++) {
                let c = min(lane + o * LANES, HEAD - 1u);
                result[o] += weight * input_a[v + c];
            }
        }
    }

    if (pixel < params.pixels) {
        for (var o = 0u; o < OWNED; o++) {
            let c = lane + o * LANES;
            if (c < HEAD) {
                output[(sample + pixel) * params.heads * HEAD + head + c] = result[o] / sum;
            }
        }
    }
}
