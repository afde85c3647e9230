//! `Pipeline` as a program uses it.

use std::ops::ControlFlow;
use std::path::Path;

use consistency_sampler::{Device, Edit, EditRequest, Error, Noise, Pipeline, Request, Task};

fn weights() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/mnist")
}

#[test]
fn a_gpu_pipeline_and_its_futures_move_between_threads() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let mut pipeline = is_send(Pipeline::open(weights(), Device::Gpu).unwrap());
    let request = Request { noise: 1.into(), class_labels: Some(vec![3]), ..Default::default() };
    let here = pollster::block_on(is_send(pipeline.sample(&request))).unwrap();
    let of_thread = request.clone();
    let there = std::thread::spawn(move || {
        let images = pollster::block_on(is_send(pipeline.sample(&of_thread))).unwrap();
        let edit = EditRequest { task: Task::Edit(Edit::Stroke), picture: images.clone(), request: of_thread };
        pollster::block_on(is_send(pipeline.edit(&edit))).unwrap();
        pollster::block_on(is_send(pipeline.denoise(&images, 0.5, &[3]))).unwrap();
        images
    });
    assert_eq!(there.join().unwrap(), here);
}

#[test]
fn gpu_and_cpu_draw_the_same() {
    let noise = Noise::between(Noise::Seed(1), Noise::Seed(2), 0.4);
    let request = Request {
        noise: consistency_sampler::BatchNoise::Shared(noise),
        batch: 3,
        num_inference_steps: Some(2),
        ..Default::default()
    };
    let [gpu, cpu] = [Device::Gpu, Device::Cpu].map(|device| {
        let mut pipeline = Pipeline::open(weights(), device).unwrap();
        pollster::block_on(pipeline.sample(&request)).unwrap()
    });
    let worst = gpu.iter().zip(&cpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3, "off by {worst}");
}

#[test]
fn a_run_reports_each_call_and_can_be_cancelled() {
    let mut pipeline = Pipeline::open(weights(), Device::Cpu).unwrap();
    let request = Request { num_inference_steps: Some(4), class_labels: Some(vec![7]), ..Default::default() };
    let mut seen = Vec::new();
    let stopped = pollster::block_on(pipeline.sample_with(&request, |progress| {
        seen.push((progress.index, progress.steps));
        if progress.index == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }));
    assert_eq!(stopped, Err(Error::Cancelled));
    assert_eq!(seen, [(0, 4), (1, 4)]);
}

#[test]
fn wrong_folders_and_arguments_are_refused() {
    let missing = Pipeline::open("nowhere", Device::Cpu).err().unwrap().to_string();
    assert_eq!(missing, "nowhere: expected a model folder in the diffusers layout");
    let mut pipeline = Pipeline::open(weights(), Device::Gpu).unwrap();
    let refused = |result: consistency_sampler::Result<Vec<f32>>| result.unwrap_err().to_string();
    let labels = Request { class_labels: Some(vec![10]), ..Default::default() };
    assert_eq!(refused(pollster::block_on(pipeline.sample(&labels))), "class labels must be from 0 to 9, found 10");
    let x = vec![0.0; 28 * 28];
    assert_eq!(refused(pollster::block_on(pipeline.denoise(&x, 90.0, &[1]))), "sigma: expected 0.002 to 80, found 90");
    for part in [&x[1..], &[]] {
        let message = refused(pollster::block_on(pipeline.denoise(part, 1.0, &[1])));
        assert_eq!(message, format!("x: expected B×1×28×28 values, found {}", part.len()));
    }
    let classes = refused(pollster::block_on(pipeline.denoise(&x, 1.0, &[])));
    assert_eq!(classes, "class_labels: expected 1, one per sample, found 0");
}
