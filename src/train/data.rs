//! Training images: MNIST's IDX files and folders of PNGs.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::error::{Error, Result};
use crate::rng::Generator;

/// Images of one size with a class each.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Channels, height, width.
    pub shape: [usize; 3],
    /// Names of the classes, by label.
    pub classes: Vec<String>,
    /// (C, H, W) bytes of each image, one after another.
    pixels: Vec<u8>,
    labels: Vec<u32>,
}

/// Images drawn for one iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// (B, C, H, W) in [−1, 1].
    pub images: Vec<f32>,
    /// One class per image.
    pub labels: Vec<u32>,
}

/// The two parts of MNIST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// 60,000 digits.
    Train,
    /// 10,000 digits.
    Test,
}

impl Dataset {
    /// Reads a folder: MNIST's IDX files (`train-images-idx3-ubyte`, …, plain or `.gz`), or images.
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
        if idx_file(folder, "train-images-idx3-ubyte").is_some() {
            return Self::mnist(folder, Split::Train);
        }
        Self::images(folder)
    }

    /// Reads one part of MNIST (or of a set in its format) with its 10 classes.
    pub fn mnist(folder: &Path, split: Split) -> Result<Self> {
        let prefix = match split {
            Split::Train => "train",
            Split::Test => "t10k",
        };
        let file = |name: String| {
            idx_file(folder, &name).ok_or_else(|| Error::Io(format!("{}: no such file", folder.join(name).display())))
        };
        let (images, labels) =
            (file(format!("{prefix}-images-idx3-ubyte"))?, file(format!("{prefix}-labels-idx1-ubyte"))?);
        let (image_shape, pixels) = read_idx::<3>(&images)?;
        let (label_shape, labels_read) = read_idx::<1>(&labels)?;
        let ([count, height, width], [label_count]) = (image_shape, label_shape);
        if count != label_count || count == 0 {
            return Err(Error::Input(format!(
                "{}: expected {count} labels, one per image, found {label_count}",
                labels.display()
            )));
        }
        if let Some(bad) = labels_read.iter().find(|&&l| l > 9) {
            return Err(Error::Input(format!("{}: expected labels 0 to 9, found {bad}", labels.display())));
        }
        Ok(Self {
            shape: [1, height, width],
            classes: (0..10).map(|c: u32| c.to_string()).collect(),
            pixels,
            labels: labels_read.into_iter().map(u32::from).collect(),
        })
    }

    fn images(folder: &Path) -> Result<Self> {
        let mut classes: Vec<(String, Vec<PathBuf>)> = Vec::new();
        for sub in entries(folder)?.into_iter().filter(|p| p.is_dir()) {
            let name = sub.file_name().unwrap_or_default().to_string_lossy().into_owned();
            classes.push((name, pngs(&sub)?));
        }
        classes.retain(|(_, files)| !files.is_empty());
        let loose = pngs(folder)?;
        match (classes.is_empty(), loose.is_empty()) {
            (true, true) => {
                let found = folder.display();
                return Err(Error::Input(format!("{found}: expected MNIST's IDX files or PNG images, found neither")));
            }
            (true, false) => classes.push(("all".into(), loose)),
            (false, true) => {}
            (false, false) => {
                return Err(Error::Input(format!(
                    "{}: expected every PNG in a sub-folder that names its class, found {} beside them",
                    folder.display(),
                    loose.len()
                )));
            }
        }
        let mut all = Self { shape: [0; 3], classes: vec![], pixels: vec![], labels: vec![] };
        for (label, (name, files)) in classes.into_iter().enumerate() {
            for file in files {
                let image = Rgba::read(&file)?;
                let shape = [if image.grey { 1 } else { 3 }, image.height, image.width];
                if all.labels.is_empty() {
                    all.shape = shape;
                }
                if shape != all.shape {
                    let ([c, h, w], [ec, eh, ew]) = (shape, all.shape);
                    return Err(Error::Input(format!(
                        "{}: expected {ew}×{eh} pixels and {ec} channels as in the first image, found {w}×{h} and {c}",
                        file.display()
                    )));
                }
                for channel in 0..shape[0] {
                    all.pixels
                        .extend(image.pixels.iter().map(|p| (u32::from(p[channel]) * u32::from(p[3]) / 255) as u8));
                }
                all.labels.push(label as u32);
            }
            all.classes.push(name);
        }
        Ok(all)
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

    /// `count` images, drawn with replacement.
    pub fn draw(&self, generator: &mut Generator, count: usize) -> Batch {
        let mut indices = vec![0; count];
        generator.randint(self.len() as u32, &mut indices);
        self.batch(&indices.iter().map(|&i| i as usize).collect::<Vec<_>>())
    }
}

/// A decoded PNG.
#[derive(Debug, Clone)]
pub(crate) struct Rgba {
    pub width: usize,
    pub height: usize,
    /// Whether the file stores grey levels.
    pub grey: bool,
    /// Row-major.
    pub pixels: Vec<[u8; 4]>,
}

impl Rgba {
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |e: &dyn std::fmt::Display| Error::Input(format!("{}: not a readable PNG: {e}", path.display()));
        let file = File::open(path).map_err(|e| Error::Io(format!("{}: {e}", path.display())))?;
        let mut decoder = png::Decoder::new(BufReader::new(file));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(|e| bad(&e))?;
        let mut bytes = vec![0; reader.output_buffer_size().ok_or_else(|| bad(&"too large"))?];
        let info = reader.next_frame(&mut bytes).map_err(|e| bad(&e))?;
        let channels = info.color_type.samples();
        let pixels = bytes[..info.buffer_size()].chunks_exact(channels).map(|p| match *p {
            [v] => [v, v, v, 255],
            [v, a] => [v, v, v, a],
            [r, g, b] => [r, g, b, 255],
            [r, g, b, a] => [r, g, b, a],
            _ => unreachable!("PNG has 1 to 4 channels"),
        });
        Ok(Self {
            width: info.width as usize,
            height: info.height as usize,
            grey: channels < 3,
            pixels: pixels.collect(),
        })
    }
}

/// The paths in a folder, in alphabetical order.
pub(crate) fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e: std::io::Error| Error::Io(format!("{}: {e}", folder.display()));
    let read = std::fs::read_dir(folder).map_err(failed)?;
    let mut paths = read.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// The PNG files of a folder, in alphabetical order.
pub(crate) fn pngs(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_png = |p: &PathBuf| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    Ok(entries(folder)?.into_iter().filter(is_png).collect())
}

fn idx_file(folder: &Path, name: &str) -> Option<PathBuf> {
    [folder.join(name), folder.join(format!("{name}.gz"))].into_iter().find(|p| p.exists())
}

/// Reads an IDX file of bytes with D dimensions.
fn read_idx<const D: usize>(path: &Path) -> Result<([usize; D], Vec<u8>)> {
    let io = |e: std::io::Error| Error::Io(format!("{}: {e}", path.display()));
    let file = File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    if path.extension().is_some_and(|e| e == "gz") {
        GzDecoder::new(BufReader::new(file)).read_to_end(&mut bytes).map_err(io)?;
    } else {
        BufReader::new(file).read_to_end(&mut bytes).map_err(io)?;
    }
    let bad = |m: String| Error::Input(format!("{}: {m}", path.display()));
    let expected = [0, 0, 8, D as u8];
    match bytes.first_chunk::<4>() {
        Some(magic) if *magic == expected => {}
        found => return Err(bad(format!("expected an IDX file that begins with {expected:?}, found {found:?}"))),
    }
    let (head, data) = bytes.split_at_checked(4 + 4 * D).ok_or_else(|| bad("the header is truncated".into()))?;
    let mut shape = [0; D];
    for (size, field) in shape.iter_mut().zip(head[4..].as_chunks::<4>().0) {
        *size = u32::from_be_bytes(*field) as usize;
    }
    let needed = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    if needed != Some(data.len()) {
        return Err(bad(format!("expected {shape:?} bytes of data, found {}", data.len())));
    }
    Ok((shape, data.to_vec()))
}
