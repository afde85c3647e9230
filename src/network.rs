//! What every interpreter of the U-Net offers.

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

impl ForwardInput<'_> {
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

/// How the values of a tensor are stored where the network computes; the narrowest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Precision {
    /// Whole numbers n of 8 bits, n/127 of the largest magnitude of the row (the output channel).
    I8,
    /// 16-bit floats.
    F16,
    /// 32-bit floats.
    #[default]
    F32,
}

/// A U-Net on some device: takes weights by their checkpoint names, answers forwards, and serves as the consistency
/// function of [`crate::consistency::sampler::sample`].
pub trait Network: ConsistencyFunction {
    /// The architecture.
    fn config(&self) -> &UNetConfig;

    /// Says, before the first of a parameter's values, that they lose nothing when stored at `precision`, so that an
    /// interpreter may do that. Without it they are kept as f32.
    ///
    /// # Errors
    /// [`Error::Weights`] when the parameter shares memory with others that came in less.
    fn expect(&mut self, _name: &str, _precision: Precision) -> Result<()> {
        Ok(())
    }

    /// Takes one parameter's values, row-major in its checkpoint shape.
    ///
    /// Name and length are the caller's to check ([`crate::checkpoint::stream::WeightStream`] does).
    fn load(&mut self, name: &str, values: &[f32]) -> Result<()>;

    /// F(x, t) for a batch, (B, C, H, W).
    ///
    /// # Errors
    /// [`Error::Input`] for arguments that do not fit, [`Error::Gpu`] when the device fails.
    fn forward(&mut self, input: ForwardInput<'_>) -> impl Future<Output = Result<Vec<f32>>>;
}

/// [`ConsistencyFunction::step`] for a network without a state of its own: `x` (B, C, H, W) and `labels` are the state.
///
/// # Errors
/// Those of [`Network::forward`]; x is then as before.
pub async fn step<N: Network>(
    network: &mut N,
    (x, labels): (&mut [f32], &[u32]),
    step: &Step,
    clip: bool,
    z: &[f32],
) -> Result<Vec<f32>> {
    let s = step.scalings;
    let sample: Vec<f32> = x.iter().map(|x| x * s.c_in as f32).collect();
    let [h, w] = network.config().sample_size;
    let timestep = vec![s.c_noise as f32; x.len() / (network.config().in_channels * h * w)];
    let output = network.forward(ForwardInput { sample: &sample, timestep: &timestep, class_labels: labels }).await?;
    let denoise = |(f, x): (&f32, &f32)| s.c_skip as f32 * x + s.c_out as f32 * f;
    let mut denoised: Vec<f32> = output.iter().zip(&*x).map(denoise).collect();
    if clip {
        denoised.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0));
    }
    x.copy_from_slice(&denoised);
    x.iter_mut().zip(z).for_each(|(x, z)| *x += step.noise_scale as f32 * z);
    Ok(denoised)
}
