//! The interface of every backend: a U-Net that takes weights and computes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::checkpoint::tensor::Arrival;
use crate::consistency::sampler::ConsistencyFunction;
use crate::consistency::schedule::Step;
use crate::error::{Error, Result};
use crate::json::number;
use crate::model::config::UNetConfig;

/// The arguments of one call of the bare network, as `UNet2DModel` takes them.
#[derive(Debug, Clone, Copy)]
pub struct ForwardInput<'a> {
    /// (B, C, H, W), row-major.
    pub sample: &'a [f32],
    /// One timestep per sample; any finite number (250·ln σ for a consistency model).
    pub timestep: &'a [f32],
    /// One class per sample, or empty for an unconditional model.
    pub class_labels: &'a [u32],
}

impl<'a> ForwardInput<'a> {
    /// The batch in parts of `size` samples, of which the last may be smaller.
    #[cfg(any(feature = "gpu", feature = "web-cpu"))]
    pub(crate) fn parts(self, size: usize) -> impl Iterator<Item = Self> {
        let of_one = self.sample.len() / self.timestep.len();
        let parts = self.sample.chunks(size * of_one).zip(self.timestep.chunks(size));
        parts.enumerate().map(move |(i, (sample, timestep))| {
            let labels = i * size..i * size + timestep.len();
            Self { sample, timestep, class_labels: self.class_labels.get(labels).unwrap_or_default() }
        })
    }

    /// Checks the arguments against the model and returns the batch size.
    ///
    /// # Errors
    /// [`Error::Input`] naming the argument, what was expected and what was found.
    pub fn check(&self, config: &UNetConfig) -> Result<usize> {
        let bad = |m: String| Err(Error::Input(m));
        let batch = self.timestep.len();
        let [h, w] = config.sample_size;
        let expected = batch * config.in_channels * h * w;
        if batch == 0 {
            return bad("timestep: expected at least one, found none".into());
        }
        if let Some(t) = self.timestep.iter().find(|t| !t.is_finite()) {
            return bad(format!("timestep: expected finite numbers, found {}", number((*t).into())));
        }
        if self.sample.len() != expected {
            let c = config.in_channels;
            let found = self.sample.len();
            return bad(format!("sample: expected {batch}×{c}×{h}×{w} = {expected} values, found {found}"));
        }
        match config.num_class_embeds {
            None if !self.class_labels.is_empty() => {
                bad("class_labels: expected none, this model is not class-conditional".into())
            }
            Some(_) if self.class_labels.len() != batch => {
                bad(format!("class_labels: expected {batch}, one per sample, found {}", self.class_labels.len()))
            }
            Some(n) => match self.class_labels.iter().find(|&&l| l as usize >= n) {
                Some(l) => bad(format!("class_labels: expected 0 to {}, found {l}", n - 1)),
                None => Ok(batch),
            },
            None => Ok(batch),
        }
    }
}

/// The number of images in `x` (B, C, H, W).
///
/// # Errors
/// [`Error::Input`] when it holds no image or a part of one.
pub(crate) fn batch_size(x: &[f32], config: &UNetConfig) -> Result<usize> {
    let (c, [h, w]) = (config.in_channels, config.sample_size);
    if x.is_empty() || !x.len().is_multiple_of(c * h * w) {
        return Err(Error::Input(format!("x: expected B×{c}×{h}×{w} values, found {}", x.len())));
    }
    Ok(x.len() / (c * h * w))
}

/// What the calls of a network share with who watches them. Clones share it, from other threads too.
#[derive(Debug, Clone, Default)]
pub struct Watch(Arc<Call>);

#[derive(Debug, Default)]
struct Call {
    cancelled: AtomicBool,
    /// The bits of an f32 from 0 to 1.
    progress: AtomicU32,
}

impl Watch {
    /// Lets the call under way, and those that follow, end with [`Error::Cancelled`] as soon as they can.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// Permits calls again.
    pub fn reset(&self) {
        self.0.cancelled.store(false, Ordering::Relaxed);
        self.report(0.0);
    }

    /// Whether calls are to end.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// How much of the call under way is done, from 0 to 1.
    pub fn progress(&self) -> f32 {
        f32::from_bits(self.0.progress.load(Ordering::Relaxed))
    }

    /// Notes how much of a call is done.
    pub(crate) fn report(&self, share: f64) {
        self.0.progress.store((share as f32).to_bits(), Ordering::Relaxed);
    }
}

/// A U-Net on some device. It takes weights by their checkpoint names and keeps no other state between calls.
pub trait Network: ConsistencyFunction {
    /// The architecture.
    fn config(&self) -> &UNetConfig;

    /// What cancels the network's calls and tells how far they are, where the backend can do so within a call.
    fn watch(&self) -> Watch {
        Watch::default()
    }

    /// Of how many rows each piece of a parameter must be a multiple, the last piece excepted; `None`: the parameter must
    /// come whole.
    fn piece_granularity(&self, name: &str) -> Option<usize>;

    /// Takes an event of a file of weights. Weights are 0 until they are loaded.
    ///
    /// Names and shapes are checked by [`crate::checkpoint::stream::WeightStream`], which hands the arrivals on.
    ///
    /// # Errors
    /// [`Error::Weights`] for a tensor that the network does not have, [`Error::Gpu`] when the device fails.
    fn load(&mut self, arrival: Arrival<'_>) -> Result<()>;

    /// F(x, t) for a batch, (B, C, H, W).
    ///
    /// # Errors
    /// [`Error::Input`] for arguments that do not fit, [`Error::Gpu`] when the device fails.
    fn forward(&mut self, input: ForwardInput<'_>) -> impl Future<Output = Result<Vec<f32>>>;
}

/// [`ConsistencyFunction::denoise`] by [`Network::forward`]: c_skip·x + c_out·F(c_in·x, c_noise), clamped where the step
/// says so.
///
/// # Errors
/// Those of [`Network::forward`].
pub async fn denoise<N: Network>(network: &mut N, x: &[f32], step: &Step, labels: &[u32]) -> Result<Vec<f32>> {
    // ANCHOR: denoise
    let s = step.scalings;
    let timestep = vec![s.c_noise as f32; batch_size(x, network.config())?];
    let sample: Vec<f32> = x.iter().map(|x| x * s.c_in as f32).collect();
    let mut output =
        network.forward(ForwardInput { sample: &sample, timestep: &timestep, class_labels: labels }).await?;
    for (f, x) in output.iter_mut().zip(x) {
        let denoised = s.c_skip as f32 * x + s.c_out as f32 * *f;
        *f = if step.clip_denoised { denoised.clamp(-1.0, 1.0) } else { denoised };
    }
    Ok(output)
    // ANCHOR_END: denoise
}
