//! The arguments of a denoiser's classifier-free guidance.

use clap::Args;
use consistency_sampler::train::objectives::Guidance;
use consistency_sampler::{Error, Result};

#[derive(Args)]
pub struct GuidanceArguments {
    /// Strength of the denoiser's classifier-free guidance; 1 is none, and other values need a denoiser trained with
    /// --class-dropout
    #[arg(long, value_name = "W", default_value_t = 1.0, allow_negative_numbers = true)]
    guidance: f64,

    /// Lowest and highest σ that are guided [default: all]
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',')]
    guidance_interval: Vec<f64>,
}

impl GuidanceArguments {
    pub fn guidance(&self) -> Result<Guidance> {
        let strength = self.guidance;
        if !(strength.is_finite() && strength >= 0.0) {
            return Err(Error::Input(format!("--guidance: expected a number of at least 0, found {strength}")));
        }
        let interval = match *self.guidance_interval.as_slice() {
            [] => Guidance::NONE.interval,
            [low, high] if 0.0 <= low && low <= high => [low, high],
            _ => {
                let found: Vec<String> = self.guidance_interval.iter().map(f64::to_string).collect();
                let found = found.join(",");
                return Err(Error::Input(format!(
                    "--guidance-interval: expected LOW,HIGH with 0 ≤ LOW ≤ HIGH, found {found}"
                )));
            }
        };
        Ok(Guidance { strength, interval })
    }
}
