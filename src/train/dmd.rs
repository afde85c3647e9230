//! Distribution matching distillation: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation" (the
//! equations below) and its improved version of the same year (which leaves out the regression loss).
//!
//! The student's samples x̂ descend the Kullback–Leibler divergence of their distribution from the teacher's. Its gradient
//! at noise level s is the difference of two scores (D(x_s, s) − x_s)/s² at x_s = x̂ + s·n: that of the critic, a
//! denoiser of the student's samples, and that of the teacher. The critic starts from the teacher's weights.

use crate::consistency::rng::Generator;
use crate::consistency::schedule::{Scalings, karras_sigma};
use crate::error::Result;
use crate::model::config::SchedulerConfig;
use crate::train::denoiser::Denoiser;
use crate::train::images::Images;
use crate::train::losses::{Loss, edm_loss, perturb};
use crate::train::optimizer::{Matrices, RAdam};

/// A critic's state, kept from one iteration to the next.
pub struct CriticState {
    /// Its weights, in the order of the parameters.
    pub weights: Vec<f32>,
    /// RAdam's moments and step count.
    pub optimizer: RAdam,
}

impl CriticState {
    /// Starts from the teacher's weights.
    pub(super) fn new(weights: Vec<f32>) -> Self {
        Self { optimizer: RAdam::new(weights.len()), weights }
    }
}

/// Critic and teacher compared on a batch of the student's samples.
pub(super) struct Comparison {
    /// The critic's EDM loss on the samples.
    pub loss: f32,
    /// The divergence's gradient in the samples (B, C, H, W): (D_critic − D_teacher)/mean |x̂ − D_teacher|, equation 7 with
    /// the weight of equation 8.
    pub divergence_gradient: Images,
    /// The gradient of `loss` in the critic's weights.
    gradient: Vec<f32>,
}

/// Compares a critic with a teacher on `samples` (B, C, H, W), one label each, under noise of random levels; `teacher` is
/// (x, σ) ↦ image.
pub(super) async fn compare(
    critic: &Denoiser,
    weights: &[f32],
    teacher: impl AsyncFn(&Images, &[f64]) -> Result<Images>,
    samples: &Images,
    labels: &[u32],
    generator: &mut Generator,
) -> Result<Comparison> {
    let sigma = levels(&critic.scheduler, generator, samples.shape[0]);
    let x = perturb(samples, &Images::normal(samples.shape, generator), &sigma);
    let (by_critic, recorded) = critic.record(weights, Scalings::edm, &x, &sigma, labels).await?;
    let Loss { value, gradient } = edm_loss(&by_critic, samples, &sigma, critic.scheduler.sigma_data, false);
    let gradient = critic.gradient(weights, recorded, &gradient).await?;

    let by_teacher = teacher(&x, &sigma).await?;
    // Clamped like the teacher's output, so that the difference is 0 where the two networks agree.
    let mut divergence_gradient = critic.clip(by_critic);
    let len = samples.sample_len();
    let all = divergence_gradient.values.chunks_exact_mut(len).zip(samples.samples()).zip(by_teacher.samples());
    for ((gradient, sample), by_teacher) in all {
        let distance = sample.iter().zip(by_teacher).map(|(x, d)| (x - d).abs()).sum::<f32>() / len as f32 + 1e-6;
        gradient.iter_mut().zip(by_teacher).for_each(|(g, d)| *g = (*g - d) / distance);
    }
    Ok(Comparison { loss: value, divergence_gradient, gradient })
}

impl Comparison {
    /// One step of the critic's optimizer.
    pub fn update_critic(&self, state: &mut CriticState, learning_rate: f64, matrices: &Matrices) {
        state.optimizer.update(&mut state.weights, &self.gradient, learning_rate, matrices);
    }

    /// ½·mean (x̂ − c)² with c = x̂ − [`Self::divergence_gradient`] held constant, a loss whose gradient in x̂ is the
    /// divergence's over the number of values.
    pub fn matching_loss(&self) -> Loss {
        let count = self.divergence_gradient.values.len() as f32;
        let squares: f64 = self.divergence_gradient.values.iter().map(|g| f64::from(g * g)).sum();
        let value = (0.5 * squares) as f32 / count;
        Loss { value, gradient: self.divergence_gradient.clone().map(|g| g / count) }
    }
}

/// `batch` noise levels, uniform over the middle 96 % of the Karras schedule's indices, as the paper leaves out the 2 % of
/// the timesteps at each end.
fn levels(scheduler: &SchedulerConfig, generator: &mut Generator, batch: usize) -> Vec<f64> {
    const COUNT: usize = 1001;
    let schedule = SchedulerConfig { num_train_timesteps: COUNT, ..scheduler.clone() };
    (0..batch).map(|_| karras_sigma(&schedule, 20 + (generator.uniform_f64() * 960.0) as usize)).collect()
}

#[cfg(test)]
mod tests {
    use pollster::block_on;

    use super::*;
    use crate::model::config::UNetConfig;
    use crate::train::denoiser::Engine;
    use crate::train::weights::initial_weights;

    const CONFIG: &str = r#"{
        "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
        "block_out_channels": [8], "norm_num_groups": 4, "num_class_embeds": 2, "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"], "attention_head_dim": 8
    }"#;

    fn critic() -> (Denoiser, CriticState) {
        let critic = Denoiser::new(&UNetConfig::parse(CONFIG).unwrap(), &SchedulerConfig::default(), &Engine::Cpu);
        let weights = initial_weights(&critic.unet().parameters(), 1);
        (critic, CriticState::new(weights))
    }

    fn grey(value: f32) -> Images {
        Images::filled([4, 1, 8, 8], value)
    }

    const LABELS: [u32; 4] = [0, 1, 0, 1];

    #[test]
    fn the_divergence_gradient_is_0_where_critic_and_teacher_agree() {
        let (critic, state) = critic();
        let teacher = async |x: &Images, s: &[f64]| {
            Ok(critic.clip(critic.call(&state.weights, Scalings::edm, x, s, &LABELS).await?))
        };
        let (samples, mut generator) = (grey(0.3), Generator::new(2));
        let comparison =
            block_on(compare(&critic, &state.weights, teacher, &samples, &LABELS, &mut generator)).unwrap();
        assert!(comparison.divergence_gradient.values.iter().all(|g| *g == 0.0));
    }

    #[test]
    fn the_divergence_gradient_points_away_from_the_teachers_images() {
        // The teacher's data is one image, +0.5 everywhere; the samples are −0.5. The output of a critic trained on them
        // is −0.5, and the gradient (−0.5 − 0.5)/|−0.5 − 0.5| = −1.
        let (critic, mut state) = critic();
        let teacher = async |_: &Images, _: &[f64]| Ok(grey(0.5));
        let samples = grey(-0.5);
        let at = |state: &CriticState, seed| {
            block_on(compare(&critic, &state.weights, teacher, &samples, &LABELS, &mut Generator::new(seed))).unwrap()
        };
        let first = at(&state, 1000).loss;
        (0..150).for_each(|seed| at(&state, seed).update_critic(&mut state, 1e-2, &Matrices::new()));
        let last = at(&state, 1000);
        assert!(last.loss < 0.2 * first, "the critic's loss: {first}, then {}", last.loss);
        let mean = last.divergence_gradient.values.iter().sum::<f32>() / 256.0;
        assert!((mean + 1.0).abs() < 0.2, "a mean of {mean}");
        for (found, expected) in last.matching_loss().gradient.values.iter().zip(&last.divergence_gradient.values) {
            assert!((found * 256.0 - expected).abs() < 1e-5, "found {found}, expected {expected}/256");
        }
    }

    #[test]
    fn levels_avoid_the_ends_of_the_schedule() {
        let levels = levels(&SchedulerConfig::default(), &mut Generator::new(1), 4000);
        let (low, high) = levels.iter().fold((f64::MAX, 0.0f64), |(low, high), &s| (low.min(s), high.max(s)));
        assert!(low > 0.002 && low < 0.005 && high < 80.0 && high > 65.0, "{low} to {high}");
    }
}
