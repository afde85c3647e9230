//! A batch of images as plain numbers, and sums of batches with a factor for each sample.

use std::ops::Range;

use crate::consistency::rng::Generator;

/// Numbers of shape (B, C, H, W).
#[derive(Debug, Clone, PartialEq)]
pub struct Images {
    /// B, C, H, W.
    pub shape: [usize; 4],
    /// B·C·H·W numbers.
    pub values: Vec<f32>,
}

impl Images {
    /// # Panics
    /// When there are not B·C·H·W values.
    pub fn new(shape: [usize; 4], values: Vec<f32>) -> Self {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "one value per element of {shape:?}");
        Self { shape, values }
    }

    /// One value everywhere.
    pub fn filled(shape: [usize; 4], value: f32) -> Self {
        Self { shape, values: vec![value; shape.iter().product()] }
    }

    /// Independent normal numbers.
    pub fn normal(shape: [usize; 4], generator: &mut Generator) -> Self {
        let mut images = Self::filled(shape, 0.0);
        generator.randn(&mut images.values);
        images
    }

    /// Each number changed.
    pub fn map(mut self, change: impl Fn(f32) -> f32) -> Self {
        self.values.iter_mut().for_each(|v| *v = change(*v));
        self
    }

    /// C·H·W.
    pub fn sample_len(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// The numbers of each sample.
    pub fn samples(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.sample_len())
    }

    /// Some of the samples.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn part(&self, samples: Range<usize>) -> Self {
        let [_, channels, height, width] = self.shape;
        let len = self.sample_len();
        let values = self.values[samples.start * len..samples.end * len].to_vec();
        Self { shape: [samples.len(), channels, height, width], values }
    }
}

/// Σ factor·images, with one factor for each sample of each term.
///
/// # Panics
/// When the terms differ in shape, or have another number of factors than of samples.
pub fn weighted_sum<const N: usize>(terms: [(&Images, &[f64]); N]) -> Images {
    let shape = terms[0].0.shape;
    let mut sum = Images::filled(shape, 0.0);
    let len = sum.sample_len();
    for (images, factors) in terms {
        assert_eq!((images.shape, factors.len()), (shape, shape[0]), "one shape, and a factor per sample");
        for ((sum, sample), &factor) in sum.values.chunks_exact_mut(len).zip(images.samples()).zip(factors) {
            let factor = factor as f32;
            sum.iter_mut().zip(sample).for_each(|(sum, v)| *sum += factor * v);
        }
    }
    sum
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Normal numbers of 4×4 pixels.
    pub fn images(seed: u64, batch: usize) -> Images {
        Images::normal([batch, 1, 4, 4], &mut Generator::new(seed))
    }

    pub fn largest_difference(a: &Images, b: &Images) -> f32 {
        assert_eq!(a.shape, b.shape);
        a.values.iter().zip(&b.values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn each_sample_has_its_own_factor() {
        let a = Images::new([2, 1, 1, 2], vec![1.0, 2.0, 3.0, 4.0]);
        let b = Images::new([2, 1, 1, 2], vec![10.0, 20.0, 30.0, 40.0]);
        let sum = weighted_sum([(&a, &[1.0, -1.0]), (&b, &[0.0, 0.5])]);
        assert_eq!(sum.values, [1.0, 2.0, 12.0, 16.0]);
        assert_eq!(sum.part(1..2).values, [12.0, 16.0]);
    }
}
