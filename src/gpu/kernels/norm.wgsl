// GroupNorm and what follows it before the next product: time scale and shift, SiLU, resampling.
//
// One workgroup takes one group of channels of one sample and passes over it three times: mean, variance around the
// mean (so that nothing cancels), store. The input may be two maps whose channels follow one another.
// Traffic: three reads and one write of the map; the second and third read mostly hit a cache.
//
// Parameters:
//   in_h, in_w        size of the input map
//   groups            groups of channels
//   size              channels in a group
//   a_real            channels of input_a; those beyond come from input_b
//   a_pitch, b_pitch  channels of the two maps with their padding
//   out_pitch         channels of the output with its padding
// Constants:
//   EPS               ε inside the square root
//   SCALE_SHIFT       whether (1 + scale) and shift of the row `time` apply; the shifts follow the C scales
//   SILU              whether x·sigmoid(x) follows
//   RESAMPLE          what the output is: 1 the same size, 2 upsampled by 2, 3 downsampled by 2 (means)

@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@group(0) @binding(2) var<storage, read> input_a: array<f32>;
@group(0) @binding(3) var<storage, read> input_b: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read> time: array<f32>;

const THREADS = 64u;
var<workgroup> partial: array<f32, THREADS>;

fn load(b: u32, pixel: u32, c: u32) -> f32 {
    let pixels = params.in_h * params.in_w;
    if (c < params.a_real) {
        return input_a[(b * pixels + pixel) * params.a_pitch + c];
    }
    return input_b[(b * pixels + pixel) * params.b_pitch + c - params.a_real];
}

// The sum of every thread's `value`.
fn total(thread: u32, value: f32) -> f32 {
    partial[thread] = value;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < THREADS; i++) {
        sum += partial[i];
    }
    workgroupBarrier();
    return sum;
}

fn finish(value: f32, scale: f32, shift: f32) -> f32 {
    let v = value * scale + shift;
    if (SILU) {
        return v / (1.0 + exp(-v));
    }
    return v;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) thread: u32) {
    let first = group.x * params.size;
    let b = group.y;
    let count = params.in_h * params.in_w * params.size;
    let channels = params.groups * params.size;

    var sum = 0.0;
    for (var i = thread; i < count; i += THREADS) {
        sum += load(b, i / params.size, first + i % params.size);
    }
    let mean = total(thread, sum) / f32(count);
    var squares = 0.0;
    for (var i = thread; i < count; i += THREADS) {
        let d = load(b, i / params.size, first + i % params.size) - mean;
        squares += d * d;
    }
    let inverse_deviation = inverseSqrt(total(thread, squares) / f32(count) + EPS);

    let out_w = select(select(params.in_w, params.in_w * 2u, RESAMPLE == 2u), params.in_w / 2u, RESAMPLE == 3u);
    let out_h = select(select(params.in_h, params.in_h * 2u, RESAMPLE == 2u), params.in_h / 2u, RESAMPLE == 3u);
    for (var i = thread; i < out_h * out_w * params.size; i += THREADS) {
        let c = first + i % params.size;
        let pixel = i / params.size;
        var scale = weight[c] * inverse_deviation;
        var shift = bias[c] - mean * scale;
        if (SCALE_SHIFT) {
            let row = (b * params.time_pitch + params.time_offset) * 4u + c;
            let factor = 1.0 + time[row];
            scale *= factor;
            shift = shift * factor + time[row + channels];
        }
        let y = pixel / out_w;
        let x = pixel % out_w;
        var v: f32;
        if (RESAMPLE == 2u) {
            v = finish(load(b, y / 2u * params.in_w + x / 2u, c), scale, shift);
        } else if (RESAMPLE == 3u) {
            let p = y * 2u * params.in_w + x * 2u;
            v = 0.25 * (finish(load(b, p, c), scale, shift) + finish(load(b, p + 1u, c), scale, shift)
                + finish(load(b, p + params.in_w, c), scale, shift) + finish(load(b, p + params.in_w + 1u, c), scale, shift));
        } else {
            v = finish(load(b, pixel, c), scale, shift);
        }
        output[(b * out_h * out_w + pixel) * params.out_pitch + c] = v;
    }
    // The padding must be finite, whatever the buffer held before.
    if (group.x == params.groups - 1u && params.out_pitch != channels) {
        for (var pixel = thread; pixel < out_h * out_w; pixel += THREADS) {
            for (var c = channels; c < params.out_pitch; c++) {
                output[(b * out_h * out_w + pixel) * params.out_pitch + c] = 0.0;
            }
        }
    }
}
