//! MNIST's IDX files, plain or gzipped.

use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::error::{Error, Result};
use crate::file;
use crate::train::dataset::Dataset;

/// The two parts of MNIST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// 60,000 digits.
    Train,
    /// 10,000 digits.
    Test,
}

impl Split {
    /// What the names of its files begin with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "t10k",
        }
    }
}

/// Where MNIST's files are: in the folder that is named, or below it as torchvision (`MNIST/raw/`) and others put them.
///
/// # Errors
/// [`Error::Input`] when several sets are below it.
pub fn locate(folder: &Path) -> Result<Option<PathBuf>> {
    let there = |folder: &PathBuf| idx_file(folder, Split::Train, "images-idx3").is_some();
    let own = [folder.to_owned(), folder.join("raw")];
    if let Some(own) = own.into_iter().find(there) {
        return Ok(Some(own));
    }
    let entries = std::fs::read_dir(folder).map_err(|e| file::unreadable(folder, &e))?;
    let subs = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let mut found: Vec<PathBuf> = subs.flat_map(|sub| [sub.join("raw"), sub]).filter(there).collect();
    found.sort();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        several => {
            let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            let (folder, names) = (folder.display(), names.join(", "));
            Err(Error::Input(format!("{folder}: expected one set of IDX files, found {names}: give one of them")))
        }
    }
}

/// Reads one part of MNIST (or of a set in its format) with its 10 classes from the folder that [`locate`] found.
///
/// # Errors
/// [`Error::Io`] for unreadable files, [`Error::Input`] for damaged ones or labels that do not fit the images.
pub fn read(folder: &Path, split: Split) -> Result<Dataset> {
    let file = |what: &str| {
        let missing = || format!("{}-{what}-ubyte", split.prefix());
        idx_file(folder, split, what)
            .ok_or_else(|| Error::Io(format!("{}: no such file", folder.join(missing()).display())))
    };
    let (images, labels) = (file("images-idx3")?, file("labels-idx1")?);
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
    Ok(Dataset {
        shape: [1, height, width],
        classes: (0..10).map(|c: u32| c.to_string()).collect(),
        pixels,
        labels: labels_read.into_iter().map(u32::from).collect(),
        left_out: vec![],
    })
}

/// A file under one of its common names: `train-images-idx3-ubyte`, `train-images.idx3-ubyte`, either with `.gz`, or in a
/// folder of that name, as some archives are unpacked. `what` is `images-idx3` or `labels-idx1`.
fn idx_file(folder: &Path, split: Split, what: &str) -> Option<PathBuf> {
    let dashes = format!("{}-{what}-ubyte", split.prefix());
    let dotted = dashes.replace("-idx", ".idx");
    let names = [dashes, dotted].map(|name| [format!("{name}.gz"), name]).concat();
    let folders = names.iter().map(|name| folder.join(name));
    let places = std::iter::once(folder.to_owned()).chain(folders);
    places
        .flat_map(|place| names.iter().rev().map(move |name| place.join(name)).collect::<Vec<_>>())
        .find(|p| p.is_file())
}

/// Reads an IDX file of bytes with D dimensions, compressed or not, whatever its name says.
fn read_idx<const D: usize>(path: &Path) -> Result<([usize; D], Vec<u8>)> {
    let mut bytes = file::read(path)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        GzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).map_err(|e| file::unreadable(path, &e))?;
        bytes = plain;
    }
    let bad = |m: String| Error::Input(format!("{}: {m}", path.display()));
    let expected = [0, 0, 8, D as u8];
    match bytes.first_chunk::<4>() {
        Some(magic) if *magic == expected => {}
        Some(found) => return Err(bad(format!("expected an IDX file that begins with {expected:?}, found {found:?}"))),
        None => return Err(bad(format!("expected an IDX file, found {} bytes", bytes.len()))),
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
    use std::fs::File;
    use std::io::Write as _;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("consistency-sampler-mnist-{name}-{}", std::process::id()));
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

    #[test]
    fn idx_files_are_read_plain_and_compressed() {
        let folder = scratch("idx");
        std::fs::write(folder.join("train-labels-idx1-ubyte"), idx(&[2], &[7, 3])).unwrap();
        let file = File::create(folder.join("train-images-idx3-ubyte.gz")).unwrap();
        let mut gz = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gz.write_all(&idx(&[2, 1, 2], &[0, 255, 51, 204])).unwrap();
        gz.finish().unwrap();
        let data = read(&folder, Split::Train).unwrap();
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
    fn files_are_found_under_their_common_names_and_folders() {
        let (images, labels) = (idx(&[2, 1, 2], &[0; 4]), idx(&[2], &[7, 3]));
        for (place, image_name, label_name) in [
            ("", "train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
            ("", "train-images-idx3-ubyte/train-images-idx3-ubyte", "train-labels-idx1-ubyte/train-labels-idx1-ubyte"),
            ("", "train-images-idx3-ubyte.gz", "train-labels.idx1-ubyte"), // not compressed, whatever it is called
            ("raw", "train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
            ("MNIST/raw", "train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
            ("mnist", "train-images.idx3-ubyte", "train-labels-idx1-ubyte"),
        ] {
            let folder = scratch("names");
            for (name, bytes) in [(image_name, &images), (label_name, &labels)] {
                file::replace(&folder.join(place).join(name), bytes).unwrap();
            }
            let found = locate(&folder).unwrap().unwrap_or_else(|| panic!("{place}/{image_name} is not found"));
            assert_eq!(found, if place.is_empty() { folder.clone() } else { folder.join(place) });
            assert_eq!(read(&found, Split::Train).unwrap().len(), 2);
            let missing = read(&found, Split::Test).unwrap_err().to_string();
            assert!(missing.ends_with("t10k-images-idx3-ubyte: no such file"), "{missing}");
        }
        let folder = scratch("two");
        for set in ["MNIST/raw", "FashionMNIST/raw"] {
            file::replace(&folder.join(set).join("train-images-idx3-ubyte"), &images).unwrap();
        }
        let refused = locate(&folder).unwrap_err().to_string();
        assert!(refused.contains("FashionMNIST/raw, ") && refused.ends_with("give one of them"), "{refused}");
        assert_eq!(locate(&scratch("none")), Ok(None));
    }

    #[test]
    fn bad_idx_files_are_refused() {
        let folder = scratch("bad-idx");
        let error = |images: &[u8], labels: &[u8]| {
            std::fs::write(folder.join("train-images-idx3-ubyte"), images).unwrap();
            std::fs::write(folder.join("train-labels-idx1-ubyte"), labels).unwrap();
            read(&folder, Split::Train).unwrap_err().to_string()
        };
        let (images, labels) = (idx(&[2, 1, 2], &[0; 4]), idx(&[2], &[7, 3]));
        assert!(error(&images[..19], &labels).contains("[2, 1, 2] bytes of data, found 3"));
        assert!(error(&images[..9], &labels).contains("header is truncated"));
        assert!(error(&labels, &labels).contains("begins with [0, 0, 8, 3], found [0, 0, 8, 1]"));
        assert!(error(&images, &idx(&[3], &[7, 3, 1])).contains("expected 2 labels, one per image, found 3"));
        assert!(error(&images, &idx(&[2], &[7, 10])).contains("labels 0 to 9, found 10"));
        assert!(error(&idx(&[u32::MAX; 3], &[]), &labels).contains("bytes of data, found 0"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
