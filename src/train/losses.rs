//! The losses of EDM (Karras et al. 2022), CD and CT (Song et al. 2023) and ECT (Geng et al. 2024).
//!
//! A denoiser D or consistency function f is a closure (x, σ) ↦ image; σ holds one noise level per sample. Images are
//! (B, C, H, W). All losses are means over the batch, of shape (1).

use burn::tensor::{Device, Tensor, TensorData};

/// A distance between images, one value per sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Metric {
    /// ‖a − b‖₂²/(C·H·W). The papers leave the constant out, their code divides by it. It matters to RAdam's first
    /// steps, which are not adaptive and diverge with sums over pixels.
    SquaredL2,
    /// ‖a − b‖₂ (Geng et al. 2024).
    L2,
}

impl Metric {
    /// d(a, b), (B).
    fn distance(self, a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
        let [batch, channels, height, width] = a.dims();
        let pixels = (channels * height * width) as f64;
        let squares = (a - b).powi_scalar(2).reshape([batch as i32, -1]).sum_dim(1).reshape([batch]); // (B)
        match self {
            Self::SquaredL2 => squares / pixels,
            // The root has no derivative at a = b.
            Self::L2 => (squares + 1e-12).sqrt(),
        }
    }
}

/// One number per sample as (B, 1, 1, 1), which broadcasts over channels and pixels.
pub fn column(values: &[f64], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let batch = values.len();
    Tensor::from_data(TensorData::new(values, [batch, 1, 1, 1]), device)
}

/// x = y + σ·z.
pub fn perturb(y: &Tensor<4>, z: &Tensor<4>, sigma: &[f64]) -> Tensor<4> {
    y.clone() + z.clone() * column(sigma, &y.device())
}

/// `output` (B, C, H, W) clamped from below to −1 where `target` ≤ −1, and from above to 1 where `target` ≥ 1.
///
/// The sampler clamps images to ±1, so an output beyond ±1 is no error where the target is black or white. Where the
/// target lies between, an output beyond ±1 has the loss of its distance. The sum of squares over targets is still
/// convex, with its minimum at the targets' mean.
fn clamp_at_ends(output: Tensor<4>, target: &Tensor<4>) -> Tensor<4> {
    let black = target.clone().lower_equal_elem(-1.0);
    let white = target.clone().greater_equal_elem(1.0);
    let output = output.clone().mask_where(black, output.clamp_min(-1.0));
    output.clone().mask_where(white, output.clamp_max(1.0))
}

/// With `clip`, the target clamped to ±1 and `output` [clamped at the ends](clamp_at_ends); else both as they are.
fn clipped(output: Tensor<4>, target: Tensor<4>, clip: bool) -> (Tensor<4>, Tensor<4>) {
    if !clip {
        return (output, target);
    }
    let target = target.clamp(-1.0, 1.0);
    (clamp_at_ends(output, &target), target)
}

/// EDM pretraining, Karras et al. 2022, equations 2 and 8: λ(σ)·‖D(y + σz, σ) − y‖₂²/(C·H·W),
/// λ = (σ² + σ_d²)/(σ·σ_d)².
///
/// With `clip`, for images y in [−1, 1], D is clamped to ±1 where y is ±1.
pub fn edm_loss(
    denoiser: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    y: &Tensor<4>,
    z: &Tensor<4>,
    sigma: &[f64],
    sigma_data: f64,
    clip: bool,
) -> Tensor<1> {
    let mut denoised = denoiser(&perturb(y, z, sigma), sigma);
    if clip {
        denoised = clamp_at_ends(denoised, y);
    }
    let weights: Vec<f64> =
        sigma.iter().map(|s| (s * s + sigma_data * sigma_data) / (s * sigma_data).powi(2)).collect();
    weighted_mean(Metric::SquaredL2.distance(denoised, y.clone()), &weights)
}

/// The distance of pictures that [`crate::train::objective::Recipe::Trajectories`] learns by, mean over the batch: the
/// Charbonnier distance of their pixels, of their means over 4×4, and of the differences of neighbouring pixels.
///
/// It grows linearly beyond [`WIDTH`], so that its minimum over several targets is near their median, one of their colours, where a
/// square's is the mean of all. The differences weigh what a flat picture lacks: grain. With `clip`, `target` is clamped to ±1, and
/// `output` where the target is ±1.
pub fn picture_loss(output: Tensor<4>, target: Tensor<4>, clip: bool) -> Tensor<1> {
    let (output, goal) = clipped(output, target.without_autodiff(), clip);
    let difference = output - goal;
    let [batch, channels, height, width] = difference.dims();
    let steps = |dim: usize, size: usize| {
        (size > 1).then(|| difference.clone().narrow(dim, 1, size - 1) - difference.clone().narrow(dim, 0, size - 1))
    };
    let coarse = (height >= 4 && width >= 4).then(|| {
        let (rows, columns) = (height / 4, width / 4);
        let whole = difference.clone().narrow(2, 0, rows * 4).narrow(3, 0, columns * 4);
        let blocks = whole.reshape([batch * channels * rows, 4, columns, 4]);
        blocks.mean_dim(3).mean_dim(1)
    });
    let parts = [Some(difference.clone()), coarse, steps(2, height), steps(3, width)];
    parts.into_iter().flatten().map(charbonnier).reduce(|sum, part| sum + part).expect("the pixels")
}

/// Where the Charbonnier distance goes from square to linear; 2.5 of 255 in pictures from −1 to 1.
const WIDTH: f64 = 0.02;

/// mean(√(d² + w²) − w), (1).
fn charbonnier(difference: Tensor<4>) -> Tensor<1> {
    ((difference.powi_scalar(2) + WIDTH * WIDTH).sqrt() - WIDTH).mean()
}

/// Two points of one trajectory.
pub struct Pair<'a> {
    /// The noisier point (B, C, H, W).
    pub x_t: &'a Tensor<4>,
    /// Its noise levels.
    pub t: &'a [f64],
    /// The point nearer to the data (B, C, H, W).
    pub x_r: &'a Tensor<4>,
    /// Its noise levels; 0 is the data itself.
    pub r: &'a [f64],
}

/// The consistency loss: λ·d(f(x_t, t), f⁻(x_r, r)) (Song et al. 2023, equation 7; 9 for CT), where f⁻ gives no
/// gradient and is the identity at r = 0.
///
/// `weights` is λ, one per sample; `target` f⁻ is not called when every r is 0. With `clip`, f⁻ is clamped to ±1, and f
/// where f⁻ is ±1.
pub fn consistency_loss(
    online: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    target: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    pair: &Pair<'_>,
    weights: &[f64],
    metric: Metric,
    clip: bool,
) -> Tensor<1> {
    // ANCHOR: consistency-loss
    let device = pair.x_r.device();
    let mut goal = pair.x_r.clone();
    if pair.r.iter().any(|&r| r > 0.0) {
        // The network is not trained at σ = 0: samples with r = 0 are evaluated at t, and their output is masked.
        let sigma: Vec<f64> = pair.r.iter().zip(pair.t).map(|(&r, &t)| if r > 0.0 { r } else { t }).collect();
        let is_data: Vec<f64> = pair.r.iter().map(|&r| if r > 0.0 { 0.0 } else { 1.0 }).collect();
        let mask = column(&is_data, &device);
        goal = target(pair.x_r, &sigma) * (-mask.clone() + 1.0) + goal * mask;
    }
    let (output, goal) = clipped(online(pair.x_t, pair.t), goal.without_autodiff(), clip);
    weighted_mean(metric.distance(output, goal), weights)
    // ANCHOR_END: consistency-loss
}

/// mean(λ·d), (1).
fn weighted_mean(distances: Tensor<1>, weights: &[f64]) -> Tensor<1> {
    let weights: Vec<f32> = weights.iter().map(|&w| w as f32).collect();
    let count = weights.len();
    let weights = Tensor::from_data(TensorData::new(weights, [count]), &distances.device());
    (distances * weights).mean()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::consistency::rng::Generator;

    pub fn images(seed: u64, batch: usize) -> Tensor<4> {
        let mut values = vec![0.0; batch * 16];
        Generator::new(seed).randn(&mut values);
        Tensor::from_data(TensorData::new(values, [batch, 1, 4, 4]), &Device::flex())
    }

    fn value(t: Tensor<1>) -> f32 {
        t.into_scalar()
    }

    pub fn largest(t: Tensor<4>) -> f32 {
        t.abs().max().into_scalar()
    }

    /// The denoiser and the consistency function of data that is one point y.
    pub fn point_mass(y: &Tensor<4>) -> impl Fn(&Tensor<4>, &[f64]) -> Tensor<4> {
        move |_: &Tensor<4>, _: &[f64]| y.clone()
    }

    #[test]
    fn at_r_0_the_target_is_the_data() {
        let (y, z) = (images(1, 3), images(2, 3));
        let (t, r) = ([0.5, 2.0, 80.0], [0.0, 0.0, 1.0]);
        let (x_t, x_r) = (perturb(&y, &z, &t), perturb(&y, &z, &r));
        let pair = Pair { x_t: &x_t, t: &t, x_r: &x_r, r: &r };
        // A target network whose output is 7 everywhere: where r = 0 it must not enter the loss.
        let sevens = |x: &Tensor<4>, _: &[f64]| x.clone().zeros_like() + 7.0;
        let loss = |weights: [f64; 3]| {
            value(consistency_loss(point_mass(&y), sevens, &pair, &weights, Metric::SquaredL2, false))
        };
        assert_eq!(loss([1.0, 1.0, 0.0]), 0.0);
        let expected: f32 = (y.clone().narrow(0, 2, 1) - 7.0).powi_scalar(2).mean().into_scalar();
        let found = loss([0.0, 0.0, 3.0]);
        assert!((found / expected - 1.0).abs() < 1e-5, "found {found}, expected {expected}");
    }

    #[test]
    fn the_target_gives_no_gradient() {
        let (y, z) = (images(1, 2), images(2, 2));
        let (t, r) = ([2.0, 3.0], [1.0, 1.0]);
        let (x_t, x_r) = (perturb(&y, &z, &t), perturb(&y, &z, &r));
        let a = Tensor::<1>::from_floats([0.3], &Device::flex()).autodiff().require_grad();
        let f = |x: &Tensor<4>, _: &[f64]| x.clone() * a.clone().reshape([1, 1, 1, 1]);
        let pair = Pair { x_t: &x_t, t: &t, x_r: &x_r, r: &r };
        let loss = consistency_loss(f, f, &pair, &[1.0, 1.0], Metric::SquaredL2, false);
        let found: f32 = a.grad(&loss.backward()).unwrap().into_scalar();
        // d/da of the mean of (a·x_t − c)² with c = 0.3·x_r held: mean 2·x_t·(a·x_t − c).
        let expected: f32 = (x_t.clone() * (x_t.clone() - x_r.clone()) * 0.3 * 2.0).mean().into_scalar();
        assert!((found / expected - 1.0).abs() < 1e-5, "found {found}, expected {expected}");
    }

    #[test]
    fn outputs_beyond_1_have_no_loss_where_the_target_is_black_or_white() {
        let device = Device::flex();
        let row = |values: [f32; 6]| Tensor::<1>::from_floats(values, &device).reshape([1, 1, 1, 6]);
        let output = row([-1.7, -0.9, -1.7, 1.2, 0.9, 1.2]);
        let goal = row([-1.0, -1.0, -0.9, 1.0, 1.0, 0.9]);
        // Beyond black and white the difference is 0; from within, and beyond grey, it is kept.
        let left = row([0.0, 0.1, -0.8, 0.0, -0.1, 0.3]);
        assert!(largest(clamp_at_ends(output.clone(), &goal) - goal.clone() - left) < 1e-6);

        let squares: f32 = (0.01 + 0.64 + 0.01 + 0.09) / 6.0;
        let denoiser = |_: &Tensor<4>, _: &[f64]| output.clone();
        let loss = value(edm_loss(denoiser, &goal, &goal.clone(), &[1.0], 1.0, true));
        assert!((loss - 2.0 * squares).abs() < 1e-5, "λ(1) = 2 with σ_d = 1: found {loss}, expected {}", 2.0 * squares);

        // A target beyond ±1 is clamped to ±1.
        let far = row([-1.7, -1.7, -0.9, 1.2, 1.2, 0.9]);
        let target = |_: &Tensor<4>, _: &[f64]| far.clone();
        let pair = Pair { x_t: &output, t: &[2.0], x_r: &output, r: &[1.0] };
        let loss = value(consistency_loss(denoiser, target, &pair, &[1.0], Metric::SquaredL2, true));
        assert!((loss - squares).abs() < 1e-6, "found {loss}, expected {squares}");
    }

    #[test]
    fn the_losses_vanish_at_the_solution() {
        let (y, z) = (images(1, 3), images(2, 3));
        let sigma = [0.1, 1.0, 10.0];
        assert_eq!(value(edm_loss(point_mass(&y), &y, &z, &sigma, 0.5, false)), 0.0);
        // λ(σ)·‖0 − y‖²/16 of the denoiser whose output is 0.
        let zero = |x: &Tensor<4>, _: &[f64]| x.clone().zeros_like();
        let one = |s: f64, i: usize| {
            let norm: f32 = y.clone().narrow(0, i, 1).powi_scalar(2).mean().into_scalar();
            (s * s + 0.25) / (0.5 * s).powi(2) * f64::from(norm)
        };
        let expected = sigma.iter().enumerate().map(|(i, &s)| one(s, i)).sum::<f64>() / 3.0;
        let found = f64::from(value(edm_loss(zero, &y, &z, &sigma, 0.5, false)));
        assert!((found / expected - 1.0).abs() < 1e-5, "found {found}, expected {expected}");
    }

    #[test]
    fn the_picture_loss_knows_pixels_colours_and_grain() {
        let zero = Tensor::<4>::zeros([2, 3, 8, 8], &Device::flex());
        let of = |output: Tensor<4>| value(picture_loss(output, zero.clone(), false));
        assert_eq!(of(zero.clone()), 0.0);
        // A colour that is off by 0.5 everywhere: pixels and means, no differences.
        let root = |d: f64| ((d * d + WIDTH * WIDTH).sqrt() - WIDTH) as f32;
        assert!((of(zero.clone() + 0.5) - 2.0 * root(0.5)).abs() < 1e-5);
        // Grain that alternates: pixels and twice the differences, no means.
        let sign = |i: usize| if (i / 8 + i % 8).is_multiple_of(2) { 0.5f32 } else { -0.5 };
        let grain: Vec<f32> = (0..2 * 3 * 64).map(sign).collect();
        let grain = Tensor::from_data(TensorData::new(grain, [2, 3, 8, 8]), &Device::flex());
        assert!((of(grain) - root(0.5) - 2.0 * root(1.0)).abs() < 1e-5);
        // Sides that 4 does not divide, and sides of 1.
        for side in [1, 3, 7] {
            let zero = Tensor::<4>::zeros([1, 1, side, side], &Device::flex());
            assert!(value(picture_loss(zero.clone() + 0.5, zero, false)) > 0.4, "{side}");
        }
        // Beyond white, where white is asked for, nothing is lost.
        let white = zero.clone() + 1.0;
        assert_eq!(value(picture_loss(white.clone() + 0.7, white, true)), 0.0);
    }

    #[test]
    fn l2_is_the_norm_of_the_difference() {
        let zero = images(1, 1).zeros_like();
        let distance = value(Metric::L2.distance(zero.clone() + 1.0, zero)); // ‖1‖ over 4×4 pixels
        assert!((distance - 4.0).abs() < 1e-6);
    }
}
