//! Distribution matching distillation: Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation" (the
//! equations below) and its improved version of the same year (which leaves out the regression loss).
//!
//! The student's samples x̂ descend the Kullback–Leibler divergence of their distribution from the teacher's. Its gradient
//! at noise level s is the difference of two scores (D(x_s, s) − x_s)/s² at x_s = x̂ + s·n: that of the critic, a
//! denoiser of the student's samples, and that of the teacher. The critic starts from the teacher's weights.

use std::cell::RefCell;

use burn::tensor::{Tensor, TensorData};

use crate::burn::Weights;
use crate::consistency::rng::Generator;
use crate::consistency::schedule::{Scalings, karras_sigma};
use crate::model::config::SchedulerConfig;
use crate::train::denoiser::Denoiser;
use crate::train::losses::edm_loss;
use crate::train::optimizer::{Matrices, RAdam, track_all};

/// A critic's state, kept from one iteration to the next.
pub struct CriticState {
    /// Its weights, tracked leaves of the autodiff graph.
    pub weights: Weights,
    /// RAdam's moments and step count.
    pub optimizer: RAdam,
}

impl CriticState {
    /// Starts from the teacher's weights.
    pub(super) fn new(weights: Weights) -> Self {
        Self { optimizer: RAdam::new(&weights), weights: track_all(weights) }
    }
}

/// Critic and teacher compared on a batch of the student's samples.
pub(super) struct Comparison {
    /// The critic's EDM loss on the samples.
    pub loss: f32,
    /// The divergence's gradient in the samples (B, C, H, W): (D_critic − D_teacher)/mean |x̂ − D_teacher|, equation 7 with
    /// the weight of equation 8.
    pub divergence_gradient: Tensor<4>,
    /// The gradient of `loss` in the critic's weights.
    gradients: Weights,
}

/// Compares a critic with a teacher on `samples` (B, C, H, W), one label each, under noise of random levels; `teacher` is
/// (x, σ) ↦ image.
pub(super) fn compare(
    critic: &Denoiser,
    weights: &Weights,
    teacher: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    samples: &Tensor<4>,
    labels: &[u32],
    generator: &mut Generator,
) -> Comparison {
    let samples = samples.clone().without_autodiff();
    let [batch, channels, height, width] = samples.dims();
    let sigma = levels(&critic.scheduler, generator, batch);
    let mut noise = vec![0.0; batch * channels * height * width];
    generator.randn(&mut noise);
    let noise = Tensor::from_data(TensorData::new(noise, samples.dims()), &samples.device());

    let call = RefCell::new(None);
    let denoiser = |x: &Tensor<4>, s: &[f64]| {
        let (denoised, recorded) = critic.record(weights, Scalings::edm, x, s, labels);
        call.replace(Some((x.clone(), denoised.clone(), recorded)));
        denoised
    };
    let loss = edm_loss(denoiser, &samples, &noise, &sigma, critic.scheduler.sigma_data, false);
    let (x, by_critic, recorded) = call.take().expect("the loss calls the denoiser once");
    let gradients = critic.gradients(&loss, weights, recorded);

    let by_teacher = teacher(&x, &sigma);
    let distance = (samples - by_teacher.clone()).abs().reshape([batch as i32, -1]).mean_dim(1);
    // Clamped like the teacher's output, so that the difference is 0 where the two networks agree.
    let divergence_gradient =
        (critic.clip(by_critic.without_autodiff()) - by_teacher) / (distance.reshape([batch, 1, 1, 1]) + 1e-6);
    Comparison { loss: loss.without_autodiff().into_scalar(), divergence_gradient, gradients }
}

impl Comparison {
    /// One step of the critic's optimizer.
    pub fn update_critic(&self, state: &mut CriticState, learning_rate: f64, matrices: &Matrices) {
        state.optimizer.update(&mut state.weights, &self.gradients, learning_rate, matrices);
    }

    /// ½·mean (x̂ − c)² with c = x̂ − [`Self::divergence_gradient`] held constant, a loss whose gradient in x̂ is the
    /// divergence's over the number of values.
    pub fn matching_loss(&self, samples: &Tensor<4>) -> Tensor<1> {
        let goal = samples.clone().without_autodiff() - self.divergence_gradient.clone();
        (samples.clone() - goal).powi_scalar(2).mean() * 0.5
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
    use burn::tensor::Device;

    use super::*;
    use crate::model::config::UNetConfig;
    use crate::train::denoiser::Engine;
    use crate::train::initial::initial_weights;

    const CONFIG: &str = r#"{
        "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
        "block_out_channels": [8], "norm_num_groups": 4, "num_class_embeds": 2, "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"], "attention_head_dim": 8
    }"#;

    fn critic() -> (Denoiser, CriticState) {
        let critic = Denoiser::new(&UNetConfig::parse(CONFIG).unwrap(), &SchedulerConfig::default(), &Engine::Cpu);
        let weights = initial_weights(&critic.unet().parameters(), 1, &Device::flex());
        (critic, CriticState::new(weights))
    }

    fn grey(value: f32) -> Tensor<4> {
        Tensor::<4>::ones([4, 1, 8, 8], &Device::flex()) * value
    }

    const LABELS: [u32; 4] = [0, 1, 0, 1];

    #[test]
    fn the_divergence_gradient_is_0_where_critic_and_teacher_agree() {
        let (critic, state) = critic();
        let teacher = |x: &Tensor<4>, s: &[f64]| critic.clip(critic.call(&state.weights, Scalings::edm, x, s, &LABELS));
        let comparison = compare(&critic, &state.weights, teacher, &grey(0.3), &LABELS, &mut Generator::new(2));
        let largest: f32 = comparison.divergence_gradient.abs().max().into_scalar();
        assert_eq!(largest, 0.0);
    }

    #[test]
    fn the_divergence_gradient_points_away_from_the_teachers_images() {
        // The teacher's data is one image, +0.5 everywhere; the samples are −0.5. The output of a critic trained on them
        // is −0.5, and the gradient (−0.5 − 0.5)/|−0.5 − 0.5| = −1.
        let (critic, mut state) = critic();
        let teacher = |_: &Tensor<4>, _: &[f64]| grey(0.5);
        let samples = grey(-0.5).autodiff().require_grad();
        let at = |state: &CriticState, seed| {
            compare(&critic, &state.weights, teacher, &samples, &LABELS, &mut Generator::new(seed))
        };
        let first = at(&state, 1000).loss;
        (0..150).for_each(|seed| at(&state, seed).update_critic(&mut state, 1e-2, &Matrices::new()));
        let last = at(&state, 1000);
        assert!(last.loss < 0.2 * first, "the critic's loss: {first}, then {}", last.loss);
        let mean: f32 = last.divergence_gradient.clone().mean().into_scalar();
        assert!((mean + 1.0).abs() < 0.2, "a mean of {mean}");

        let gradient = samples.grad(&last.matching_loss(&samples).backward()).unwrap();
        let error: f32 = (gradient * 256.0 - last.divergence_gradient).abs().max().into_scalar();
        assert!(error < 1e-5, "off by {error}");
    }

    #[test]
    fn levels_avoid_the_ends_of_the_schedule() {
        let levels = levels(&SchedulerConfig::default(), &mut Generator::new(1), 4000);
        let (low, high) = levels.iter().fold((f64::MAX, 0.0f64), |(low, high), &s| (low.min(s), high.max(s)));
        assert!(low > 0.002 && low < 0.005 && high < 80.0 && high > 65.0, "{low} to {high}");
    }
}
