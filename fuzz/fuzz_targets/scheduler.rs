//! `scheduler/scheduler_config.json` and lists of timesteps: no panic; the noise levels that come out are positive,
//! finite and descending, and so are all factors.
#![no_main]

use consistency_sampler::Error;
use consistency_sampler::model::config::SchedulerConfig;
use consistency_sampler::consistency::schedule::Schedule;
use libfuzzer_sys::fuzz_target;

fn check(schedule: Result<Schedule, Error>) {
    let schedule = match schedule {
        Ok(schedule) => schedule,
        Err(e) => return assert!(matches!(e, Error::Input(_)) && !e.to_string().contains(char::is_control)),
    };
    for pair in schedule.steps.windows(2) {
        assert!(pair[1].sigma <= pair[0].sigma, "{} after {}", pair[1].sigma, pair[0].sigma);
    }
    for step in &schedule.steps {
        let s = step.scalings;
        assert!(step.sigma > 0.0 && step.sigma.is_finite(), "{step:?}");
        for factor in [s.c_skip, s.c_out, s.c_in, s.c_noise, step.noise_scale] {
            assert!((factor as f32).is_finite(), "{step:?}");
        }
    }
}

fuzz_target!(|input: (&str, Vec<u16>, usize, Vec<f64>)| {
    let (json, timesteps, steps, sigmas) = input;
    match SchedulerConfig::parse(json) {
        Err(e) => {
            assert!(matches!(e, Error::Config(_)));
            assert!(!e.to_string().contains(char::is_control));
        }
        Ok(config) => {
            let timesteps: Vec<usize> = timesteps.into_iter().map(usize::from).collect();
            check(Schedule::from_timesteps(&config, &timesteps));
            check(Schedule::evenly_spaced(&config, steps.min(100)));
            check(Schedule::evenly_spaced(&config, usize::MAX));
            check(Schedule::from_sigmas(&config, &sigmas));
        }
    }
});
