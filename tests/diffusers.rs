//! Whole models, the scheduler and the random numbers against diffusers and PyTorch.
//!
//! One body for each property; every interpreter goes through all of them.

mod common;

use consistency_sampler::Pipeline;
use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::consistency::schedule::Schedule;
use consistency_sampler::model::config::SchedulerConfig;
use consistency_sampler::network::Network;

use common::*;

/// f32 sums in another order differ by a few 1e-6 on these networks, whose outputs are of order 1.
const FORWARD_TOLERANCE: f32 = 1e-4;
/// What a picture may differ by, in [0, 1].
const IMAGE_TOLERANCE: f32 = 1e-3;

fn forwards_match<N: Network>(new: impl Fn(&ModelFolder) -> N) {
    for (name, folder) in checkpoints() {
        let mut network = load(new(&folder), &folder).unwrap();
        for case in forwards(&name) {
            let output = pollster::block_on(network.forward(case.input())).unwrap();
            assert_close(&case.name, &output, &case.output, FORWARD_TOLERANCE);
        }
    }
}

fn samples_match<N: Network>(new: impl Fn(&ModelFolder) -> N) {
    let golden = checkpoints().into_iter().map(|(name, folder)| (goldens().join(name).join("goldens"), folder));
    for (path, folder) in golden.chain(shipped()) {
        let mut pipeline = Pipeline::new(load(new(&folder), &folder).unwrap(), folder.scheduler.clone());
        for case in samples(&path) {
            let samples = pollster::block_on(pipeline.sample(&case.request)).unwrap();
            let found: Vec<f32> = samples.iter().map(|v| (v / 2.0 + 0.5).clamp(0.0, 1.0)).collect();
            assert_close(&case.name, &found, &case.images, IMAGE_TOLERANCE);
        }
    }
}

/// A model called with the wrong arguments says so and can be called again.
fn bad_input_is_refused<N: Network>(new: impl Fn(&ModelFolder) -> N) {
    let (name, folder) = checkpoints().into_iter().find(|(n, _)| n == "mnist-shape").unwrap();
    let mut network = load(new(&folder), &folder).unwrap();
    let case = forwards(&name).remove(0);
    let good = case.input();
    let mut refused = |input| pollster::block_on(network.forward(input)).unwrap_err().to_string();
    let mut short = good;
    short.sample = &good.sample[1..];
    assert!(refused(short).starts_with("sample: expected"));
    let mut unlabelled = good;
    unlabelled.class_labels = &[];
    assert!(refused(unlabelled).contains("one per sample, found 0"));
    let wrong = vec![999; good.class_labels.len()];
    let mut out_of_range = good;
    out_of_range.class_labels = &wrong;
    assert!(refused(out_of_range).contains("found 999"));
    let nan = vec![f32::NAN; good.timestep.len()];
    let mut not_finite = good;
    not_finite.timestep = &nan;
    assert!(refused(not_finite).contains("finite"));
    let output = pollster::block_on(network.forward(good)).unwrap();
    assert_close(&name, &output, &case.output, FORWARD_TOLERANCE);
}

#[cfg(feature = "burn")]
mod burn {
    use consistency_sampler::burn::BurnUNet;

    #[test]
    fn forwards_match() {
        super::forwards_match(|f| BurnUNet::on_cpu(&f.unet));
    }

    #[test]
    fn samples_match() {
        super::samples_match(|f| BurnUNet::on_cpu(&f.unet));
    }

    #[test]
    fn bad_input_is_refused() {
        super::bad_input_is_refused(|f| BurnUNet::on_cpu(&f.unet));
    }
}

#[cfg(feature = "cpu")]
mod cpu {
    use consistency_sampler::cpu::CpuUNet;

    #[test]
    fn forwards_match() {
        super::forwards_match(|f| CpuUNet::new(&f.unet));
    }

    #[test]
    fn samples_match() {
        super::samples_match(|f| CpuUNet::new(&f.unet));
    }

    #[test]
    fn bad_input_is_refused() {
        super::bad_input_is_refused(|f| CpuUNet::new(&f.unet));
    }
}

#[cfg(feature = "gpu")]
mod gpu {
    use consistency_sampler::gpu::{Gpu, GpuUNet};

    fn gpu() -> Gpu {
        pollster::block_on(Gpu::request()).unwrap()
    }

    #[test]
    fn forwards_match() {
        let gpu = gpu();
        super::forwards_match(|f| GpuUNet::new(&gpu, &f.unet).unwrap());
    }

    #[test]
    fn samples_match() {
        let gpu = gpu();
        super::samples_match(|f| GpuUNet::new(&gpu, &f.unet).unwrap());
    }

    #[test]
    fn bad_input_is_refused() {
        let gpu = gpu();
        super::bad_input_is_refused(|f| GpuUNet::new(&gpu, &f.unet).unwrap());
    }
}

#[test]
fn schedules_match() {
    let mut checked = 0;
    for case in json(&goldens().join("scheduler.json")).as_array().unwrap() {
        let mut config = case["config"].clone();
        config["_class_name"] = "CMStochasticIterativeScheduler".into();
        let config = SchedulerConfig::parse(&config.to_string()).unwrap();
        let list =
            |key: &str| -> Vec<f64> { case[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect() };
        let schedule = match case["num_inference_steps"].as_u64() {
            Some(n) => Schedule::evenly_spaced(&config, n as usize).unwrap(),
            None => {
                let given: Vec<usize> = list("indices").iter().map(|&t| t as usize).collect();
                Schedule::from_timesteps(&config, &given).unwrap()
            }
        };
        // diffusers rounds σ to f32 and computes the scalings from that.
        let close = |what: &str, i: usize, found: f64, expected: f64, scale: f64| {
            assert!((found - expected).abs() <= 1e-6 * scale, "{what}[{i}]: found {found}, expected {expected}");
        };
        for (i, step) in schedule.steps.iter().enumerate() {
            let sigma = list("sigmas")[i];
            close("sigma", i, step.sigma, sigma, sigma);
            close("timestep", i, step.scalings.c_noise, list("timesteps")[i], 1.0);
            close("c_skip", i, step.scalings.c_skip, list("c_skip")[i], 1.0);
            close("c_out", i, step.scalings.c_out, list("c_out")[i], 1.0);
            close("c_in", i, step.scalings.c_in, list("c_in")[i], 2.0);
            close("noise_scale", i, step.noise_scale, list("noise_scale")[i], sigma.max(1.0));
            checked += 1;
        }
        assert_eq!(schedule.steps.len() + 1, list("sigmas").len());
    }
    assert!(checked > 20);
}

#[test]
fn random_numbers_match() {
    let file = json(&goldens().join("randn.json"));
    // PyTorch's vectorised logarithm and cosine differ from the system's in the last places.
    let check = |what: &str, found: &[f32], case: &serde_json::Value| {
        let values = |key: &str| -> Option<Vec<f32>> {
            Some(case[key].as_array()?.iter().map(|v| v.as_f64().unwrap() as f32).collect())
        };
        if let Some(all) = values("values") {
            return assert_close(what, found, &all, 1e-5);
        }
        let (first, last) = (values("first").unwrap(), values("last").unwrap());
        assert_close(what, &found[..first.len()], &first, 1e-5);
        assert_close(what, &found[found.len() - last.len()..], &last, 1e-5);
        let sum: f64 = found.iter().map(|&v| f64::from(v)).sum();
        assert!((sum - case["sum"].as_f64().unwrap()).abs() < 1e-3, "{what}: sum {sum}, expected {}", case["sum"]);
    };
    // PyTorch maps a negative seed s to 2⁶⁴ + s.
    let seed = |v: &serde_json::Value| v.as_u64().unwrap_or_else(|| v.as_i64().unwrap() as u64);
    for case in file["engine"].as_array().unwrap() {
        let mut generator = Generator::new(seed(&case["seed"]));
        for raw in case["raw"].as_array().unwrap() {
            assert_eq!(u64::from(generator.next_u32()), raw.as_u64().unwrap(), "seed {}", case["seed"]);
        }
    }
    for case in file["randn"].as_array().unwrap() {
        let mut out = vec![0.0; case["n"].as_u64().unwrap() as usize];
        Generator::new(seed(&case["seed"])).randn(&mut out);
        check(&format!("randn of {} from seed {}", out.len(), case["seed"]), &out, case);
    }
    for case in file["sequences"].as_array().unwrap() {
        let mut generator = Generator::new(seed(&case["seed"]));
        for (i, draw) in case["draws"].as_array().unwrap().iter().enumerate() {
            let mut out = vec![0.0; draw["n"].as_u64().unwrap() as usize];
            generator.randn(&mut out);
            check(&format!("draw {i} of seed {}", case["seed"]), &out, draw);
        }
    }
}
