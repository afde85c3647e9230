//! Requests for edits: Algorithm 4, denoising, and interpolation between pictures.

use std::ops::ControlFlow;

use super::edit::{Edit, denoise, edit};
use super::noise::slerp;
use super::sampler::{ConsistencyFunction, Progress, Request, add_noise};
use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::json::number;
use crate::model::config::{SchedulerConfig, UNetConfig};

/// A kind of edit with its options.
#[derive(Debug, Clone, PartialEq)]
pub enum Task {
    /// Algorithm 4.
    Edit(Edit),
    /// f(picture, σ): removes noise from the picture in one network call.
    Denoise {
        /// Standard deviation of the noise, of a picture in [−1, 1].
        sigma: f64,
    },
    /// f(slerp(picture + σ·z, to + σ·z, amount), σ): interpolates between two pictures under the same noise.
    Interpolate {
        /// The picture at the other end, (C, H, W) in [−1, 1].
        to: Vec<f32>,
        /// Standard deviation of the noise; [`super::edit::STROKE_SIGMAS`]\[0\] is a good one.
        sigma: f64,
        /// The position of each result between the pictures, from 0 to 1; `None`: evenly spaced from end to end.
        amounts: Option<Vec<f64>>,
    },
}

/// A request for an edit of one picture.
#[derive(Debug, Clone, PartialEq)]
pub struct EditRequest {
    /// The edit.
    pub task: Task,
    /// (C, H, W), row-major, in [−1, 1].
    pub picture: Vec<f32>,
    /// Number of results, their classes and noise. Steps are for [`Task::Edit`] alone, which has its own default
    /// ([`Edit::schedule`]).
    pub request: Request,
}

impl EditRequest {
    /// The noise levels to visit.
    ///
    /// # Errors
    /// [`Error::Input`] when the task does not suit the model, steps are given for a task of one call, or the noise levels are
    /// out of range.
    pub fn schedule(&self, unet: &UNetConfig, scheduler: &SchedulerConfig) -> Result<Schedule> {
        let steps = self.request.timesteps.is_some() || self.request.num_inference_steps.is_some();
        match self.task {
            Task::Edit(ref kind) => {
                kind.check(unet)?;
                if steps { self.request.schedule(scheduler) } else { kind.schedule(scheduler) }
            }
            Task::Denoise { .. } | Task::Interpolate { .. } if steps => {
                Err(Error::Input("steps: expected none, for this kind makes one network call, found some".into()))
            }
            Task::Denoise { sigma } | Task::Interpolate { sigma, .. } => Schedule::from_sigmas(scheduler, &[sigma]),
        }
    }

    /// The pictures, (B, C, H, W) in [−1, 1], with the kept part of the given one in place; `on_step` gets the same after
    /// each network call and may stop the edit.
    ///
    /// # Errors
    /// Those of [`EditRequest::schedule`], of [`Request::labels`] and of the function, [`Error::Input`] when the picture has
    /// another size than the model's or amounts are not from 0 to 1, and [`Error::Cancelled`] when `on_step` breaks off.
    pub async fn run<F: ConsistencyFunction>(
        &self,
        function: &mut F,
        unet: &UNetConfig,
        scheduler: &SchedulerConfig,
        mut on_step: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<f32>> {
        let schedule = self.schedule(unet, scheduler)?;
        let batch = self.request.batch;
        let len = self.request.len(unet)? / batch;
        let to = if let Task::Interpolate { to, .. } = &self.task { to.len() } else { len };
        if let Some(found) = [self.picture.len(), to].into_iter().find(|found| *found != len) {
            let (c, [height, width]) = (unet.in_channels, unet.sample_size);
            return Err(Error::Input(format!("picture: expected {c}×{height}×{width} = {len} values, found {found}")));
        }
        let labels = self.request.labels(unet)?;
        let mut noise = self.request.noise.generator(batch, len)?;
        let (x, sigma) = match &self.task {
            Task::Edit(kind) => {
                let y = self.picture.repeat(batch);
                let mut last = Vec::new();
                let next = |p: Progress<'_>| {
                    last = p.denoised.to_vec();
                    kind.into_range(&mut last, &y, unet);
                    on_step(Progress { denoised: &last, ..p })
                };
                edit(function, unet, kind, &schedule, &y, &labels, noise, next).await?;
                return Ok(last);
            }
            Task::Denoise { sigma } => (self.picture.repeat(batch), *sigma),
            Task::Interpolate { to, sigma, amounts } => {
                let amounts = amounts_of(amounts.as_deref(), batch)?;
                let mut z = vec![0.0; len];
                noise(&mut z);
                let noisy = |y: &[f32]| {
                    let mut x = y.to_vec();
                    add_noise(&mut x, *sigma, &z);
                    x
                };
                let (a, b) = (noisy(&self.picture), noisy(to));
                (amounts.into_iter().flat_map(|amount| slerp(&a, &b, amount)).collect(), *sigma)
            }
        };
        let mut denoised = denoise(function, scheduler, sigma, &x, &labels).await?;
        denoised.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0));
        if on_step(Progress { index: 0, steps: 1, sigma, denoised: &denoised }).is_break() {
            return Err(Error::Cancelled);
        }
        Ok(denoised)
    }
}

/// Checks the amounts of an interpolation, or spaces them evenly.
fn amounts_of(amounts: Option<&[f64]>, batch: usize) -> Result<Vec<f64>> {
    let Some(amounts) = amounts else {
        return Ok((0..batch).map(|i| i as f64 / (batch - 1).max(1) as f64).collect());
    };
    if amounts.len() != batch {
        return Err(Error::Input(format!("amounts: expected {batch}, one for each picture, found {}", amounts.len())));
    }
    match amounts.iter().find(|a| !(0.0..=1.0).contains(*a)) {
        Some(bad) => Err(Error::Input(format!("amounts: expected numbers from 0 to 1, found {}", number(*bad)))),
        None => Ok(amounts.to_vec()),
    }
}
