//! The gradient against the CPU backend's, over the golden checkpoints and networks whose shapes fit no tile, and against
//! finite differences.

use super::super::Gpu;
use super::super::program::{Choice, OUTPUTS, Products, SAFE};
use super::super::tuning::TILES;
use super::*;
use crate::checkpoint::folder::ModelFolder;
use crate::consistency::rng::Generator;
use crate::cpu::CpuGraph;
use crate::model::unet::{NO_CLASS, time_features};

/// How far a gradient may be from the CPU backend's, relative to the largest of its layer.
const TOLERANCE: f32 = 1e-4;

fn randn(generator: &mut Generator, len: usize, scale: f32) -> Vec<f32> {
    let mut values = vec![0.0; len];
    generator.randn(&mut values);
    values.iter().map(|v| v * scale).collect()
}

/// A call of a network with random weights.
struct Call {
    weights: Vec<f32>,
    sample: Vec<f32>,
    time: Vec<f32>,
    labels: Vec<u32>,
    outer: Vec<f32>,
}

impl Call {
    fn new(config: &UNetConfig, parameters: &[Parameter], batch: usize) -> Self {
        let mut generator = Generator::new(7 + batch as u64);
        let weights = parameters.iter().flat_map(|p| {
            let fan_in: usize = p.shape[1..].iter().product();
            let is_scale = p.name.contains("norm") && p.name.ends_with(".weight");
            let mut values = randn(&mut generator, p.count(), (fan_in as f32).powf(-0.5));
            values.iter_mut().for_each(|v| *v = 0.3 * *v + if is_scale { 1.0 } else { 0.7 * *v });
            values
        });
        let weights = weights.collect();
        let [height, width] = config.sample_size;
        let sample = randn(&mut generator, batch * config.in_channels * height * width, 1.0);
        let times: Vec<f32> = (0..batch).map(|i| 250.0 * (i as f32 - 2.5)).collect();
        // One sample is without its class.
        let label = |i: usize, n: usize| if i == 1 { NO_CLASS } else { (3 * i % n) as u32 };
        let labels = config.num_class_embeds.map(|n| (0..batch).map(|i| label(i, n)).collect()).unwrap_or_default();
        let outer = randn(&mut generator, sample.len(), 1.0);
        Self { weights, sample, time: time_features(config, &times), labels, outer }
    }

    fn on_gpu(&self, network: &mut GpuGradient) -> (Vec<f32>, Vec<f32>) {
        network.load(&self.weights);
        let output = pollster::block_on(network.forward(&self.sample, &self.time, &self.labels)).unwrap();
        (output, pollster::block_on(network.gradient(&self.outer)).unwrap())
    }
}

fn largest(values: impl IntoIterator<Item = f32>) -> f32 {
    values.into_iter().fold(0.0, |most, v| most.max(v.abs()))
}

/// Compares output and gradients with the CPU backend's at several batch sizes.
fn check(gpu: &Gpu, what: &str, config: &UNetConfig, choice: Choice) {
    let unet = UNet::new(config);
    let cpu = CpuGraph::new(config, &unet);
    let program = fuse(&Graph::record(config, &unet), choice);
    let mut network = GpuGradient::of_program(gpu, config, program, Some(choice)).unwrap();
    assert_eq!(network.parameters(), cpu.parameters());
    for batch in [3, 1] {
        let call = Call::new(config, network.parameters(), batch);
        let (expected, tape) = cpu.record(&call.weights, &call.sample, &call.time, &call.labels);
        let expected_gradient = cpu.gradient(&call.weights, tape, &call.outer);
        let (found, gradient) = call.on_gpu(&mut network);
        let error = largest(found.iter().zip(&expected).map(|(f, e)| f - e));
        assert!(error < TOLERANCE * largest(expected), "{what}, batch {batch}: outputs differ by {error}");
        for parameter in network.parameters() {
            // The scores' gradients are differences: rounding error, beside those of the values, where scores hardly matter.
            let layer = parameter.name.rsplit_once('.').unwrap().0;
            let layer = layer.rsplit_once(".to_").map_or(layer, |(attention, _)| attention);
            let of_layer = network.parameters().iter().filter(|p| p.name.starts_with(layer));
            let scale = largest(of_layer.flat_map(|p| expected_gradient[cpu.place(&p.name)].iter().copied()));
            let place = cpu.place(&parameter.name);
            let error = largest(gradient[place.clone()].iter().zip(&expected_gradient[place]).map(|(f, e)| f - e));
            let name = &parameter.name;
            assert!(scale > 0.0, "{what}, batch {batch}: the gradient of {name} is 0");
            assert!(
                error <= TOLERANCE * scale,
                "{what}, batch {batch}: {name} differs by {error}, its layer has {scale}"
            );
        }
        let (_, again) = call.on_gpu(&mut network);
        assert!(gradient == again, "{what}, batch {batch}: a second call has other bits");
    }
}

fn goldens() -> impl Iterator<Item = (String, ModelFolder)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let models = paths.into_iter().filter(|path| path.join("model_index.json").exists());
    models.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), ModelFolder::open(&path).unwrap()))
}

#[test]
fn gradients_of_the_golden_architectures_are_the_cpu_backends() {
    let gpu = pollster::block_on(Gpu::open()).unwrap();
    for (name, folder) in goldens() {
        check(&gpu, &name, &folder.unet, SAFE);
    }
}

/// Networks of odd sizes and channels: one level without and with attention, strided and residual resampling.
const AWKWARD: [(&str, &str); 5] = [
    (
        "odd",
        r#""sample_size": 7, "block_out_channels": [10], "norm_num_groups": 5, "attention_head_dim": 3,
           "down_block_types": ["AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D"], "num_class_embeds": 3"#,
    ),
    (
        "wide",
        r#""sample_size": [5, 9], "block_out_channels": [15], "norm_num_groups": 3, "attention_head_dim": 15,
           "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "in_channels": 1, "out_channels": 1,
           "resnet_time_scale_shift": "scale_shift""#,
    ),
    (
        "strided",
        r#""sample_size": 10, "block_out_channels": [10, 18], "norm_num_groups": 2, "attention_head_dim": 6,
           "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
           "num_class_embeds": 3, "resnet_time_scale_shift": "scale_shift""#,
    ),
    (
        "residual",
        r#""sample_size": 6, "block_out_channels": [22, 14], "norm_num_groups": 2, "attention_head_dim": 14,
           "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"], "downsample_type": "resnet",
           "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"], "upsample_type": "resnet""#,
    ),
    (
        "many heads",
        r#""sample_size": 12, "block_out_channels": [72], "norm_num_groups": 1, "attention_head_dim": 8,
           "layers_per_block": 1, "down_block_types": ["AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D"]"#,
    ),
];

fn awkward() -> impl Iterator<Item = (&'static str, UNetConfig)> {
    let parse = |json| UNetConfig::parse(&format!(r#"{{"_class_name": "UNet2DModel", {json}}}"#)).unwrap();
    AWKWARD.into_iter().map(move |(name, json)| (name, parse(json)))
}

#[test]
fn gradients_of_awkward_shapes_are_the_cpu_backends() {
    let gpu = pollster::block_on(Gpu::open()).unwrap();
    for (name, config) in awkward() {
        check(&gpu, name, &config, SAFE);
    }
}

#[test]
fn gradients_by_tiled_products_are_the_cpu_backends() {
    let gpu = pollster::block_on(Gpu::open()).unwrap();
    let tiled = Products::Tiled(TILES[2]);
    for (name, config) in awkward() {
        check(&gpu, name, &config, [tiled; OUTPUTS.len()]);
    }
}

#[test]
fn small_buffers_hold_the_same_gradient() {
    let mut gpu = pollster::block_on(Gpu::open()).unwrap();
    let (_, config) = awkward().next().unwrap();
    let mut network = GpuGradient::new(&gpu, &config).unwrap();
    let call = Call::new(&config, network.parameters(), 3);
    let whole = call.on_gpu(&mut network);
    let longest = network.program.activations.iter().chain(&network.lengths).max().unwrap();
    assert!(network.flat.bytes() > 4 * *longest as u64);
    gpu.lower_limits(3 * 4 * longest.next_multiple_of(64) as u64, u32::MAX);
    let mut network = GpuGradient::new(&gpu, &config).unwrap();
    assert!(call.on_gpu(&mut network) == whole);
    gpu.lower_limits(3 * 4 * *longest as u64 / 4, u32::MAX);
    let mut network = GpuGradient::new(&gpu, &config).unwrap();
    network.load(&call.weights);
    let error = pollster::block_on(network.forward(&call.sample, &call.time, &call.labels)).unwrap_err().to_string();
    assert!(error.contains("needs a buffer of"), "{error}");
}

#[test]
fn gradients_are_finite_differences() {
    let gpu = pollster::block_on(Gpu::open()).unwrap();
    let (_, config) = awkward().next().unwrap();
    let mut network = GpuGradient::new(&gpu, &config).unwrap();
    let mut call = Call::new(&config, network.parameters(), 3);
    let (_, gradient) = call.on_gpu(&mut network);
    let mut loss = |weights: &[f32], call: &Call| -> f64 {
        network.load(weights);
        let output = pollster::block_on(network.forward(&call.sample, &call.time, &call.labels)).unwrap();
        output.iter().zip(&call.outer).map(|(&f, &g)| f64::from(f) * f64::from(g)).sum()
    };
    // Along random directions, where the sum over all weights is large against the rounding of the loss.
    let mut generator = Generator::new(3);
    for _ in 0..4 {
        let direction = randn(&mut generator, call.weights.len(), 1.0);
        let weights = call.weights.clone();
        let mut at = |step: f32| {
            call.weights = weights.iter().zip(&direction).map(|(w, d)| w + step * d).collect();
            loss(&call.weights, &call)
        };
        const STEP: f32 = 2e-4;
        let difference = (at(STEP) - at(-STEP)) / f64::from(2.0 * STEP);
        let slope: f64 = gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
        let size = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        assert!((difference - slope).abs() < 1e-3 * size, "found {slope}, expected {difference}, of {size}");
        call.weights = weights;
    }
}
