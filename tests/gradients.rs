//! The CPU backend's gradients against those that PyTorch's autograd gave for diffusers' U-Net.

mod common;

use consistency_sampler::cpu::{CpuGraph, CpuUNet};
use consistency_sampler::model::unet::{NO_CLASS, UNet, time_features};
use safetensors::SafeTensors;

use common::{assert_close, checkpoints, f32s, goldens, load};

/// How far an output may be from PyTorch's. The largest difference found is 6e-6.
const OUTPUT_TOLERANCE: f32 = 2e-5;

/// How far a gradient may be from PyTorch's, relative to the largest of its layer. The largest difference found is 4.3e-6.
const GRADIENT_TOLERANCE: f32 = 1.5e-5;

#[test]
fn cpu_gradients_are_those_of_pytorchs_autograd() {
    let mut compared = 0;
    for (name, folder) in checkpoints() {
        let Ok(bytes) = std::fs::read(goldens().join(&name).join("gradients.safetensors")) else { continue };
        compared += 1;
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let golden = |key: &str| f32s(file.tensor(key).unwrap().data());
        let config = &folder.unet;
        let graph = CpuGraph::new(config, &UNet::new(config));
        let network = load(CpuUNet::new(config), &folder).unwrap();
        let weights = network.weights();
        let (sample, time) = (golden("sample"), time_features(config, &golden("timestep")));
        // −1 in the file is NO_CLASS here.
        let labels = config.num_class_embeds.map(|_| file.tensor("class_labels").unwrap().data().as_chunks().0);
        let labels: Vec<u32> = labels.unwrap_or_default().iter().map(|&l| i64::from_le_bytes(l) as u32).collect();
        assert_eq!(
            labels.contains(&NO_CLASS),
            config.num_class_embeds.is_some(),
            "{name}: one sample is without its class"
        );

        let (output, tape) = graph.record(weights, &sample, &time, &labels);
        assert_eq!(
            output,
            graph.forward(weights, &sample, &time, &labels),
            "{name}: forward and record have the same output"
        );
        assert_close(&name, &output, &golden("output"), OUTPUT_TOLERANCE);
        let found = graph.gradient(weights, tape, &golden("outer"));
        for parameter in graph.parameters() {
            // A softmax does not depend on the keys' bias, whose gradient is rounding error: errors are relative to the
            // largest gradient of the layer.
            let layer = parameter.name.rsplit_once('.').unwrap().0;
            let of_layer = graph.parameters().iter().filter(|p| p.name.rsplit_once('.').unwrap().0 == layer);
            let largest = of_layer.flat_map(|p| golden(&p.name)).fold(0.0, |a, b| f32::max(a, b.abs()));
            let error = largest_difference(&found[graph.place(&parameter.name)], &golden(&parameter.name)) / largest;
            assert!(
                error < GRADIENT_TOLERANCE,
                "{name}: the gradient of {} differs by {error} of its layer's",
                parameter.name
            );
        }
    }
    assert_eq!(compared, 5, "checkpoints with gradients");
}

fn largest_difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max)
}
