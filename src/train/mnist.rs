//! MNIST's IDX files, plain or gzipped.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

use crate::error::{Error, Result};
use crate::train::dataset::Dataset;

/// The two parts of MNIST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// 60,000 digits.
    Train,
    /// 10,000 digits.
    Test,
}

/// Whether a folder holds MNIST's training images (`train-images-idx3-ubyte`, plain or `.gz`).
pub fn is_mnist(folder: &Path) -> bool {
    idx_file(folder, "train-images-idx3-ubyte").is_some()
}

/// Reads one part of MNIST (or of a set in its format) with its 10 classes.
///
/// # Errors
/// [`Error::Io`] for unreadable files, [`Error::Input`] for damaged ones or labels that do not fit the images.
pub fn read(folder: &Path, split: Split) -> Result<Dataset> {
    let prefix = match split {
        Split::Train => "train",
        Split::Test => "t10k",
    };
    let file = |name: String| {
        idx_file(folder, &name).ok_or_else(|| Error::Io(format!("{}: no such file", folder.join(name).display())))
    };
    let (images, labels) = (file(format!("{prefix}-images-idx3-ubyte"))?, file(format!("{prefix}-labels-idx1-ubyte"))?);
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
    })
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
        assert!(error(&labels, &labels).contains("begins with [0, 0, 8, 3], found Some([0, 0, 8, 1])"));
        assert!(error(&images, &idx(&[3], &[7, 3, 1])).contains("expected 2 labels, one per image, found 3"));
        assert!(error(&images, &idx(&[2], &[7, 10])).contains("labels 0 to 9, found 10"));
        assert!(error(&idx(&[u32::MAX; 3], &[]), &labels).contains("bytes of data, found 0"));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
