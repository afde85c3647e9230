//! Runs on pictures in memory, as a page trains.

mod common;

use common::TINY;
use consistency_sampler::Gpu;
use consistency_sampler::train::denoiser::Engine;
use consistency_sampler::train::session::{DeviceKind, Options, Phase, Session};
use pollster::block_on;

const SCHEDULER: &str = r#"{"_class_name": "CMStochasticIterativeScheduler"}"#;

fn options() -> Options {
    Options {
        device: DeviceKind::Cpu,
        unet: TINY.into(),
        scheduler: SCHEDULER.into(),
        seed: 7,
        batch: 5,
        learning_rate: 2e-3,
        recipe: Phase::Edm,
        shift: 1,
    }
}

/// Two pictures of each class: stripes down, and stripes across.
fn session(engine: Engine) -> Session {
    let mut session = Session::new(&options(), engine).unwrap();
    let stripes = |class: u8, i: u8| {
        (0..64u8).map(move |p| if ([p % 8, p / 8][usize::from(class)] + i) % 4 < 2 { 20 } else { 230 })
    };
    let pixels: Vec<u8> = [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().flat_map(|(c, i)| stripes(c, i)).collect();
    session.add_images(&pixels, &[0, 0, 1, 1]).unwrap();
    session
}

fn steps(session: &mut Session, count: usize) -> Vec<f32> {
    (0..count).map(|k| block_on(session.step(k as f64 / count as f64)).unwrap()).collect()
}

/// Ten losses of a denoiser, then ten of its distillation.
fn losses(mut session: Session) -> Vec<f32> {
    let mut losses = steps(&mut session, 10);
    session.next_phase(Phase::Trajectories, 1e-3).unwrap();
    losses.extend(steps(&mut session, 10));
    losses
}

/// `tests/training.json` holds the CPU's losses; `tests/web/training.test.js` compares the browser's with them.
#[test]
fn losses_on_the_cpu_and_on_a_gpu_are_those_of_the_file() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/training.json");
    let expected: Vec<f32> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let gpu = block_on(Gpu::request()).unwrap();
    for (name, engine) in [("CPU", Engine::Cpu), ("GPU", Engine::Gpu(Box::new(gpu)))] {
        let found = losses(session(engine));
        assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
        for (i, (found_one, expected)) in found.iter().zip(&expected).enumerate() {
            assert!((found_one / expected - 1.0).abs() < 1e-3, "{name}, iteration {i}, expected {expected}: {found:?}");
        }
    }
}

#[test]
fn a_run_goes_on_from_its_bytes_in_every_phase() {
    let mut whole = session(Engine::Cpu);
    for phase in [None, Some(Phase::Ect), Some(Phase::Trajectories)] {
        if let Some(phase) = phase {
            whole.next_phase(phase, 1e-3).unwrap();
        }
        steps(&mut whole, 3);
        let mut again = session(Engine::Cpu);
        again.restore(&whole.save().unwrap()).unwrap();
        assert_eq!(again.phase(), whole.phase());
        assert_eq!(steps(&mut again, 3), steps(&mut whole, 3), "{phase:?}");
        assert_eq!(again.state().ema, whole.state().ema, "{phase:?}");
        let sample = |session: &Session, calls| block_on(session.sample(3, &[0, 1, 1], calls)).unwrap();
        for calls in [1, 2] {
            let samples = sample(&whole, calls);
            assert_eq!((samples.len(), &samples), (3 * 64, &sample(&again, calls)), "{phase:?}");
        }
    }
    let bytes = whole.save().unwrap();
    let mut other = Options { unet: TINY.replace("[8, 16]", "[8, 8]"), ..options() };
    let refused = Session::new(&other, Engine::Cpu).unwrap().restore(&bytes).unwrap_err().to_string();
    assert!(refused.contains("expected") && refused.contains("found"), "{refused}");
    other.recipe = Phase::Trajectories;
    assert!(Session::new(&other, Engine::Cpu).is_err(), "a run cannot begin with a distillation");
}

#[test]
fn pictures_of_another_size_and_unknown_labels_are_refused() {
    let mut session = session(Engine::Cpu);
    let error = |result: consistency_sampler::Result<()>| result.unwrap_err().to_string();
    assert_eq!(error(session.add_images(&[0; 63], &[0])), "images: expected 64 bytes, found 63");
    assert_eq!(error(session.add_images(&[0; 64], &[2])), "labels: expected below 2, found 2");
    let mut empty = Session::new(&options(), Engine::Cpu).unwrap();
    assert!(block_on(empty.step(0.0)).unwrap_err().to_string().contains("found none"));
    let parts = include_str!("goldens/animals/parts.json");
    assert!(error(empty.use_animals(&[0; 4], 2, parts)).contains("masks.png: expected"));
}
