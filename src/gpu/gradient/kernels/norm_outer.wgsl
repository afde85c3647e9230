// Shared by the kernels of a norm's gradient: the gradient in z, before SiLU and resampling, see norm_sums.wgsl.

// The gradient of SiLU at z.
fn slope(z: f32) -> f32 {
    if (SILU) {
        let s = 1.0 / (1.0 + exp(-z));
        return s * (1.0 + z * (1.0 - s));
    }
    return 1.0;
}

// The result's gradient brought to the size of the input.
fn outer_at(b: u32, pixel: u32, c: u32) -> f32 {
    let y = pixel / params.in_w;
    let x = pixel % params.in_w;
    if (RESAMPLE == 2u) {
        let width = 2u * params.in_w;
        let at = (b * 4u * params.in_h * params.in_w + 2u * y * width + 2u * x) * params.out_pitch + c;
        let below = at + width * params.out_pitch;
        return (outer[at] + outer[at + params.out_pitch]) + (outer[below] + outer[below + params.out_pitch]);
    }
    if (RESAMPLE == 3u) {
        let height = params.in_h / 2u;
        let width = params.in_w / 2u;
        return 0.25 * outer[((b * height + y / 2u) * width + x / 2u) * params.out_pitch + c];
    }
    return outer[(b * params.in_h * params.in_w + pixel) * params.out_pitch + c];
}
