//! Training images of a folder: MNIST, pictures, or the masks of animals.

use std::path::{Path, PathBuf};

use crate::checkpoint::folder::ModelFolder;
use crate::error::{Error, Result};
use crate::model::config::UNetConfig;
use crate::train::data::{Animals, Source};
use crate::train::dataset::Dataset;
use crate::train::{image_folder, mnist};

/// Whether each sub-folder of a folder of training data counts as a class, as in one of images it does.
///
/// # Errors
/// Those of [`Source::open`] for a folder of no kind.
pub fn has_class_folders(folder: &Path) -> Result<bool> {
    Ok(matches!(Kind::of(folder)?, Kind::Images))
}

/// The animals of a folder of masks, at `size` × `size` pixels; none of other data.
///
/// # Errors
/// Those of [`Source::open`].
pub fn animals(folder: &Path, size: usize) -> Result<Option<Animals>> {
    match Kind::of(folder)? {
        Kind::Masks => Animals::open(folder, size).map(Some),
        _ => Ok(None),
    }
}

/// The side that [`Source::open`] brings pictures to for a network; 0 where the network's are not square.
pub fn side(config: &UNetConfig) -> usize {
    let [height, width] = config.sample_size;
    if height == width { height } else { 0 }
}

/// Checks that data of a shape (C, H, W) fit a network.
///
/// # Errors
/// [`Error::Input`] with both shapes.
pub fn check_shape(config: &UNetConfig, found: [usize; 3]) -> Result<()> {
    let [height, width] = config.sample_size;
    let expected = [config.in_channels, height, width];
    match found == expected {
        true => Ok(()),
        false => Err(Error::Input(format!("--data: expected images [C,H,W] {expected:?}, found {found:?}"))),
    }
}

/// A size for the pictures of a folder: MNIST's 28, 64 for animals, else the largest of 64, 48, 32 and 28 that nine of ten
/// pictures have in both directions, or, of smaller ones, the largest multiple of 4.
///
/// # Errors
/// Those of [`Source::open`]; [`Error::Input`] for pictures of less than 8 pixels.
pub fn natural_size(folder: &Path) -> Result<usize> {
    let sides = match Kind::of(folder)? {
        Kind::Mnist(_) => return Ok(28),
        Kind::Masks => return Ok(64),
        Kind::Images => image_folder::some_sides(folder)?,
    };
    // A folder without pictures is refused when it is read.
    let most = sides.get(sides.len() / 10).copied().unwrap_or(64);
    match [64, 48, 32, 28].into_iter().find(|&size| size <= most).unwrap_or(most / 4 * 4) {
        0..8 => {
            Err(Error::Input(format!("{}: expected pictures of 8×8 pixels or more, found {most}", folder.display())))
        }
        size => Ok(size),
    }
}

/// Checks that a model which knows the names of its classes has those of the data, each at its label.
///
/// # Errors
/// [`Error::Input`] with the first label whose names differ; `option` names the model.
pub fn check_class_names(option: &str, model: &ModelFolder, classes: &[String]) -> Result<()> {
    let names = model.class_names().unwrap_or_default();
    match names.iter().zip(classes).enumerate().find(|(_, (model, data))| model != data) {
        None => Ok(()),
        Some((label, (model, data))) => {
            Err(Error::Input(format!("{option}: expected class {label} to be {data} as in --data, found {model}")))
        }
    }
}

/// What a folder holds.
enum Kind {
    Masks,
    /// Below the folder, perhaps.
    Mnist(PathBuf),
    Images,
}

impl Kind {
    fn of(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            let hint = match folder.parent() {
                Some(parent) if folder.exists() => {
                    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                    format!(": give the folder {}", parent.display())
                }
                _ => String::new(),
            };
            return Err(Error::Io(format!("{}: expected a folder of training data{hint}", folder.display())));
        }
        if Animals::is_mask_folder(folder) {
            return Ok(Self::Masks);
        }
        Ok(mnist::locate(folder)?.map_or(Self::Images, Self::Mnist))
    }
}

impl Source {
    /// Reads a folder: the masks of animals (`masks.png`, `parts.json`), MNIST's IDX files (`train-images-idx3-ubyte`, …,
    /// compressed or not, in the folder or in `raw/` or `MNIST/raw/` below it), or images.
    ///
    /// An image folder holds PNGs and JPEGs, grey or RGB (alpha is composed on black), which are cut to the square in their middle
    /// and scaled to `size`; with a `size` of 0 they must have one size. Each sub-folder is a
    /// class, in alphabetical order, and images in the folder itself make one class. Animals are composed at `size` × `size`
    /// pixels; MNIST has 28.
    ///
    /// # Errors
    /// [`Error::Io`] for unreadable files, [`Error::Input`] for what they hold.
    pub fn open(folder: &Path, size: usize) -> Result<Self> {
        Ok(match Kind::of(folder)? {
            Kind::Masks => Self::Animals(Box::new(Animals::open(folder, size)?)),
            Kind::Mnist(folder) => Self::Images(mnist::read(&folder, mnist::Split::Train)?),
            Kind::Images => Self::Images(image_folder::read(folder, size)?),
        })
    }

    /// Reads a folder as [`Source::open`] does and divides it into training and test images: MNIST by its own files,
    /// an image folder by holding out every tenth image; of masks, 20,000 and 5,000 images are composed.
    ///
    /// # Errors
    /// Those of [`Source::open`]; [`Error::Input`] for fewer than ten images.
    pub fn open_split(folder: &Path, size: usize) -> Result<(Dataset, Dataset)> {
        match Kind::of(folder)? {
            Kind::Masks => {
                let animals = Animals::open(folder, size)?;
                Ok((animals.dataset(1, 20_000), animals.dataset(2, 5000)))
            }
            Kind::Mnist(folder) => {
                Ok((mnist::read(&folder, mnist::Split::Train)?, mnist::read(&folder, mnist::Split::Test)?))
            }
            Kind::Images => match image_folder::read(folder, size)? {
                all if all.len() >= 10 => Ok(all.hold_out()),
                few => {
                    let found = few.len();
                    Err(Error::Input(format!("{}: expected at least 10 images, found {found}", folder.display())))
                }
            },
        }
    }
}
