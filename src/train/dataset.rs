//! Images with a class each, in memory.

use crate::consistency::rng::Generator;

/// Images of one size with a class each.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Names of the classes, by label.
    pub classes: Vec<String>,
    /// (C, H, W) bytes of each image, one after another.
    pub(super) pixels: Vec<u8>,
    pub(super) labels: Vec<u32>,
}

/// Images drawn for one iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// (B, C, H, W) in [−1, 1].
    pub images: Vec<f32>,
    /// One class per image.
    pub labels: Vec<u32>,
}

impl Dataset {
    /// A set without images.
    pub(super) fn new(shape: [usize; 3], classes: Vec<String>) -> Self {
        Self { shape, classes, pixels: vec![], labels: vec![] }
    }

    /// Adds an image of (C, H, W) bytes with a label below the number of classes.
    pub(super) fn push(&mut self, pixels: impl IntoIterator<Item = u8>, label: u32) {
        self.pixels.extend(pixels);
        self.labels.push(label);
    }

    /// Divides the set: every tenth image is in the second part.
    pub(super) fn hold_out(self) -> (Self, Self) {
        let size: usize = self.shape.iter().product();
        let (mut train, mut test) = (Self::new(self.shape, self.classes.clone()), Self::new(self.shape, self.classes));
        for (i, &label) in self.labels.iter().enumerate() {
            let part = if i % 10 == 9 { &mut test } else { &mut train };
            part.push(self.pixels[i * size..(i + 1) * size].iter().copied(), label);
        }
        (train, test)
    }

    /// FNV-1a hash over shape, labels and pixels.
    pub fn fingerprint(&self) -> u64 {
        let shape = self.shape.iter().flat_map(|v| v.to_le_bytes());
        let labels = self.labels.iter().flat_map(|v| v.to_le_bytes());
        let bytes = shape.chain(labels).chain(self.pixels.iter().copied());
        bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images; readers never return such a set.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The images of the given indices.
    ///
    /// # Panics
    /// When an index is not below [`Dataset::len`].
    pub fn batch(&self, indices: &[usize]) -> Batch {
        let size: usize = self.shape.iter().product();
        let images = indices.iter().flat_map(|i| &self.pixels[i * size..(i + 1) * size]);
        Batch {
            images: images.map(|&v| f32::from(v) / 127.5 - 1.0).collect(),
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
        }
    }

    /// `count` labels in the proportions of this set, ascending.
    ///
    /// # Panics
    /// When the set is empty.
    pub fn proportional_labels(&self, count: usize) -> Vec<u32> {
        let mut sorted = self.labels.clone();
        sorted.sort_unstable();
        // The middle of each of `count` equal parts.
        (0..count).map(|i| sorted[(2 * i + 1) * sorted.len() / (2 * count)]).collect()
    }

    /// `count` images, drawn with replacement.
    pub fn draw(&self, generator: &mut Generator, count: usize) -> Batch {
        let mut indices = vec![0; count];
        generator.randint(self.len() as u32, &mut indices);
        self.batch(&indices.iter().map(|&i| i as usize).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_in_the_proportions_of_the_data() {
        let mut data = Dataset::new([1, 1, 1], vec![]);
        [2, 0, 0, 5, 0, 0, 0, 2, 0, 0].into_iter().for_each(|label| data.push([0], label));
        assert_eq!(data.proportional_labels(20), [[0; 14].as_slice(), &[2; 4], &[5; 2]].concat());
        assert_eq!(data.proportional_labels(1), [0]);
        assert_eq!(data.proportional_labels(5), [0, 0, 0, 2, 5]);
    }

    #[test]
    fn every_tenth_image_is_held_out() {
        let mut all = Dataset::new([1, 1, 1], vec![]);
        (0..20).for_each(|i| all.push([i], 0));
        let (train, test) = all.hold_out();
        assert_eq!((train.pixels.len(), test.pixels.as_slice()), (18, &[9, 19][..]));
        assert_ne!(train.fingerprint(), test.fingerprint());
    }
}
