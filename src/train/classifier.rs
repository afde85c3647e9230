//! A small convolutional classifier: the features of the Fréchet distance and the accuracy of samples' classes.

use std::path::Path;

use crate::consistency::rng::Generator;
use crate::cpu::{Convolution, Shape, from_rows, shared_out, to_rows};
use crate::error::{Error, Result};
use crate::file;
use crate::model::unet::Parameter;
use crate::train::checkpoint::{metadata, weights_file};
use crate::train::dataset::{Batch, Dataset};
use crate::train::optimizer::{Matrices, RAdam};
use crate::train::run_folder::named;
use crate::train::weights::{WeightReader, initial_weights};

/// Length of the penultimate features.
pub const FEATURES: usize = 128;

const CHANNELS: [usize; 2] = [16, 32];
const BATCH: usize = 128;
/// Samples that one thread takes at a time.
const GROUP: usize = 8;
const LEARNING_RATE: f64 = 3e-3;
/// Images are shifted by up to this many pixels in training.
const SHIFT: usize = 2;

/// conv 3×3 – ReLU – max-pool, twice; a layer of [`FEATURES`] with ReLU; one score per class.
pub struct Classifier {
    layers: Layers,
    weights: Vec<f32>,
    /// Hash of the images that it was trained on.
    data: String,
}

/// The entry of a file's metadata that has the hash.
const DATA: &str = "data";

fn hash_of(data: &Dataset) -> String {
    format!("{:016x}", data.fingerprint())
}

/// The classifier's output for a batch.
pub struct Classification {
    /// (B, FEATURES), after the ReLU.
    pub features: Vec<f32>,
    /// The likeliest class of each image.
    pub classes: Vec<u32>,
}

impl Classifier {
    /// Trains on `data` for `iterations` of 128 images with a learning rate that falls linearly to 0. `on_step` is
    /// called with each iteration and its loss (cross-entropy, in nats).
    pub fn train(data: &Dataset, iterations: usize, seed: u64, mut on_step: impl FnMut(usize, f32)) -> Self {
        let layers = Layers::new(data.shape, data.classes.len());
        let mut weights = initial_weights(&layers.parameters, seed);
        let mut optimizer = RAdam::new(weights.len());
        let mut generator = Generator::new(seed);
        for k in 0..iterations {
            let mut batch = data.draw(&mut generator, BATCH);
            batch.shift(data.shape, SHIFT, &mut generator);
            let (loss, gradient) = layers.cross_entropy(&weights, &batch);
            on_step(k, loss);
            let lr = LEARNING_RATE * (1.0 - k as f64 / iterations as f64);
            optimizer.update(&mut weights, &gradient, lr, &Matrices::new());
        }
        Self { layers, weights, data: hash_of(data) }
    }

    /// Reads a classifier that was trained on `data`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Weights`], and [`Error::Input`] for one that was trained on other images.
    pub fn read(path: &Path, data: &Dataset) -> Result<Self> {
        let (bytes, expected) = (file::read(path)?, hash_of(data));
        let metadata = metadata(&bytes).map_err(|e| named(path, e))?;
        if let Some(found) = metadata.get(DATA).filter(|found| **found != expected) {
            return Err(Error::Input(format!(
                "{}: expected a classifier of these images ({expected}), found one of others ({found})",
                path.display()
            )));
        }
        let layers = Layers::new(data.shape, data.classes.len());
        let mut reader = WeightReader::new(&layers.parameters, true);
        let read =
            reader.push(&bytes).and_then(|()| reader.end_file()).and_then(|()| reader.finish(&layers.parameters));
        let weights = read.map_err(|e| named(path, e))?;
        Ok(Self { layers, weights, data: expected })
    }

    /// Writes the weights for [`Classifier::read`].
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        file::replace(path, &weights_file(&self.layers.parameters, &self.weights, Some((DATA, self.data.clone())))?)
    }

    /// Classifies images (B, C, H, W) in [−1, 1].
    pub fn classify(&self, images: &[f32]) -> Classification {
        let classes = self.layers.scores.output.channels;
        let groups = shared_out(self.layers.groups(images).collect(), |images: &[f32]| {
            let pass = self.layers.forward(&self.weights, images);
            (vector_from_rows(&pass.features, FEATURES), vector_from_rows(&pass.scores, classes))
        });
        let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32;
        Classification {
            classes: groups.iter().flat_map(|(_, scores)| scores.chunks_exact(classes).map(best)).collect(),
            features: groups.into_iter().flat_map(|(features, _)| features).collect(),
        }
    }
}

/// The operations of a classifier, on rows (C, n, H·W) of n samples, as in [`crate::cpu`].
struct Layers {
    parameters: Vec<Parameter>,
    stages: [Convolution; 2],
    features: Convolution,
    scores: Convolution,
}

/// What the gradient needs of a forward.
struct Pass {
    /// The inputs of the two stages and of the layer of features, which the max-pools made, but for the first.
    inputs: [Vec<f32>; 3],
    /// For each value that a max-pool took, its place in the pool's input.
    picks: [Vec<u32>; 2],
    /// (FEATURES, n).
    features: Vec<f32>,
    /// (classes, n).
    scores: Vec<f32>,
}

impl Layers {
    fn new([channels, height, width]: [usize; 3], classes: usize) -> Self {
        let mut parameters = Vec::new();
        let mut at = 0;
        let mut layer = |name: &str, input: Shape, channels: usize, kernel: usize| {
            let mut place = |kind: &str, shape: Vec<usize>| {
                let parameter = Parameter { name: format!("{name}.{kind}"), shape };
                at += parameter.count();
                let range = at - parameter.count()..at;
                parameters.push(parameter);
                range
            };
            let linear = kernel == 1;
            let shape = [channels, input.channels, kernel, kernel];
            let weight = place("weight", if linear { shape[..2].to_vec() } else { shape.to_vec() });
            let bias = place("bias", vec![channels]);
            let output = Shape { channels, ..input };
            Convolution { weight, bias, input, output, kernel, stride: 1, padding: kernel / 2 }
        };
        let pooled = |shape: Shape| Shape { height: shape.height / 2, width: shape.width / 2, ..shape };
        let first = layer("stage0", Shape { channels, height, width }, CHANNELS[0], 3);
        let second = layer("stage1", pooled(first.output), CHANNELS[1], 3);
        let Shape { channels, height, width } = pooled(second.output);
        let vector = |channels| Shape { channels, height: 1, width: 1 };
        let features = layer("features", vector(channels * height * width), FEATURES, 1);
        let scores = layer("scores", vector(FEATURES), classes, 1);
        Self { parameters, stages: [first, second], features, scores }
    }

    /// Groups of whole images.
    fn groups<'a>(&self, images: &'a [f32]) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        let Shape { channels, height, width } = self.stages[0].input;
        images.chunks(GROUP * channels * height * width)
    }

    fn forward(&self, weights: &[f32], images: &[f32]) -> Pass {
        let shape = self.stages[0].input;
        let n = images.len() / (shape.channels * shape.height * shape.width);
        let mut columns = Vec::new();
        let mut inputs = [to_rows(images, n, shape), vec![], vec![]];
        let mut picks = [vec![], vec![]];
        for (i, stage) in self.stages.iter().enumerate() {
            let mut map = stage.forward(weights, &inputs[i], n, &mut columns);
            relu(&mut map);
            (inputs[i + 1], picks[i]) = max_pool(&map, stage.output);
        }
        let mut features = self.features.forward(weights, &self.flattened(&inputs[2], n), n, &mut columns);
        relu(&mut features);
        let scores = self.scores.forward(weights, &features, n, &mut columns);
        Pass { inputs, picks, features, scores }
    }

    /// (C, n, P) as (C·P, n), the channels slowest, as PyTorch flattens.
    fn flattened(&self, map: &[f32], n: usize) -> Vec<f32> {
        let pixels = map.len() / n / self.stages[1].output.channels;
        let plane =
            |c: &[f32]| (0..pixels).flat_map(|p| (0..n).map(move |s| s * pixels + p)).map(|i| c[i]).collect::<Vec<_>>();
        map.chunks_exact(n * pixels).flat_map(plane).collect()
    }

    /// The inverse of [`Self::flattened`].
    fn unflattened(&self, rows: &[f32], n: usize) -> Vec<f32> {
        let pixels = rows.len() / n / self.stages[1].output.channels;
        let plane =
            |c: &[f32]| (0..n).flat_map(|s| (0..pixels).map(move |p| p * n + s)).map(|i| c[i]).collect::<Vec<_>>();
        rows.chunks_exact(n * pixels).flat_map(plane).collect()
    }

    /// The gradient in the weights for that of the scores, (classes, n).
    fn gradient(&self, weights: &[f32], pass: &Pass, of_scores: &[f32]) -> Vec<f32> {
        let n = of_scores.len() / self.scores.output.channels;
        let (mut dw, mut columns) = (vec![0.0; weights.len()], Vec::new());
        let mut back = |layer: &Convolution, x: &[f32], g: &[f32], is_needed| {
            layer.gradient(weights, x, n, g, &mut dw, is_needed, &mut columns).unwrap_or_default()
        };
        let mut g = back(&self.scores, &pass.features, of_scores, true);
        mask(&mut g, &pass.features);
        let g = back(&self.features, &self.flattened(&pass.inputs[2], n), &g, true);
        let mut g = self.unflattened(&g, n);
        for (i, stage) in self.stages.iter().enumerate().rev() {
            // A pool's output is 0 where the ReLU before it cut its input off.
            mask(&mut g, &pass.inputs[i + 1]);
            let mut map = vec![0.0; stage.output.channels * n * stage.output.height * stage.output.width];
            g.iter().zip(&pass.picks[i]).for_each(|(g, &at)| map[at as usize] = *g);
            g = back(stage, &pass.inputs[i], &map, i > 0);
        }
        dw
    }

    /// Mean of −log p(label), and its gradient in the weights.
    fn cross_entropy(&self, weights: &[f32], batch: &Batch) -> (f32, Vec<f32>) {
        let total = batch.labels.len() as f32;
        let work = self.groups(&batch.images).zip(batch.labels.chunks(GROUP)).collect();
        let parts = shared_out(work, |(images, labels): (&[f32], &[u32])| {
            let pass = self.forward(weights, images);
            let (loss, mut gradient) = cross_entropy(&pass.scores, labels);
            gradient.iter_mut().for_each(|g| *g /= total);
            (loss, self.gradient(weights, &pass, &gradient))
        });
        let mut sum = vec![0.0; weights.len()];
        parts.iter().for_each(|(_, part)| sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part));
        (parts.iter().map(|(loss, _)| loss).sum::<f32>() / total, sum)
    }
}

/// (N, n) as (n, N).
fn vector_from_rows(rows: &[f32], channels: usize) -> Vec<f32> {
    from_rows(rows, rows.len() / channels, Shape { channels, height: 1, width: 1 })
}

fn relu(values: &mut [f32]) {
    values.iter_mut().for_each(|v| *v = v.max(0.0));
}

/// The gradient through a ReLU with these outputs.
fn mask(gradient: &mut [f32], outputs: &[f32]) {
    gradient.iter_mut().zip(outputs).filter(|(_, output)| **output <= 0.0).for_each(|(g, _)| *g = 0.0);
}

/// The largest of each 2×2 pixels of each plane, and its place in `map`. An odd last row or column is left out.
fn max_pool(map: &[f32], Shape { height, width, .. }: Shape) -> (Vec<f32>, Vec<u32>) {
    let places = (0..map.len() / (height * width)).flat_map(|plane| {
        (0..height / 2).flat_map(move |y| (0..width / 2).map(move |x| (plane * height + 2 * y) * width + 2 * x))
    });
    let largest = |at: usize| {
        let four = [at, at + 1, at + width, at + width + 1];
        four.into_iter().reduce(|best, i| if map[i] > map[best] { i } else { best }).unwrap_or(at)
    };
    places.map(largest).map(|at| (map[at], at as u32)).unzip()
}

/// Σ −log p(label) over the samples, and its gradient in their scores; both (classes, n).
fn cross_entropy(scores: &[f32], labels: &[u32]) -> (f32, Vec<f32>) {
    let n = labels.len();
    let mut gradient = vec![0.0; scores.len()];
    let mut loss = 0.0;
    for (s, &label) in labels.iter().enumerate() {
        let column = || scores.iter().skip(s).step_by(n);
        let largest = column().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = column().map(|v| (v - largest).exp()).sum();
        loss += sum.ln() + largest - scores[label as usize * n + s];
        for (class, v) in column().enumerate() {
            let is_label = f32::from(u8::from(class == label as usize));
            gradient[class * n + s] = (v - largest).exp() / sum - is_label;
        }
    }
    (loss, gradient)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cross_entropy_of_known_scores() {
        // (classes, n): scores 0 and 0 of class 0, 0 and ln 3 of class 1.
        let (found, gradient) = cross_entropy(&[0.0, 0.0, 0.0, 3f32.ln()], &[0, 1]);
        let expected = 2f32.ln() + (4f32 / 3.0).ln();
        assert!((found - expected).abs() < 1e-6, "found {found}, expected {expected}");
        for (found, expected) in gradient.iter().zip([-0.5, 0.25, 0.5, -0.25]) {
            assert!((found - expected).abs() < 1e-6, "{gradient:?}");
        }
    }

    #[test]
    fn a_pool_takes_the_largest_of_four_and_leaves_an_odd_row_out() {
        let map = [1.0, 5.0, 2.0, 0.0, 3.0, 4.0, 9.0, 8.0, 6.0];
        assert_eq!(max_pool(&map, Shape { channels: 1, height: 3, width: 3 }), (vec![5.0], vec![1]));
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_cross_entropy() {
        // An odd size, and more images than a group has.
        let layers = Layers::new([2, 9, 11], 3);
        let mut weights = initial_weights(&layers.parameters, 1);
        let mut images = vec![0.0; 10 * 2 * 9 * 11];
        Generator::new(2).randn(&mut images);
        let batch = Batch { images, labels: vec![0, 1, 2, 1, 0, 2, 2, 1, 0, 1] };
        let (_, gradient) = layers.cross_entropy(&weights, &batch);
        let mut start = 0;
        for parameter in &layers.parameters {
            // Along the gradient's own direction: the slope is its norm.
            let place = start..start + parameter.count();
            start = place.end;
            let norm = gradient[place.clone()].iter().map(|g| g * g).sum::<f32>().sqrt();
            let mut at = |by: f32| {
                place.clone().for_each(|i| weights[i] += by * gradient[i] / norm);
                let (loss, _) = layers.cross_entropy(&weights, &batch);
                place.clone().for_each(|i| weights[i] -= by * gradient[i] / norm);
                loss
            };
            let slope = (at(1e-3) - at(-1e-3)) / 2e-3;
            let name = &parameter.name;
            assert!(norm > 0.0 && (slope / norm - 1.0).abs() < 0.02, "{name}: slope {slope}, expected {norm}");
        }
        assert_eq!(start, weights.len());
    }
}
