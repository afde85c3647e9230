//! The algebra of consistency models: noise levels, scalings, schedules. No tensors here.
//!
//! Song et al., "Consistency Models", ICML 2023: the parameterisation is equation 5 with the c_skip, c_out of
//! appendix C, the schedule is the one of Karras et al. 2022, equation 5.

use crate::compact;
use crate::error::{Error, Result};
use crate::json::number;
use crate::model::config::SchedulerConfig;

/// The factors around the network F at one noise level: f(x, σ) = c_skip·x + c_out·F(c_in·x, c_noise).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scalings {
    /// Factor of the noisy input in the result; 1 at σ_min.
    pub c_skip: f64,
    /// Share of the network's output; 0 at σ_min, which makes f(x, σ_min) = x.
    pub c_out: f64,
    /// Brings the network's input to unit variance.
    pub c_in: f64,
    /// The network's timestep: 250·ln σ.
    pub c_noise: f64,
}

impl Scalings {
    /// The scalings of noise level `sigma`.
    pub fn new(config: &SchedulerConfig, sigma: f64) -> Self {
        // ANCHOR: scalings
        let (d, e) = (config.sigma_data, config.sigma_min);
        Self {
            c_skip: d * d / ((sigma - e) * (sigma - e) + d * d),
            c_out: (sigma - e) * d / (sigma * sigma + d * d).sqrt(),
            c_in: 1.0 / (sigma * sigma + d * d).sqrt(),
            c_noise: 250.0 * compact::ln(sigma + 1e-44),
        }
        // ANCHOR_END: scalings
    }

    /// The scalings of an EDM denoiser D(x, σ), Karras et al. 2022, table 1: those above with ε = 0 in c_skip, c_out.
    ///
    /// c_noise keeps the factor 1000 that diffusers' networks expect.
    pub fn edm(config: &SchedulerConfig, sigma: f64) -> Self {
        let d = config.sigma_data;
        let variance = sigma * sigma + d * d;
        Self { c_skip: d * d / variance, c_out: sigma * d / variance.sqrt(), ..Self::new(config, sigma) }
    }
}

/// σ_i of the Karras schedule: i = 0 is σ_max, i = N − 1 is σ_min.
pub fn karras_sigma(config: &SchedulerConfig, i: usize) -> f64 {
    // ANCHOR: karras
    let ramp = i as f64 / (config.num_train_timesteps - 1) as f64;
    let (low, high) =
        (compact::pow(config.sigma_min, 1.0 / config.rho), compact::pow(config.sigma_max, 1.0 / config.rho));
    compact::pow(high + ramp * (low - high), config.rho)
    // ANCHOR_END: karras
}

/// One network call of the multistep sampler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// The noise level at which the network is called.
    pub sigma: f64,
    /// The scalings there.
    pub scalings: Scalings,
    /// Standard deviation of the noise that is added to the result: √(σ_next² − σ_min²)·s_noise, 0 after the last.
    pub noise_scale: f64,
    /// Whether the result is clamped to ±1.
    pub clip_denoised: bool,
}

/// The noise levels that a sampler visits, from the most noise to the least.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The indices into the Karras schedule as diffusers lists them, descending; see
    /// [`Schedule::from_timesteps`].
    pub timesteps: Vec<usize>,
    /// The network calls, in order.
    pub steps: Vec<Step>,
    /// Standard deviation of the initial noise.
    pub sigma_max: f64,
}

impl Schedule {
    /// `n` evenly spaced timesteps: (n−1)·⌊N/n⌋, …, ⌊N/n⌋, 0.
    ///
    /// # Errors
    /// [`Error::Input`] unless 1 ≤ n ≤ N.
    pub fn evenly_spaced(config: &SchedulerConfig, n: usize) -> Result<Self> {
        let total = config.num_train_timesteps;
        if !(1..=total).contains(&n) {
            return Err(Error::Input(format!("num_inference_steps must be from 1 to {total}, found {n}")));
        }
        let timesteps: Vec<usize> = (0..n).rev().map(|i| i * (total / n)).collect();
        Self::from_timesteps(config, &timesteps)
    }

    /// An explicit list in diffusers' convention: strictly descending indices below N.
    ///
    /// The list is read from its end: its last entry (0: σ_max) is the first noise level to be visited. Thus
    /// `[22, 0]` visits σ_0 = σ_max, then σ_22.
    ///
    /// # Errors
    /// [`Error::Input`] when the list is empty, not strictly descending, or starts at N or beyond.
    pub fn from_timesteps(config: &SchedulerConfig, timesteps: &[usize]) -> Result<Self> {
        let Some(&first) = timesteps.first() else {
            return Err(Error::Input("timesteps must hold at least one index, found none".into()));
        };
        if let Some(pair) = timesteps.windows(2).find(|pair| pair[1] >= pair[0]) {
            return Err(Error::Input(format!("timesteps must descend, found {} after {}", pair[1], pair[0])));
        }
        if first >= config.num_train_timesteps {
            let total = config.num_train_timesteps;
            return Err(Error::Input(format!("timesteps must be below num_train_timesteps {total}, found {first}")));
        }
        let sigmas: Vec<f64> = timesteps.iter().rev().map(|&i| karras_sigma(config, i)).collect();
        Ok(Self { timesteps: timesteps.to_vec(), steps: steps(config, &sigmas), sigma_max: config.sigma_max })
    }

    /// Any noise levels, the most noise first; [`Schedule::timesteps`] stays empty.
    ///
    /// # Errors
    /// [`Error::Input`] when there is none, they do not descend, or one lies outside \[σ_min, σ_max\].
    pub fn from_sigmas(config: &SchedulerConfig, sigmas: &[f64]) -> Result<Self> {
        let (low, high) = (config.sigma_min, config.sigma_max);
        if sigmas.is_empty() {
            return Err(Error::Input("sigmas: expected at least one, found none".into()));
        }
        if let Some(bad) = sigmas.iter().find(|s| !(low..=high).contains(*s)) {
            let [low, high, bad] = [low, high, *bad].map(number);
            return Err(Error::Input(format!("sigma: expected {low} to {high}, found {bad}")));
        }
        if let Some(pair) = sigmas.windows(2).find(|pair| pair[1] >= pair[0]) {
            let (found, before) = (number(pair[1]), number(pair[0]));
            return Err(Error::Input(format!("sigmas must descend, found {found} after {before}")));
        }
        Ok(Self { timesteps: Vec::new(), steps: steps(config, sigmas), sigma_max: high })
    }
}

/// The network calls at `sigmas`, in order.
fn steps(config: &SchedulerConfig, sigmas: &[f64]) -> Vec<Step> {
    let step = |(i, &sigma): (usize, &f64)| {
        let noise_scale = sigmas.get(i + 1).map_or(0.0, |next| {
            // Not `clamp`, whose panic message would bring the formatting of floats into the page's module.
            let next = next.max(config.sigma_min).min(config.sigma_max);
            // Rounding may take σ² one ulp below σ_min²; diffusers adds no noise there either.
            (next * next - config.sigma_min * config.sigma_min).max(0.0).sqrt() * config.s_noise
        });
        let clip_denoised = config.clip_denoised;
        Step { sigma, scalings: Scalings::new(config, sigma), noise_scale, clip_denoised }
    };
    sigmas.iter().enumerate().map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(num_train_timesteps: usize) -> SchedulerConfig {
        SchedulerConfig { num_train_timesteps, ..Default::default() }
    }

    fn close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 5e-6, "found {found}, expected {expected}");
    }

    #[test]
    fn the_boundary_condition_holds() {
        let s = Scalings::new(&n(40), 0.002);
        assert_eq!((s.c_skip, s.c_out), (1.0, 0.0), "f(x, σ_min) = x");
    }

    #[test]
    fn published_schedule_values() {
        // N, i, σ, 250·ln σ, c_skip, c_out, c_in
        let table = [
            (40, 0, 80.0, 1095.5067, 3.90629e-5, 0.499978, 0.0124998),
            (40, 22, 1.382368, 80.9495, 0.115987, 0.469508, 0.680266),
            (40, 18, 3.519699, 314.5939, 0.0198032, 0.494749, 0.281291),
            (40, 17, 4.365562, 368.4367, 0.0129596, 0.496525, 0.227578),
            (201, 106, 1.912844, 162.1477, 0.0640808, 0.483241, 0.505788),
            (151, 67, 3.991219, 346.0242, 0.0154666, 0.495874, 0.248607),
            (151, 62, 5.248503, 414.4857, 0.00900064, 0.497557, 0.189672),
        ];
        for (total, i, sigma, c_noise, c_skip, c_out, c_in) in table {
            let found = karras_sigma(&n(total), i);
            let s = Scalings::new(&n(total), found);
            close(found, sigma);
            close(s.c_noise, c_noise);
            close(s.c_skip, c_skip);
            close(s.c_out, c_out);
            close(s.c_in, c_in);
        }
        close(karras_sigma(&n(40), 39), 0.002);
    }

    #[test]
    fn lists_follow_diffusers() {
        let s = Schedule::evenly_spaced(&n(40), 4).unwrap();
        assert_eq!(s.timesteps, [30, 20, 10, 0]);
        let s = Schedule::from_timesteps(&n(40), &[22, 0]).unwrap();
        close(s.steps[0].sigma, 80.0);
        close(s.steps[1].sigma, 1.382368);
        close(s.steps[0].noise_scale, (1.382368f64.powi(2) - 0.002f64.powi(2)).sqrt());
        assert_eq!(s.steps[1].noise_scale, 0.0);
    }

    #[test]
    fn bad_lists_are_refused() {
        let message = |r: Result<Schedule>| r.unwrap_err().to_string();
        assert!(message(Schedule::evenly_spaced(&n(40), 0)).contains("from 1 to 40, found 0"));
        assert!(message(Schedule::evenly_spaced(&n(40), 41)).contains("found 41"));
        assert!(message(Schedule::from_timesteps(&n(40), &[])).contains("found none"));
        assert!(message(Schedule::from_timesteps(&n(40), &[22, 22])).contains("found 22 after 22"));
        assert!(message(Schedule::from_timesteps(&n(40), &[40, 0])).contains("found 40"));
    }

    #[test]
    fn sigmas_out_of_order_or_range_are_refused() {
        let sigmas = |s: &[f64]| Schedule::from_sigmas(&SchedulerConfig::default(), s).unwrap_err().to_string();
        assert_eq!(sigmas(&[]), "sigmas: expected at least one, found none");
        assert_eq!(sigmas(&[2.0, 5.0]), "sigmas must descend, found 5 after 2");
        assert_eq!(sigmas(&[81.0]), "sigma: expected 0.002 to 80, found 81");
        assert!(sigmas(&[f64::NAN]).contains("NaN"));
    }
}
