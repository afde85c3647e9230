// What the gradient of a GroupNorm, and of what follows it in its launch, needs of whole groups.
//
// The launch computes z = x·scale + shift for every channel, then SiLU, then resampling. With ĝ the gradient in z and
// x̂ = (x − mean)/deviation, the gradient in x is ĝ·scale + x·slope + offset. One workgroup takes one group of channels of
// one sample: mean, variance around the mean, then Σ ĝ and Σ ĝ·x̂ for each of its channels.
// Layout: for each sample 6 planes of channels padded to 4: Σ ĝ, Σ ĝ·x̂, scale, shift, slope, offset.
//
// Parameters:
//   in_h, in_w        size of the input map
//   groups            groups of channels
//   size              channels in a group
//   a_real            channels of input_a; those beyond come from input_b
//   a_pitch, b_pitch  channels of the two maps with their padding
//   out_pitch         channels of the result with its padding
// Constants:
//   EPS               ε inside the square root
//   SCALE_SHIFT       whether (1 + scale) and shift of the row `time` apply
//   SILU              whether x·sigmoid(x) follows
//   RESAMPLE          what the result is: 1 the same size, 2 upsampled by 2, 3 downsampled by 2 (means)

@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@group(0) @binding(2) var<storage, read> input_a: array<f32>;
@group(0) @binding(3) var<storage, read> input_b: array<f32>;
@group(0) @binding(4) var<storage, read> outer: array<f32>;
@group(0) @binding(5) var<storage, read> weight: array<f32>;
@group(0) @binding(6) var<storage, read> bias: array<f32>;
@group(0) @binding(7) var<storage, read> time: array<f32>;

const THREADS = 64u;
var<workgroup> partial: array<vec2f, THREADS>;

fn load(b: u32, pixel: u32, c: u32) -> f32 {
    let pixels = params.in_h * params.in_w;
    if (c < params.a_real) {
        return input_a[(b * pixels + pixel) * params.a_pitch + c];
    }
    return input_b[(b * pixels + pixel) * params.b_pitch + c - params.a_real];
}

// The sum of every thread's `value`.
fn total(thread: u32, value: vec2f) -> vec2f {
    partial[thread] = value;
    workgroupBarrier();
    var sum = vec2f();
    for (var i = 0u; i < THREADS; i++) {
        sum += partial[i];
    }
    workgroupBarrier();
    return sum;
}

// A thread's part of Σ d and Σ d² over the group, d = x − origin.
fn part(b: u32, first: u32, thread: u32, origin: f32) -> vec2f {
    let pixels = params.in_h * params.in_w;
    var sums = vec2f();
    // Up to THREADS channels at a time, with several invocations to a channel; those beyond the last whole lane are idle.
    for (var begin = 0u; begin < params.size; begin += THREADS) {
        let width = min(params.size - begin, THREADS);
        let lanes = THREADS / width;
        let c = first + begin + thread % width;
        for (var p = thread / width; p < select(0u, pixels, thread / width < lanes); p += lanes) {
            let d = load(b, p, c) - origin;
            sums += vec2f(d, d * d);
        }
    }
    return sums;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * params.size;
    let b = group.y;
    let pixels = params.in_h * params.in_w;
    let count = pixels * params.size;
    let channels = params.groups * params.size;

    let mean = total(thread, vec2f(part(b, first, thread, 0.0).x, 0.0)).x / f32(count);
    let squares = part(b, first, thread, mean).y;
    let inverse = inverseSqrt(total(thread, vec2f(squares, 0.0)).x / f32(count) + EPS);

    let planes = b * 6u * params.out_pitch;
    var mine = vec2f();
    for (var begin = 0u; begin < params.size; begin += THREADS) {
        let width = min(params.size - begin, THREADS);
        let lanes = THREADS / width;
        let c = first + begin + thread % width;
        let lane = thread / width;
        let factor = weight[c] * scale_of(b, c);
        let scale = factor * inverse;
        let shift = bias[c] * scale_of(b, c) + shift_of(b, c + channels) - mean * scale;
        var sums = vec2f();
        if (lane < lanes) {
            for (var p = lane; p < pixels; p += lanes) {
                let x = load(b, p, c);
                let g = outer_at(b, p, c) * slope(x * scale + shift);
                sums += vec2f(g, g * (x - mean) * inverse);
            }
        }
        partial[thread] = sums;
        workgroupBarrier();
        if (lane == 0u) {
            for (var i = 1u; i < lanes; i++) {
                sums += partial[thread + i * width];
            }
            output[planes + c] = sums.x;
            output[planes + params.out_pitch + c] = sums.y;
            output[planes + 2u * params.out_pitch + c] = scale;
            output[planes + 3u * params.out_pitch + c] = shift;
            mine += factor * sums;
        }
        workgroupBarrier();
    }
    let means = total(thread, mine) / f32(count);
    let along = -inverse * inverse * means.y;
    for (var i = thread; i < params.size; i += THREADS) {
        output[planes + 4u * params.out_pitch + first + i] = along;
        output[planes + 5u * params.out_pitch + first + i] = -inverse * means.x - mean * along;
    }
    let padding = params.out_pitch - channels;
    if (group.x == params.groups - 1u && thread < 6u * padding) {
        output[planes + thread / padding * params.out_pitch + channels + thread % padding] = 0.0;
    }
}

fn scale_of(b: u32, c: u32) -> f32 {
    if (SCALE_SHIFT) {
        return 1.0 + time[(b * params.time_pitch + params.time_offset) * 4u + c];
    }
    return 1.0;
}

fn shift_of(b: u32, c: u32) -> f32 {
    if (SCALE_SHIFT) {
        return time[(b * params.time_pitch + params.time_offset) * 4u + c];
    }
    return 0.0;
}
