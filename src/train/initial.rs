//! Initial weights.

use burn::tensor::{Device, Tensor, TensorData};

use crate::burn::Weights;
use crate::consistency::rng::Generator;
use crate::model::unet::Parameter;

/// Random weights with the distributions of PyTorch's layers: weight and bias U(−1/√fan_in, 1/√fan_in), norms 1 and 0,
/// embedding rows N(0, 1).
///
/// As in Karras et al. 2022 (and Dhariwal & Nichol 2021) the last layer of each residual and attention block and of
/// the network is 0, which makes each block the identity.
pub fn initial_weights(parameters: &[Parameter], seed: u64, device: &Device) -> Weights {
    let mut generator = Generator::new(seed);
    let mut bound = 0.0; // 1/√fan_in of the preceding weight, for its bias
    let mut weights = Weights::new();
    for Parameter { name, shape } in parameters {
        let length: usize = shape.iter().product();
        let mut values = vec![0.0; length];
        let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
        let is_weight = name.ends_with(".weight");
        if is_weight {
            bound = 1.0 / (shape[1..].iter().product::<usize>() as f64).sqrt();
        }
        let last = ["conv2", "to_out.0"].iter().any(|s| layer.ends_with(s)) || layer == "conv_out";
        if layer == "class_embedding" {
            generator.randn(&mut values);
        } else if is_weight && shape.len() == 1 {
            values.fill(1.0);
        } else if !last && !layer.contains("norm") {
            values.fill_with(|| (bound * (2.0 * generator.uniform_f64() - 1.0)) as f32);
        }
        weights.insert(name.clone(), Tensor::from_data(TensorData::new(values, [length]), device));
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initial_weights_are_in_their_ranges() {
        let p = |name: &str, shape: &[usize]| Parameter { name: name.into(), shape: shape.to_vec() };
        let parameters = [
            p("a.conv1.weight", &[8, 4, 3, 3]),
            p("a.conv1.bias", &[8]),
            p("a.conv2.weight", &[8, 4, 3, 3]),
            p("a.norm1.weight", &[4]),
            p("a.norm1.bias", &[4]),
            p("class_embedding.weight", &[10, 64]),
        ];
        let weights = initial_weights(&parameters, 1, &Device::flex());
        let largest = |name: &str| weights[name].clone().abs().max().into_scalar::<f32>();
        let smallest = |name: &str| weights[name].clone().min().into_scalar::<f32>();
        let bound = 1.0 / 6.0; // fan_in 4·3·3
        assert!((0.95 * bound..bound).contains(&largest("a.conv1.weight")));
        assert!((0.3 * bound..bound).contains(&largest("a.conv1.bias")));
        assert_eq!((largest("a.conv2.weight"), largest("a.norm1.bias"), smallest("a.norm1.weight")), (0.0, 0.0, 1.0));
        assert!(largest("class_embedding.weight") > 2.0);
    }
}
