//! Checkpoints at another precision: half precision, or 8-bit weights with a scale for each output channel.
//!
//! The result is a folder in the diffusers layout with the same configuration. Half precision goes to
//! `unet/diffusion_pytorch_model.fp16.safetensors`, which diffusers reads as `variant="fp16"`. 8-bit weights go to
//! `….int8.safetensors`, which only this crate reads ([`super::encode`]). The file's metadata has a hash of the weights that it
//! was made of, so that one folder never holds two models.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::encode::{Encoded, Encoder, SOURCE};
use super::folder::{CONFIGS, ModelFolder, weight_names, weights_file};
use super::sums::Sums;
use super::tensor::Precision;
use crate::error::{Error, Result};
use crate::file::{read, replace, replace_with, unwritable};
use crate::model::unet::UNet;

pub use super::encode::Report;

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
    let folders = [output.to_owned(), output.join("unet"), output.join("scheduler")];
    let created: Vec<PathBuf> = folders.into_iter().filter(|path| !path.exists()).collect();
    let others = if same(folder.path(), output) { vec![] } else { weight_names(output) };
    let result = replace_with(&target, |file| {
        let Encoded { report, source, .. } = write(folder, &target, file, precision, progress)?;
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

/// The hash of the weights that a file was made of.
fn source_of(path: &Path) -> Option<String> {
    let (mut file, mut length) = (File::open(path).ok()?, [0; 8]);
    file.read_exact(&mut length).ok()?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length).min(16 << 20)).read_to_end(&mut header).ok()?;
    let header: serde_json::Value = serde_json::from_slice(&header).ok()?;
    header["__metadata__"][SOURCE].as_str().map(str::to_owned)
}

/// Writes the file.
fn write(
    folder: &ModelFolder,
    path: &Path,
    file: &mut BufWriter<File>,
    precision: Precision,
    progress: impl FnMut(u64, u64),
) -> Result<Encoded> {
    let parameters = UNet::new(&folder.unet).parameters();
    let mut encoder = Encoder::new(parameters.clone(), precision);
    let mut put = |at: u64, bytes: &[u8]| {
        file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(bytes)).map_err(|e| unwritable(path, &e))
    };
    folder.read_weights(&parameters, progress, &mut |name, values| encoder.rows(name, 0, values, &mut put))?;
    let encoded = encoder.finish();
    put(0, &encoded.header)?;
    Ok(encoded)
}
