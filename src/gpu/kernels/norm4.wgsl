// norm.wgsl for maps whose groups can be read in vec4s: GroupNorm, then scale and shift, SiLU, resampling.
//
// One workgroup takes the fewest whole groups of one sample that fill whole vec4s, and passes twice over them:
// statistics, store. An invocation keeps to one vec4 of channels. The sums are taken around each channel's first
// pixel, so that a large mean cancels nothing, and the channels of a group are merged by their means (Chan et al. 1979).
// Traffic: two reads and one write of the map; the second read mostly hits a cache.
//
// Parameters:
//   in_h, in_w   size of the input map
//   span         vec4s of channels of a workgroup
//   size         channels of a group
//   a_c, b_c     vec4s of channels of input_a and of input_b, which follows it
// Constants:
//   TWO          whether there is an input_b
//   EPS, SCALE_SHIFT, SILU, RESAMPLE   as norm.wgsl
//   THREADS      invocations of a workgroup

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input_a: array<vec4f>;
@group(0) @binding(3) var<storage, read> input_b: array<vec4f>;
@group(0) @binding(4) var<storage, read> weight: array<vec4f>;
@group(0) @binding(5) var<storage, read> bias: array<vec4f>;
@group(0) @binding(6) var<storage, read> time: array<vec4f>;

var<workgroup> sums: array<vec4f, THREADS>;
var<workgroup> squares: array<vec4f, THREADS>;

// Vec4 `c` of a pixel; pixels of all samples follow one another.
fn load(pixel: u32, c: u32) -> vec4f {
    if (TWO && c >= params.a_c) {
        return input_b[pixel * params.b_c + c - params.a_c];
    }
    return input_a[pixel * params.a_c + c];
}

fn finish(value: vec4f, scale: vec4f, shift: vec4f) -> vec4f {
    let v = value * scale + shift;
    if (SILU) {
        return v / (1.0 + exp(-v));
    }
    return v;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let b = group.y;
    let lanes = THREADS / params.span; // invocations of a vec4; those beyond the last whole row of lanes are idle
    let column = thread % params.span;
    let lane = thread / params.span;
    let c = group.x * params.span + column;
    let channels = params.a_c + params.b_c;
    let pixels = params.in_h * params.in_w;
    let first = b * pixels;

    let origin = load(first, c);
    var sum = vec4f();
    var square = vec4f();
    if (lane < lanes) {
        for (var p = lane; p < pixels; p += lanes) {
            let d = load(first + p, c) - origin;
            sum += d;
            square += d * d;
        }
    }
    sums[thread] = sum;
    squares[thread] = square;
    workgroupBarrier();
    // One invocation of each vec4 ends its sums: each channel's mean, and squares around that.
    sum = vec4f();
    square = vec4f();
    if (lane == 0u) {
        for (var i = 0u; i < lanes; i++) {
            sum += sums[i * params.span + column];
            square += squares[i * params.span + column];
        }
    }
    workgroupBarrier();
    let mean = sum / f32(pixels);
    if (lane == 0u) {
        sums[column] = origin + mean;
        squares[column] = square - sum * mean;
    }
    workgroupBarrier();
    // Then one of each group: mean and deviation, kept in the first two numbers of its slot.
    var group_mean = 0.0;
    var group_square = 0.0;
    let begin = thread * params.size;
    let is_group = begin < params.span * 4u;
    if (is_group) {
        for (var i = begin; i < begin + params.size; i++) {
            group_mean += sums[i / 4u][i % 4u];
        }
        group_mean /= f32(params.size);
        for (var i = begin; i < begin + params.size; i++) {
            let d = sums[i / 4u][i % 4u] - group_mean;
            group_square += squares[i / 4u][i % 4u] + f32(pixels) * d * d;
        }
    }
    workgroupBarrier();
    if (is_group) {
        let variance = group_square / f32(pixels * params.size);
        sums[thread] = vec4f(group_mean, inverseSqrt(variance + EPS), 0.0, 0.0);
    }
    workgroupBarrier();
    if (lane >= lanes) {
        return;
    }

    var means: vec4f;
    var inverses: vec4f;
    for (var i = 0u; i < 4u; i++) {
        let statistics = sums[(column * 4u + i) / params.size];
        means[i] = statistics.x;
        inverses[i] = statistics.y;
    }
    var scale = weight[c] * inverses;
    var shift = bias[c] - means * scale;
    if (SCALE_SHIFT) {
        let row = b * params.time_pitch + params.time_offset + c;
        let factor = 1.0 + time[row];
        scale *= factor;
        shift = shift * factor + time[row + channels];
    }
    if (RESAMPLE == 3u) {
        let out_w = params.in_w / 2u;
        for (var p = lane; p < pixels / 4u; p += lanes) {
            let above = first + p / out_w * 2u * params.in_w + p % out_w * 2u;
            let below = above + params.in_w;
            let above_sum = finish(load(above, c), scale, shift) + finish(load(above + 1u, c), scale, shift);
            let below_sum = finish(load(below, c), scale, shift) + finish(load(below + 1u, c), scale, shift);
            output[(first / 4u + p) * channels + c] = 0.25 * (above_sum + below_sum);
        }
        return;
    }
    for (var p = lane; p < pixels; p += lanes) {
        let v = finish(load(first + p, c), scale, shift);
        if (RESAMPLE == 2u) {
            let to = ((first * 2u + p / params.in_w * params.in_w * 2u + p % params.in_w) * 2u) * channels + c;
            let below = to + params.in_w * 2u * channels;
            output[to] = v;
            output[to + channels] = v;
            output[below] = v;
            output[below + channels] = v;
        } else {
            output[(first + p) * channels + c] = v;
        }
    }
}
