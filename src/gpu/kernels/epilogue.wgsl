// What follows a product, before its one store: bias, time embedding, residual, SiLU.
//
// Shared by the product kernels, which have `weights_f32.wgsl` or one of its siblings besides: how weights are stored.
// What applies is told by parameters: a pipeline for each combination would have to be compiled, and the choice is made
// once for each output. The choices are loops of no or one round, because a software GPU runs through both sides of a
// branch but skips a loop.
//
// Parameters:
//   out_h, out_w     size of the output map
//   out_c            its channels, in vec4s
//   add_time         1 when the row `time` of the sample is added to every pixel
//   residual_reads   pixels of `residual` whose mean is added: none, 1, or 4 when it is read downsampled by 2
//   residual_up      1 when it is read upsampled by 2
//   silu             1 when x·sigmoid(x) ends it

@group(0) @binding(1) var<storage, read_write> output: array<vec4f>;
@group(0) @binding(2) var<storage, read> input_a: array<vec4f>;
@group(0) @binding(3) var<storage, read> input_b: array<vec4f>;
@group(0) @binding(5) var<storage, read> bias: array<vec4f>;
@group(0) @binding(6) var<storage, read> time: array<vec4f>;
@group(0) @binding(7) var<storage, read> residual: array<vec4f>;

// Stores `sum` as channels 4·c .. of pixel `pixel` = (b·out_h + y)·out_w + x.
fn store(b: u32, pixel: u32, c: u32, sum: vec4f) {
    if (c >= params.out_c) {
        return;
    }
    var v = scaled(sum, c) + bias[c];
    for (var n = 0u; n < params.add_time; n++) {
        v += time[b * params.time_pitch + params.time_offset + c];
    }
    let down = params.residual_reads >> 2u;
    let y = ((pixel / params.out_w - b * params.out_h) << down) >> params.residual_up;
    let x = ((pixel % params.out_w) << down) >> params.residual_up;
    let width = (params.out_w << down) >> params.residual_up;
    let height = (params.out_h << down) >> params.residual_up;
    for (var n = 0u; n < params.residual_reads; n++) {
        let at = (b * height + y + n / 2u) * width + x + n % 2u;
        v += residual[at * params.out_c + c] / f32(params.residual_reads);
    }
    for (var n = 0u; n < params.silu; n++) {
        v = v / (1.0 + exp(-v));
    }
    output[pixel * params.out_c + c] = v;
}
