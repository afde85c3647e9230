//! Multistep consistency sampling: Algorithm 1 of Song et al. 2023, as diffusers runs it.

use std::ops::ControlFlow;

use super::noise::BatchNoise;
use super::rng::Generator;
use super::schedule::{Schedule, Step};
use crate::error::{Error, Result};
use crate::model::config::{SchedulerConfig, UNetConfig};

/// A consistency function f(x, σ).
pub trait ConsistencyFunction {
    /// x₀ = f(x, σ) at the noise level of `step`, clamped to ±1 if the step says so.
    ///
    /// `x` and the result are batches (B, C, H, W), row-major. `labels` has the class of each sample; it is empty for an
    /// unconditional model.
    ///
    /// # Errors
    /// [`Error::Input`] for arguments that do not fit, [`Error::Gpu`] when the device fails.
    fn denoise(&mut self, x: &[f32], step: &Step, labels: &[u32]) -> impl Future<Output = Result<Vec<f32>>>;
}

/// The state of a run after a network call.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The index of the call, from 0.
    pub index: usize,
    /// Number of calls in all.
    pub steps: usize,
    /// The noise level of the call.
    pub sigma: f64,
    /// The denoised batch (B, C, H, W), in about [−1, 1].
    pub denoised: &'a [f32],
}

/// Draws a batch of samples: x = σ_max·z, then for each noise level x₀ = f(x, σ) and x = x₀ + √(σ_next² − σ_min²)·z.
///
/// `noise` fills its argument with standard normals; it is called once for the initial batch of `len` values and, when
/// there is more than one step, once after each step but the last, as `ConsistencyModelPipeline` draws them (its draw
/// after the last step is multiplied by zero). `on_step` may stop the sampler.
///
/// Returns the denoised batch of the last step.
///
/// # Errors
/// Those of the function, and [`Error::Cancelled`] when `on_step` breaks off.
pub async fn sample<F: ConsistencyFunction>(
    function: &mut F,
    schedule: &Schedule,
    len: usize,
    labels: &[u32],
    mut noise: impl FnMut(&mut [f32]),
    mut on_step: impl FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Vec<f32>> {
    // ANCHOR: multistep
    let mut x = vec![0.0; len];
    let mut scale = schedule.sigma_max;
    let mut z = vec![0.0; len];
    let steps = schedule.steps.len();
    for (index, step) in schedule.steps.iter().enumerate() {
        noise(&mut z);
        add_noise(&mut x, scale, &z);
        x = function.denoise(&x, step, labels).await?;
        scale = step.noise_scale;
        if on_step(Progress { index, steps, sigma: step.sigma, denoised: &x }).is_break() {
            return Err(Error::Cancelled);
        }
    }
    Ok(x)
    // ANCHOR_END: multistep
}

/// x ← x + scale·z.
pub(crate) fn add_noise(x: &mut [f32], scale: f64, z: &[f32]) {
    x.iter_mut().zip(z).for_each(|(x, z)| *x += scale as f32 * z);
}

/// The most values of a batch: 256 MB of f32, of which a run holds several copies.
const MAX_VALUES: usize = 1 << 26;

/// A request for samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Where the noise comes from, for instance `1.into()`: `torch.Generator("cpu").manual_seed(1)`.
    pub noise: BatchNoise,
    /// Number of samples, at least 1.
    pub batch: usize,
    /// A class for each sample, or one for all; `None`: drawn by the noise's seed (see [`Request::labels`]).
    pub class_labels: Option<Vec<u32>>,
    /// An explicit list of timesteps; takes precedence over `num_inference_steps`.
    pub timesteps: Option<Vec<usize>>,
    /// Number of evenly spaced network calls; `None`: 1.
    pub num_inference_steps: Option<usize>,
}

impl Default for Request {
    /// One sample of seed 0 in one network call.
    fn default() -> Self {
        Self { noise: 0.into(), batch: 1, class_labels: None, timesteps: None, num_inference_steps: None }
    }
}

impl Request {
    /// The noise levels to visit.
    ///
    /// # Errors
    /// Those of [`Schedule::from_timesteps`] and [`Schedule::evenly_spaced`].
    pub fn schedule(&self, config: &SchedulerConfig) -> Result<Schedule> {
        match &self.timesteps {
            Some(list) => Schedule::from_timesteps(config, list),
            None => Schedule::evenly_spaced(config, self.num_inference_steps.unwrap_or(1)),
        }
    }

    /// The class of each sample; empty for an unconditional model.
    ///
    /// Without [`Request::class_labels`] they are drawn as `ConsistencyModelPipeline` draws them after
    /// `torch.manual_seed(seed)`: one seed always gives the same classes.
    ///
    /// # Errors
    /// [`Error::Input`] when a label is out of range, their number is neither 1 nor the batch, or the model has no
    /// classes.
    pub fn labels(&self, config: &UNetConfig) -> Result<Vec<u32>> {
        self.len(config)?;
        match (config.num_class_embeds, &self.class_labels) {
            (None, None) => Ok(Vec::new()),
            (None, Some(labels)) => Err(Error::Input(format!(
                "this model is not class-conditional: expected no class labels, found {}",
                labels.len()
            ))),
            (Some(classes), None) => {
                let mut labels = vec![0; self.batch];
                Generator::new(self.noise.label_seed()).randint(classes as u32, &mut labels);
                Ok(labels)
            }
            (Some(classes), Some(labels)) => {
                if let Some(bad) = labels.iter().find(|&&l| l as usize >= classes) {
                    return Err(Error::Input(format!("class labels must be from 0 to {}, found {bad}", classes - 1)));
                }
                match labels.as_slice() {
                    [one] => Ok(vec![*one; self.batch]),
                    all if all.len() == self.batch => Ok(all.to_vec()),
                    all => Err(Error::Input(format!(
                        "expected one class label, or one for each of {} samples, found {}",
                        self.batch,
                        all.len()
                    ))),
                }
            }
        }
    }

    /// How many values the batch has, B·C·H·W.
    ///
    /// # Errors
    /// [`Error::Input`] when it has none, or more than 2²⁶, of which several copies could not be held.
    pub(crate) fn len(&self, config: &UNetConfig) -> Result<usize> {
        let [h, w] = config.sample_size;
        let image = config.in_channels * h * w;
        match (self.batch, (MAX_VALUES / image).max(1)) {
            (0, _) => Err(Error::Input("batch must be at least 1, found 0".into())),
            (batch, most) if batch > most => {
                Err(Error::Input(format!("batch must be at most {most} for images of {h}×{w}, found {batch}")))
            }
            (batch, _) => Ok(batch * image),
        }
    }

    /// Draws the samples, (B, C, H, W) in about \[−1, 1\]: [`sample`] with the request's noise.
    ///
    /// # Errors
    /// Those of [`Request::schedule`], [`Request::labels`], [`BatchNoise::generator`] and [`sample`].
    pub async fn run<F: ConsistencyFunction>(
        &self,
        function: &mut F,
        unet: &UNetConfig,
        scheduler: &SchedulerConfig,
        on_step: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<f32>> {
        let (schedule, labels) = (self.schedule(scheduler)?, self.labels(unet)?);
        let len = self.len(unet)?;
        let noise = self.noise.generator(self.batch, len / self.batch)?;
        sample(function, &schedule, len, &labels, noise, on_step).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The consistency function of a point mass at `y`: it answers y for every x.
    struct PointMass {
        y: f32,
        /// The x of each call.
        calls: Vec<Vec<f32>>,
    }

    impl ConsistencyFunction for PointMass {
        async fn denoise(&mut self, x: &[f32], step: &Step, _: &[u32]) -> Result<Vec<f32>> {
            self.calls.push(x.to_vec());
            Ok(vec![if step.clip_denoised { self.y.clamp(-1.0, 1.0) } else { self.y }; x.len()])
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(v) => v,
            std::task::Poll::Pending => panic!("nothing here waits"),
        }
    }

    #[test]
    fn noise_is_added_at_the_next_level_and_never_after_the_last() {
        let mut f = PointMass { y: 3.0, calls: vec![] };
        let schedule = Schedule::from_timesteps(&SchedulerConfig::default(), &[22, 0]).unwrap();
        let mut draws = 0;
        let noise = |z: &mut [f32]| {
            draws += 1;
            z.fill(1.0);
        };
        let mut seen = vec![];
        let out = run(sample(&mut f, &schedule, 4, &[], noise, |p| {
            seen.push((p.index, p.steps));
            ControlFlow::Continue(())
        }))
        .unwrap();
        assert_eq!(out, [1.0; 4], "clamped to ±1");
        assert_eq!(seen, [(0, 2), (1, 2)]);
        assert_eq!(draws, 2, "the initial noise and one between the two steps");
        assert_eq!(f.calls[0], [80.0; 4]);
        assert!((f.calls[1][0] - (1.0 + schedule.steps[0].noise_scale as f32)).abs() < 1e-6);
    }

    #[test]
    fn on_step_can_cancel() {
        let mut f = PointMass { y: 0.0, calls: vec![] };
        let schedule = Schedule::evenly_spaced(&SchedulerConfig::default(), 4).unwrap();
        let result = run(sample(&mut f, &schedule, 1, &[], |z| z.fill(0.0), |_| ControlFlow::Break(())));
        assert_eq!(result, Err(Error::Cancelled));
        assert_eq!(f.calls.len(), 1);
    }
}
