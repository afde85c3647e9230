//! A small convolutional classifier: the features of the Fréchet distance and the accuracy of samples' classes.

use std::path::Path;

use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::module::{conv2d, max_pool2d};
use burn::tensor::ops::{ConvOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor, TensorData};

use crate::burn::Weights;
use crate::consistency::rng::Generator;
use crate::error::{Error, Result};
use crate::file;
use crate::model::unet::Parameter;
use crate::train::checkpoint::{metadata, read_weights, write_weights};
use crate::train::dataset::{Batch, Dataset};
use crate::train::initial::initial_weights;
use crate::train::optimizer::{Matrices, RAdam, detach_all, gradients, track_all};

/// Length of the penultimate features.
pub const FEATURES: usize = 128;

const CHANNELS: [usize; 2] = [16, 32];
const BATCH: usize = 128;
const LEARNING_RATE: f64 = 3e-3;
/// Images are shifted by up to this many pixels in training.
const SHIFT: usize = 2;

/// conv 3×3 – ReLU – max-pool, twice; a layer of [`FEATURES`] with ReLU; one score per class.
pub struct Classifier {
    weights: Weights,
    shape: [usize; 3],
    classes: usize,
    /// Hash of the images that it was trained on.
    data: String,
    device: Device,
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
        let device = Device::flex();
        let parameters = parameters(data.shape, data.classes.len());
        let mut weights = track_all(initial_weights(&parameters, seed, &device));
        let mut optimizer = RAdam::new(&weights);
        let mut generator = Generator::new(seed);
        let (weights_later, classes) = (Weights::new(), data.classes.len());
        let mut classifier = Self { weights: weights_later, shape: data.shape, classes, data: hash_of(data), device };
        for k in 0..iterations {
            let mut batch = data.draw(&mut generator, BATCH);
            shift(&mut batch, data.shape, &mut generator);
            let images = classifier.images(&batch.images);
            let (_, scores) = classifier.forward(&weights, images);
            let loss = cross_entropy(scores, &batch.labels);
            on_step(k, loss.clone().without_autodiff().into_scalar());
            let lr = LEARNING_RATE * (1.0 - k as f64 / iterations as f64);
            let gradients = gradients(&loss, &weights);
            optimizer.update(&mut weights, &gradients, lr, &Matrices::new());
        }
        classifier.weights = detach_all(&weights);
        classifier
    }

    /// Reads a classifier that was trained on `data`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Weights`], and [`Error::Input`] for one that was trained on other images.
    pub fn read(path: &Path, data: &Dataset) -> Result<Self> {
        let (device, classes) = (Device::flex(), data.classes.len());
        let (bytes, expected) = (file::read(path)?, hash_of(data));
        if let Some(found) = metadata(path, &bytes)?.get(DATA).filter(|found| **found != expected) {
            return Err(Error::Input(format!(
                "{}: expected a classifier of these images ({expected}), found one of others ({found})",
                path.display()
            )));
        }
        let weights = read_weights(path, &bytes, &parameters(data.shape, classes), &device)?;
        Ok(Self { weights, shape: data.shape, classes, data: expected, device })
    }

    /// Writes the weights for [`Classifier::read`].
    ///
    /// # Errors
    /// [`crate::Error::Io`].
    pub fn write(&self, path: &Path) -> Result<()> {
        let entry = Some((DATA, self.data.clone()));
        write_weights(path, &parameters(self.shape, self.classes), &self.weights, entry)
    }

    /// Classifies images (B, C, H, W) in [−1, 1].
    pub fn classify(&self, images: &[f32]) -> Classification {
        let (features, scores) = self.forward(&self.weights, self.images(images));
        let scores = scores.into_data().try_to_vec::<f32>().expect("f32 scores");
        let features = features.into_data().try_to_vec::<f32>().expect("f32 features");
        let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32;
        Classification { features, classes: scores.chunks_exact(self.classes).map(best).collect() }
    }

    fn images(&self, images: &[f32]) -> Tensor<4> {
        let [c, h, w] = self.shape;
        Tensor::from_data(TensorData::new(images.to_vec(), [images.len() / (c * h * w), c, h, w]), &self.device)
    }

    /// Features (B, FEATURES) and scores (B, classes).
    fn forward(&self, weights: &Weights, images: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
        let mut x = images;
        let mut input = self.shape[0];
        for (i, &output) in CHANNELS.iter().enumerate() {
            let weight = weights[&format!("stage{i}.weight")].clone().reshape([output, input, 3, 3]);
            let bias = weights[&format!("stage{i}.bias")].clone();
            x = conv2d(x, weight, Some(bias), ConvOptions::new([1; 2], [1; 2], [1; 2], 1));
            x = max_pool2d(relu(x), MaxPoolOptions::new([2, 2])); // (B, output, H/2, W/2)
            input = output;
        }
        let batch = x.dims()[0];
        let x = x.reshape([batch as i32, -1]);
        let linear = |x: Tensor<2>, name: &str, outputs: usize| {
            let inputs = x.dims()[1];
            let weight = weights[&format!("{name}.weight")].clone().reshape([outputs, inputs]);
            x.matmul(weight.transpose()) + weights[&format!("{name}.bias")].clone().reshape([1, outputs])
        };
        let features = relu(linear(x, "features", FEATURES));
        let scores = linear(features.clone(), "scores", self.classes);
        (features, scores)
    }
}

fn parameters([channels, height, width]: [usize; 3], classes: usize) -> Vec<Parameter> {
    let [first, second] = CHANNELS;
    let pooled = second * (height / 4) * (width / 4);
    let layers: [(&str, Vec<usize>); 4] = [
        ("stage0", vec![first, channels, 3, 3]),
        ("stage1", vec![second, first, 3, 3]),
        ("features", vec![FEATURES, pooled]),
        ("scores", vec![classes, FEATURES]),
    ];
    let layer = |(name, shape): (&str, Vec<usize>)| {
        let bias = Parameter { name: format!("{name}.bias"), shape: vec![shape[0]] };
        [Parameter { name: format!("{name}.weight"), shape }, bias]
    };
    layers.into_iter().flat_map(layer).collect()
}

/// Mean of −log p(label), (1).
fn cross_entropy(scores: Tensor<2>, labels: &[u32]) -> Tensor<1> {
    let [batch, classes] = scores.dims();
    let mut chosen = vec![0.0f32; batch * classes];
    labels.iter().enumerate().for_each(|(i, &l)| chosen[i * classes + l as usize] = 1.0);
    let chosen = Tensor::<2>::from_data(TensorData::new(chosen, [batch, classes]), &Device::flex());
    (log_softmax(scores, 1) * chosen).sum() / -(batch as f32)
}

/// Shifts each image by up to [`SHIFT`] pixels along each axis, padded with black (−1).
fn shift(batch: &mut Batch, [channels, height, width]: [usize; 3], generator: &mut Generator) {
    let size = channels * height * width;
    let mut moves = vec![0; 2 * batch.labels.len()];
    generator.randint(2 * SHIFT as u32 + 1, &mut moves);
    for (image, by) in batch.images.chunks_exact_mut(size).zip(moves.as_chunks::<2>().0) {
        let [down, right] = by.map(|v| v as isize - SHIFT as isize);
        let old = image.to_vec();
        for (i, v) in image.iter_mut().enumerate() {
            let (c, y, x) = (i / (height * width), i / width % height, i % width);
            let source = (y.checked_add_signed(-down), x.checked_add_signed(-right));
            *v = match source {
                (Some(y), Some(x)) if y < height && x < width => old[(c * height + y) * width + x],
                _ => -1.0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifted_images_are_whole_and_padded_with_black() {
        let image: Vec<f32> = (0..64).map(|v| v as f32).collect();
        let mut batch = Batch { images: image.repeat(50), labels: vec![0; 50] };
        shift(&mut batch, [1, 8, 8], &mut Generator::new(1));
        let mut seen = std::collections::BTreeSet::new();
        for image in batch.images.chunks(64) {
            let centre = image[3 * 8 + 3] as isize - 27; // where the pixel in the middle came from
            let (down, right) = ((centre + 18).div_euclid(8) - 2, (centre + 18).rem_euclid(8) - 2);
            for (i, &v) in image.iter().enumerate() {
                let (y, x) = (i as isize / 8 + down, i as isize % 8 + right);
                let expected = if (0..8).contains(&y) && (0..8).contains(&x) { (y * 8 + x) as f32 } else { -1.0 };
                assert_eq!(v, expected, "pixel {i} of an image shifted by {down}, {right}");
            }
            seen.insert((down, right));
        }
        assert!(seen.len() > 15, "{} of 25 shifts in 50 images", seen.len());
    }

    #[test]
    fn cross_entropy_of_known_scores() {
        let scores = Tensor::<2>::from_floats([[0.0, 0.0], [0.0, 3f32.ln()]], &Device::flex());
        let found: f32 = cross_entropy(scores, &[0, 1]).into_scalar();
        let expected = (2f32.ln() + (4f32 / 3.0).ln()) / 2.0;
        assert!((found - expected).abs() < 1e-6, "found {found}, expected {expected}");
    }
}
