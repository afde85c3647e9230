//! Training end to end, on a tiny network.

mod common;

use std::path::PathBuf;

use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::consistency::schedule::Scalings;
use consistency_sampler::cpu::{CpuGraph, CpuUNet};
use consistency_sampler::model::config::{SchedulerConfig, UNetConfig};
use consistency_sampler::train::checkpoint::{Saved, state_file, teacher_of};
use consistency_sampler::train::dataset::Batch;
use consistency_sampler::train::denoiser::{Denoiser, Engine};
use consistency_sampler::train::images::{Images, weighted_sum};
use consistency_sampler::train::objective::{CtSchedule, Recipe, Weighting};
use consistency_sampler::train::record::Record;
use consistency_sampler::train::run_folder::{read_record, read_state, write_model, write_state};
use consistency_sampler::train::teacher::{Guidance, Teacher};
use consistency_sampler::train::trainer::{Settings, State, Trainer};
use consistency_sampler::train::weights::initial_weights;
use consistency_sampler::{Gpu, Pipeline, Precision, Request, convert};

use consistency_sampler::model::unet::NO_CLASS;

use common::TINY;
use pollster::block_on;

const SCHEDULER: &str = r#"{"_class_name": "CMStochasticIterativeScheduler"}"#;

const ECT: Recipe = Recipe::Ect { mean: -1.1, deviation: 2.0, q: 2.0, stages: [0, 3], weighting: Weighting::Gap };
const CT: Recipe = Recipe::Ct(CtSchedule { s0: 2.0, s1: 10.0, mu0: 0.9 });
/// Wider than the paper's, so that σ = 80, where sampling begins, is trained on too.
const EDM: Recipe = Recipe::Edm { mean: 1.0, deviation: 2.0 };
const CD: Recipe = Recipe::Cd { mu: 0.95 };
const TRAJECTORIES: Recipe = Recipe::Trajectories { calls: 6, uses: 2, first: 0.5 };
const DMD: Recipe = Recipe::Dmd { mean: 1.0, deviation: 2.0 };

fn denoiser() -> Denoiser {
    denoiser_on(&Engine::Cpu)
}

fn denoiser_on(engine: &Engine) -> Denoiser {
    Denoiser::new(&UNetConfig::parse(TINY).unwrap(), &SchedulerConfig::parse(SCHEDULER).unwrap(), engine)
}

fn start(recipe: Recipe) -> State {
    let mut state = State::new(initial_weights(&denoiser().unet().parameters(), 5), &recipe);
    if recipe == DMD {
        // Two iterations before the end of the critic's warm-up.
        state.optimizer.step = 98;
    }
    state
}

fn settings(recipe: Recipe) -> Settings {
    Settings {
        recipe,
        batch: 4,
        learning_rate: 1e-2,
        decay: 0.5,
        ema: 0.9,
        seed: 3,
        muon: false,
        class_dropout: 0.0,
        guidance: Guidance::NONE,
        critic_learning_rate: 1e-2,
    }
}

fn trainer(recipe: Recipe, state: State) -> Trainer {
    trainer_on(&Engine::Cpu, recipe, state)
}

fn trainer_on(engine: &Engine, recipe: Recipe, state: State) -> Trainer {
    let settings = settings(recipe);
    let teacher =
        matches!(recipe, Recipe::Cd { .. } | Recipe::Dmd { .. } | Recipe::Trajectories { .. }).then(|| Teacher {
            denoiser: denoiser_on(engine),
            weights: initial_weights(&denoiser().unet().parameters(), 6),
            guide: None,
        });
    Trainer::new(denoiser_on(engine), settings, state, teacher).unwrap()
}

/// Class 0 is a dark image, class 1 a bright one.
fn batch(generator: &mut Generator) -> Batch {
    let mut labels = vec![0; 4];
    generator.randint(2, &mut labels);
    let images = labels.iter().flat_map(|&l| [l as f32 * 1.6 - 0.8; 64]).collect();
    Batch { images, labels }
}

fn steps(trainer: &mut Trainer, range: std::ops::Range<u64>, total: u64) -> Vec<f32> {
    range
        .map(|k| {
            let mut generator = trainer.generator();
            let batch = batch(&mut generator);
            block_on(trainer.step(&batch, &mut generator, k as f64 / total as f64)).unwrap()
        })
        .collect()
}

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("consistency-sampler-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let folder = scratch("resume");
    for recipe in [ECT, CT, EDM, CD, DMD, TRAJECTORIES] {
        let mut whole = trainer(recipe, start(recipe));
        let losses = steps(&mut whole, 0..8, 8);

        let mut first = trainer(recipe, start(recipe));
        let mut found = steps(&mut first, 0..3, 8);
        let file = folder.join("state.safetensors");
        let parameters = denoiser().unet().parameters();
        let of_critic = (recipe == DMD).then_some(parameters.as_slice());
        let (state, record) = (&first.state, &Record::default());
        let saved = Saved { state, parameters: &parameters, critic: of_critic, record, teacher: None };
        write_state(&file, &saved).unwrap();
        let state = read_state(&file, &parameters, of_critic).unwrap();
        let mut second = trainer(recipe, state);
        found.extend(steps(&mut second, 3..8, 8));

        assert_eq!(found, losses, "{recipe:?}: losses");
        assert_eq!(second.state.weights, whole.state.weights, "{recipe:?}: weights");
        assert_eq!(second.state.ema, whole.state.ema, "{recipe:?}: average");
        let target = |t: &Trainer| t.state.target.clone();
        assert_eq!(target(&second), target(&whole), "{recipe:?}: target");
        assert_eq!(target(&whole).is_some(), matches!(recipe, Recipe::Ct(_) | Recipe::Cd { .. }));
        let critic = |t: &Trainer| t.state.critic.as_ref().map(|c| (c.weights.clone(), c.optimizer.first.clone()));
        assert_eq!(critic(&second), critic(&whole), "{recipe:?}: critic");
        assert_eq!((critic(&whole).is_some(), whole.critic_loss.is_some()), (recipe == DMD, recipe == DMD));
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn engines_take_the_same_steps() {
    let gpu = block_on(Gpu::request()).unwrap();
    for recipe in [ECT, CT, EDM, CD, DMD, TRAJECTORIES] {
        let run = |engine| {
            let mut t = trainer_on(&engine, recipe, start(recipe));
            t.settings.learning_rate = 1e-3;
            (steps(&mut t, 0..4, 8), t)
        };
        let cpu = run(Engine::Cpu);
        let gpu = run(Engine::Gpu(Box::new(gpu.clone())));
        for (expected, found) in cpu.0.iter().zip(&gpu.0) {
            let error = (found - expected).abs();
            assert!(error <= 1e-3 * expected, "{recipe:?}: loss {found}, expected {expected}");
        }
        let graph = CpuGraph::new(&cpu.1.denoiser.config, cpu.1.denoiser.unet());
        for parameter in graph.parameters() {
            let place = graph.place(&parameter.name);
            let (found, expected) = (&gpu.1.state.weights[place.clone()], &cpu.1.state.weights[place]);
            let error = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
            assert!(error < 1e-4, "{recipe:?}: {} is off by {error}", parameter.name);
        }
    }
}

/// Checks that the one-call samples of a run's averaged weights are of their classes.
fn assert_knows_the_classes(t: &Trainer) {
    let network = CpuUNet::with_weights(&t.denoiser.config, t.state.ema.clone()).unwrap();
    let mut pipeline = Pipeline::new(network, t.denoiser.scheduler.clone());
    let request = Request { batch: 8, class_labels: Some(vec![0, 1, 0, 1, 0, 1, 0, 1]), ..Request::default() };
    let samples = block_on(pipeline.sample(&request)).unwrap();
    for (i, image) in samples.chunks(64).enumerate() {
        let (found, expected) = (image.iter().sum::<f32>() / 64.0, (i % 2) as f32 * 1.6 - 0.8);
        let recipe = t.settings.recipe;
        assert!((found - expected).abs() < 0.4, "{recipe:?}, sample {i}: mean {found}, expected {expected}");
    }
}

#[test]
fn ect_ct_and_edm_learn_the_classes() {
    for recipe in [ECT, CT, EDM] {
        let mut t = trainer(recipe, start(recipe));
        (0..100).for_each(|_| drop(steps(&mut t, 0..1, 8)));
        assert_knows_the_classes(&t);
    }
}

#[test]
fn trajectories_teach_the_classes_that_the_teacher_knows() {
    let mut teacher = trainer(EDM, start(EDM));
    (0..100).for_each(|_| drop(steps(&mut teacher, 0..1, 8)));
    let teacher = Teacher { denoiser: denoiser(), weights: teacher.state.ema, guide: None };
    let settings = settings(TRAJECTORIES);
    let mut t = Trainer::new(denoiser(), settings, start(TRAJECTORIES), Some(teacher)).unwrap();
    let losses: Vec<f32> = (0..100).flat_map(|_| steps(&mut t, 0..1, 8)).collect();
    let mean = |of: &[f32]| of.iter().sum::<f32>() / of.len() as f32;
    assert!(mean(&losses[80..]) < 0.3 * mean(&losses[..5]), "{losses:?}");
    assert_knows_the_classes(&t);
}

#[test]
fn the_gradient_is_the_slope_of_the_loss() {
    // One step of lr on momentum: RAdam's first step is w ← w − lr·g. So the loss must fall by about lr·‖g‖².
    let mut t = trainer(EDM, start(EDM));
    t.settings.learning_rate = 1e-4;
    let mut again = || {
        let mut generator = Generator::new(1);
        let batch = batch(&mut generator);
        let before = t.state.weights.clone();
        let loss = block_on(t.step(&batch, &mut generator, 0.0)).unwrap();
        let moved: f32 = before.iter().zip(&t.state.weights).map(|(a, b)| (a - b).powi(2)).sum();
        (loss, moved)
    };
    let ((before, moved), (after, _)) = (again(), again());
    let expected = moved / 1e-4;
    let found = before - after;
    assert!((found / expected - 1.0).abs() < 0.1, "the loss fell by {found}, expected lr·‖g‖² = {expected}");
}

#[test]
fn the_learning_rate_falls_linearly_to_0() {
    let t = trainer(EDM, start(EDM));
    let rates: Vec<f64> = [0.0, 0.5, 0.75, 1.0].iter().map(|&p| t.learning_rate(p)).collect();
    assert_eq!(rates, [1e-2, 1e-2, 5e-3, 0.0]);
}

#[test]
fn the_model_folder_reads_back() {
    let folder = scratch("model");
    let weights = initial_weights(&denoiser().unet().parameters(), 5);
    let names = ["dark".to_owned(), "bright".to_owned()];
    let write = || write_model(&folder, &names, TINY, SCHEDULER, denoiser().unet(), &weights).unwrap();
    assert_eq!(write(), [""; 0]);
    let model = ModelFolder::open(&folder).unwrap();
    let (_, found) = Denoiser::read(&folder, &Engine::Cpu).unwrap();
    assert_eq!(found, weights);
    let index: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(folder.join("model_index.json")).unwrap()).unwrap();
    assert_eq!(index["id2label"], serde_json::json!({"0": "dark", "1": "bright"}));
    // What was made of these weights goes when they are written anew.
    convert(&model, &folder, Precision::F16, |_, _| {}).unwrap();
    assert_eq!(write(), ["unet/diffusion_pytorch_model.fp16.safetensors", "SHA256SUMS"]);
    assert!(!folder.join("unet/diffusion_pytorch_model.fp16.safetensors").exists());
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn checkpoints_of_other_runs_are_refused() {
    let folder = scratch("refused");
    let file = folder.join("state.safetensors");
    let parameters = denoiser().unet().parameters();
    assert!(read_record(&file).unwrap_err().to_string().contains("nothing to resume"));
    let mut record = Record::default();
    record.push("--lr", 1e-3);
    let state = start(ECT);
    let teacher = state.ema.as_slice();
    let saved = Saved { state: &state, parameters: &parameters, critic: None, record: &record, teacher: Some(teacher) };
    write_state(&file, &saved).unwrap();
    assert_eq!(teacher_of(&state_file(&saved).unwrap(), &parameters).unwrap().as_deref(), Some(teacher));
    assert_eq!(read_record(&file), Ok(Some(record)));
    let read = |parameters: &[_], critic: Option<&[_]>| {
        read_state(&file, parameters, critic).map(|_| ()).unwrap_err().to_string()
    };
    let other = consistency_sampler::model::unet::Parameter { name: "other".into(), shape: vec![1] };
    let error = read(&[other], None);
    assert!(error.contains("missing tensor"), "{error}");
    let error = read(&parameters, Some(&parameters));
    assert!(error.contains("missing tensor critic/weights/"), "{error}");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(read(&parameters, None).contains("not a checkpoint"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_critic_alone_is_trained_in_the_first_100_iterations() {
    let mut run = trainer(DMD, start(DMD));
    let weights = |run: &Trainer| (run.state.weights.clone(), run.state.critic.as_ref().unwrap().weights.clone());
    let before = weights(&run);
    steps(&mut run, 0..2, 8);
    let alone = weights(&run);
    assert!(alone.0 == before.0 && alone.1 != before.1, "iterations 99 and 100");
    steps(&mut run, 2..4, 8);
    let both = weights(&run);
    assert!(both.0 != alone.0 && both.1 != alone.1, "iterations 101 and 102");
}

#[test]
fn guidance_needs_a_teacher_and_classes() {
    let refusal = |settings: Settings, denoiser: Denoiser| {
        Trainer::new(denoiser, settings.clone(), start(settings.recipe), None).map(|_| ()).unwrap_err().to_string()
    };
    let guided = Settings { guidance: Guidance { strength: 2.0, ..Guidance::NONE }, ..settings(ECT) };
    assert!(refusal(guided, denoiser()).contains("needs a teacher"));
    let classless = UNetConfig { num_class_embeds: None, ..UNetConfig::parse(TINY).unwrap() };
    let classless = Denoiser::new(&classless, &SchedulerConfig::parse(SCHEDULER).unwrap(), &Engine::Cpu);
    assert!(refusal(Settings { class_dropout: 0.1, ..settings(ECT) }, classless).contains("without"));
}

#[test]
fn guidance_extrapolates_from_the_output_without_a_class_or_of_the_guide() {
    // The output of initial weights is 0 everywhere.
    let weights = |seed| {
        let fresh = initial_weights(&denoiser().unet().parameters(), seed);
        fresh.into_iter().map(|w| w + 0.05).collect::<Vec<f32>>()
    };
    let x = Images::filled([2, 1, 8, 8], 1.0);
    let (sigma, labels) = ([1.0, 3.0], [0, 1]);
    // Clamped outputs do not lie on a line.
    let unclipped = SchedulerConfig { clip_denoised: false, ..SchedulerConfig::parse(SCHEDULER).unwrap() };
    let unclipped = Denoiser::new(&UNetConfig::parse(TINY).unwrap(), &unclipped, &Engine::Cpu);
    let mut teacher = Teacher { denoiser: unclipped, weights: weights(5), guide: None };
    let at = |teacher: &Teacher, strength| {
        block_on(teacher.guided(&x, &sigma, &labels, &Guidance { strength, ..Guidance::NONE })).unwrap().values
    };
    let plain = at(&teacher, 1.0);
    let weaker = weights(7);
    let without = block_on(denoiser().call(&teacher.weights, Scalings::edm, &x, &sigma, &[NO_CLASS; 2])).unwrap();
    let of_guide = block_on(denoiser().call(&weaker, Scalings::edm, &x, &sigma, &labels)).unwrap();
    for (guide, worse) in [(None, without), (Some((denoiser(), weaker)), of_guide)] {
        teacher.guide = guide;
        assert_eq!(at(&teacher, 1.0), plain, "1 is no guidance");
        let worse = worse.values;
        assert!(worse.iter().zip(&plain).any(|(a, b)| (a - b).abs() > 1e-3), "the two outputs differ");
        for ((two, plain), worse) in at(&teacher, 2.0).iter().zip(&plain).zip(&worse) {
            assert!((2.0 * plain - worse - two).abs() < 1e-4, "{worse}, {plain}, {two} are not on a line");
        }
    }
}

#[test]
fn a_teachers_output_is_clamped_and_guided_inside_the_interval_only() {
    let fresh = initial_weights(&denoiser().unet().parameters(), 5);
    let weights: Vec<f32> = fresh.into_iter().map(|w| w + 0.05).collect();
    let teacher = Teacher { denoiser: denoiser(), weights, guide: None };
    let x = Images::filled([4, 1, 8, 8], 1.0);
    let (sigma, labels) = ([0.2, 1.0, 3.0, 20.0], [0, 1, 0, 1]);
    let raw = block_on(teacher.denoiser.call(&teacher.weights, Scalings::edm, &x, &sigma, &labels)).unwrap();
    let plain = block_on(teacher.guided(&x, &sigma, &labels, &Guidance::NONE)).unwrap();
    let largest = |t: &Images| t.values.iter().fold(0.0, |m, v| f32::max(m, v.abs()));
    assert!(largest(&raw) > 1.01, "the network's own output exceeds ±1");
    assert_eq!(plain, raw.map(|v| v.clamp(-1.0, 1.0)));

    let guidance = Guidance { strength: 1.5, interval: [0.5, 4.0] };
    let guided = block_on(teacher.guided(&x, &sigma, &labels, &guidance)).unwrap();
    assert!(largest(&guided) <= 1.0);
    let difference = weighted_sum([(&guided, &[1.0; 4]), (&plain, &[-1.0; 4])]);
    let change = |i: usize| largest(&difference.part(i..i + 1));
    assert_eq!((change(0), change(3)), (0.0, 0.0), "outside of the interval");
    assert!(change(1) > 1e-4 && change(2) > 1e-4, "{} and {} inside", change(1), change(2));
}

#[test]
fn dropped_classes_train_the_network_without_their_embeddings() {
    // With every class dropped the embeddings get no gradient.
    let all = Settings { class_dropout: 1.0, ..settings(ECT) };
    let mut run = Trainer::new(denoiser(), all, start(ECT), None).unwrap();
    let before = run.state.weights.clone();
    steps(&mut run, 0..3, 3);
    let graph = CpuGraph::new(&run.denoiser.config, run.denoiser.unet());
    let changed = |name: &str| before[graph.place(name)] != run.state.weights[graph.place(name)];
    assert!(!changed("class_embedding.weight") && changed("time_embedding.linear_2.weight"));
}

#[test]
fn distillation_needs_a_teacher() {
    for recipe in [CD, DMD, TRAJECTORIES] {
        let error = Trainer::new(denoiser(), settings(recipe), start(recipe), None).map(|_| ());
        assert!(error.unwrap_err().to_string().contains("needs a teacher"));
    }
}
