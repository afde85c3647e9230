//! The losses of EDM (Karras et al. 2022), CD and CT (Song et al. 2023) and ECT (Geng et al. 2024), each with its gradient
//! in the network's output.
//!
//! A denoiser D or consistency function f is a closure (x, σ) ↦ image; σ holds one noise level per sample. All losses are
//! means over the batch.

use crate::error::Result;
use crate::train::images::{Images, weighted_sum};

/// A loss and its gradient in the output of the denoiser or consistency function.
#[derive(Debug, Clone)]
pub struct Loss {
    /// The mean over the batch.
    pub value: f32,
    /// ∂value/∂output, (B, C, H, W).
    pub gradient: Images,
}

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
    /// mean(λ·d(output, target)) with one λ per sample, for the `difference` of output and target.
    fn loss(self, difference: Images, weights: &[f64]) -> Loss {
        let (len, batch) = (difference.sample_len(), weights.len() as f64);
        let mut gradient = difference;
        let mut sum = 0.0;
        for (sample, weight) in gradient.values.chunks_exact_mut(len).zip(weights) {
            let squares: f64 = sample.iter().map(|v| f64::from(v * v)).sum();
            let (distance, slope) = match self {
                Self::SquaredL2 => (squares / len as f64, 2.0 / len as f64),
                // The root has no derivative at 0.
                Self::L2 => ((squares + 1e-12).sqrt(), 1.0 / (squares + 1e-12).sqrt()),
            };
            sum += weight * distance;
            let factor = (weight * slope / batch) as f32;
            sample.iter_mut().for_each(|v| *v *= factor);
        }
        Loss { value: (sum / batch) as f32, gradient }
    }
}

/// x = y + σ·z.
pub fn perturb(y: &Images, z: &Images, sigma: &[f64]) -> Images {
    weighted_sum([(y, &vec![1.0; sigma.len()]), (z, sigma)])
}

/// Whether `output` has no loss for being beyond ±1: it is below −1 where `target` is black, or above 1 where it is white.
///
/// The sampler clamps images to ±1, so such an output is no error. Where the target lies between, an output beyond ±1 has
/// the loss of its distance. The sum of squares over targets is still convex, with its minimum at the targets' mean.
fn is_beyond(output: f32, target: f32) -> bool {
    target <= -1.0 && output < -1.0 || target >= 1.0 && output > 1.0
}

/// `output` − `target`; with `clip`, `target` is clamped to ±1, and the difference is 0 where `output` [is
/// beyond](is_beyond).
fn difference(output: &Images, target: &Images, clip: bool) -> Images {
    assert_eq!(output.shape, target.shape, "images of one shape");
    let of = |(&output, &target): (&f32, &f32)| match clip {
        true if is_beyond(output, target) => 0.0,
        true => output - target.clamp(-1.0, 1.0),
        false => output - target,
    };
    Images::new(output.shape, output.values.iter().zip(&target.values).map(of).collect())
}

/// EDM pretraining, Karras et al. 2022, equations 2 and 8: λ(σ)·‖D(y + σz, σ) − y‖₂²/(C·H·W),
/// λ = (σ² + σ_d²)/(σ·σ_d)², for `denoised` = D(y + σz, σ).
///
/// With `clip`, for images y in [−1, 1], D is clamped to ±1 where y is ±1.
pub fn edm_loss(denoised: &Images, y: &Images, sigma: &[f64], sigma_data: f64, clip: bool) -> Loss {
    let weights: Vec<f64> =
        sigma.iter().map(|s| (s * s + sigma_data * sigma_data) / (s * sigma_data).powi(2)).collect();
    Metric::SquaredL2.loss(difference(denoised, y, clip), &weights)
}

/// The distance of pictures that [`crate::train::objective::Recipe::Trajectories`] learns by, mean over the batch: the
/// Charbonnier distance of their pixels, of their means over 4×4, and of the differences of neighbouring pixels.
///
/// It grows linearly beyond [`WIDTH`], so that its minimum over several targets is near their median, one of their colours, where a
/// square's is the mean of all. The differences weigh what a flat picture lacks: grain. With `clip`, `target` is clamped to ±1, and
/// `output` where the target is ±1.
pub fn picture_loss(output: &Images, target: &Images, clip: bool) -> Loss {
    let difference = difference(output, target, clip);
    let [batch, channels, height, width] = difference.shape;
    let planes = batch * channels;
    let mut gradient = Images::filled(difference.shape, 0.0);
    let (rows, columns) = (height / 4, width / 4);
    let pixels = Charbonnier::mean_of(planes * height * width);
    let coarse = Charbonnier::mean_of(planes * rows * columns);
    let down = Charbonnier::mean_of(planes * (height - 1) * width);
    let right = Charbonnier::mean_of(planes * height * (width - 1));
    let mut value = 0.0;
    let all = difference.values.chunks_exact(height * width).zip(gradient.values.chunks_exact_mut(height * width));
    for (d, g) in all {
        for (d, g) in d.iter().zip(&mut *g) {
            *g += pixels.add(*d, &mut value);
        }
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            let lines = (0..4).map(|y| (4 * row + y) * width + 4 * column);
            let mean = lines.clone().map(|at| d[at..at + 4].iter().sum::<f32>()).sum::<f32>() / 16.0;
            let slope = coarse.add(mean, &mut value) / 16.0;
            lines.for_each(|at| g[at..at + 4].iter_mut().for_each(|g| *g += slope));
        }
        for at in 0..(height - 1) * width {
            let slope = down.add(d[at + width] - d[at], &mut value);
            g[at + width] += slope;
            g[at] -= slope;
        }
        for line in 0..height {
            for at in line * width..(line + 1) * width - 1 {
                let slope = right.add(d[at + 1] - d[at], &mut value);
                g[at + 1] += slope;
                g[at] -= slope;
            }
        }
    }
    if clip {
        for ((g, &output), &target) in gradient.values.iter_mut().zip(&output.values).zip(&target.values) {
            if is_beyond(output, target) {
                *g = 0.0;
            }
        }
    }
    Loss { value: value as f32, gradient }
}

/// Where the Charbonnier distance goes from square to linear; 2.5 of 255 in pictures from −1 to 1.
const WIDTH: f32 = 0.02;

/// √(d² + w²) − w, summed with a weight.
struct Charbonnier {
    weight: f64,
}

impl Charbonnier {
    fn mean_of(count: usize) -> Self {
        Self { weight: 1.0 / count as f64 }
    }

    /// Adds the distance at `d` to `sum`; returns its derivative.
    fn add(&self, d: f32, sum: &mut f64) -> f32 {
        let root = (d * d + WIDTH * WIDTH).sqrt();
        *sum += self.weight * f64::from(root - WIDTH);
        self.weight as f32 * d / root
    }
}

/// Two points of one trajectory.
pub struct Pair<'a> {
    /// The noisier point (B, C, H, W).
    pub x_t: &'a Images,
    /// Its noise levels.
    pub t: &'a [f64],
    /// The point nearer to the data (B, C, H, W).
    pub x_r: &'a Images,
    /// Its noise levels; 0 is the data itself.
    pub r: &'a [f64],
}

/// The consistency loss: λ·d(f(x_t, t), f⁻(x_r, r)) (Song et al. 2023, equation 7; 9 for CT), where f⁻ gives no
/// gradient and is the identity at r = 0.
///
/// `weights` is λ, one per sample; `target` f⁻ is not called when every r is 0. With `clip`, f⁻ is clamped to ±1, and f
/// where f⁻ is ±1.
///
/// # Errors
/// Those of the two networks.
pub async fn consistency_loss(
    online: impl AsyncFnOnce(&Images, &[f64]) -> Result<Images>,
    target: impl AsyncFnOnce(&Images, &[f64]) -> Result<Images>,
    pair: &Pair<'_>,
    weights: &[f64],
    metric: Metric,
    clip: bool,
) -> Result<Loss> {
    // ANCHOR: consistency-loss
    let mut goal = pair.x_r.clone();
    if pair.r.iter().any(|&r| r > 0.0) {
        // The network is not trained at σ = 0: samples with r = 0 are evaluated at t, and their output is masked.
        let sigma: Vec<f64> = pair.r.iter().zip(pair.t).map(|(&r, &t)| if r > 0.0 { r } else { t }).collect();
        let is_data: Vec<f64> = pair.r.iter().map(|&r| if r > 0.0 { 0.0 } else { 1.0 }).collect();
        let is_output: Vec<f64> = is_data.iter().map(|mask| 1.0 - mask).collect();
        goal = weighted_sum([(&target(pair.x_r, &sigma).await?, &is_output), (&goal, &is_data)]);
    }
    let output = online(pair.x_t, pair.t).await?;
    Ok(metric.loss(difference(&output, &goal, clip), weights))
    // ANCHOR_END: consistency-loss
}

#[cfg(test)]
pub(super) mod tests {
    use pollster::block_on;

    use super::*;
    use crate::train::images::tests::images;

    /// The denoiser and the consistency function of data that is one point y.
    pub fn point_mass(y: &Images) -> impl AsyncFn(&Images, &[f64]) -> Result<Images> {
        async move |_: &Images, _: &[f64]| Ok(y.clone())
    }

    /// Checks a loss's gradient against finite differences at every element.
    fn assert_gradient_is_the_slope(what: &str, output: &Images, loss: impl Fn(&Images) -> Loss) {
        let gradient = loss(output).gradient;
        let largest = gradient.values.iter().fold(0.0f32, |m, g| m.max(g.abs()));
        assert!(largest > 0.0, "{what}");
        let step = 1e-2;
        for i in 0..output.values.len() {
            let at = |by: f32| {
                let mut moved = output.clone();
                moved.values[i] += by;
                loss(&moved).value
            };
            // Of fourth order.
            let slope = (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * step);
            let error = (slope - gradient.values[i]).abs();
            let found = gradient.values[i];
            assert!(error < 0.01 * largest, "{what}: element {i} has the gradient {found}, the slope is {slope}");
        }
    }

    #[test]
    fn gradients_are_the_slopes_of_the_losses() {
        let shape = [2, 2, 5, 6];
        let random = |seed, scale: f32| {
            let mut generator = crate::consistency::rng::Generator::new(seed);
            Images::normal(shape, &mut generator).map(|v| scale * v)
        };
        // Differences between elements and targets of this size leave each root smooth over the steps.
        let (output, target) = (random(1, 1.0), random(2, 0.5));
        for metric in [Metric::SquaredL2, Metric::L2] {
            let loss = |output: &Images| metric.loss(difference(output, &target, false), &[0.5, 2.0]);
            assert_gradient_is_the_slope(&format!("{metric:?}"), &output, loss);
        }
        let loss = |output: &Images| edm_loss(output, &target, &[0.3, 2.0], 0.5, false);
        assert_gradient_is_the_slope("EDM", &output, loss);
    }

    #[test]
    fn the_gradient_of_the_picture_loss_is_its_slope() {
        // 6 columns leave two beyond the blocks of 4. The target is white in one corner, where the output is beyond it.
        let shape = [1, 2, 5, 6];
        let normal = Images::normal(shape, &mut crate::consistency::rng::Generator::new(3));
        let output = normal.map(|v| if v > 0.9 { 0.3 } else { v });
        let mut target = Images::filled(shape, -0.2);
        let mut output = output;
        (target.values[0], output.values[0]) = (1.0, 1.4);
        (target.values[40], output.values[40]) = (-1.0, -1.3);
        let gradient = picture_loss(&output, &target, true).gradient;
        assert_eq!((gradient.values[0], gradient.values[40]), (0.0, 0.0), "beyond white and black");
        // The roots bend within w of 0, so the step is small, and sums are compared in f64-like steps of all elements.
        let direction = Images::normal(shape, &mut crate::consistency::rng::Generator::new(4));
        let at = |by: f64| {
            let ones = [1.0];
            f64::from(picture_loss(&weighted_sum([(&output, &ones), (&direction, &[by])]), &target, true).value)
        };
        let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
        let expected: f64 = gradient.values.iter().zip(&direction.values).map(|(g, d)| f64::from(g * d)).sum();
        assert!((slope / expected - 1.0).abs() < 0.01, "slope {slope}, expected {expected}");
    }

    #[test]
    fn at_r_0_the_target_is_the_data() {
        let (y, z) = (images(1, 3), images(2, 3));
        let (t, r) = ([0.5, 2.0, 80.0], [0.0, 0.0, 1.0]);
        let (x_t, x_r) = (perturb(&y, &z, &t), perturb(&y, &z, &r));
        let pair = Pair { x_t: &x_t, t: &t, x_r: &x_r, r: &r };
        // A target network whose output is 7 everywhere: where r = 0 it must not enter the loss.
        let sevens = async |x: &Images, _: &[f64]| Ok(Images::filled(x.shape, 7.0));
        let loss = |weights: [f64; 3]| {
            block_on(consistency_loss(point_mass(&y), sevens, &pair, &weights, Metric::SquaredL2, false)).unwrap().value
        };
        assert_eq!(loss([1.0, 1.0, 0.0]), 0.0);
        let expected: f32 = y.part(2..3).values.iter().map(|y| (y - 7.0).powi(2)).sum::<f32>() / 16.0;
        let found = loss([0.0, 0.0, 3.0]);
        assert!((found / expected - 1.0).abs() < 1e-5, "found {found}, expected {expected}");
    }

    #[test]
    fn outputs_beyond_1_have_no_loss_where_the_target_is_black_or_white() {
        let row = |values: [f32; 6]| Images::new([1, 1, 1, 6], values.to_vec());
        let output = row([-1.7, -0.9, -1.7, 1.2, 0.9, 1.2]);
        let goal = row([-1.0, -1.0, -0.9, 1.0, 1.0, 0.9]);
        // Beyond black and white the difference is 0; from within, and beyond grey, it is kept.
        let left = [0.0, 0.1, -0.8, 0.0, -0.1, 0.3];
        for (found, expected) in difference(&output, &goal, true).values.iter().zip(left) {
            assert!((found - expected).abs() < 1e-6, "found {found}, expected {expected}");
        }
        let squares: f32 = (0.01 + 0.64 + 0.01 + 0.09) / 6.0;
        let loss = edm_loss(&output, &goal, &[1.0], 1.0, true).value;
        assert!((loss - 2.0 * squares).abs() < 1e-5, "λ(1) = 2 with σ_d = 1: found {loss}, expected {}", 2.0 * squares);

        // A target beyond ±1 is clamped to ±1.
        let far = row([-1.7, -1.7, -0.9, 1.2, 1.2, 0.9]);
        let pair = Pair { x_t: &output, t: &[2.0], x_r: &output, r: &[1.0] };
        let loss =
            block_on(consistency_loss(point_mass(&output), point_mass(&far), &pair, &[1.0], Metric::SquaredL2, true))
                .unwrap();
        assert!((loss.value - squares).abs() < 1e-6, "found {}, expected {squares}", loss.value);
        assert_eq!((loss.gradient.values[0], loss.gradient.values[3]), (0.0, 0.0));
    }

    #[test]
    fn the_losses_vanish_at_the_solution() {
        let y = images(1, 3);
        let sigma = [0.1, 1.0, 10.0];
        assert_eq!(edm_loss(&y, &y, &sigma, 0.5, false).value, 0.0);
        // λ(σ)·‖0 − y‖²/16 of the denoiser whose output is 0.
        let one = |s: f64, y: &[f32]| {
            let norm: f32 = y.iter().map(|y| y * y).sum::<f32>() / 16.0;
            (s * s + 0.25) / (0.5 * s).powi(2) * f64::from(norm)
        };
        let expected = sigma.iter().zip(y.samples()).map(|(&s, y)| one(s, y)).sum::<f64>() / 3.0;
        let found = f64::from(edm_loss(&Images::filled(y.shape, 0.0), &y, &sigma, 0.5, false).value);
        assert!((found / expected - 1.0).abs() < 1e-5, "found {found}, expected {expected}");
    }

    #[test]
    fn the_picture_loss_knows_pixels_colours_and_grain() {
        let shape = [2, 3, 8, 8];
        let zero = Images::filled(shape, 0.0);
        let of = |output: &Images| picture_loss(output, &zero, false).value;
        assert_eq!(of(&zero), 0.0);
        // A colour that is off by 0.5 everywhere: pixels and means, no differences.
        let root = |d: f32| (d * d + WIDTH * WIDTH).sqrt() - WIDTH;
        assert!((of(&Images::filled(shape, 0.5)) - 2.0 * root(0.5)).abs() < 1e-5);
        // Grain that alternates: pixels and twice the differences, no means.
        let sign = |i: usize| if (i / 8 + i % 8).is_multiple_of(2) { 0.5f32 } else { -0.5 };
        let grain = Images::new(shape, (0..2 * 3 * 64).map(sign).collect());
        assert!((of(&grain) - root(0.5) - 2.0 * root(1.0)).abs() < 1e-5);
        // Sides that 4 does not divide, and sides of 1.
        for side in [1, 3, 7] {
            let shape = [1, 1, side, side];
            let loss = picture_loss(&Images::filled(shape, 0.5), &Images::filled(shape, 0.0), false);
            assert!(loss.value > 0.4 && loss.value.is_finite(), "{side}");
            assert!(loss.gradient.values.iter().all(|g| g.is_finite() && *g > 0.0), "{side}");
        }
        // Beyond white, where white is asked for, nothing is lost.
        let loss = picture_loss(&Images::filled(shape, 1.7), &Images::filled(shape, 1.0), true);
        assert_eq!(loss.value, 0.0);
    }

    #[test]
    fn l2_is_the_norm_of_the_difference() {
        let distance = Metric::L2.loss(Images::filled([1, 1, 4, 4], 1.0), &[1.0]).value; // ‖1‖ over 4×4 pixels
        assert!((distance - 4.0).abs() < 1e-6);
    }
}
