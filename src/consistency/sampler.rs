//! Multistep consistency sampling: Algorithm 1 of Song et al. 2023, as diffusers runs it.

use std::ops::ControlFlow;

use crate::consistency::edit::slerp;
use crate::consistency::noise::Noise;
use crate::consistency::rng::Generator;
use crate::consistency::schedule::{Schedule, Step};
use crate::error::{Error, Result};
use crate::json::number;
use crate::model::config::{SchedulerConfig, UNetConfig};

/// A consistency function f(x, σ) that keeps the noisy batch x where it computes.
///
/// Batches are (B, C, H, W), row-major, f32.
pub trait ConsistencyFunction {
    /// Sets x and the class of each sample (`labels` is empty for an unconditional model).
    fn set_state(&mut self, x: &[f32], labels: &[u32]) -> Result<()>;

    /// Calls the network once: x₀ ← f(x, σ), clamped to ±1 if `clip`; then x ← x₀ + `step.noise_scale`·z.
    ///
    /// `z` is empty when no noise is added. Returns x₀.
    fn step(&mut self, step: &Step, clip: bool, z: &[f32]) -> impl Future<Output = Result<Vec<f32>>>;
}

/// What a sampler reports after each network call.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// Which call this was, from 0.
    pub index: usize,
    /// How many calls there are in all.
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
    let mut z = vec![0.0; len];
    noise(&mut z);
    let x: Vec<f32> = z.iter().map(|z| z * schedule.sigma_max as f32).collect();
    function.set_state(&x, labels)?;

    let mut denoised = x;
    let steps = schedule.steps.len();
    for (index, step) in schedule.steps.iter().enumerate() {
        let last = index + 1 == steps;
        if !last {
            noise(&mut z);
        }
        denoised = function.step(step, schedule.clip_denoised, if last { &[] } else { &z }).await?;
        let report = Progress { index, steps, sigma: step.sigma, denoised: &denoised };
        if on_step(report).is_break() {
            return Err(Error::Cancelled);
        }
    }
    Ok(denoised)
}

/// The most values of a batch: 256 MB of f32, of which a run holds several copies.
const MAX_VALUES: usize = 1 << 26;

/// A second seed, and how far its noise takes over: variations of a sample, and what lies between two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// The other seed, with the meaning of [`Request::seed`].
    pub seed: u64,
    /// From 0, where the noise is all the request's own, to 1, where it is all the other seed's.
    pub amount: f64,
}

/// What to sample, as a person asks for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// Seed of all noise, with the meaning of `torch.Generator("cpu").manual_seed`.
    pub seed: u64,
    /// Number of samples, at least 1.
    pub batch: usize,
    /// A class for each sample, or one for all; `None`: drawn by the seed (see [`Request::labels`]).
    pub class_labels: Option<Vec<u32>>,
    /// An explicit list of timesteps; takes precedence over `num_inference_steps`.
    pub timesteps: Option<Vec<usize>>,
    /// Number of evenly spaced network calls; `None`: 1.
    pub num_inference_steps: Option<usize>,
    /// Another seed's noise to mix in; the classes stay those of `seed`.
    pub blend: Option<Blend>,
    /// The noise of each sample by itself, as a list of generators gives it in diffusers, in place of that of `seed` and
    /// `blend`; empty: none.
    pub noises: Vec<Noise>,
}

impl Request {
    /// The noise levels to visit.
    pub fn schedule(&self, config: &SchedulerConfig) -> Result<Schedule> {
        match &self.timesteps {
            Some(list) => Schedule::from_timesteps(config, list),
            None => Schedule::evenly_spaced(config, self.num_inference_steps.unwrap_or(1)),
        }
    }

    /// The class of each sample; empty for an unconditional model.
    ///
    /// Where none were asked for, they are what `ConsistencyModelPipeline` draws after `torch.manual_seed(seed)`:
    /// the same seed always means the same classes.
    ///
    /// # Errors
    /// [`Error::Input`] when a label is out of range, their number fits neither 1 nor the batch, or the model knows
    /// no classes.
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
                Generator::new(self.seed).randint(classes as u32, &mut labels);
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

    /// The seed's noise, for images of `len` values each: a function that fills whole batches, as `torch.randn` does.
    ///
    /// With [`Request::blend`], every draw z of an image, the first one and those between the steps, is
    /// slerp(z(seed), z(blend.seed), amount): so 0 and 1 give the samples of the two seeds, and what lies between is as
    /// long as noise is.
    ///
    /// # Errors
    /// [`Error::Input`] when an amount is not from 0 to 1, or [`Request::noises`] are not as many as samples.
    pub fn noise(&self, len: usize) -> Result<impl FnMut(&mut [f32])> {
        let mut generator = Generator::new(self.seed);
        let mut other = match self.blend {
            None => None,
            Some(Blend { seed, amount }) if (0.0..=1.0).contains(&amount) => Some((Generator::new(seed), amount)),
            Some(Blend { amount, .. }) => {
                let found = number(amount);
                return Err(Error::Input(format!("blend: expected an amount from 0 to 1, found {found}")));
            }
        };
        if ![0, self.batch].contains(&self.noises.len()) {
            let (batch, found) = (self.batch, self.noises.len());
            return Err(Error::Input(format!("seed: expected {batch} of them, one for each sample, found {found}")));
        }
        let mut sources = self.noises.iter().map(Noise::source).collect::<Result<Vec<_>>>()?;
        Ok(move |z: &mut [f32]| {
            if !sources.is_empty() {
                z.chunks_mut(len).zip(&mut sources).for_each(|(z, source)| source.fill(z));
                return;
            }
            generator.randn(z);
            if let Some((generator, amount)) = &mut other {
                let mut b = vec![0.0; z.len()];
                generator.randn(&mut b);
                for (z, b) in z.chunks_mut(len).zip(b.chunks(len)) {
                    z.copy_from_slice(&slerp(z, b, *amount));
                }
            }
        })
    }

    /// Draws the samples: [`sample`] with the seed's noise.
    pub async fn run<F: ConsistencyFunction>(
        &self,
        function: &mut F,
        unet: &UNetConfig,
        scheduler: &SchedulerConfig,
        on_step: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<f32>> {
        let (schedule, labels) = (self.schedule(scheduler)?, self.labels(unet)?);
        let len = self.len(unet)?;
        let noise = self.noise(len / self.batch)?;
        sample(function, &schedule, len, &labels, noise, on_step).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The consistency function of a point mass at `y`: the network that answers y whatever it sees.
    struct PointMass {
        y: f32,
        x: Vec<f32>,
        calls: Vec<(f64, usize)>,
    }

    impl ConsistencyFunction for PointMass {
        fn set_state(&mut self, x: &[f32], _: &[u32]) -> Result<()> {
            self.x = x.to_vec();
            Ok(())
        }

        async fn step(&mut self, step: &Step, clip: bool, z: &[f32]) -> Result<Vec<f32>> {
            self.calls.push((step.sigma, z.len()));
            let y = if clip { self.y.clamp(-1.0, 1.0) } else { self.y };
            let x0 = vec![y; self.x.len()];
            for (x, z) in self.x.iter_mut().zip(z) {
                *x = y + step.noise_scale as f32 * z;
            }
            Ok(x0)
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
        let mut f = PointMass { y: 3.0, x: vec![], calls: vec![] };
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
        assert_eq!(f.calls[0].1, 4);
        assert_eq!(f.calls[1].1, 0);
        assert!((f.x[0] - (1.0 + schedule.steps[0].noise_scale as f32)).abs() < 1e-6);
    }

    #[test]
    fn a_blend_goes_from_one_seed_to_the_other() {
        let draws = |seed: u64, blend: Option<Blend>| {
            let request = Request { seed, blend, ..Default::default() };
            let (mut noise, mut first, mut second) = (request.noise(64).unwrap(), vec![0.0; 128], vec![0.0; 128]);
            noise(&mut first);
            noise(&mut second);
            [first, second]
        };
        let (a, b) = (draws(1, None), draws(2, None));
        let blended = |amount: f64| draws(1, Some(Blend { seed: 2, amount }));
        assert_eq!(blended(0.0), a);
        assert_eq!(blended(1.0), b);
        let middle = blended(0.5);
        for (k, draw) in middle.iter().enumerate() {
            for image in [0..64, 64..128] {
                let alone = slerp(&a[k][image.clone()], &b[k][image.clone()], 0.5);
                assert_eq!(draw[image], alone, "each image of draw {k} for itself");
            }
        }
        for amount in [-0.1, 1.1, f64::NAN] {
            let request = Request { blend: Some(Blend { seed: 2, amount }), ..Default::default() };
            let found = request.noise(64).err().unwrap().to_string();
            assert_eq!(found, format!("blend: expected an amount from 0 to 1, found {amount}"));
        }
    }

    #[test]
    fn a_sample_with_a_noise_of_its_own_is_the_one_that_its_seed_makes_alone() {
        let draws = |request: Request| {
            let (mut noise, mut z) = (request.noise(64).unwrap(), vec![0.0; request.batch * 64]);
            noise(&mut z);
            noise(&mut z);
            z
        };
        let both = draws(Request { batch: 2, noises: vec![Noise::Seed(5), Noise::Seed(6)], ..Default::default() });
        let alone = |seed: u64| draws(Request { batch: 1, seed, ..Default::default() });
        assert_eq!(both, [alone(5), alone(6)].concat());
        let request = Request { batch: 3, noises: vec![Noise::Seed(5)], ..Default::default() };
        let found = request.noise(64).err().unwrap().to_string();
        assert_eq!(found, "seed: expected 3 of them, one for each sample, found 1");
    }

    #[test]
    fn on_step_can_cancel() {
        let mut f = PointMass { y: 0.0, x: vec![], calls: vec![] };
        let schedule = Schedule::evenly_spaced(&SchedulerConfig::default(), 4).unwrap();
        let result = run(sample(&mut f, &schedule, 1, &[], |z| z.fill(0.0), |_| ControlFlow::Break(())));
        assert_eq!(result, Err(Error::Cancelled));
        assert_eq!(f.calls.len(), 1);
    }
}
