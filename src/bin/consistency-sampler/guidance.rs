//! The arguments of a denoiser's guidance.

use std::path::{Path, PathBuf};

use clap::Args;
use consistency_sampler::train::record::Record;
use consistency_sampler::train::teacher::Guidance;
use consistency_sampler::{Error, Result};

#[derive(Args, Clone)]
pub struct GuidanceArguments {
    /// Strength of the denoiser's guidance; 1 is none. It extrapolates from the output without a class, for which the
    /// denoiser must have been trained with --class-dropout, or from the output of --guide
    #[arg(long, value_name = "W", default_value_t = 1.0, allow_negative_numbers = true)]
    guidance: f64,

    /// Lowest and highest σ that are guided [default: all]
    #[arg(long, value_name = "LOW,HIGH", value_delimiter = ',')]
    guidance_interval: Vec<f64>,

    /// A worse denoiser of the same data, for instance one of shorter training, to extrapolate from (autoguidance)
    #[arg(long, value_name = "MODEL")]
    guide: Option<PathBuf>,
}

impl GuidanceArguments {
    /// The worse denoiser, a folder or an id.
    pub fn guide(&self) -> Option<&Path> {
        self.guide.as_deref()
    }

    /// Adds what it changes in a run.
    pub fn add_to(&self, record: &mut Record) {
        record.push("--guidance", self.guidance);
        if let [low, high] = *self.guidance_interval.as_slice() {
            record.push("--guidance-interval", format_args!("{low},{high}"));
        }
    }

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
        if self.guide.is_some() && strength == 1.0 {
            return Err(Error::Input("--guide: expected --guidance too, and not of 1, which is none".into()));
        }
        Ok(Guidance { strength, interval })
    }
}
