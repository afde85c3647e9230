//! The weights of a network in one slice, in the order of its parameters.

use std::collections::HashMap;

#[cfg(not(target_arch = "wasm32"))]
use crate::checkpoint::folder::ModelFolder;
use crate::checkpoint::stream::WeightStream;
use crate::checkpoint::tensor::Arrival;
use crate::consistency::rng::Generator;
use crate::error::Result;
use crate::model::unet::Parameter;

/// Each parameter with its part of the weights.
///
/// # Panics
/// When there are fewer weights.
pub(super) fn parts<'a>(
    parameters: &'a [Parameter],
    weights: &'a [f32],
) -> impl Iterator<Item = (&'a Parameter, &'a [f32])> {
    let mut rest = weights;
    parameters.iter().map(move |parameter| {
        let (own, others) = rest.split_at(parameter.count());
        rest = others;
        (parameter, own)
    })
}

/// Weights that arrive row by row, in any order.
#[derive(Default)]
struct ByName(HashMap<String, Vec<f32>>);

impl ByName {
    fn add(&mut self, name: &str, values: &[f32]) {
        self.0.entry(name.to_owned()).or_default().extend(values);
    }

    /// In the order of `parameters`. The reader has seen to it that none is missing.
    fn in_order(mut self, parameters: &[Parameter]) -> Vec<f32> {
        parameters.iter().flat_map(|p| self.0.remove(&p.name).unwrap_or_default()).collect()
    }
}

/// Weights that arrive in pieces of safetensors files.
pub struct WeightReader {
    stream: WeightStream,
    weights: ByName,
}

impl WeightReader {
    /// A reader of exactly `parameters`, from one file if `single_file`, else from several.
    pub fn new(parameters: &[Parameter], single_file: bool) -> Self {
        Self { stream: WeightStream::new(parameters, single_file, |_| None), weights: ByName::default() }
    }

    /// Takes the next bytes of the current file.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) for what does not fit.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.push(bytes, &mut |arrival| {
            if let Arrival::Rows(rows) = arrival {
                self.weights.add(rows.name, &rows.to_f32());
            }
            Ok(())
        })
    }

    /// Ends the current file.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) when it was too short.
    pub fn end_file(&mut self) -> Result<()> {
        self.stream.end_file()
    }

    /// All weights, in the order of `parameters`.
    ///
    /// # Errors
    /// [`Error::Weights`](crate::Error::Weights) when some are missing.
    pub fn finish(self, parameters: &[Parameter]) -> Result<Vec<f32>> {
        self.stream.finish()?;
        Ok(self.weights.in_order(parameters))
    }
}

/// Reads the weights of a model.
///
/// # Errors
/// Those of [`ModelFolder::read_weights`].
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn read(folder: &ModelFolder, parameters: &[Parameter]) -> Result<Vec<f32>> {
    let mut weights = ByName::default();
    folder.read_weights(parameters, |_, _| {}, &mut |name, values| {
        weights.add(name, values);
        Ok(())
    })?;
    Ok(weights.in_order(parameters))
}

/// Random weights with the distributions of PyTorch's layers: weight and bias U(−1/√fan_in, 1/√fan_in), norms 1 and 0,
/// embedding rows N(0, 1).
///
/// As in Karras et al. 2022 (and Dhariwal & Nichol 2021) the last layer of each residual and attention block and of
/// the network is 0, which makes each block the identity.
pub fn initial_weights(parameters: &[Parameter], seed: u64) -> Vec<f32> {
    let mut generator = Generator::new(seed);
    let mut bound = 0.0; // 1/√fan_in of the preceding weight, for its bias
    let mut weights = Vec::with_capacity(parameters.iter().map(Parameter::count).sum());
    for parameter in parameters {
        let (name, shape) = (&parameter.name, &parameter.shape);
        let start = weights.len();
        weights.resize(start + parameter.count(), 0.0);
        let values = &mut weights[start..];
        let layer = name.rsplit_once('.').map_or("", |(layer, _)| layer);
        let is_weight = name.ends_with(".weight");
        if is_weight {
            bound = 1.0 / (shape[1..].iter().product::<usize>() as f64).sqrt();
        }
        let last = ["conv2", "to_out.0"].iter().any(|s| layer.ends_with(s)) || layer == "conv_out";
        if layer == "class_embedding" {
            generator.randn(values);
        } else if is_weight && shape.len() == 1 {
            values.fill(1.0);
        } else if !last && !layer.contains("norm") {
            values.fill_with(|| (bound * (2.0 * generator.uniform_f64() - 1.0)) as f32);
        }
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
        let weights = initial_weights(&parameters, 1);
        let largest: Vec<f32> =
            parts(&parameters, &weights).map(|(_, part)| part.iter().fold(0.0, |m, w| f32::max(m, w.abs()))).collect();
        let bound = 1.0 / 6.0; // fan_in 4·3·3
        assert!((0.95 * bound..bound).contains(&largest[0]) && (0.3 * bound..bound).contains(&largest[1]));
        assert_eq!(largest[2..5], [0.0, 1.0, 0.0]);
        assert!(largest[5] > 2.0);
    }
}
