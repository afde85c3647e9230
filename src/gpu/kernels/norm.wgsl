// GroupNorm and what follows it before the next product: time scale and shift, SiLU, resampling.
//
// One workgroup takes one group of channels of one sample and passes over it three times: mean, variance around the
// mean (so that nothing cancels), store. The input may be two maps whose channels follow one another.
// Traffic: three reads and one write of the map; the second and third read mostly hit a cache.
//
// Constants:
//   IN_H, IN_W        size of the input map
//   GROUPS            groups of channels
//   SIZE              channels in a group
//   A_REAL            channels of input_a; those beyond come from input_b
//   A_PITCH, B_PITCH  channels of the two maps with their padding
//   OUT_PITCH         channels of the output with its padding
//   EPS               ε inside the square root
//   SCALE_SHIFT       whether (1 + scale) and shift of the row `time` apply; the shifts follow the C scales
//   SILU              whether x·sigmoid(x) follows
//   RESAMPLE          what the output is: 0 the same size, 2 upsampled by 2, 3 downsampled by 2 (means)

@group(0) @binding(1) var<storage, read_write> output: array<f32>;
@group(0) @binding(2) var<storage, read> input_a: array<f32>;
@group(0) @binding(3) var<storage, read> input_b: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read> time: array<f32>;

const THREADS = 64u;
const PIXELS = IN_H * IN_W;
const CHANNELS = GROUPS * SIZE;
var<workgroup> partial: array<f32, THREADS>;

fn load(b: u32, pixel: u32, c: u32) -> f32 {
    if (c < A_REAL) {
        return input_a[(b * PIXELS + pixel) * A_PITCH + c];
    }
    return input_b[(b * PIXELS + pixel) * B_PITCH + c - A_REAL];
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
    let first = group.x * SIZE;
    let b = group.y;
    const COUNT = PIXELS * SIZE;

    var sum = 0.0;
    for (var i = thread; i < COUNT; i += THREADS) {
        sum += load(b, i / SIZE, first + i % SIZE);
    }
    let mean = total(thread, sum) / f32(COUNT);
    var squares = 0.0;
    for (var i = thread; i < COUNT; i += THREADS) {
        let d = load(b, i / SIZE, first + i % SIZE) - mean;
        squares += d * d;
    }
    let inverse_deviation = inverseSqrt(total(thread, squares) / f32(COUNT) + EPS);

    const OUT_W = select(select(IN_W, IN_W * 2u, RESAMPLE == 2u), IN_W / 2u, RESAMPLE == 3u);
    const OUT_H = select(select(IN_H, IN_H * 2u, RESAMPLE == 2u), IN_H / 2u, RESAMPLE == 3u);
    for (var i = thread; i < OUT_H * OUT_W * SIZE; i += THREADS) {
        let c = first + i % SIZE;
        let pixel = i / SIZE;
        var scale = weight[c] * inverse_deviation;
        var shift = bias[c] - mean * scale;
        if (SCALE_SHIFT) {
            let row = (b * params.time_pitch + params.time_offset) * 4u + c;
            let factor = 1.0 + time[row];
            scale *= factor;
            shift = shift * factor + time[row + CHANNELS];
        }
        let y = pixel / OUT_W;
        let x = pixel % OUT_W;
        var v: f32;
        if (RESAMPLE == 2u) {
            v = finish(load(b, y / 2u * IN_W + x / 2u, c), scale, shift);
        } else if (RESAMPLE == 3u) {
            let p = y * 2u * IN_W + x * 2u;
            v = 0.25 * (finish(load(b, p, c), scale, shift) + finish(load(b, p + 1u, c), scale, shift)
                + finish(load(b, p + IN_W, c), scale, shift) + finish(load(b, p + IN_W + 1u, c), scale, shift));
        } else {
            v = finish(load(b, pixel, c), scale, shift);
        }
        output[(b * OUT_H * OUT_W + pixel) * OUT_PITCH + c] = v;
    }
    // The padding must be finite, whatever the buffer held before.
    if (group.x == GROUPS - 1u && OUT_PITCH != CHANNELS) {
        for (var pixel = thread; pixel < OUT_H * OUT_W; pixel += THREADS) {
            for (var c = CHANNELS; c < OUT_PITCH; c++) {
                output[(b * OUT_H * OUT_W + pixel) * OUT_PITCH + c] = 0.0;
            }
        }
    }
}
