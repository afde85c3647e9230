//! Regression on whole trajectories of a teacher: the definition of a consistency function, f(x_σ, σ) = x_0 for every state
//! of a trajectory of the probability-flow ODE (Song et al. 2023, section 3), taken as a loss.
//!
//! The teacher solves the ODE from noise to its end. Every state on the way is an input, the end is the answer, so no target is
//! bootstrapped from the network that learns. Luhman & Luhman 2021 learn from the first states alone.

use crate::consistency::rng::Generator;
use crate::consistency::schedule::karras_sigma;
use crate::error::Result;
use crate::model::config::SchedulerConfig;
use crate::train::images::{Images, weighted_sum};
use crate::train::ode::multistep;

/// The lowest level that is learnt, as a share of σ_data. Below it the pictures are finished.
const LOWEST: f64 = 0.1;

/// Trajectories of a batch, at the same levels.
pub(super) struct Trajectories {
    /// One class per sample.
    pub labels: Vec<u32>,
    /// Levels of `states`, descending.
    sigmas: Vec<f64>,
    /// x at each level, (B, C, H, W).
    states: Vec<Images>,
    /// x_0, (B, C, H, W).
    pub end: Images,
}

impl Trajectories {
    /// Solves the ODE from noise of `shape` (B, C, H, W) at σ_max, in `calls` calls of `denoiser`, (x, σ, labels) ↦ image.
    ///
    /// The levels between the first and the last are moved by a random share of a step, so that all are learnt in time.
    /// Classes, of which there are `classes`, are uniform.
    pub(super) async fn solve(
        denoiser: impl AsyncFn(&Images, &[f64], &[u32]) -> Result<Images>,
        shape: [usize; 4],
        calls: usize,
        classes: Option<usize>,
        scheduler: &SchedulerConfig,
        generator: &mut Generator,
    ) -> Result<Self> {
        let batch = shape[0];
        let mut labels = vec![0; batch];
        if let Some(classes) = classes {
            generator.randint(classes as u32, &mut labels);
        }
        let noise = Images::normal(shape, generator);
        let sigmas = levels(scheduler, calls, generator.uniform_f64());
        let x = weighted_sum([(&noise, &vec![sigmas[0]; batch])]);
        let of_labels = async |x: &Images, s: &[f64]| denoiser(x, s, &labels).await;
        let (states, end) = multistep(of_labels, x, &sigmas).await?;
        Ok(Self { labels, sigmas, states, end })
    }

    /// A state of each trajectory, and its level: the first of a share `first` of them, of the others any that is learnt.
    pub(super) fn draw(&self, first: f64, sigma_data: f64, generator: &mut Generator) -> (Images, Vec<f64>) {
        let batch = self.labels.len();
        let learnt = self.sigmas.iter().filter(|&&s| s > LOWEST * sigma_data).count();
        let mut at = vec![0; batch];
        generator.randint(learnt as u32, &mut at);
        let noises = (first * batch as f64).round() as usize;
        // Which trajectories begin differs from draw to draw.
        let mut turn = [0];
        generator.randint(batch as u32, &mut turn);
        (0..noises.min(batch)).for_each(|i| at[(i + turn[0] as usize) % batch] = 0);
        let len = self.end.sample_len();
        let row = |(i, &at): (usize, &u32)| &self.states[at as usize].values[i * len..(i + 1) * len];
        let x = Images::new(self.end.shape, at.iter().enumerate().flat_map(row).copied().collect());
        (x, at.iter().map(|&at| self.sigmas[at as usize]).collect())
    }
}

/// `count` Karras levels from σ_max to σ_min, those between moved down by `shift` of a step, which is below 1.
fn levels(scheduler: &SchedulerConfig, count: usize, shift: f64) -> Vec<f64> {
    // A finer schedule has the levels between.
    const FINE: usize = 64;
    let fine = SchedulerConfig { num_train_timesteps: (count - 1) * FINE + 1, ..scheduler.clone() };
    let moved = |i: usize| if i == 0 { 0 } else { i * FINE + (shift * FINE as f64) as usize };
    (0..count).map(|i| karras_sigma(&fine, moved(i).min((count - 1) * FINE))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::images::tests::largest_difference;

    /// The trajectories of Gaussian data N(0, ¼): x_0 = x·½/√(¼ + σ²).
    fn of_gaussian(calls: usize) -> Trajectories {
        let denoiser = async |x: &Images, s: &[f64], _: &[u32]| {
            Ok(weighted_sum([(x, &s.iter().map(|s| 0.25 / (0.25 + s * s)).collect::<Vec<_>>())]))
        };
        let (scheduler, mut generator) = (SchedulerConfig::default(), Generator::new(1));
        let solved = Trajectories::solve(denoiser, [6, 1, 4, 4], calls, Some(3), &scheduler, &mut generator);
        pollster::block_on(solved).unwrap()
    }

    #[test]
    fn every_state_leads_to_the_end() {
        let trajectories = of_gaussian(64);
        for (x, s) in trajectories.states.iter().zip(&trajectories.sigmas) {
            let expected = weighted_sum([(x, &[0.5 / (0.25 + s * s).sqrt(); 6])]);
            let error = largest_difference(&trajectories.end, &expected);
            assert!(error < 0.03, "from σ = {s}: off by {error}");
        }
        assert!(trajectories.labels.iter().all(|&l| l < 3));
    }

    #[test]
    fn a_share_begins_with_noise_and_the_others_are_above_the_lowest_level() {
        let trajectories = of_gaussian(16);
        let mut generator = Generator::new(2);
        let mut others = Vec::new();
        for _ in 0..50 {
            let (x, sigmas) = trajectories.draw(0.5, 0.5, &mut generator);
            assert_eq!(x.shape, [6, 1, 4, 4]);
            assert!(sigmas.iter().filter(|&&s| s == 80.0).count() >= 3, "{sigmas:?}");
            assert!(sigmas.iter().all(|&s| s > 0.05), "{sigmas:?}");
            others.extend(sigmas.into_iter().filter(|&s| s < 80.0).map(|s| (s * 1e6) as u64));
        }
        others.sort_unstable();
        others.dedup();
        assert!(others.len() >= 10, "all levels are drawn in time");
    }

    #[test]
    fn levels_descend_from_the_highest_to_the_lowest() {
        for shift in [0.0, 0.5, 0.999] {
            let found = levels(&SchedulerConfig::default(), 16, shift);
            assert!(found.windows(2).all(|pair| pair[0] >= pair[1]), "{found:?}");
            assert!((found[0] - 80.0).abs() < 1e-9 && (found[15] - 0.002).abs() < 1e-9, "{found:?}");
        }
    }
}
