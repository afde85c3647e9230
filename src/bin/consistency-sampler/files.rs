//! Tensors and images on disk.

use std::path::{Path, PathBuf};

use consistency_sampler::checkpoint::tensor::f32_bytes;
use consistency_sampler::file::{read, replace};
pub use consistency_sampler::image::png::read as read_picture;
use consistency_sampler::image::png::write_grid;
use consistency_sampler::image::to_unit;
use consistency_sampler::{Error, Result};
use safetensors::{Dtype, SafeTensors, View};

/// What kind of file pictures are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureFile {
    /// A grid of 8-bit pictures.
    Png,
    /// `images` [B,C,H,W] in [0,1].
    Safetensors,
}

impl PictureFile {
    /// By the name's ending.
    pub fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("png") => Ok(Self::Png),
            Some("safetensors") => Ok(Self::Safetensors),
            _ => {
                let found = path.display();
                Err(Error::Input(format!("--output: expected a .png or .safetensors file, found {found}")))
            }
        }
    }

    /// Writes images (B, C, H, W) in about [−1, 1]; a grid has rows of `columns`.
    pub fn write(self, path: &Path, shape: [usize; 4], columns: usize, images: &[f32]) -> Result<()> {
        match self {
            Self::Png => write_grid(path, shape, columns, images),
            Self::Safetensors => {
                let images: Vec<f32> = images.iter().map(|&v| to_unit(v)).collect();
                write_tensor(path, "images", &shape, &images)
            }
        }
    }
}

/// A tensor read from a file.
pub struct Tensor {
    pub shape: Vec<usize>,
    pub dtype: Dtype,
    pub bytes: Vec<u8>,
}

/// Reads the named tensors of a safetensors file; a missing one is `None`.
pub fn read_tensors<const N: usize>(path: &Path, names: [&str; N]) -> Result<[Option<Tensor>; N]> {
    let bytes = read(path)?;
    let file = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::Io(format!("{}: not a safetensors file: {e}", path.display())))?;
    Ok(names.map(|name| {
        let t = file.tensor(name).ok()?;
        Some(Tensor { shape: t.shape().to_vec(), dtype: t.dtype(), bytes: t.data().to_vec() })
    }))
}

/// Writes one f32 tensor.
pub fn write_tensor(path: &Path, name: &str, shape: &[usize], values: &[f32]) -> Result<()> {
    struct F32<'a>(&'a [usize], Vec<u8>);
    impl View for &F32<'_> {
        fn dtype(&self) -> Dtype {
            Dtype::F32
        }
        fn shape(&self) -> &[usize] {
            self.0
        }
        fn data(&self) -> std::borrow::Cow<'_, [u8]> {
            (&self.1).into()
        }
        fn data_len(&self) -> usize {
            self.1.len()
        }
    }
    let bytes = safetensors::serialize([(name, &F32(shape, f32_bytes(values)))], None)
        .map_err(|e| Error::Io(format!("safetensors: {e}")))?;
    replace(path, &bytes)
}

/// A path without links or `..`, as far as it exists, so that two can be compared.
pub fn whole(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = |part: &Path| Some(part.canonicalize().ok()?.join(absolute.strip_prefix(part).ok()?));
    absolute.ancestors().find_map(real).unwrap_or(absolute)
}
