//! The losses, over any consistency function or denoiser.
//!
//! Here `f` and `D` are closures (x, σ) ↦ image; σ holds one noise level per sample. Images are (B, C, H, W). All
//! losses are means over the batch, of shape (1).
//!
//! Sources: Karras et al. 2022 (EDM), Song et al. 2023 (CD, CT), Song & Dhariwal 2024 (Pseudo-Huber), Geng et al.
//! 2024 (ECT).

use burn::tensor::{Device, Tensor, TensorData};

/// A distance between images, one value per sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Metric {
    /// ‖a − b‖₂²/(C·H·W). The papers leave the constant out and their code has it; an adaptive optimizer does not see it,
    /// but for RAdam's first steps, which are not yet adaptive and diverge with sums over pixels.
    SquaredL2,
    /// √(‖a − b‖₂² + c²) − c; c = 0 is ‖a − b‖₂.
    PseudoHuber(f64),
}

impl Metric {
    /// d(a, b), (B).
    fn distance(self, a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
        let [batch, channels, height, width] = a.dims();
        let pixels = (channels * height * width) as f64;
        let squares = (a - b).powi_scalar(2).reshape([batch as i32, -1]).sum_dim(1).reshape([batch]); // (B)
        match self {
            Self::SquaredL2 => squares / pixels,
            // The root has no derivative at 0, which c = 0 would reach where both networks agree to the last bit.
            Self::PseudoHuber(c) => (squares + (c * c).max(1e-12)).sqrt() - c,
        }
    }
}

/// One number per sample, to be broadcast over the pixels: (B, 1, 1, 1).
pub fn column(values: &[f64], device: &Device) -> Tensor<4> {
    let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
    let batch = values.len();
    Tensor::from_data(TensorData::new(values, [batch, 1, 1, 1]), device)
}

/// x = y + σ·z.
pub fn perturb(y: &Tensor<4>, z: &Tensor<4>, sigma: &[f64]) -> Tensor<4> {
    y.clone() + z.clone() * column(sigma, &y.device())
}

/// `answer` as a picture shows it: beyond ±1 it counts as ±1 where `goal` is ±1.
///
/// Pictures end at ±1, and answers are clamped to it before they are seen or made noisy again. So the flat black of a
/// drawing is reached by any answer from −1 down, and a network need not learn to meet −1 on the dot. Where the goal is
/// between the ends, an answer beyond them is pulled back as any other. The sum over goals of the squares that remain
/// is convex and has its minimum at their mean, as without.
fn shown(answer: Tensor<4>, goal: &Tensor<4>) -> Tensor<4> {
    let black = goal.clone().lower_equal_elem(-1.0);
    let white = goal.clone().greater_equal_elem(1.0);
    let answer = answer.clone().mask_where(black, answer.clamp_min(-1.0));
    answer.clone().mask_where(white, answer.clamp_max(1.0))
}

/// EDM pretraining, Karras et al. 2022, equations 2 and 8: λ(σ)·‖D(y + σz, σ) − y‖₂²/(C·H·W),
/// λ = (σ² + σ_d²)/(σ·σ_d)².
///
/// With `clip`, for images y in [−1, 1], D counts as far as a picture shows it.
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
        denoised = shown(denoised, y);
    }
    let weights: Vec<f64> =
        sigma.iter().map(|s| (s * s + sigma_data * sigma_data) / (s * sigma_data).powi(2)).collect();
    weighted_mean(Metric::SquaredL2.distance(denoised, y.clone()), &weights)
}

/// One Heun step of the probability-flow ODE dx/dσ = (x − D(x, σ))/σ from t down to r > 0 (Song et al. 2023,
/// Algorithm 2, with the solver Φ of Karras et al. 2022, Algorithm 1).
pub fn heun_step(
    teacher: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    x_t: &Tensor<4>,
    t: &[f64],
    r: &[f64],
) -> Tensor<4> {
    let device = x_t.device();
    let slope = |x: &Tensor<4>, sigma: &[f64]| (x.clone() - teacher(x, sigma)) / column(sigma, &device);
    let step = column(&r.iter().zip(t).map(|(r, t)| r - t).collect::<Vec<_>>(), &device);
    let at_t = slope(x_t, t);
    let euler = x_t.clone() + at_t.clone() * step.clone();
    let at_r = slope(&euler, r);
    x_t.clone() + (at_t + at_r) * step * 0.5
}

/// One Euler step of that ODE from t down to r ≥ 0; at r = 0 it ends on the teacher's answer.
pub fn euler_step(
    teacher: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    x_t: &Tensor<4>,
    t: &[f64],
    r: &[f64],
) -> Tensor<4> {
    let kept = column(&r.iter().zip(t).map(|(r, t)| r / t).collect::<Vec<_>>(), &x_t.device());
    x_t.clone() * kept.clone() + teacher(x_t, t) * (-kept + 1.0)
}

/// Guidance away from a worse answer, one without a class (Ho & Salimans 2022) or a weaker model's (Karras et al. 2024),
/// at some noise levels (Kynkäänniemi et al. 2024).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// w; 1 is none.
    pub strength: f64,
    /// The lowest and the highest σ that are guided. Above, guidance costs variety; below, it changes little.
    pub interval: [f64; 2],
}

impl Guidance {
    /// None at all.
    pub const NONE: Self = Self { strength: 1.0, interval: [0.0, f64::INFINITY] };

    /// w at `sigma`.
    pub fn at(&self, sigma: f64) -> f64 {
        let [low, high] = self.interval;
        if (low..=high).contains(&sigma) { self.strength } else { 1.0 }
    }

    /// D + (w − 1)·(D − D₋) of an answer D and a worse one D₋, at one σ per sample.
    pub fn apply(&self, answer: Tensor<4>, worse: Tensor<4>, sigma: &[f64]) -> Tensor<4> {
        let more = column(&sigma.iter().map(|&s| self.at(s) - 1.0).collect::<Vec<_>>(), &answer.device());
        answer.clone() + (answer - worse) * more
    }
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
/// counts as far as a picture shows it.
pub fn consistency_loss(
    online: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    target: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    pair: &Pair<'_>,
    weights: &[f64],
    metric: Metric,
    clip: bool,
) -> Tensor<1> {
    let device = pair.x_r.device();
    let mut goal = pair.x_r.clone();
    if pair.r.iter().any(|&r| r > 0.0) {
        // The network is undefined at 0: those samples are computed at t and masked.
        let asked: Vec<f64> = pair.r.iter().zip(pair.t).map(|(&r, &t)| if r > 0.0 { r } else { t }).collect();
        let is_data: Vec<f64> = pair.r.iter().map(|&r| if r > 0.0 { 0.0 } else { 1.0 }).collect();
        let mask = column(&is_data, &device);
        goal = target(pair.x_r, &asked) * (-mask.clone() + 1.0) + goal * mask;
    }
    let mut goal = goal.without_autodiff();
    let mut answer = online(pair.x_t, pair.t);
    if clip {
        goal = goal.clamp(-1.0, 1.0);
        answer = shown(answer, &goal);
    }
    weighted_mean(metric.distance(answer, goal), weights)
}

/// The step mapping r(t) of Easy Consistency Tuning, Geng et al. 2024, with its sigmoid-adapted n(t).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gap {
    /// q: how much a stage narrows the gap.
    pub q: f64,
    /// s: the stage, from 0.
    pub stage: f64,
}

impl Gap {
    /// r = max(0, t·(1 − q^−(s+1)·(1 + 8·sigmoid(−t)))).
    pub fn r(self, t: f64) -> f64 {
        let n = 1.0 + 8.0 / (1.0 + t.exp());
        (t * (1.0 - self.q.powf(-(self.stage + 1.0)) * n)).max(0.0)
    }
}

/// N(k) and μ(k) of consistency training, Song et al. 2023, appendix C.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CtSchedule {
    /// s₀: the first number of discretisation steps.
    pub s0: f64,
    /// s₁: the last.
    pub s1: f64,
    /// μ₀: the target's decay at the beginning.
    pub mu0: f64,
}

impl CtSchedule {
    /// N(k) = ⌈√(k/K·((s₁+1)² − s₀²) + s₀²) − 1⌉ + 1, for `progress` k/K in [0, 1].
    pub fn levels(&self, progress: f64) -> usize {
        let (low, high) = (self.s0 * self.s0, (self.s1 + 1.0) * (self.s1 + 1.0));
        ((progress * (high - low) + low).sqrt() - 1.0).ceil() as usize + 1
    }

    /// μ(k) = exp(s₀·ln μ₀/N(k)).
    pub fn decay(&self, progress: f64) -> f64 {
        (self.s0 * self.mu0.ln() / self.levels(progress) as f64).exp()
    }
}

/// mean(λ·d), (1).
fn weighted_mean(distances: Tensor<1>, weights: &[f64]) -> Tensor<1> {
    let weights: Vec<f32> = weights.iter().map(|&w| w as f32).collect();
    let count = weights.len();
    let weights = Tensor::from_data(TensorData::new(weights, [count]), &distances.device());
    (distances * weights).mean()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consistency::rng::Generator;
    use crate::consistency::schedule::karras_sigma;
    use crate::model::config::SchedulerConfig;

    fn images(seed: u64, batch: usize) -> Tensor<4> {
        let mut values = vec![0.0; batch * 16];
        Generator::new(seed).randn(&mut values);
        Tensor::from_data(TensorData::new(values, [batch, 1, 4, 4]), &Device::flex())
    }

    fn value(t: Tensor<1>) -> f32 {
        t.into_scalar()
    }

    fn largest(t: Tensor<4>) -> f32 {
        t.abs().max().into_scalar()
    }

    /// The denoiser and the consistency function of data that is one point y.
    fn point_mass(y: &Tensor<4>) -> impl Fn(&Tensor<4>, &[f64]) -> Tensor<4> {
        move |_: &Tensor<4>, _: &[f64]| y.clone()
    }

    #[test]
    fn at_r_0_the_target_is_the_data() {
        let (y, z) = (images(1, 3), images(2, 3));
        let (t, r) = ([0.5, 2.0, 80.0], [0.0, 0.0, 1.0]);
        let (x_t, x_r) = (perturb(&y, &z, &t), perturb(&y, &z, &r));
        let pair = Pair { x_t: &x_t, t: &t, x_r: &x_r, r: &r };
        // A target that answers 7 everywhere: where r = 0 its answer must not be seen.
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
    fn beyond_the_ends_of_a_picture_there_is_nothing_to_see() {
        let device = Device::flex();
        let row = |values: [f32; 6]| Tensor::<1>::from_floats(values, &device).reshape([1, 1, 1, 6]);
        let answer = row([-1.7, -0.9, -1.7, 1.2, 0.9, 1.2]);
        let goal = row([-1.0, -1.0, -0.9, 1.0, 1.0, 0.9]);
        // Black and white are reached from beyond, not from within, and grey not from beyond.
        let left = row([0.0, 0.1, -0.8, 0.0, -0.1, 0.3]);
        assert!(largest(shown(answer.clone(), &goal) - goal.clone() - left) < 1e-6);

        let squares: f32 = (0.01 + 0.64 + 0.01 + 0.09) / 6.0;
        let denoiser = |_: &Tensor<4>, _: &[f64]| answer.clone();
        let loss = value(edm_loss(denoiser, &goal, &goal.clone(), &[1.0], 1.0, true));
        assert!((loss - 2.0 * squares).abs() < 1e-5, "λ(1) = 2 with σ_d = 1: found {loss}, expected {}", 2.0 * squares);

        // A target beyond the ends is a target at them.
        let far = row([-1.7, -1.7, -0.9, 1.2, 1.2, 0.9]);
        let target = |_: &Tensor<4>, _: &[f64]| far.clone();
        let pair = Pair { x_t: &answer, t: &[2.0], x_r: &answer, r: &[1.0] };
        let loss = value(consistency_loss(denoiser, target, &pair, &[1.0], Metric::SquaredL2, true));
        assert!((loss - squares).abs() < 1e-6, "found {loss}, expected {squares}");
    }

    #[test]
    fn heun_follows_a_straight_trajectory_exactly() {
        // For one data point the trajectories are straight lines: x_r = y + r·z.
        let (y, z) = (images(1, 2), images(2, 2));
        let (t, r) = ([80.0, 0.5], [2.0, 0.002]);
        let x_r = heun_step(point_mass(&y), &perturb(&y, &z, &t), &t, &r);
        let error = largest(x_r - perturb(&y, &z, &r));
        // f32 holds 80·z to about 1e-5; the step from 80 to 2 multiplies the Euler guess's rounding by 78/2/2.
        assert!(error < 1e-3, "off by {error}");
    }

    #[test]
    fn euler_ends_on_the_teacher_and_follows_a_straight_trajectory() {
        let (y, z) = (images(1, 2), images(2, 2));
        let (t, r) = ([80.0, 0.5], [0.0, 0.002]);
        let x_r = euler_step(point_mass(&y), &perturb(&y, &z, &t), &t, &r);
        assert_eq!(largest(x_r.clone().narrow(0, 0, 1) - y.clone().narrow(0, 0, 1)), 0.0, "r = 0 is the answer");
        let error = largest(x_r - perturb(&y, &z, &r));
        assert!(error < 1e-6, "off by {error}");
    }

    #[test]
    fn guidance_is_linear_and_1_is_none() {
        let (a, b) = (images(1, 1), images(2, 1));
        let guided =
            |strength, sigma| Guidance { strength, interval: [0.5, 4.0] }.apply(a.clone(), b.clone(), &[sigma]);
        assert_eq!(largest(guided(1.0, 1.0) - a.clone()), 0.0);
        assert_eq!(largest(guided(3.0, 0.4) - a.clone()), 0.0, "below the interval");
        assert_eq!(largest(guided(3.0, 4.1) - a.clone()), 0.0, "above the interval");
        let error = largest(guided(0.0, 4.0) - b.clone());
        assert!(error < 1e-6, "w = 0 is the answer without the class, off by {error}");
        let error = largest(guided(3.0, 0.5) - (a.clone() * 3.0 - b.clone() * 2.0));
        assert!(error < 1e-5, "off by {error}");
    }

    #[test]
    fn heun_is_of_second_order() {
        // Gaussian data N(0, s²): D = s²/(s² + σ²)·x, trajectories ∝ √(s² + σ²). A local error is of third order,
        // so half the step has an eighth of it.
        let s2 = 0.25;
        let teacher = |x: &Tensor<4>, sigma: &[f64]| {
            let shrink: Vec<f64> = sigma.iter().map(|v| s2 / (s2 + v * v)).collect();
            x.clone() * column(&shrink, &x.device())
        };
        let error = |h: f64| {
            let x = images(3, 1);
            let (t, r) = (1.0, 1.0 - h);
            let exact = ((s2 + r * r) / (s2 + t * t)).sqrt();
            largest(heun_step(teacher, &x, &[t], &[r]) - x.clone() * exact)
        };
        let ratio = error(0.1) / error(0.05);
        assert!((7.0..9.5).contains(&ratio), "error ratio {ratio}, expected about 8");
    }

    #[test]
    fn the_losses_vanish_at_the_solution() {
        let (y, z) = (images(1, 3), images(2, 3));
        let sigma = [0.1, 1.0, 10.0];
        assert_eq!(value(edm_loss(point_mass(&y), &y, &z, &sigma, 0.5, false)), 0.0);
        // λ(σ)·‖0 − y‖²/16 of the denoiser that answers 0.
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
    fn a_linear_ode_is_distilled_exactly() {
        // Teacher: the denoiser of Gaussian data N(0, s²), so the ODE is linear. Student: f(x, σ_i) = a_i·x with
        // a_0 = 1 at σ_min, trained by CD on 5 levels. Its fixed point is known: the product of the Heun factors,
        // which approximates √((s² + ε²)/(s² + σ²)).
        let s2 = 0.25;
        let shrink = |sigma: f64| s2 / (s2 + sigma * sigma);
        let levels = [0.5, 0.6, 0.7, 0.8, 0.9];
        let teacher = |x: &Tensor<4>, sigma: &[f64]| {
            x.clone() * column(&sigma.iter().map(|&s| shrink(s)).collect::<Vec<_>>(), &x.device())
        };
        let mut a = Tensor::<1>::ones([4], &Device::flex()).autodiff().require_grad();
        let batch = 4; // one sample per pair of neighbours
        let (t, r) = (&levels[1..], &levels[..4]);
        for seed in 0..400 {
            let x_t = images(seed, batch);
            let x_r = heun_step(teacher, &x_t, t, r);
            let pair = Pair { x_t: &x_t, t, x_r: &x_r, r };
            let online = |x: &Tensor<4>, _: &[f64]| x.clone() * a.clone().reshape([4, 1, 1, 1]);
            let below = Tensor::cat(vec![Tensor::ones([1], &Device::flex()), a.clone().inner().narrow(0, 0, 3)], 0);
            let target = |x: &Tensor<4>, _: &[f64]| x.clone() * below.clone().reshape([4, 1, 1, 1]);
            let loss = consistency_loss(online, target, &pair, &[1.0; 4], Metric::SquaredL2, false);
            let g = a.grad(&loss.backward()).unwrap();
            a = (a.inner() - g * 0.8).autodiff().require_grad();
        }
        let found = a.inner().into_data().try_to_vec::<f32>().unwrap();
        let mut product = 1.0;
        for (i, found) in found.into_iter().enumerate() {
            let (t, r) = (levels[i + 1], levels[i]);
            let at_t = (1.0 - shrink(t)) / t;
            let at_r = (1.0 - shrink(r)) * (1.0 + (r - t) * at_t) / r;
            product *= 1.0 + (r - t) * (at_t + at_r) / 2.0;
            assert!((f64::from(found) - product).abs() < 1e-5, "a({t}): found {found}, expected {product}");
            let exact = ((s2 + 0.25) / (s2 + t * t)).sqrt();
            assert!((product - exact).abs() < 2e-3, "a({t}) = {product}, the ODE's solution is {exact}");
        }
    }

    #[test]
    fn ct_schedules_begin_and_end_as_published() {
        let s = CtSchedule { s0: 2.0, s1: 150.0, mu0: 0.9 };
        assert_eq!((s.levels(0.0), s.levels(1.0)), (2, 151));
        assert!((s.decay(0.0) - 0.9).abs() < 1e-12, "μ(0) = μ₀");
        assert!((s.decay(1.0) - 0.9f64.powf(2.0 / 151.0)).abs() < 1e-12);
        let config = SchedulerConfig { num_train_timesteps: s.levels(0.0), ..Default::default() };
        assert!((karras_sigma(&config, 0) - 80.0).abs() < 1e-9, "at the beginning the only pair is (80, 0.002)");
        assert!((karras_sigma(&config, 1) - 0.002).abs() < 1e-9);
    }

    #[test]
    fn the_gap_narrows_with_the_stage() {
        let r = |q: f64, stage: f64, t: f64| Gap { q, stage }.r(t);
        assert_eq!(r(2.0, 0.0, 0.1), 0.0, "the first stage is diffusion training at small t");
        let at = 1.0 - 1.0 / 256.0; // far out 8·sigmoid(−t) is 0
        assert!((r(256.0, 0.0, 80.0) / (80.0 * at) - 1.0).abs() < 1e-9);
        assert_eq!(r(256.0, 0.0, 3.0), r(2.0, 7.0, 3.0), "one stage of 256 is the eighth stage of 2");
        let expected = 0.01 * (1.0 - (1.0 + 8.0 / (1.0 + 0.01f64.exp())) / 256.0);
        assert!((r(2.0, 7.0, 0.01) - expected).abs() < 1e-12);
    }

    #[test]
    fn pseudo_huber_is_the_norm_far_out_and_the_square_near() {
        let zero = images(1, 1).zeros_like();
        let d = |scale: f64, c: f64| {
            let a = zero.clone() + scale; // ‖a‖ = 4·scale
            f64::from(value(Metric::PseudoHuber(c).distance(a, zero.clone())))
        };
        assert!((d(1.0, 0.0) - 4.0).abs() < 1e-6);
        assert!((d(100.0, 1.0) - 399.0).abs() < 0.01);
        assert!((d(0.01, 1.0) - 0.5 * 0.0016).abs() < 1e-6);
    }
}
