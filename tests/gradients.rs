//! The CPU interpreter's gradients against burn's autodiff, over every golden architecture.

mod common;

use burn::tensor::{Device, Tensor, TensorData};
use consistency_sampler::burn::{Labels, Weights, forward};
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::cpu::CpuGraph;
use consistency_sampler::model::unet::{NO_CLASS, UNet, time_features};
use consistency_sampler::train::optimizer::{gradients, track};

use common::checkpoints;

/// Not a multiple of the samples in a group of the CPU interpreter.
const BATCH: usize = 6;

fn randn(generator: &mut Generator, len: usize, scale: f32) -> Vec<f32> {
    let mut values = vec![0.0; len];
    generator.randn(&mut values);
    values.iter().map(|v| v * scale).collect()
}

#[test]
fn cpu_gradients_are_those_of_burns_autodiff() {
    let device = Device::flex();
    for (name, folder) in checkpoints() {
        let config = &folder.unet;
        let unet = UNet::new(config);
        let graph = CpuGraph::new(config, &unet);
        let mut generator = Generator::new(7);
        // Initial weights are 0 in the last layers, which would make the gradients of the layers before them 0.
        let flat = randn(&mut generator, graph.weight_count(), 0.2);
        let [height, width] = config.sample_size;
        let shape = [BATCH, config.in_channels, height, width];
        let sample = randn(&mut generator, shape.iter().product(), 1.0);
        let times: Vec<f32> = (0..BATCH).map(|i| 250.0 * (i as f32 - 2.5)).collect();
        let time = time_features(config, &times);
        // One sample without its class.
        let label = |i: usize, n: usize| if i == 4 { NO_CLASS } else { (3 * i % n) as u32 };
        let labels: Vec<u32> =
            config.num_class_embeds.map(|n| (0..BATCH).map(|i| label(i, n)).collect()).unwrap_or_default();
        let outer = randn(&mut generator, sample.len() / config.in_channels * config.out_channels, 1.0);

        let (output, tape) = graph.record(&flat, &sample, &time, &labels);
        assert_eq!(
            output,
            graph.forward(&flat, &sample, &time, &labels),
            "{name}: forward and record have the same output"
        );
        let found = graph.gradient(&flat, tape, &outer);

        let tensor = |values: &[f32]| Tensor::<1>::from_data(TensorData::new(values.to_vec(), [values.len()]), &device);
        let weights: Weights =
            graph.parameters().iter().map(|p| (p.name.clone(), track(tensor(&flat[graph.place(&p.name)])))).collect();
        let classes = config.num_class_embeds.map(|_| Labels::new(&labels, &device));
        let time = tensor(&time).reshape([BATCH, config.block_out_channels[0]]);
        let expected = forward(&unet, &weights, &tensor(&sample).reshape(shape), &time, classes.as_ref());
        let loss = (expected.clone().reshape([-1]) * tensor(&outer)).sum();
        let expected: Vec<f32> = expected.without_autodiff().into_data().try_to_vec().unwrap();
        let error = largest_difference(&output, &expected);
        assert!(error < 1e-4, "{name}: outputs differ by {error}");

        let expected = gradients(&loss, &weights);
        assert_eq!(expected.len(), graph.parameters().len(), "{name}: every weight has a gradient");
        let expected: Vec<f32> = graph
            .parameters()
            .iter()
            .flat_map(|p| expected[&p.name].clone().into_data().try_to_vec::<f32>().unwrap())
            .collect();
        for parameter in graph.parameters() {
            // A softmax does not depend on the keys' bias, whose gradient is rounding error: errors are relative to the
            // largest gradient of the layer.
            let layer = parameter.name.rsplit_once('.').unwrap().0;
            let of_layer = graph.parameters().iter().filter(|p| p.name.starts_with(layer));
            let largest = of_layer.flat_map(|p| &expected[graph.place(&p.name)]).fold(0.0, |a, b| f32::max(a, b.abs()));
            let place = graph.place(&parameter.name);
            let error = largest_difference(&found[place.clone()], &expected[place]) / largest;
            assert!(error < 2e-4, "{name}: the gradient of {} differs by {error} of its layer's", parameter.name);
        }
    }
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max)
}
