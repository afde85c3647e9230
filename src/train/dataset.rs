//! A set of images in memory, and batches drawn from it.

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
    /// A label of each image.
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
    /// A set of (C, H, W) bytes with labels below the number of `classes`.
    pub fn from_images(shape: [usize; 3], classes: Vec<String>, images: impl Iterator<Item = (Vec<u8>, u32)>) -> Self {
        let mut all = Self { shape, classes, pixels: vec![], labels: vec![] };
        for (pixels, label) in images {
            all.pixels.extend(pixels);
            all.labels.push(label);
        }
        all
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images; [`Dataset::open`] never returns such a set.
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

    /// The images of some indices, with the same classes.
    pub(super) fn subset(&self, indices: impl Iterator<Item = usize>) -> Self {
        let size: usize = self.shape.iter().product();
        let mut part = Self { pixels: vec![], labels: vec![], classes: self.classes.clone(), ..*self };
        for i in indices {
            part.pixels.extend(&self.pixels[i * size..(i + 1) * size]);
            part.labels.push(self.labels[i]);
        }
        part
    }

    /// A hash of the set: FNV-1a over shape, labels and pixels.
    pub fn fingerprint(&self) -> u64 {
        let shape = self.shape.iter().flat_map(|v| v.to_le_bytes());
        let labels = self.labels.iter().flat_map(|v| v.to_le_bytes());
        let bytes = shape.chain(labels).chain(self.pixels.iter().copied());
        bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }
}
