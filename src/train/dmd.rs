//! Distribution matching distillation (Yin et al. 2024, "One-step Diffusion with Distribution Matching Distillation", and
//! its improved version of the same year): answers of the trained network are drawn to where a teacher finds images
//! likelier than the answers themselves are.
//!
//! What is likely among the answers is told by a critic, a second denoiser, which begins as the teacher and goes on
//! learning from the answers alone. With the noisy answer x_s = x̂ + s·n both denoisers give a score,
//! (D(x_s, s) − x_s)/s²; the difference of the two is the gradient of the Kullback–Leibler divergence.

use std::cell::RefCell;

use burn::tensor::{Tensor, TensorData};

use crate::burn::Weights;
use crate::consistency::rng::Generator;
use crate::consistency::schedule::{Scalings, karras_sigma};
use crate::model::config::SchedulerConfig;
use crate::train::denoiser::Denoiser;
use crate::train::losses::edm_loss;
use crate::train::optimizer::{Matrices, RAdam, track};

/// What changes about a critic from one iteration to the next.
pub struct CriticState {
    /// Its weights, tracked.
    pub weights: Weights,
    /// Moments.
    pub optimizer: RAdam,
}

impl CriticState {
    /// The beginning, from the teacher's weights.
    pub fn new(weights: Weights) -> Self {
        let optimizer = RAdam::new(&weights);
        Self { weights: weights.into_iter().map(|(n, w)| (n, track(w))).collect(), optimizer }
    }
}

/// A critic's comparison of a batch of answers with the teacher.
pub struct Judgement {
    /// The critic's own loss on the answers, that of a denoiser.
    pub loss: f32,
    /// (D_critic − D_teacher)/mean |x̂ − D_teacher|, each answer's way away from the teacher's images (B, C, H, W); what
    /// scales the two scores' difference is equation 8 of the first paper.
    pub away: Tensor<4>,
    /// The gradient of `loss` in the critic's weights.
    gradients: Weights,
}

/// Compares `answers` (B, C, H, W), one label each, under noise of random levels; `teacher` is (x, σ) ↦ image.
pub fn judge(
    critic: &Denoiser,
    weights: &Weights,
    teacher: impl Fn(&Tensor<4>, &[f64]) -> Tensor<4>,
    answers: &Tensor<4>,
    labels: &[u32],
    generator: &mut Generator,
) -> Judgement {
    let answers = answers.clone().without_autodiff();
    let [batch, channels, height, width] = answers.dims();
    let sigma = levels(&critic.scheduler, generator, batch);
    let mut noise = vec![0.0; batch * channels * height * width];
    generator.randn(&mut noise);
    let noise = Tensor::from_data(TensorData::new(noise, answers.dims()), &answers.device());

    let asked = RefCell::new(None);
    let denoiser = |x: &Tensor<4>, s: &[f64]| {
        let (denoised, recorded) = critic.record(weights, Scalings::edm, x, s, labels);
        asked.replace(Some((x.clone(), denoised.clone(), recorded)));
        denoised
    };
    let loss = edm_loss(denoiser, &answers, &noise, &sigma, critic.scheduler.sigma_data, false);
    let (x, by_critic, recorded) = asked.take().expect("the loss asks the denoiser once");
    let gradients = critic.gradients(&loss, weights, recorded);

    let by_teacher = teacher(&x, &sigma);
    let distance = (answers - by_teacher.clone()).abs().reshape([batch as i32, -1]).mean_dim(1);
    // Clamped as the teacher's answer is, so that nothing is matched where the two networks agree.
    let away = (critic.clip(by_critic.without_autodiff()) - by_teacher) / (distance.reshape([batch, 1, 1, 1]) + 1e-6);
    Judgement { loss: loss.without_autodiff().into_scalar(), away, gradients }
}

impl Judgement {
    /// One step of the critic's own training.
    pub fn learn(&self, state: &mut CriticState, learning_rate: f64, matrices: &Matrices) {
        state.optimizer.update(&mut state.weights, &self.gradients, learning_rate, matrices);
    }

    /// ½·mean (x̂ − (x̂ − away))², where what is subtracted gives no gradient: equation 7 as a loss.
    pub fn matching_loss(&self, answers: &Tensor<4>) -> Tensor<1> {
        let goal = answers.clone().without_autodiff() - self.away.clone();
        (answers.clone() - goal).powi_scalar(2).mean() * 0.5
    }
}

/// Noise levels spread evenly over the Karras schedule, without its ends: there an answer is nearly known or nearly gone.
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
        let critic = Denoiser::new(&UNetConfig::parse(CONFIG).unwrap(), &SchedulerConfig::default(), Engine::Cpu);
        let weights = initial_weights(&critic.unet().parameters(), 1, &Device::flex());
        (critic, CriticState::new(weights))
    }

    fn grey(value: f32) -> Tensor<4> {
        Tensor::<4>::ones([4, 1, 8, 8], &Device::flex()) * value
    }

    const LABELS: [u32; 4] = [0, 1, 0, 1];

    #[test]
    fn nothing_is_matched_where_critic_and_teacher_agree() {
        let (critic, state) = critic();
        let teacher = |x: &Tensor<4>, s: &[f64]| critic.clip(critic.call(&state.weights, Scalings::edm, x, s, &LABELS));
        let judgement = judge(&critic, &state.weights, teacher, &grey(0.3), &LABELS, &mut Generator::new(2));
        let largest: f32 = judgement.away.abs().max().into_scalar();
        assert_eq!(largest, 0.0);
    }

    #[test]
    fn a_critic_of_the_answers_points_away_from_the_teachers_images() {
        // The teacher knows one image, +0.5 everywhere; the answers are −0.5. A critic that has learned from them says
        // −0.5, so that the way away from the teacher is down, by (−0.5 − 0.5)/|−0.5 − 0.5| = −1.
        let (critic, mut state) = critic();
        let teacher = |_: &Tensor<4>, _: &[f64]| grey(0.5);
        let answers = grey(-0.5).autodiff().require_grad();
        let at = |state: &CriticState, seed| {
            judge(&critic, &state.weights, teacher, &answers, &LABELS, &mut Generator::new(seed))
        };
        let first = at(&state, 1000).loss;
        (0..150).for_each(|seed| at(&state, seed).learn(&mut state, 1e-2, &Matrices::new()));
        let last = at(&state, 1000);
        assert!(last.loss < 0.2 * first, "the critic's loss: {first}, then {}", last.loss);
        let mean: f32 = last.away.clone().mean().into_scalar();
        assert!((mean + 1.0).abs() < 0.2, "a mean of {mean}");

        // The loss's gradient is that way, over the number of values.
        let gradient = answers.grad(&last.matching_loss(&answers).backward()).unwrap();
        let error: f32 = (gradient * 256.0 - last.away).abs().max().into_scalar();
        assert!(error < 1e-5, "off by {error}");
    }

    #[test]
    fn levels_avoid_the_ends_of_the_schedule() {
        let levels = levels(&SchedulerConfig::default(), &mut Generator::new(1), 4000);
        let (low, high) = levels.iter().fold((f64::MAX, 0.0f64), |(low, high), &s| (low.min(s), high.max(s)));
        assert!(low > 0.002 && low < 0.005 && high < 80.0 && high > 65.0, "{low} to {high}");
    }
}
