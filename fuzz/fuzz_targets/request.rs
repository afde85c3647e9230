//! Requests against a model of any shape: no panic; what is accepted runs to its end with the promised sizes.
#![no_main]

use std::ops::ControlFlow;

use arbitrary::Arbitrary;
use consistency_sampler::model::config::{SchedulerConfig, UNetConfig};
use consistency_sampler::consistency::schedule::Step;
use consistency_sampler::consistency::edit::{Edit, edit};
use consistency_sampler::consistency::noise::slerp;
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::consistency::sampler::{ConsistencyFunction, Request};
use consistency_sampler::{Error, Result};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input {
    seed: u64,
    batch: u64,
    class_labels: Option<Vec<u32>>,
    timesteps: Option<Vec<u64>>,
    num_inference_steps: Option<u64>,
    classes: Option<u16>,
    rgb: bool,
    edit: Option<Kind>,
    picture: Vec<f32>,
    share: f64,
}

#[derive(Debug, Arbitrary)]
enum Kind {
    Inpaint(Vec<bool>),
    Colorize,
    SuperResolution(usize),
    Stroke,
}

/// Answers with what it is given.
struct Echo;

impl ConsistencyFunction for Echo {
    async fn denoise(&mut self, x: &[f32], _: &Step, _: &[u32]) -> Result<Vec<f32>> {
        Ok(x.to_vec())
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("nothing here waits"),
    }
}

fn config(input: &Input) -> UNetConfig {
    let (channels, classes) = (if input.rgb { 3 } else { 1 }, input.classes.map_or("null".into(), |n| n.to_string()));
    let json = format!(
        r#"{{"_class_name": "UNet2DModel", "in_channels": {channels}, "out_channels": {channels}, "sample_size": [4, 2],
        "block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
        "layers_per_block": 1, "norm_num_groups": 2, "num_class_embeds": {classes}}}"#
    );
    UNetConfig::parse(&json).unwrap_or_else(|_| UNetConfig::parse(&json.replace(&classes, "7")).expect("it is valid"))
}

fuzz_target!(|input: Input| {
    let (unet, scheduler) = (config(&input), SchedulerConfig::default());
    let as_size = |n: &u64| usize::try_from(*n).unwrap_or(usize::MAX);
    let request = Request {
        noise: input.seed.into(),
        batch: as_size(&input.batch),
        class_labels: input.class_labels.clone(),
        timesteps: input.timesteps.as_ref().map(|list| list.iter().map(as_size).collect()),
        num_inference_steps: input.num_inference_steps.as_ref().map(as_size),
    };
    let refused = |e: Error| {
        assert!(matches!(e, Error::Input(_)), "{e:?}");
        assert!(!e.to_string().contains(char::is_control));
    };
    // More samples are accepted, but noise for them is all that a fuzzer would then compute.
    if request.batch > 4 && request.batch < 1 << 27 {
        return;
    }
    let len = unet.in_channels * 8;
    let next = |_: consistency_sampler::consistency::sampler::Progress<'_>| ControlFlow::Continue(());
    match run(request.run(&mut Echo, &unet, &scheduler, next)) {
        Ok(images) => assert_eq!(images.len(), request.batch * len),
        Err(e) => refused(e),
    }
    let (Some(kind), Ok(schedule)) = (&input.edit, request.schedule(&scheduler)) else {
        return;
    };
    let kind = match kind {
        Kind::Inpaint(hole) => Edit::Inpaint { hole: hole.clone() },
        Kind::Colorize => Edit::Colorize,
        Kind::SuperResolution(patch) => Edit::SuperResolution { patch: *patch },
        Kind::Stroke => Edit::Stroke,
    };
    let mut generator = Generator::new(input.seed);
    let noise = |z: &mut [f32]| generator.randn(z);
    match run(edit(&mut Echo, &unet, &kind, &schedule, &input.picture, &[], noise, next)) {
        Ok(mut x) => {
            assert_eq!(x.len(), input.picture.len());
            kind.into_range(&mut x, &input.picture, &unet);
            assert!(x.iter().all(|v| v.is_nan() || (-1.0..=1.0).contains(v)));
            assert_eq!(slerp(&input.picture, &x, input.share).len(), x.len());
        }
        Err(e) => refused(e),
    }
});
