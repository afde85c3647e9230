//! Training objectives, with their noise levels and schedules as functions of a run's progress in [0, 1].

use crate::consistency::rng::Generator;
use crate::consistency::schedule::karras_sigma;
use crate::model::config::SchedulerConfig;

/// A training objective with its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Recipe {
    /// Pretraining of a denoiser; ln σ ~ N(mean, deviation).
    Edm {
        /// Mean of ln σ; −1.2 in the paper.
        mean: f64,
        /// Standard deviation of ln σ; 1.2 in the paper.
        deviation: f64,
    },
    /// Consistency distillation on the Karras schedule of the scheduler's N.
    Cd {
        /// μ: decay of the target network; 0 makes the target the online network.
        mu: f64,
    },
    /// Distribution matching distillation; the student's samples are from ln t ~ N(mean, deviation).
    Dmd {
        /// Mean of ln t.
        mean: f64,
        /// Standard deviation of ln t.
        deviation: f64,
    },
    /// Consistency training.
    Ct(CtSchedule),
    /// Easy consistency tuning; ln t ~ N(mean, deviation).
    Ect {
        /// Mean of ln t; −1.1 in the paper.
        mean: f64,
        /// Standard deviation of ln t; 2 in the paper.
        deviation: f64,
        /// q of the step mapping.
        q: f64,
        /// The first and the last stage; the run is divided evenly among them.
        stages: [usize; 2],
        /// λ(t, r).
        weighting: Weighting,
    },
    /// Regression on whole trajectories of a teacher, from any state to the end.
    Trajectories {
        /// The teacher's calls for a trajectory, at least 2.
        calls: usize,
        /// Iterations that learn from the same trajectories, each from other states.
        uses: usize,
        /// The share of a batch that is noise at σ_max, where sampling begins; in [0, 1].
        first: f64,
    },
}

/// λ(t, r), the weight of a sample's distance in the loss of easy consistency tuning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weighting {
    /// 1/(t − r), as in the paper. Times c_out, the gradient in F falls as 1/√(t² + σ_d²), so that the high levels, from
    /// which one-step sampling starts, have little weight.
    Gap,
    /// √(t² + σ_d²)/(t·σ_d), the root of EDM's λ = 1/c_out²: the gradient in F is the same at all levels.
    Even,
}

/// Noise levels of one batch, t > r for each sample; r = 0 is the data, and EDM and DMD do not use r.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Levels {
    /// The level of the online network's input.
    pub t: Vec<f64>,
    /// The level of the target network's input.
    pub r: Vec<f64>,
}

impl Recipe {
    /// Draws the levels of `batch` samples at `progress` in [0, 1].
    pub(super) fn levels(
        &self,
        scheduler: &SchedulerConfig,
        progress: f64,
        generator: &mut Generator,
        batch: usize,
    ) -> Levels {
        let (low, high) = (scheduler.sigma_min, scheduler.sigma_max);
        let mut lognormal = |mean: f64, deviation: f64| -> Vec<f64> {
            let normals = spread_normals(generator, batch);
            normals.iter().map(|z| (mean + deviation * z).exp().clamp(low, high)).collect()
        };
        match *self {
            Self::Edm { mean, deviation } | Self::Dmd { mean, deviation } => {
                Levels { t: lognormal(mean, deviation), r: vec![0.0; batch] }
            }
            Self::Ect { mean, deviation, q, .. } => {
                let gap = Gap { q, stage: self.stage(progress) as f64 };
                let t = lognormal(mean, deviation);
                // Levels below σ_min are taken as 0, the data.
                let r = t.iter().map(|&t| Some(gap.r(t)).filter(|&r| r > low).unwrap_or(0.0)).collect();
                Levels { t, r }
            }
            Self::Cd { .. } => neighbours(scheduler, scheduler.num_train_timesteps, generator, batch),
            Self::Ct(schedule) => neighbours(scheduler, schedule.levels(progress), generator, batch),
            Self::Trajectories { .. } => unreachable!("its levels are those of the trajectories"),
        }
    }

    /// The stage of the step mapping; 0 for recipes without stages.
    pub fn stage(&self, progress: f64) -> usize {
        match *self {
            Self::Ect { stages: [first, last], .. } => {
                let count = last + 1 - first;
                first + ((progress * count as f64) as usize).min(count - 1)
            }
            _ => 0,
        }
    }

    /// μ: decay of the target network; 0 where the target is the online network.
    pub(super) fn target_decay(&self, progress: f64) -> f64 {
        match self {
            Self::Cd { mu } => *mu,
            Self::Ct(schedule) => schedule.decay(progress),
            Self::Edm { .. } | Self::Dmd { .. } | Self::Ect { .. } | Self::Trajectories { .. } => 0.0,
        }
    }

    /// Whether the target network has other weights than the online network.
    pub(super) fn has_target(&self) -> bool {
        self.target_decay(0.0) > 0.0
    }

    /// λ of each sample: by its [`Weighting`] for ECT, 1 for CD and CT.
    pub(super) fn weights(&self, levels: &Levels, sigma_data: f64) -> Vec<f64> {
        match self {
            Self::Ect { weighting: Weighting::Gap, .. } => {
                levels.t.iter().zip(&levels.r).map(|(t, r)| 1.0 / (t - r)).collect()
            }
            Self::Ect { weighting: Weighting::Even, .. } => {
                levels.t.iter().map(|t| t.hypot(sigma_data) / (t * sigma_data)).collect()
            }
            _ => vec![1.0; levels.t.len()],
        }
    }
}

/// Timesteps of a sample in one or two calls. The second begins at the scheduler's level nearest to ECT's middle one, σ = 0.821 at
/// σ_data = 0.5 (Geng et al. 2024).
pub fn timesteps(scheduler: &SchedulerConfig, calls: usize) -> Vec<usize> {
    if calls < 2 {
        return vec![0];
    }
    let middle = 1.642 * scheduler.sigma_data;
    let distance = |i: &usize| (karras_sigma(scheduler, *i).ln() - middle.ln()).abs();
    let nearest = (1..scheduler.num_train_timesteps).min_by(|a, b| distance(a).total_cmp(&distance(b)));
    vec![nearest.unwrap_or(1), 0]
}

/// The step mapping r(t) of Easy Consistency Tuning, Geng et al. 2024, with its sigmoid-adapted n(t).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Gap {
    /// q > 1: the base of the gap's decay.
    q: f64,
    /// s: the stage, from 0.
    stage: f64,
}

impl Gap {
    /// r = max(0, t·(1 − q^−(s+1)·(1 + 8·sigmoid(−t)))).
    fn r(self, t: f64) -> f64 {
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
    fn levels(&self, progress: f64) -> usize {
        let (low, high) = (self.s0 * self.s0, (self.s1 + 1.0) * (self.s1 + 1.0));
        ((progress * (high - low) + low).sqrt() - 1.0).ceil() as usize + 1
    }

    /// μ(k) = exp(s₀·ln μ₀/N(k)).
    fn decay(&self, progress: f64) -> f64 {
        (self.s0 * self.mu0.ln() / self.levels(progress) as f64).exp()
    }
}

/// `count` normal numbers, ascending, of low discrepancy (Kingma et al. 2021): 16·`count` are drawn and sorted, and one of
/// each 16 neighbours is chosen.
fn spread_normals(generator: &mut Generator, count: usize) -> Vec<f64> {
    /// Numbers drawn for each that is returned.
    const DRAWN: usize = 16;
    let mut drawn: Vec<f64> = (0..DRAWN * count).map(|_| generator.normal()).collect();
    drawn.sort_by(f64::total_cmp);
    let mut chosen = vec![0; count];
    generator.randint(DRAWN as u32, &mut chosen);
    drawn.chunks_exact(DRAWN).zip(chosen).map(|(interval, i)| interval[i as usize]).collect()
}

/// Song et al. 2023, Algorithms 2 and 3: n ~ U[0, N − 2], t and r neighbours in the schedule of N levels.
fn neighbours(scheduler: &SchedulerConfig, count: usize, generator: &mut Generator, batch: usize) -> Levels {
    // ANCHOR: neighbours
    let schedule = SchedulerConfig { num_train_timesteps: count, ..scheduler.clone() };
    let mut indices = vec![0; batch];
    generator.randint(count as u32 - 1, &mut indices);
    let level = |shift: usize| indices.iter().map(|&i| karras_sigma(&schedule, i as usize + shift)).collect();
    Levels { t: level(0), r: level(1) }
    // ANCHOR_END: neighbours
}

#[cfg(test)]
mod tests {
    use super::*;

    const ECT: Recipe = Recipe::Ect { mean: -1.1, deviation: 2.0, q: 2.0, stages: [3, 6], weighting: Weighting::Gap };

    #[test]
    fn stages_divide_the_run() {
        let found: Vec<usize> = [0.0, 0.24, 0.25, 0.5, 0.99, 1.0].iter().map(|&p| ECT.stage(p)).collect();
        assert_eq!(found, [3, 3, 4, 5, 6, 6]);
    }

    #[test]
    fn levels_are_ordered_and_in_range() {
        let scheduler = SchedulerConfig::default();
        let ct = Recipe::Ct(CtSchedule { s0: 2.0, s1: 150.0, mu0: 0.9 });
        for recipe in [ECT, Recipe::Cd { mu: 0.95 }, ct, Recipe::Edm { mean: -1.2, deviation: 1.2 }] {
            for progress in [0.0, 0.5, 1.0] {
                let levels = recipe.levels(&scheduler, progress, &mut Generator::new(1), 2000);
                for (&t, &r) in levels.t.iter().zip(&levels.r) {
                    assert!((0.002..=80.0 + 1e-9).contains(&t), "{recipe:?}: t = {t}");
                    assert!(r < t && (r == 0.0 || r > 0.002 - 1e-9), "{recipe:?}: r = {r}, t = {t}");
                }
                assert!(recipe.weights(&levels, 0.5).iter().all(|w| w.is_finite() && *w > 0.0));
            }
        }
    }

    #[test]
    fn a_quarter_of_a_batchs_normals_lies_in_each_quarter_of_the_distribution() {
        // Of 64, 16 lie in each quarter of the distribution, up to the sample's own error of about 1.
        let quartile = 0.674_489_75;
        for seed in 0..20 {
            let normals = spread_normals(&mut Generator::new(seed), 64);
            let below = |limit: f64| normals.iter().filter(|z| **z < limit).count();
            for (limit, expected) in [(-quartile, 16), (0.0, 32), (quartile, 48)] {
                let found = below(limit);
                assert!(found.abs_diff(expected) <= 4, "seed {seed}: {found} below {limit}, expected about {expected}");
            }
            assert!(normals.is_sorted());
        }
    }

    #[test]
    fn lognormal_levels_have_their_mean_and_deviation() {
        let recipe = Recipe::Edm { mean: -1.2, deviation: 1.2 };
        let levels = recipe.levels(&SchedulerConfig::default(), 0.0, &mut Generator::new(1), 20_000);
        let logs: Vec<f64> = levels.t.iter().map(|t| t.ln()).collect();
        let mean = logs.iter().sum::<f64>() / 20_000.0;
        let deviation = (logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / 20_000.0).sqrt();
        assert!((mean + 1.2).abs() < 0.03 && (deviation - 1.2).abs() < 0.03, "{mean}, {deviation}");
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
    fn a_second_call_begins_at_the_middle_level() {
        let scheduler = SchedulerConfig::default();
        assert_eq!(timesteps(&scheduler, 1), [0]);
        let found = timesteps(&scheduler, 2);
        let sigma = karras_sigma(&scheduler, found[0]);
        let neighbours = [found[0] - 1, found[0] + 1].map(|i| karras_sigma(&scheduler, i));
        assert!(found[1] == 0 && neighbours[1] < 0.821 && 0.821 < neighbours[0], "{found:?}, σ = {sigma}");
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
}
