//! The EDM denoiser that is distilled: guidance, and sampling by integration of its ODE.

#[cfg(not(target_arch = "wasm32"))]
use std::path::Path;

use crate::consistency::schedule::Scalings;
use crate::error::{Error, Result};
use crate::model::config::UNetConfig;
use crate::model::unet::NO_CLASS;
use crate::train::denoiser::Denoiser;
#[cfg(not(target_arch = "wasm32"))]
use crate::train::denoiser::Engine;
use crate::train::images::{Images, weighted_sum};
use crate::train::ode::{integrate, karras_levels};

/// Guidance between two noise levels (Kynkäänniemi et al. 2024): extrapolation of a denoiser's output from a worse one,
/// that without a class (Ho & Salimans 2022) or of a weaker model (Karras et al. 2024).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guidance {
    /// w; 1 is no guidance.
    pub strength: f64,
    /// The lowest and the highest σ that are guided.
    pub interval: [f64; 2],
}

impl Guidance {
    /// No guidance.
    pub const NONE: Self = Self { strength: 1.0, interval: [0.0, f64::INFINITY] };

    /// w at `sigma`.
    fn at(&self, sigma: f64) -> f64 {
        let [low, high] = self.interval;
        if (low..=high).contains(&sigma) { self.strength } else { 1.0 }
    }

    /// D + (w − 1)·(D − D₋) of an output D and a worse one D₋, at one σ per sample.
    fn apply(&self, output: &Images, worse: &Images, sigma: &[f64]) -> Images {
        let strength: Vec<f64> = sigma.iter().map(|&s| self.at(s)).collect();
        let rest: Vec<f64> = strength.iter().map(|w| 1.0 - w).collect();
        weighted_sum([(output, &strength), (worse, &rest)])
    }
}

/// A trained denoiser, with the guide's denoiser under autoguidance.
pub struct Teacher {
    /// The network.
    pub denoiser: Denoiser,
    /// Its weights, in the order of the parameters.
    pub weights: Vec<f32>,
    /// D₋ of [`Guidance`]: a worse denoiser of the same images (autoguidance, Karras et al. 2024). Without one, D₋ is the
    /// teacher's own output without a class, and the teacher must have been trained with class dropout.
    pub guide: Option<(Denoiser, Vec<f32>)>,
}

impl Teacher {
    /// Reads the model folders of a teacher and of its guide.
    ///
    /// # Errors
    /// Those of [`Denoiser::read`], and [`Error::Input`] for a guide of another shape.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn read(folder: &Path, guide: Option<&Path>, engine: &Engine) -> Result<Self> {
        let (denoiser, weights) = Denoiser::read(folder, engine)?;
        let guide = guide.map(|guide| Denoiser::read(guide, engine)).transpose()?;
        let teacher = Self { denoiser, weights, guide };
        teacher.check(&teacher.denoiser.config)?;
        Ok(teacher)
    }

    /// Checks that a network of `config` can be distilled from this.
    ///
    /// # Errors
    /// [`Error::Input`] when the teacher or its guide has other channels, another size or other classes.
    pub(super) fn check(&self, config: &UNetConfig) -> Result<()> {
        let shape = |c: &UNetConfig| (c.in_channels, c.sample_size, c.num_class_embeds);
        let guide = self.guide.as_ref().map(|(guide, _)| ("guide", guide));
        for (name, denoiser) in [("teacher", &self.denoiser)].into_iter().chain(guide) {
            let (expected, found) = (shape(config), shape(&denoiser.config));
            if expected != found {
                let shown = |(channels, [height, width], classes): (usize, [usize; 2], Option<usize>)| {
                    let classes = classes.map_or("no classes".to_owned(), |n| format!("{n} classes"));
                    format!("{channels} channels of {height}×{width} and {classes}")
                };
                let (expected, found) = (shown(expected), shown(found));
                return Err(Error::Input(format!("{name}: expected {expected}, found {found}")));
            }
        }
        Ok(())
    }

    /// D(x, σ), (B, C, H, W), under `guidance`: two network calls for guided samples, one for others.
    ///
    /// Each call's output is clamped to ±1 if the scheduler clips, as D is a mean of images in [−1, 1].
    ///
    /// # Errors
    /// [`Error::Gpu`], of a GPU alone.
    pub async fn guided(&self, x: &Images, sigma: &[f64], labels: &[u32], guidance: &Guidance) -> Result<Images> {
        let clip = |output| self.denoiser.clip(output);
        let mut output = clip(self.denoiser.call(&self.weights, Scalings::edm, x, sigma, labels).await?);
        // One call for all from the first to the last guided sample: levels in training ascend.
        let is_guided = |s: &f64| guidance.at(*s) != 1.0;
        let (Some(first), Some(last)) = (sigma.iter().position(is_guided), sigma.iter().rposition(is_guided)) else {
            return Ok(output);
        };
        let span = first..last + 1;
        let (sigma, labels) = (&sigma[span.clone()], &labels[span.clone()]);
        let x = x.part(span.clone());
        let worse = match &self.guide {
            Some((guide, weights)) => guide.call(weights, Scalings::edm, &x, sigma, labels).await?,
            None => {
                let no_classes = vec![NO_CLASS; labels.len()];
                self.denoiser.call(&self.weights, Scalings::edm, &x, sigma, &no_classes).await?
            }
        };
        let guided = clip(guidance.apply(&output.part(span.clone()), &clip(worse), sigma));
        let len = output.sample_len();
        output.values[span.start * len..span.end * len].copy_from_slice(&guided.values);
        Ok(output)
    }

    /// Draws one sample per label with Karras et al. 2022, Algorithm 1, without churn: `steps` Karras levels from σ_max to
    /// σ_min, a Heun step between neighbours and an Euler step to 0, 2·`steps` − 1 calls in all.
    ///
    /// Guided levels take two network calls each. There are as many samples as `labels`, which a model without classes
    /// ignores. Returns (B, C, H, W) in about [−1, 1].
    ///
    /// # Errors
    /// [`Error::Input`] for fewer than two steps, no label, or a label that is not below the number of classes; [`Error::Gpu`], of a GPU alone.
    pub async fn sample(&self, labels: &[u32], steps: usize, guidance: &Guidance, seed: u64) -> Result<Vec<f32>> {
        let denoiser = &self.denoiser;
        if steps < 2 {
            return Err(Error::Input(format!("expected at least 2 steps, found {steps}")));
        }
        if labels.is_empty() {
            return Err(Error::Input("expected at least one label, found none".into()));
        }
        let classes = denoiser.config.num_class_embeds.map_or(u32::MAX, |n| n as u32);
        if let Some(bad) = labels.iter().find(|&&l| l >= classes) {
            return Err(Error::Input(format!("class labels must be below {classes}, found {bad}")));
        }
        let sigmas = karras_levels(&denoiser.scheduler, steps);
        let x = denoiser.noise(labels.len(), sigmas[0], seed);
        let guided = async |x: &Images, sigma: &[f64]| self.guided(x, sigma, labels, guidance).await;
        Ok(integrate(guided, x, &sigmas).await?.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::images::tests::{images, largest_difference};

    #[test]
    fn guidance_is_linear_in_its_strength_inside_the_interval() {
        let (a, b) = (images(1, 1), images(2, 1));
        let guided = |strength, sigma| Guidance { strength, interval: [0.5, 4.0] }.apply(&a, &b, &[sigma]);
        assert_eq!(guided(1.0, 1.0), a);
        assert_eq!(guided(3.0, 0.4), a, "below the interval");
        assert_eq!(guided(3.0, 4.1), a, "above the interval");
        assert_eq!(guided(0.0, 4.0), b, "w = 0 is the output without the class");
        let error = largest_difference(&guided(3.0, 0.5), &weighted_sum([(&a, &[3.0]), (&b, &[-2.0])]));
        assert!(error < 1e-5, "off by {error}");
    }
}
