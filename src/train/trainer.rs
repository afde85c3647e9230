//! A run's settings and state, and one iteration of it.

use std::cell::Cell;

use crate::consistency::rng::Generator;
use crate::consistency::schedule::Scalings;
use crate::error::{Error, Result};
use crate::model::unet::NO_CLASS;
use crate::train::dataset::Batch;
use crate::train::denoiser::{Denoiser, Recorded};
use crate::train::dmd::{Comparison, CriticState, compare};
use crate::train::images::Images;
use crate::train::losses::{Loss, Metric, Pair, consistency_loss, edm_loss, perturb, picture_loss};
use crate::train::objective::Recipe;
use crate::train::ode::{euler_step, heun_step};
use crate::train::optimizer::{Matrices, RAdam, hidden_matrices, moving_average};
use crate::train::teacher::{Guidance, Teacher};
use crate::train::trajectories::Trajectories;

/// A run's constants.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Objective and noise levels.
    pub recipe: Recipe,
    /// Images per iteration.
    pub batch: usize,
    /// Learning rate before its decay.
    pub learning_rate: f64,
    /// Share of the run, at its end, over which the learning rate falls linearly to 0; in [0, 1].
    pub decay: f64,
    /// Decay of the moving average of the weights, which samples are drawn with: at iteration k ≥ 1 it is
    /// min(`ema`, (1 + k)/(10 + k)), which lowers the share of the initial weights.
    pub ema: f64,
    /// Seed of the run.
    pub seed: u64,
    /// Whether Muon updates the hidden layers' matrices; RAdam updates the other weights.
    pub muon: bool,
    /// Share of the samples that are trained on without their class, as classifier-free guidance of the model needs; in
    /// [0, 1].
    pub class_dropout: f64,
    /// Guidance of the teacher's denoiser.
    pub guidance: Guidance,
    /// Learning rate of distribution matching's critic before its decay.
    pub critic_learning_rate: f64,
}

/// A run's state, which each iteration changes.
pub struct State {
    /// Online weights θ, in the order of the parameters, as all others.
    pub weights: Vec<f32>,
    /// The moving average of θ, which samples are drawn with.
    pub ema: Vec<f32>,
    /// The target network's weights θ⁻ of CD and CT, where they are not θ.
    pub target: Option<Vec<f32>>,
    /// RAdam's moments, and the number of iterations done.
    pub optimizer: RAdam,
    /// The critic of distribution matching.
    pub critic: Option<CriticState>,
    /// Seconds of training, summed over interruptions.
    pub seconds: f64,
}

impl State {
    /// Starts a run from `weights`.
    pub fn new(weights: Vec<f32>, recipe: &Recipe) -> Self {
        Self {
            optimizer: RAdam::new(weights.len()),
            target: recipe.has_target().then(|| weights.clone()),
            ema: weights.clone(),
            weights,
            critic: None,
            seconds: 0.0,
        }
    }
}

/// A loss and what its gradient in the weights is computed from.
struct Evaluation {
    loss: Loss,
    recorded: Recorded,
    /// In distribution matching.
    comparison: Option<Comparison>,
}

/// Iterations at the beginning of a run of distribution matching that train the critic alone.
const CRITIC_WARM_UP: u64 = 100;

/// A run: the network, its settings and its state.
pub struct Trainer {
    /// The network that is trained.
    pub denoiser: Denoiser,
    /// The run's constants.
    pub settings: Settings,
    /// Weights, moments and iteration.
    pub state: State,
    teacher: Option<Teacher>,
    /// The critic's loss in the last iteration.
    pub critic_loss: Option<f32>,
    matrices: Matrices,
    critic_matrices: Matrices,
    /// The trajectories that are learnt from, and their number in the run.
    trajectories: Cell<Option<(u64, Trajectories)>>,
}

impl Trainer {
    /// A run, at its beginning or continued.
    ///
    /// # Errors
    /// [`Error::Input`] when distillation has no teacher, when a teacher has another shape or the recipe uses none, and
    /// when class dropout or guidance is asked of a model without classes.
    pub fn new(denoiser: Denoiser, settings: Settings, mut state: State, teacher: Option<Teacher>) -> Result<Self> {
        let is_guided = settings.guidance.strength != 1.0;
        match (settings.recipe, &teacher) {
            (Recipe::Cd { .. } | Recipe::Dmd { .. } | Recipe::Trajectories { .. }, None) => {
                return Err(Error::Input("distillation needs a teacher, found none".into()));
            }
            (
                Recipe::Cd { .. } | Recipe::Dmd { .. } | Recipe::Ect { .. } | Recipe::Trajectories { .. },
                Some(teacher),
            ) => {
                teacher.check(&denoiser.config)?;
            }
            (_, Some(_)) => return Err(Error::Input("only cd, dmd, ect and trajectories take a teacher".into())),
            (_, None) if is_guided => {
                return Err(Error::Input("guidance needs a teacher, found none".into()));
            }
            (_, None) => {}
        }
        let has_guide = teacher.as_ref().is_some_and(|t| t.guide.is_some());
        let needs_classes = is_guided && !has_guide || settings.class_dropout != 0.0;
        if needs_classes && denoiser.config.num_class_embeds.is_none() {
            return Err(Error::Input("guidance and class dropout need a model with classes, found one without".into()));
        }
        let matrices = |denoiser: &Denoiser| match settings.muon {
            true => hidden_matrices(&denoiser.unet().parameters()),
            false => Matrices::new(),
        };
        let critic_matrices = teacher.as_ref().map(|teacher| matrices(&teacher.denoiser)).unwrap_or_default();
        let matrices = matrices(&denoiser);
        if let (Recipe::Dmd { .. }, Some(teacher), None) = (settings.recipe, &teacher, &state.critic) {
            let mut critic = CriticState::new(teacher.weights.clone());
            // A checkpoint has one count of iterations, the network's.
            critic.optimizer.step = state.optimizer.step;
            state.critic = Some(critic);
        }
        let trajectories = Cell::new(None);
        let critic_loss = None;
        Ok(Self { denoiser, settings, state, teacher, critic_loss, matrices, critic_matrices, trajectories })
    }

    /// What is distilled, if anything is.
    pub fn teacher(&self) -> Option<&Teacher> {
        self.teacher.as_ref()
    }

    /// The generator of the next iteration's random numbers; a function of the seed and the iteration alone.
    pub fn generator(&self) -> Generator {
        Generator::new(mix(self.settings.seed, self.state.optimizer.step))
    }

    /// One iteration on `batch` at `progress` in [0, 1]; `generator` draws noise levels and noise. Returns the loss.
    ///
    /// # Errors
    /// [`Error::Input`] when the loss is not finite and [`Error::Gpu`] when the device fails; the weights are then as before.
    pub async fn step(&mut self, batch: &Batch, generator: &mut Generator, progress: f64) -> Result<f32> {
        let shape = self.denoiser.shape(batch.labels.len());
        let y = Images::new(shape, batch.images.clone());
        let z = Images::normal(shape, generator);
        let mut labels = batch.labels.clone();
        if self.settings.class_dropout > 0.0 {
            let dropped = |_: &&mut u32| generator.uniform_f64() < self.settings.class_dropout;
            labels.iter_mut().filter(dropped).for_each(|label| *label = NO_CLASS);
        }
        let Evaluation { loss, recorded, comparison } = self.loss(&y, &z, &labels, generator, progress).await?;
        self.critic_loss = comparison.as_ref().map(|c| c.loss);
        let step = self.state.optimizer.step;
        if let Some(bad) = [Some(loss.value), self.critic_loss].into_iter().flatten().find(|v| !v.is_finite()) {
            return Err(Error::Input(format!("the loss is {bad} at iteration {step}: lower the learning rate")));
        }
        let lr = self.learning_rate(progress);
        let is_trained = comparison.is_none() || step >= CRITIC_WARM_UP;
        let gradient = match is_trained {
            true => Some(self.denoiser.gradient(&self.state.weights, recorded, &loss.gradient).await?),
            false => None,
        };
        let state = &mut self.state;
        if let (Some(comparison), Some(critic)) = (&comparison, &mut state.critic) {
            let lr = self.settings.critic_learning_rate * lr / self.settings.learning_rate;
            comparison.update_critic(critic, lr, &self.critic_matrices);
        }
        match gradient {
            Some(gradient) => state.optimizer.update(&mut state.weights, &gradient, lr, &self.matrices),
            None => state.optimizer.step += 1,
        }
        moving_average(&mut state.ema, &state.weights, average_decay(self.settings.ema, state.optimizer.step));
        if let Some(target) = &mut state.target {
            moving_average(target, &state.weights, self.settings.recipe.target_decay(progress));
        }
        Ok(loss.value)
    }

    /// The learning rate at `progress`.
    pub fn learning_rate(&self, progress: f64) -> f64 {
        let left = (1.0 - progress).max(0.0);
        if left >= self.settings.decay {
            return self.settings.learning_rate;
        }
        self.settings.learning_rate * left / self.settings.decay
    }

    async fn loss(
        &self,
        y: &Images,
        z: &Images,
        labels: &[u32],
        generator: &mut Generator,
        progress: f64,
    ) -> Result<Evaluation> {
        let recipe = &self.settings.recipe;
        let scheduler = &self.denoiser.scheduler;
        let clip = scheduler.clip_denoised;
        if let (&Recipe::Trajectories { calls, uses, first }, Some(teacher)) = (recipe, &self.teacher) {
            return self.trajectory_loss(teacher, calls, uses, first, generator).await;
        }
        let levels = recipe.levels(scheduler, progress, generator, labels.len());
        let (t, r) = (levels.t.as_slice(), levels.r.as_slice());
        let theta = self.state.weights.as_slice();
        let x_t = perturb(y, z, t);
        let x_r = match (recipe, &self.teacher) {
            (Recipe::Edm { .. }, _) => {
                let (output, recorded) = self.denoiser.record(theta, Scalings::edm, &x_t, t, labels).await?;
                let loss = edm_loss(&output, y, t, scheduler.sigma_data, clip);
                return Ok(Evaluation { loss, recorded, comparison: None });
            }
            (_, Some(teacher)) => {
                let guided = async |x: &Images, s: &[f64]| teacher.guided(x, s, labels, &self.settings.guidance).await;
                match (recipe, &self.state.critic) {
                    (Recipe::Dmd { .. }, Some(critic)) => {
                        let (samples, recorded) = self.denoiser.record(theta, Scalings::new, &x_t, t, labels).await?;
                        // The critic has the teacher's architecture.
                        let comparison =
                            compare(&teacher.denoiser, &critic.weights, guided, &samples, labels, generator).await?;
                        let loss = comparison.matching_loss();
                        return Ok(Evaluation { loss, recorded, comparison: Some(comparison) });
                    }
                    (Recipe::Cd { .. }, _) => heun_step(guided, &x_t, t, r).await?,
                    // ECT's r may be 0, where Heun's second evaluation divides by 0.
                    _ => euler_step(guided, &x_t, t, r).await?,
                }
            }
            _ => perturb(y, z, r),
        };
        let held = self.state.target.as_deref().unwrap_or(theta);
        let target = async |x: &Images, s: &[f64]| self.denoiser.call(held, Scalings::new, x, s, labels).await;
        let metric = match recipe {
            Recipe::Ect { .. } => Metric::L2,
            _ => Metric::SquaredL2,
        };
        let pair = Pair { x_t: &x_t, t, x_r: &x_r, r };
        let weights = recipe.weights(&levels, scheduler.sigma_data);
        let mut tape = None;
        let online = async |x: &Images, s: &[f64]| {
            let (output, recorded) = self.denoiser.record(theta, Scalings::new, x, s, labels).await?;
            tape = Some(recorded);
            Ok(output)
        };
        let loss = consistency_loss(online, target, &pair, &weights, metric, clip).await?;
        Ok(Evaluation { loss, recorded: tape.expect("the loss calls f"), comparison: None })
    }

    /// The loss of states of the trajectories of this iteration, which the teacher solves for `uses` iterations at once; data is
    /// not used. They are a function of the run's seed and their number, as a resumed run needs.
    async fn trajectory_loss(
        &self,
        teacher: &Teacher,
        calls: usize,
        uses: usize,
        first: f64,
        generator: &mut Generator,
    ) -> Result<Evaluation> {
        let Denoiser { config, scheduler, .. } = &self.denoiser;
        let number = self.state.optimizer.step / uses as u64;
        let kept = self.trajectories.take().filter(|(of, _)| *of == number);
        let trajectories = match kept {
            Some((_, trajectories)) => trajectories,
            None => {
                let shape = self.denoiser.shape(self.settings.batch);
                let denoiser = async |x: &Images, s: &[f64], labels: &[u32]| {
                    teacher.guided(x, s, labels, &self.settings.guidance).await
                };
                let mut own = Generator::new(mix(!self.settings.seed, number));
                Trajectories::solve(denoiser, shape, calls, config.num_class_embeds, scheduler, &mut own).await?
            }
        };
        let (x, t) = trajectories.draw(first, scheduler.sigma_data, generator);
        let (theta, labels) = (&self.state.weights, &trajectories.labels);
        let (output, recorded) = self.denoiser.record(theta, Scalings::new, &x, &t, labels).await?;
        let loss = picture_loss(&output, &trajectories.end, scheduler.clip_denoised);
        self.trajectories.set(Some((number, trajectories)));
        Ok(Evaluation { loss, recorded, comparison: None })
    }
}

/// The moving average's decay at iteration k ≥ 1; see [`Settings::ema`].
fn average_decay(decay: f64, k: u64) -> f64 {
    decay.min((1.0 + k as f64) / (10.0 + k as f64))
}

/// A seed for iteration k of a run: SplitMix64's finaliser of `seed` + (k + 1)·golden ratio.
fn mix(seed: u64, k: u64) -> u64 {
    let mut v = seed.wrapping_add(k.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    v = (v ^ (v >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    v = (v ^ (v >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    v ^ (v >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moving_average_decays_faster_in_the_first_iterations() {
        assert_eq!(average_decay(0.999, 0), 0.1);
        assert_eq!(average_decay(0.999, 8), 0.5);
        assert_eq!(average_decay(0.999, 1_000_000), 0.999);
    }
}
