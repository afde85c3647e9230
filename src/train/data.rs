//! Where training images come from, and how they are drawn.

use crate::consistency::rng::Generator;
pub use crate::train::animals::{Animals, Flatness};
use crate::train::dataset::{Batch, Dataset};

/// Where the images of a run come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A set of images.
    Images(Dataset),
    /// Animals composed of masks as they are drawn.
    Animals(Box<Animals>),
}

impl Source {
    /// What there is, in one line.
    pub fn summary(&self) -> String {
        match self {
            Self::Images(images) => images.summary(),
            Self::Animals(animals) => {
                format!("animals of {} kinds, composed as they are drawn", animals.classes().len())
            }
        }
    }

    /// What lies among the images and was not read.
    pub fn left_out(&self) -> &[String] {
        match self {
            Self::Images(images) => &images.left_out,
            Self::Animals(_) => &[],
        }
    }

    /// The number of images, where it is known, and a hash of them.
    pub fn fingerprint(&self) -> (Option<usize>, u64) {
        match self {
            Self::Images(images) => (Some(images.len()), images.fingerprint()),
            Self::Animals(animals) => (None, animals.dataset(0, 200).fingerprint()),
        }
    }

    /// Channels, height, width.
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Images(images) => images.shape,
            Self::Animals(animals) => animals.shape(),
        }
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> Vec<String> {
        match self {
            Self::Images(images) => images.classes.clone(),
            Self::Animals(animals) => animals.classes(),
        }
    }

    /// `count` random images.
    pub fn draw(&self, generator: &mut Generator, count: usize) -> Batch {
        match self {
            Self::Images(images) => images.draw(generator, count),
            Self::Animals(animals) => animals.draw(generator, count),
        }
    }
}
