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
    /// What lies among the images and was not read, by its path within their folder.
    pub left_out: Vec<String>,
}

/// Images drawn for one iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// (B, C, H, W) in [−1, 1].
    pub images: Vec<f32>,
    /// One class per image.
    pub labels: Vec<u32>,
}

impl Batch {
    /// Moves each image by up to `most` pixels along each axis; what comes in from outside repeats the edge.
    pub fn shift(&mut self, [channels, height, width]: [usize; 3], most: usize, generator: &mut Generator) {
        let size = channels * height * width;
        let mut moves = vec![0; 2 * self.labels.len()];
        generator.randint(2 * most as u32 + 1, &mut moves);
        for (image, by) in self.images.chunks_exact_mut(size).zip(moves.as_chunks::<2>().0) {
            let [down, right] = by.map(|v| v as usize);
            let old = image.to_vec();
            // Row y shows row y + most − down.
            let from = |at: usize, by: usize, side: usize| (at + most).saturating_sub(by).min(side - 1);
            for (i, v) in image.iter_mut().enumerate() {
                let (c, y, x) = (i / (height * width), i / width % height, i % width);
                *v = old[(c * height + from(y, down, height)) * width + from(x, right, width)];
            }
        }
    }
}

impl Dataset {
    /// A set without images.
    pub fn new(shape: [usize; 3], classes: Vec<String>) -> Self {
        Self { shape, classes, pixels: vec![], labels: vec![], left_out: vec![] }
    }

    /// Makes grey images of three equal channels.
    #[cfg(feature = "train")]
    pub(super) fn widen(&mut self) {
        let [channels, height, width] = self.shape;
        if channels == 1 {
            self.pixels = self.pixels.chunks_exact(height * width).flat_map(|plane| plane.repeat(3)).collect();
            self.shape[0] = 3;
        }
    }

    /// The number of images, their size and how many each class has, in one line; classes beyond the thirtieth together.
    pub fn summary(&self) -> String {
        const SHOWN: usize = 30;
        let [channels, height, width] = self.shape;
        let colours = if channels == 1 { "grey" } else { "colour" };
        let mut counts = vec![0; self.classes.len()];
        self.labels.iter().for_each(|&label| counts[label as usize] += 1);
        let named = self.classes.iter().zip(&counts).take(SHOWN).map(|(name, count)| format!("{name} {count}"));
        let mut named: Vec<String> = named.collect();
        if let [first, rest @ ..] = counts.get(SHOWN..).unwrap_or_default() {
            let (low, high) = rest.iter().fold((first, first), |(low, high), count| (low.min(count), high.max(count)));
            named.push(format!("{} more classes of {low} to {high}", counts.len() - SHOWN));
        }
        format!("{} images of {height}×{width} in {colours}: {}", self.len(), named.join(", "))
    }

    /// Adds an image of (C, H, W) bytes with a label below the number of classes.
    pub fn push(&mut self, pixels: impl IntoIterator<Item = u8>, label: u32) {
        self.pixels.extend(pixels);
        self.labels.push(label);
    }

    /// Divides the set: every tenth image is in the second part.
    #[cfg(feature = "train")]
    pub(super) fn hold_out(self) -> (Self, Self) {
        let size: usize = self.shape.iter().product();
        let part = || Self::new(self.shape, self.classes.clone());
        let (mut train, mut test) = (part(), part());
        for (i, &label) in self.labels.iter().enumerate() {
            let part = if i % 10 == 9 { &mut test } else { &mut train };
            part.push(self.pixels[i * size..(i + 1) * size].iter().copied(), label);
        }
        train.left_out = self.left_out;
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
    fn shifted_images_are_whole_and_repeat_their_edges() {
        let image: Vec<f32> = (0..64).map(|v| v as f32).collect();
        let mut batch = Batch { images: image.repeat(50), labels: vec![0; 50] };
        batch.shift([1, 8, 8], 2, &mut Generator::new(1));
        let mut seen = std::collections::BTreeSet::new();
        for image in batch.images.chunks(64) {
            let centre = image[3 * 8 + 3] as isize - 27; // where the pixel in the middle came from
            let (down, right) = ((centre + 18).div_euclid(8) - 2, (centre + 18).rem_euclid(8) - 2);
            for (i, &v) in image.iter().enumerate() {
                let (y, x) = (i as isize / 8 + down, i as isize % 8 + right);
                let expected = (y.clamp(0, 7) * 8 + x.clamp(0, 7)) as f32;
                assert_eq!(v, expected, "pixel {i} of an image shifted by {down}, {right}");
            }
            seen.insert((down, right));
        }
        assert!(seen.len() > 15, "{} of 25 shifts in 50 images", seen.len());
    }

    #[test]
    fn labels_come_in_the_proportions_of_the_data() {
        let mut data = Dataset::new([1, 1, 1], vec![]);
        [2, 0, 0, 5, 0, 0, 0, 2, 0, 0].into_iter().for_each(|label| data.push([0], label));
        assert_eq!(data.proportional_labels(20), [[0; 14].as_slice(), &[2; 4], &[5; 2]].concat());
        assert_eq!(data.proportional_labels(1), [0]);
        assert_eq!(data.proportional_labels(5), [0, 0, 0, 2, 5]);
    }

    #[test]
    fn a_summary_counts_each_class_in_one_line() {
        let mut data = Dataset::new([1, 2, 3], ["a", "b"].map(String::from).to_vec());
        [0, 1, 1].into_iter().for_each(|label| data.push([0; 6], label));
        assert_eq!(data.summary(), "3 images of 2×3 in grey: a 1, b 2");
        data.widen();
        data.classes = (0..40).map(|c| c.to_string()).collect();
        (2..40).for_each(|label| data.push([0; 18], label));
        assert!(data.summary().starts_with("41 images of 2×3 in colour: 0 1, 1 2, 2 1, "), "{}", data.summary());
        assert!(data.summary().ends_with("29 1, 10 more classes of 1 to 1"), "{}", data.summary());
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
