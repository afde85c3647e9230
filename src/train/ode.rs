//! Steps of the probability-flow ODE dx/dσ = (x − D(x, σ))/σ (Karras et al. 2022, equations 1 and 3).
//!
//! The denoiser D is a closure (x, σ) ↦ image with one noise level per sample. Images are (B, C, H, W).

use burn::tensor::Tensor;

use crate::train::losses::column;

/// One Heun step from t down to r > 0 (Karras et al. 2022, Algorithm 1; the solver Φ of Song et al. 2023, Algorithm 2).
pub fn heun_step(
    denoiser: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    x_t: &Tensor<4>,
    t: &[f64],
    r: &[f64],
) -> Tensor<4> {
    // ANCHOR: heun
    let device = x_t.device();
    let slope = |x: &Tensor<4>, sigma: &[f64]| (x.clone() - denoiser(x, sigma)) / column(sigma, &device);
    let step = column(&r.iter().zip(t).map(|(r, t)| r - t).collect::<Vec<_>>(), &device);
    let at_t = slope(x_t, t);
    let euler = x_t.clone() + at_t.clone() * step.clone();
    let at_r = slope(&euler, r);
    x_t.clone() + (at_t + at_r) * step * 0.5
    // ANCHOR_END: heun
}

/// One Euler step from t down to r ≥ 0; at r = 0 the result is D(x_t, t).
pub fn euler_step(
    denoiser: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    x_t: &Tensor<4>,
    t: &[f64],
    r: &[f64],
) -> Tensor<4> {
    let kept = column(&r.iter().zip(t).map(|(r, t)| r / t).collect::<Vec<_>>(), &x_t.device());
    x_t.clone() * kept.clone() + denoiser(x_t, t) * (-kept + 1.0)
}

/// Integrates from x at the first of `sigmas` to 0: Heun steps between neighbours, an Euler step from the last to 0.
pub fn integrate(denoiser: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>, mut x: Tensor<4>, sigmas: &[f64]) -> Tensor<4> {
    let batch = x.dims()[0];
    for pair in sigmas.windows(2) {
        x = heun_step(&denoiser, &x, &vec![pair[0]; batch], &vec![pair[1]; batch]);
    }
    denoiser(&x, &vec![*sigmas.last().expect("at least one level"); batch])
}

/// Integrates from x at the first of `sigmas` to 0 by DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2), one call per level.
/// Returns x at each level, and the end.
///
/// With λ = −ln σ, x_{i+1} = σ_{i+1}/σ_i·x_i + (1 − σ_{i+1}/σ_i)·D̃, where D̃ extrapolates the last two outputs of D to the
/// middle of the step in λ. Equal levels that follow one another are one step of length 0.
pub fn multistep(
    denoiser: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    mut x: Tensor<4>,
    sigmas: &[f64],
) -> (Vec<Tensor<4>>, Tensor<4>) {
    let batch = x.dims()[0];
    let mut states = Vec::with_capacity(sigmas.len());
    let mut before: Option<(Tensor<4>, f64)> = None;
    for (i, &sigma) in sigmas.iter().enumerate() {
        states.push(x.clone());
        let output = denoiser(&x, &vec![sigma; batch]);
        let Some(next) = sigmas.get(i + 1) else { return (states, output) };
        let (kept, step) = (next / sigma, (sigma / next).ln());
        let ahead = match before {
            Some((last, length)) if length > 0.0 => output.clone() + (output.clone() - last) * (step / (2.0 * length)),
            _ => output.clone(),
        };
        x = x * kept + ahead * (1.0 - kept);
        before = Some((output, step));
    }
    unreachable!("there is at least one level")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use burn::tensor::Device;

    use super::*;
    use crate::consistency::schedule::karras_sigma;
    use crate::model::config::SchedulerConfig;
    use crate::train::losses::tests::{images, largest, point_mass};
    use crate::train::losses::{Metric, Pair, consistency_loss, perturb};

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
    fn euler_ends_on_the_denoisers_output_and_follows_a_straight_trajectory() {
        let (y, z) = (images(1, 2), images(2, 2));
        let (t, r) = ([80.0, 0.5], [0.0, 0.002]);
        let x_r = euler_step(point_mass(&y), &perturb(&y, &z, &t), &t, &r);
        assert_eq!(largest(x_r.clone().narrow(0, 0, 1) - y.clone().narrow(0, 0, 1)), 0.0, "r = 0 is the output");
        let error = largest(x_r - perturb(&y, &z, &r));
        assert!(error < 1e-6, "off by {error}");
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

    /// The relative error of a solver on data N(0, ¼), on `steps` Karras levels, and the calls of the denoiser that it took:
    /// D = ¼/(¼ + σ²)·x, and the ODE takes x at σ to x·½/√(¼ + σ²) at 0.
    fn error_on_gaussian_data(
        solve: impl Fn(&dyn Fn(&Tensor<4>, &[f64]) -> Tensor<4>, Tensor<4>, &[f64]) -> Tensor<4>,
        steps: usize,
    ) -> (f32, usize) {
        let calls = Cell::new(0);
        let denoiser = |x: &Tensor<4>, sigma: &[f64]| {
            calls.set(calls.get() + 1);
            x.clone() * (0.25 / (0.25 + sigma[0] * sigma[0]))
        };
        let levels = SchedulerConfig { num_train_timesteps: steps, ..Default::default() };
        let sigmas: Vec<f64> = (0..steps).map(|i| karras_sigma(&levels, i)).collect();
        let x = Tensor::<4>::ones([1, 1, 2, 2], &Device::flex()) * 80.0;
        let found: f32 = solve(&denoiser, x, &sigmas).max().into_scalar();
        let expected = 80.0 * 0.5 / (0.25f32 + 6400.0).sqrt();
        ((found / expected - 1.0).abs(), calls.get())
    }

    #[test]
    fn the_ode_of_gaussian_data_is_integrated_to_second_order() {
        let error = |steps: usize| {
            let (error, calls) = error_on_gaussian_data(|d, x, sigmas| integrate(d, x, sigmas), steps);
            assert_eq!(calls, 2 * steps - 1);
            error
        };
        let (coarse, fine) = (error(18), error(72));
        assert!(coarse < 0.06, "{coarse} in 35 calls");
        // Four times the steps: a sixteenth of the error.
        assert!((10.0..24.0).contains(&(coarse / fine)), "{coarse} with 18 steps, {fine} with 72");
    }

    #[test]
    fn multistep_is_of_second_order_at_one_call_a_level() {
        let error = |steps: usize| {
            let solve = |d: &dyn Fn(&Tensor<4>, &[f64]) -> Tensor<4>, x: Tensor<4>, sigmas: &[f64]| {
                let (states, end) = multistep(d, x, sigmas);
                assert_eq!(states.len(), steps);
                end
            };
            let (error, calls) = error_on_gaussian_data(solve, steps);
            assert_eq!(calls, steps);
            error
        };
        let (coarse, fine) = (error(24), error(96));
        assert!(coarse < 0.05, "{coarse} in 24 calls");
        assert!((8.0..30.0).contains(&(coarse / fine)), "{coarse} with 24 calls, {fine} with 96");
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
}
