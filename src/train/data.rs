//! Where training images come from: MNIST, folders of PNGs, or Crawl's tiles.

use std::path::Path;

use crate::consistency::rng::Generator;
use crate::error::{Error, Result};
use crate::train::dataset::{Batch, Dataset};
use crate::train::heroes::Heroes;
use crate::train::{image_folder, mnist};

/// Where the images of a run come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A set of images.
    Images(Dataset),
    /// Heroes composed of tiles as they are drawn.
    Heroes(Box<Heroes>),
}

impl Source {
    /// Reads a folder: Crawl's tiles (`player/base/`), MNIST's IDX files (`train-images-idx3-ubyte`, …, plain or
    /// `.gz`), or PNGs.
    ///
    /// An image folder holds PNGs of one size, grey or RGB (alpha is composed on black); each sub-folder is a class,
    /// in alphabetical order, and PNGs in the folder itself make one class.
    ///
    /// # Errors
    /// [`Error::Io`] for unreadable files, [`Error::Input`] for what they hold.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::Io(format!("{}: expected a folder of training data", folder.display())));
        }
        if Heroes::is_tile_folder(folder) {
            return Ok(Self::Heroes(Box::new(Heroes::open(folder)?)));
        }
        let images = match mnist::is_mnist(folder) {
            true => mnist::read(folder, mnist::Split::Train),
            false => image_folder::read(folder),
        };
        images.map(Self::Images)
    }

    /// Reads a folder as [`Source::open`] does and divides it into training and test images: MNIST by its own files,
    /// an image folder by holding out every tenth image; of tiles, 20,000 and 5,000 heroes are composed.
    ///
    /// # Errors
    /// Those of [`Source::open`]; [`Error::Input`] for fewer than ten images.
    pub fn open_split(folder: &Path) -> Result<(Dataset, Dataset)> {
        match Self::open(folder)? {
            Self::Heroes(heroes) => Ok((heroes.dataset(1, 20_000), heroes.dataset(2, 5000))),
            Self::Images(train) if mnist::is_mnist(folder) => Ok((train, mnist::read(folder, mnist::Split::Test)?)),
            Self::Images(all) if all.len() >= 10 => Ok(all.hold_out()),
            Self::Images(few) => {
                let found = few.len();
                Err(Error::Input(format!("{}: expected at least 10 images, found {found}", folder.display())))
            }
        }
    }

    /// Channels, height, width.
    pub fn shape(&self) -> [usize; 3] {
        match self {
            Self::Images(images) => images.shape,
            Self::Heroes(_) => Heroes::shape(),
        }
    }

    /// Names of the classes, by label.
    pub fn classes(&self) -> Vec<String> {
        match self {
            Self::Images(images) => images.classes.clone(),
            Self::Heroes(_) => Heroes::classes(),
        }
    }

    /// `count` random images.
    pub fn draw(&self, generator: &mut Generator, count: usize) -> Batch {
        match self {
            Self::Images(images) => images.draw(generator, count),
            Self::Heroes(heroes) => heroes.draw(generator, count),
        }
    }
}
