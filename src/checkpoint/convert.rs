//! Checkpoints at another precision: half precision, or 8-bit weights with a scale for each output channel.
//!
//! The result is a folder in the diffusers layout with the same configuration. Half precision goes to
//! `unet/diffusion_pytorch_model.fp16.safetensors`, which diffusers reads as `variant="fp16"`. 8-bit weights go to
//! `….int8.safetensors`, which only this crate reads: kernels and matrices are I8 with scales of F32
//! ([`crate::checkpoint::stream`] has the format), vectors stay F32. The file's metadata has a hash of the weights that it
//! was made of, so that one folder never holds two models.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use half::f16;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::folder::{CONFIGS, ModelFolder, weight_names, weights_file};
use super::stream::SCALE;
use super::sums::Sums;
use super::tensor::{Precision, f32_bytes};
use crate::error::{Error, Result};
use crate::file::{read, replace, replace_with, unwritable};
use crate::model::unet::{Parameter, UNet};

/// The effect of a conversion on the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Length of the new file of weights.
    pub bytes: u64,
    /// √(Σ error² / Σ weight²) over all weights.
    pub relative_error: f64,
    /// The tensor with the largest such error, and that error.
    pub worst: (String, f64),
}

/// Writes the model of `folder` to the folder `output`, which must not hold such weights yet, nor another model.
///
/// `SHA256SUMS` of `output` then lists its configurations and all its weights. `progress` gets the bytes read so far and
/// the total. Memory holds one tensor at a time. After a failure `output` is as it was before.
///
/// # Errors
/// [`Error::Input`] when the weights are there already or `output` holds another model, [`Error::Weights`] for a value that
/// half precision cannot hold and for what [`ModelFolder::read_weights`] finds, [`Error::Io`] for what cannot be written.
pub fn convert(
    folder: &ModelFolder,
    output: &Path,
    precision: Precision,
    progress: impl FnMut(u64, u64),
) -> Result<Report> {
    let target = output.join(weights_file(precision));
    if target.exists() {
        return Err(Error::Input(format!("{}: expected a new folder, found converted weights", target.display())));
    }
    let mut missing = Vec::new();
    for name in CONFIGS {
        let (bytes, path) = (read(&folder.path().join(name))?, output.join(name));
        match path.exists() {
            true if read(&path)? == bytes => {}
            true => {
                return Err(Error::Input(format!(
                    "{}: expected a new folder or one of this model, found another configuration",
                    path.display()
                )));
            }
            false => missing.push((path, bytes)),
        }
    }
    let sums = Sums::read(output)?;
    let parameters = UNet::new(&folder.unet).parameters();
    let folders = [output.to_owned(), output.join("unet"), output.join("scheduler")];
    let created: Vec<PathBuf> = folders.into_iter().filter(|path| !path.exists()).collect();
    let others = if same(folder.path(), output) { vec![] } else { weight_names(output) };
    let result = replace_with(&target, |file| {
        let (report, source) = write(folder, &parameters, &target, file, precision, progress)?;
        if let Some(other) = others.iter().find(|other| source_of(&output.join(other)).as_ref() != Some(&source)) {
            let path = output.join(other);
            let m = "expected a new folder or one of this model, found weights that were not made of it";
            return Err(Error::Input(format!("{}: {m}", path.display())));
        }
        // Before the weights have their name: a folder with weights is a whole one.
        missing.iter().try_for_each(|(path, bytes)| replace(path, bytes))?;
        Ok(report)
    });
    let result = result.and_then(|report| {
        let names: Vec<String> = CONFIGS.map(str::to_owned).into_iter().chain(weight_names(output)).collect();
        sums.write(output, &names, weights_file(precision))?;
        Ok(report)
    });
    if result.is_err() {
        // What there is of them was made here.
        let files = missing.iter().map(|(path, _)| path).chain([&target]);
        files.for_each(|path| drop(std::fs::remove_file(path)));
        created.iter().rev().for_each(|path| drop(std::fs::remove_dir(path)));
    }
    result
}

/// Whether two paths are of one folder.
fn same(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// The entry of a file's metadata with the hash of the weights that it was made of.
const SOURCE: &str = "converted_from";

/// That entry of a file.
fn source_of(path: &Path) -> Option<String> {
    let (mut file, mut length) = (File::open(path).ok()?, [0; 8]);
    file.read_exact(&mut length).ok()?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length).min(16 << 20)).read_to_end(&mut header).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    header["__metadata__"][SOURCE].as_str().map(str::to_owned)
}

/// Writes the file; returns, too, the hash of the weights that it is made of.
fn write(
    folder: &ModelFolder,
    parameters: &[Parameter],
    path: &Path,
    file: &mut BufWriter<File>,
    precision: Precision,
    progress: impl FnMut(u64, u64),
) -> Result<(Report, String)> {
    let failed = |e: std::io::Error| unwritable(path, &e);
    let mut source = Sha256::new();
    // The header's length is that with any other hash.
    let layout = Layout::new(parameters, precision, &format!("{:x}", source.clone().finalize()));
    file.write_all(&layout.header).map_err(failed)?;
    let mut errors = Errors::default();
    folder.read_weights(parameters, progress, &mut |name, values| {
        source.update(name);
        source.update(f32_bytes(values));
        let mut put = |name: &str, bytes: &[u8]| {
            let at = layout.header.len() as u64 + layout.tensor(name).start as u64;
            file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes)).map_err(failed)
        };
        let tensor = layout.tensor(name);
        match tensor.dtype {
            "F16" => {
                let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
                if let Some((v, _)) = values.iter().zip(&halves).find(|(_, half)| !half.is_finite()) {
                    return Err(Error::Weights(format!("{name}: {v} is too large for half precision, at most 65504")));
                }
                errors.add(name, values, halves.iter().map(|h| h.to_f32()));
                let bytes: Vec<u8> = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
                put(name, &bytes)
            }
            "I8" => {
                let (scales, integers) = quantised(values, tensor.shape[0]);
                let length = values.len() / scales.len();
                let of = |i: usize| scales[i / length];
                errors.add(name, values, integers.iter().enumerate().map(|(i, &q)| f32::from(q) * of(i)));
                put(&format!("{name}{SCALE}"), &f32_bytes(&scales))?;
                let integers: Vec<u8> = integers.iter().map(|&q| q as u8).collect();
                put(name, &integers)
            }
            _ => {
                errors.add(name, values, values.iter().copied());
                put(name, &f32_bytes(values))
            }
        }
    })?;
    let source = format!("{:x}", source.finalize());
    let header = Layout::new(parameters, precision, &source).header;
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&header)).map_err(failed)?;
    let bytes = (layout.header.len() + layout.data) as u64;
    let relative_error = (errors.error / errors.weight).sqrt();
    Ok((Report { bytes, relative_error, worst: errors.worst }, source))
}

/// Each row's scale, the largest magnitude / 127, and the row in units of it, rounded.
fn quantised(values: &[f32], rows: usize) -> (Vec<f32>, Vec<i8>) {
    let length = values.len() / rows;
    let scales: Vec<f32> = values
        .chunks_exact(length)
        .map(|row| row.iter().fold(0.0, |largest: f32, v| largest.max(v.abs())) / 127.0)
        .collect();
    let integers = values.chunks_exact(length).zip(&scales).flat_map(|(row, scale)| {
        // A row of zeros has no scale to divide by; so small a one rounds to nothing.
        let inverse = if *scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        row.iter().map(move |v| (v * inverse).round() as i8)
    });
    let integers = integers.collect();
    (scales, integers)
}

/// Where everything lies in a safetensors file.
struct Layout {
    /// Length and JSON, padded to a multiple of 8.
    header: Vec<u8>,
    /// Bytes behind it.
    data: usize,
    tensors: Vec<Stored>,
}

struct Stored {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    start: usize,
}

impl Layout {
    /// Scales first, for a reader of a stream needs them; F32 before bytes, so that everything is aligned.
    fn new(parameters: &[Parameter], precision: Precision, source: &str) -> Self {
        let is_vector = |p: &&Parameter| p.shape.len() < 2;
        let mut tensors: Vec<Stored> = Vec::new();
        let mut add = |name: String, dtype, shape: &[usize]| {
            tensors.push(Stored { name, dtype, shape: shape.to_vec(), start: 0 });
        };
        match precision {
            Precision::F32 => parameters.iter().for_each(|p| add(p.name.clone(), "F32", &p.shape)),
            Precision::F16 => parameters.iter().for_each(|p| add(p.name.clone(), "F16", &p.shape)),
            Precision::I8 => {
                let matrices = || parameters.iter().filter(|p| !is_vector(p));
                matrices().for_each(|p| add(format!("{}{SCALE}", p.name), "F32", &p.shape[..1]));
                parameters.iter().filter(is_vector).for_each(|p| add(p.name.clone(), "F32", &p.shape));
                matrices().for_each(|p| add(p.name.clone(), "I8", &p.shape));
            }
        }
        let mut data = 0;
        let mut json = serde_json::Map::from_iter([("__metadata__".into(), json!({ "format": "pt", SOURCE: source }))]);
        for tensor in &mut tensors {
            tensor.start = data;
            let size = match tensor.dtype {
                "F32" => 4,
                "F16" => 2,
                _ => 1,
            };
            data += tensor.shape.iter().product::<usize>() * size;
            let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [tensor.start, data] });
            json.insert(tensor.name.clone(), entry);
        }
        let mut text = serde_json::Value::Object(json).to_string();
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(text.as_bytes());
        Self { header, data, tensors }
    }

    fn tensor(&self, name: &str) -> &Stored {
        self.tensors.iter().find(|t| t.name == name).expect("the weights are the parameters")
    }
}

/// Sums over the weights so far.
#[derive(Default)]
struct Errors {
    error: f64,
    weight: f64,
    worst: (String, f64),
}

impl Errors {
    fn add(&mut self, name: &str, exact: &[f32], stored: impl Iterator<Item = f32>) {
        let square = |v: f32| f64::from(v) * f64::from(v);
        let error: f64 = exact.iter().zip(stored).map(|(a, b)| square(a - b)).sum();
        let weight: f64 = exact.iter().map(|&v| square(v)).sum();
        self.error += error;
        self.weight += weight;
        let relative = if weight > 0.0 { (error / weight).sqrt() } else { 0.0 };
        if relative > self.worst.1 {
            self.worst = (name.to_owned(), relative);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_off_by_half_its_scale_at_most_and_keeps_its_largest_value() {
        let values = [1.0, -127.0, 0.4, 0.0, 0.0, 0.0, 1e-3, 2e-3, -0.5e-3];
        let (scales, integers) = quantised(&values, 3);
        assert_eq!(scales, [1.0, 0.0, 2e-3 / 127.0]);
        assert_eq!(integers, [1, -127, 0, 0, 0, 0, 64, 127, -32]);
        for (i, v) in values.iter().enumerate() {
            assert!((v - f32::from(integers[i]) * scales[i / 3]).abs() <= 0.5001 * scales[i / 3]);
        }
    }

    #[test]
    fn scales_come_first_and_offsets_are_contiguous() {
        let parameters =
            [("a.weight", vec![2, 3]), ("a.bias", vec![2])].map(|(name, shape)| Parameter { name: name.into(), shape });
        let layout = Layout::new(&parameters, Precision::I8, "");
        let found: Vec<_> = layout.tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.start)).collect();
        assert_eq!(found, [("a.weight_scale", "F32", 0), ("a.bias", "F32", 8), ("a.weight", "I8", 16)]);
        assert_eq!((layout.header.len() % 8, layout.data), (0, 22));
    }
}
