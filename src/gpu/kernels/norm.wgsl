// GroupNorm and what follows it before the next product: time scale and shift, SiLU, resampling.
//
// One workgroup takes the fewest whole groups of one sample that fill whole vec4s, and passes twice over them:
// statistics, store. An invocation keeps to one vec4 of channels. The sums are taken around each channel's first
// pixel, so that a large mean cancels nothing, and the channels of a group are merged by their means (Chan et al. 1979).
// The input may be two maps whose channels follow one another. Padding of the output is 0.
// Traffic: two reads and one write of the map; the second read mostly hits a cache.
//
// Parameters:
//   in_h, in_w   size of the input map
//   span         vec4s of channels of a workgroup
//   size         channels of a group
//   channels     of both inputs
//   a_real       those of input_a
//   a_c, b_c     vec4s of a pixel of input_a and of input_b; 0 for none
//   scale_shift  1 when (1 + scale) and shift of the row `time` apply; the shifts follow the scales
//   silu         1 when x·sigmoid(x) follows
//   reads        pixels whose mean is a pixel of the output: 1, or 4 when it is downsampled by 2
//   up           2 when it is upsampled by 2, else 1
// Constants:
//   EPS          ε inside the square root
//   MIXED        whether a vec4 of the concatenation holds channels of both inputs
//   THREADS      invocations of a workgroup, span or more
//
// One pipeline serves every norm of a network, since each takes a browser as long to compile as some forwards take. As in
// epilogue.wgsl the choices are loops of no or one round.

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input_a: array<vec4f>;
@group(0) @binding(3) var<storage, read> input_b: array<vec4f>;
@group(0) @binding(4) var<storage, read> weight: array<vec4f>;
@group(0) @binding(5) var<storage, read> bias: array<vec4f>;
@group(0) @binding(6) var<storage, read> time: array<f32>;

var<workgroup> sums: array<vec4f, THREADS>;
var<workgroup> squares: array<vec4f, THREADS>;

// Vec4 `c` of a pixel; pixels of all samples follow one another. `second` is 1 where `c` lies in input_b.
fn load(pixel: u32, c: u32, second: u32) -> vec4f {
    var v: vec4f;
    if (MIXED) {
        for (var i = 0u; i < 4u; i++) {
            let of_a = c * 4u + i;
            let of_b = of_a - params.a_real;
            if (of_a < params.a_real) {
                v[i] = input_a[pixel * params.a_c + of_a / 4u][of_a % 4u];
            } else if (of_a < params.channels) {
                v[i] = input_b[pixel * params.b_c + of_b / 4u][of_b % 4u];
            }
        }
        return v;
    }
    for (var n = second; n < 1u; n++) {
        v = input_a[pixel * params.a_c + c];
    }
    for (var n = 0u; n < second; n++) {
        v = input_b[pixel * params.b_c + c - params.a_c];
    }
    return v;
}

fn finish(value: vec4f, scale: vec4f, shift: vec4f) -> vec4f {
    var v = value * scale + shift;
    for (var n = 0u; n < params.silu; n++) {
        v = v / (1.0 + exp(-v));
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
    let vectors = (params.channels + 3u) / 4u;
    let is_idle = lane >= lanes || c >= vectors;
    let pixels = params.in_h * params.in_w;
    let first = b * pixels;
    let second = u32(c >= params.a_c);

    let origin = load(first, min(c, vectors - 1u), second);
    var sum = vec4f();
    var square = vec4f();
    for (var p = lane; p < select(pixels, 0u, is_idle); p += lanes) {
        let d = load(first + p, c, second) - origin;
        sum += d;
        square += d * d;
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
    let is_group = begin < min(params.span * 4u, params.channels - group.x * params.span * 4u);
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
    if (is_idle) {
        return;
    }

    let channel = vec4u(0u, 1u, 2u, 3u) + c * 4u;
    let is_real = channel < vec4u(params.channels);
    var means: vec4f;
    var inverses: vec4f;
    for (var i = 0u; i < 4u; i++) {
        let statistics = sums[(column * 4u + i) / params.size];
        means[i] = statistics.x;
        inverses[i] = statistics.y;
    }
    var scale = select(vec4f(), weight[c] * inverses, is_real);
    var shift = select(vec4f(), bias[c] - means * scale, is_real);
    for (var n = 0u; n < params.scale_shift; n++) {
        let row = (b * params.time_pitch + params.time_offset) * 4u + channel;
        let factor = 1.0 + vec4f(time[row.x], time[row.y], time[row.z], time[row.w]);
        let to = row + params.channels;
        scale *= factor;
        shift = select(vec4f(), shift * factor + vec4f(time[to.x], time[to.y], time[to.z], time[to.w]), is_real);
    }
    let is_same = params.reads == 1u && params.up == 1u;
    for (var p = lane; p < select(0u, pixels, is_same); p += lanes) {
        output[(first + p) * vectors + c] = finish(load(first + p, c, second), scale, shift);
    }
    let half = params.reads >> 2u;
    let width = params.in_w >> half;
    let out_w = width * params.up;
    let count = pixels >> (2u * half);
    for (var p = lane; p < select(count, 0u, is_same); p += lanes) {
        let y = p / width;
        let x = p % width;
        let corner = first + (y << half) * params.in_w + (x << half);
        var v = vec4f();
        for (var n = 0u; n < params.reads; n++) {
            v += finish(load(corner + n / 2u * params.in_w + n % 2u, c, second), scale, shift);
        }
        v /= f32(params.reads);
        let to = (b * count + y * width) * params.up * params.up + x * params.up;
        for (var n = 0u; n < params.up * params.up; n++) {
            output[(to + n / 2u * out_w + n % 2u) * vectors + c] = v;
        }
    }
}
