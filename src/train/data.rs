//! Training images: MNIST's IDX files and folders of PNGs.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::consistency::rng::Generator;
use crate::error::{Error, Result};
use crate::image::png::read_rgba;
use crate::train::heroes::Heroes;

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

/// Where the images of a run come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A set of images.
    Images(Dataset),
    /// Heroes dressed on the fly.
    Heroes(Box<Heroes>),
}

impl Source {
    /// Opens a folder: tiles ([`Heroes`]), or what [`Dataset::open`] reads.
    ///
    /// # Errors
    /// Those of [`Heroes::open`] and [`Dataset::open`].
    pub fn open(folder: &Path) -> Result<Self> {
        if Heroes::is_tile_folder(folder) {
            return Ok(Self::Heroes(Box::new(Heroes::open(folder)?)));
        }
        Dataset::open(folder).map(Self::Images)
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

    /// Reads a folder as [`Dataset::open`] does and divides it into training and test images: MNIST by its own files,
    /// an image folder by holding out every tenth image; of heroes, 20,000 and 5,000 are dressed.
    ///
    /// # Errors
    /// Those of [`Dataset::open`]; [`Error::Input`] for fewer than ten images.
    pub fn open_split(folder: &Path) -> Result<(Self, Self)> {
        if folder.is_dir() && idx_file(folder, "train-images-idx3-ubyte").is_some() {
            return Ok((Self::mnist(folder, Split::Train)?, Self::mnist(folder, Split::Test)?));
        }
        if Heroes::is_tile_folder(folder) {
            let heroes = Heroes::open(folder)?;
            return Ok((heroes.dataset(1, 20_000), heroes.dataset(2, 5000)));
        }
        let all = Self::open(folder)?;
        if all.len() < 10 {
            let found = all.len();
            return Err(Error::Input(format!("{}: expected at least 10 images, found {found}", folder.display())));
        }
        let part = |held_out: bool| all.subset((0..all.len()).filter(|i| (i % 10 == 9) == held_out));
        Ok((part(false), part(true)))
    }

    fn subset(&self, indices: impl Iterator<Item = usize>) -> Self {
        let size: usize = self.shape.iter().product();
        let mut part = Self { pixels: vec![], labels: vec![], classes: self.classes.clone(), ..*self };
        for i in indices {
            part.pixels.extend(&self.pixels[i * size..(i + 1) * size]);
            part.labels.push(self.labels[i]);
        }
        part
    }

    /// A number that tells sets of images apart (FNV-1a over shape, labels and pixels).
    pub fn fingerprint(&self) -> u64 {
        let shape = self.shape.iter().flat_map(|v| v.to_le_bytes());
        let labels = self.labels.iter().flat_map(|v| v.to_le_bytes());
        let bytes = shape.chain(labels).chain(self.pixels.iter().copied());
        bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
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
                let image = read_rgba(&file)?;
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("consistency-sampler-data-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn idx(sizes: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        sizes.iter().for_each(|s| bytes.extend(s.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    fn png(path: &Path, color: png::ColorType, width: u32, bytes: &[u8]) {
        let mut encoder = png::Encoder::new(File::create(path).unwrap(), width, 1);
        encoder.set_color(color);
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
    }

    #[test]
    fn idx_files_are_read_plain_and_compressed() {
        let folder = scratch("idx");
        std::fs::write(folder.join("train-labels-idx1-ubyte"), idx(&[2], &[7, 3])).unwrap();
        let file = File::create(folder.join("train-images-idx3-ubyte.gz")).unwrap();
        let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gz.write_all(&idx(&[2, 1, 2], &[0, 255, 51, 204])).unwrap();
        gz.finish().unwrap();
        let data = Dataset::open(&folder).unwrap();
        assert_eq!((data.len(), data.shape, data.classes.len()), (2, [1, 1, 2], 10));
        let batch = data.batch(&[1, 0]);
        assert_eq!(batch.labels, [3, 7]);
        assert_eq!(data.proportional_labels(4), [3, 3, 7, 7]);
        for (found, expected) in batch.images.iter().zip([-0.6, 0.6, -1.0, 1.0]) {
            assert!((found - expected).abs() < 1e-6, "found {found}, expected {expected}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn labels_come_in_the_proportions_of_the_data() {
        let images = [2, 0, 0, 5, 0, 0, 0, 2, 0, 0].map(|label| (vec![0], label));
        let data = Dataset::from_images([1, 1, 1], vec![], images.into_iter());
        assert_eq!(data.proportional_labels(20), [[0; 14].as_slice(), &[2; 4], &[5; 2]].concat());
        assert_eq!(data.proportional_labels(1), [0]);
        assert_eq!(data.proportional_labels(5), [0, 0, 0, 2, 5]);
    }

    #[test]
    fn bad_idx_files_are_refused() {
        let folder = scratch("bad-idx");
        let error = |images: &[u8], labels: &[u8]| {
            std::fs::write(folder.join("train-images-idx3-ubyte"), images).unwrap();
            std::fs::write(folder.join("train-labels-idx1-ubyte"), labels).unwrap();
            Dataset::open(&folder).unwrap_err().to_string()
        };
        let (images, labels) = (idx(&[2, 1, 2], &[0; 4]), idx(&[2], &[7, 3]));
        assert!(error(&images[..19], &labels).contains("[2, 1, 2] bytes of data, found 3"));
        assert!(error(&images[..9], &labels).contains("header is truncated"));
        assert!(error(&labels, &labels).contains("begins with [0, 0, 8, 3], found Some([0, 0, 8, 1])"));
        assert!(error(&images, &idx(&[3], &[7, 3, 1])).contains("expected 2 labels, one per image, found 3"));
        assert!(error(&images, &idx(&[2], &[7, 10])).contains("labels 0 to 9, found 10"));
        assert!(error(&idx(&[u32::MAX; 3], &[]), &labels).contains("bytes of data, found 0"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn sub_folders_are_classes() {
        let folder = scratch("folders");
        assert!(Dataset::open(&folder).unwrap_err().to_string().contains("found neither"));
        for (class, rgba) in [("b", [255, 0, 0, 255, 0, 255, 0, 0]), ("a", [0, 0, 255, 255, 255, 255, 255, 51])] {
            std::fs::create_dir(folder.join(class)).unwrap();
            png(&folder.join(class).join("1.png"), png::ColorType::Rgba, 2, &rgba);
        }
        let data = Dataset::open(&folder).unwrap();
        assert_eq!((data.len(), data.shape, data.classes.as_slice()), (2, [3, 1, 2], &["a".into(), "b".into()][..]));
        // Planes of R, G, B; a transparent pixel is black.
        let bytes: Vec<f32> = data.batch(&[0, 1]).images.iter().map(|v| ((v + 1.0) * 127.5).round()).collect();
        assert_eq!(bytes, [0.0, 51.0, 0.0, 51.0, 255.0, 51.0, 255.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        png(&folder.join("b/2.png"), png::ColorType::Rgb, 1, &[1, 2, 3]);
        assert!(Dataset::open(&folder).unwrap_err().to_string().contains("expected 2×1 pixels and 3 channels"));
        png(&folder.join("c.png"), png::ColorType::Rgb, 1, &[1, 2, 3]);
        assert!(Dataset::open(&folder).unwrap_err().to_string().contains("found 1 beside them"));
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn every_tenth_image_is_held_out() {
        let folder = scratch("split");
        (0..20).for_each(|i| png(&folder.join(format!("{i:02}.png")), png::ColorType::Grayscale, 1, &[i]));
        let (train, test) = Dataset::open_split(&folder).unwrap();
        assert_eq!((train.pixels.len(), test.pixels.as_slice()), (18, &[9, 19][..]));
        assert_ne!(train.fingerprint(), test.fingerprint());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
