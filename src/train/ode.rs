//! Steps of the probability-flow ODE dx/dσ = (x − D(x, σ))/σ (Karras et al. 2022, equations 1 and 3).
//!
//! The denoiser D is a closure (x, σ) ↦ image with one noise level per sample.

use crate::consistency::schedule::karras_sigma;
use crate::error::Result;
use crate::model::config::SchedulerConfig;
use crate::train::images::{Images, weighted_sum};

/// One Heun step from t down to r > 0 (Karras et al. 2022, Algorithm 1; the solver Φ of Song et al. 2023, Algorithm 2).
pub async fn heun_step(
    denoiser: impl AsyncFn(&Images, &[f64]) -> Result<Images>,
    x_t: &Images,
    t: &[f64],
    r: &[f64],
) -> Result<Images> {
    // ANCHOR: heun
    let ones = vec![1.0; t.len()];
    let slope = async |x: &Images, sigma: &[f64]| -> Result<Images> {
        let inverse: Vec<f64> = sigma.iter().map(|s| 1.0 / s).collect();
        let negative: Vec<f64> = inverse.iter().map(|s| -s).collect();
        Ok(weighted_sum([(x, &inverse), (&denoiser(x, sigma).await?, &negative)]))
    };
    let step: Vec<f64> = r.iter().zip(t).map(|(r, t)| r - t).collect();
    let half: Vec<f64> = step.iter().map(|step| step / 2.0).collect();
    let at_t = slope(x_t, t).await?;
    let euler = weighted_sum([(x_t, &ones), (&at_t, &step)]);
    let at_r = slope(&euler, r).await?;
    Ok(weighted_sum([(x_t, &ones), (&at_t, &half), (&at_r, &half)]))
    // ANCHOR_END: heun
}

/// One Euler step from t down to r ≥ 0; at r = 0 the result is D(x_t, t).
pub async fn euler_step(
    denoiser: impl AsyncFn(&Images, &[f64]) -> Result<Images>,
    x_t: &Images,
    t: &[f64],
    r: &[f64],
) -> Result<Images> {
    let kept: Vec<f64> = r.iter().zip(t).map(|(r, t)| r / t).collect();
    let replaced: Vec<f64> = kept.iter().map(|kept| 1.0 - kept).collect();
    Ok(weighted_sum([(x_t, &kept), (&denoiser(x_t, t).await?, &replaced)]))
}

/// `count` Karras levels from σ_max to σ_min.
pub fn karras_levels(scheduler: &SchedulerConfig, count: usize) -> Vec<f64> {
    let scheduler = SchedulerConfig { num_train_timesteps: count, ..scheduler.clone() };
    (0..count).map(|i| karras_sigma(&scheduler, i)).collect()
}

/// Integrates from x at the first of `sigmas` to 0: Heun steps between neighbours, an Euler step from the last to 0.
pub async fn integrate(
    denoiser: impl AsyncFn(&Images, &[f64]) -> Result<Images>,
    mut x: Images,
    sigmas: &[f64],
) -> Result<Images> {
    let batch = x.shape[0];
    for pair in sigmas.windows(2) {
        x = heun_step(&denoiser, &x, &vec![pair[0]; batch], &vec![pair[1]; batch]).await?;
    }
    denoiser(&x, &vec![*sigmas.last().expect("at least one level"); batch]).await
}

/// Integrates from x at the first of `sigmas` to 0 by DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2), one call per level.
/// Returns x at each level, and the end.
///
/// With λ = −ln σ, x_{i+1} = σ_{i+1}/σ_i·x_i + (1 − σ_{i+1}/σ_i)·D̃, where D̃ extrapolates the last two outputs of D to the
/// middle of the step in λ. Equal levels that follow one another are one step of length 0.
pub async fn multistep(
    denoiser: impl AsyncFn(&Images, &[f64]) -> Result<Images>,
    mut x: Images,
    sigmas: &[f64],
) -> Result<(Vec<Images>, Images)> {
    let batch = x.shape[0];
    let all = |factor: f64| vec![factor; batch];
    let mut states = Vec::with_capacity(sigmas.len());
    let mut before: Option<(Images, f64)> = None;
    for (i, &sigma) in sigmas.iter().enumerate() {
        let output = denoiser(&x, &all(sigma)).await?;
        let Some(next) = sigmas.get(i + 1) else {
            states.push(x);
            return Ok((states, output));
        };
        let (kept, step) = (next / sigma, (sigma / next).ln());
        // D̃ = D + (D − D before)·ahead
        let (last, ahead) = match &before {
            Some((last, length)) if *length > 0.0 => (last, step / (2.0 * length)),
            _ => (&output, 0.0),
        };
        let (new, old) = ((1.0 - kept) * (1.0 + ahead), -(1.0 - kept) * ahead);
        let moved = weighted_sum([(&x, &all(kept)), (&output, &all(new)), (last, &all(old))]);
        states.push(std::mem::replace(&mut x, moved));
        before = Some((output, step));
    }
    unreachable!("there is at least one level")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use pollster::block_on;

    use super::*;
    use crate::train::images::tests::{images, largest_difference};
    use crate::train::losses::tests::point_mass;
    use crate::train::losses::{Metric, Pair, consistency_loss, perturb};

    /// The denoiser of Gaussian data N(0, s²): s²/(s² + σ²)·x.
    fn gaussian(s2: f64) -> impl AsyncFn(&Images, &[f64]) -> Result<Images> {
        async move |x: &Images, sigma: &[f64]| {
            Ok(weighted_sum([(x, &sigma.iter().map(|s| s2 / (s2 + s * s)).collect::<Vec<_>>())]))
        }
    }

    #[test]
    fn heun_follows_a_straight_trajectory_exactly() {
        // For one data point the trajectories are straight lines: x_r = y + r·z.
        let (y, z) = (images(1, 2), images(2, 2));
        let (t, r) = ([80.0, 0.5], [2.0, 0.002]);
        let x_r = block_on(heun_step(point_mass(&y), &perturb(&y, &z, &t), &t, &r)).unwrap();
        let error = largest_difference(&x_r, &perturb(&y, &z, &r));
        // f32 holds 80·z to about 1e-5; the step from 80 to 2 multiplies the Euler guess's rounding by 78/2/2.
        assert!(error < 1e-3, "off by {error}");
    }

    #[test]
    fn euler_ends_on_the_denoisers_output_and_follows_a_straight_trajectory() {
        let (y, z) = (images(1, 2), images(2, 2));
        let (t, r) = ([80.0, 0.5], [0.0, 0.002]);
        let x_r = block_on(euler_step(point_mass(&y), &perturb(&y, &z, &t), &t, &r)).unwrap();
        assert_eq!(x_r.part(0..1), y.part(0..1), "r = 0 is the output");
        let error = largest_difference(&x_r, &perturb(&y, &z, &r));
        assert!(error < 1e-6, "off by {error}");
    }

    #[test]
    fn heun_is_of_second_order() {
        // Gaussian data N(0, s²): D = s²/(s² + σ²)·x, trajectories ∝ √(s² + σ²). A local error is of third order,
        // so half the step has an eighth of it.
        let s2 = 0.25;
        let error = |h: f64| {
            let x = images(3, 1);
            let (t, r) = (1.0, 1.0 - h);
            let exact = weighted_sum([(&x, &[((s2 + r * r) / (s2 + t * t)).sqrt()])]);
            largest_difference(&block_on(heun_step(gaussian(s2), &x, &[t], &[r])).unwrap(), &exact)
        };
        let ratio = error(0.1) / error(0.05);
        assert!((7.0..9.5).contains(&ratio), "error ratio {ratio}, expected about 8");
    }

    /// The relative error of a solver on data N(0, ¼), on `steps` Karras levels, and the calls of the denoiser that it took:
    /// the ODE takes x at σ to x·½/√(¼ + σ²) at 0.
    fn error_on_gaussian_data(is_multistep: bool, steps: usize) -> (f32, usize) {
        let calls = Cell::new(0);
        let denoiser = async |x: &Images, sigma: &[f64]| {
            calls.set(calls.get() + 1);
            gaussian(0.25)(x, sigma).await
        };
        let sigmas = karras_levels(&SchedulerConfig::default(), steps);
        let x = Images::filled([1, 1, 2, 2], 80.0);
        let end = if is_multistep {
            let (states, end) = block_on(multistep(denoiser, x, &sigmas)).unwrap();
            assert_eq!(states.len(), steps);
            end
        } else {
            block_on(integrate(denoiser, x, &sigmas)).unwrap()
        };
        let expected = 80.0 * 0.5 / (0.25f32 + 6400.0).sqrt();
        ((end.values[0] / expected - 1.0).abs(), calls.get())
    }

    #[test]
    fn the_ode_of_gaussian_data_is_integrated_to_second_order() {
        let error = |steps: usize| {
            let (error, calls) = error_on_gaussian_data(false, steps);
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
            let (error, calls) = error_on_gaussian_data(true, steps);
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
        let mut a = [1.0; 4];
        let batch = 4; // one sample per pair of neighbours
        let (t, r) = (&levels[1..], &levels[..4]);
        for seed in 0..400 {
            let x_t = images(seed, batch);
            let x_r = block_on(heun_step(gaussian(s2), &x_t, t, r)).unwrap();
            let pair = Pair { x_t: &x_t, t, x_r: &x_r, r };
            let online = async |x: &Images, _: &[f64]| Ok(weighted_sum([(x, &a)]));
            let target = async |x: &Images, _: &[f64]| Ok(weighted_sum([(x, &[1.0, a[0], a[1], a[2]])]));
            let loss = block_on(consistency_loss(online, target, &pair, &[1.0; 4], Metric::SquaredL2, false)).unwrap();
            for (i, a) in a.iter_mut().enumerate() {
                let (x, g) = (x_t.part(i..i + 1), loss.gradient.part(i..i + 1));
                *a -= 0.8 * x.values.iter().zip(&g.values).map(|(x, g)| f64::from(x * g)).sum::<f64>();
            }
        }
        let mut product = 1.0;
        for (i, found) in a.into_iter().enumerate() {
            let (t, r) = (levels[i + 1], levels[i]);
            let at_t = (1.0 - shrink(t)) / t;
            let at_r = (1.0 - shrink(r)) * (1.0 + (r - t) * at_t) / r;
            product *= 1.0 + (r - t) * (at_t + at_r) / 2.0;
            assert!((found - product).abs() < 1e-5, "a({t}): found {found}, expected {product}");
            let exact = ((s2 + 0.25) / (s2 + t * t)).sqrt();
            assert!((product - exact).abs() < 2e-3, "a({t}) = {product}, the ODE's solution is {exact}");
        }
    }
}
