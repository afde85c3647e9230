//! A diffusers folder on disk.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::stream::WeightStream;
use super::tensor::{Arrival, Precision};
use crate::error::{Error, Result};
use crate::model::config::{SchedulerConfig, UNetConfig};
use crate::model::parse::check_model_index;
use crate::model::unet::{Parameter, UNet};
use crate::network::Network;

/// The order in which files of weights are looked for: on a disk, full precision costs no download.
const PREFERRED: [Precision; 3] = [Precision::F32, Precision::F16, Precision::I8];
const INDICES: [&str; 2] =
    ["unet/diffusion_pytorch_model.safetensors.index.json", "unet/diffusion_pytorch_model.safetensors.index.fp16.json"];
const PICKLES: [&str; 2] = ["unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.fp16.bin"];
/// The small files of a model.
pub(crate) const CONFIGS: [&str; 3] = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"];
/// SHA-256 of the folder's files, as `sha256sum` writes it; may be missing.
const SUMS: &str = "SHA256SUMS";

/// The path within a folder of weights in one file.
pub fn weights_file(precision: Precision) -> &'static str {
    match precision {
        Precision::F32 => "unet/diffusion_pytorch_model.safetensors",
        Precision::F16 => "unet/diffusion_pytorch_model.fp16.safetensors",
        Precision::I8 => "unet/diffusion_pytorch_model.int8.safetensors",
    }
}

/// A consistency model in the diffusers layout: `model_index.json`, `unet/`, `scheduler/`.
#[derive(Debug)]
pub struct ModelFolder {
    path: PathBuf,
    /// `unet/config.json`.
    pub unet: UNetConfig,
    /// `scheduler/scheduler_config.json`.
    pub scheduler: SchedulerConfig,
}

impl ModelFolder {
    /// Reads the folder's configuration files.
    ///
    /// # Errors
    /// [`Error::Io`] naming a missing file, [`Error::Config`] for an unsupported or malformed configuration.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if !path.is_dir() {
            return Err(Error::Io(format!("{}: expected a model folder in the diffusers layout", path.display())));
        }
        check_model_index(&read(&path.join("model_index.json"))?)?;
        let unet = UNetConfig::parse(&read(&path.join("unet/config.json"))?)?;
        let scheduler = SchedulerConfig::parse(&read(&path.join("scheduler/scheduler_config.json"))?)?;
        Ok(Self { path, unet, scheduler })
    }

    /// Where the folder is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Streams the weights into a network.
    ///
    /// `progress` gets the bytes read so far and the total.
    ///
    /// # Errors
    /// As [`ModelFolder::read_weights`], and the network's.
    pub fn load_into(&self, network: &mut impl Network, progress: impl FnMut(u64, u64)) -> Result<()> {
        let files = self.weight_files()?;
        let parameters = UNet::new(network.config()).parameters();
        let stream = WeightStream::new(&parameters, files.len() == 1, |name| network.piece_granularity(name));
        self.read_files(&files, stream, progress, &mut |arrival| network.load(arrival))
    }

    /// Streams the weights, one file or a sharded set, into `sink`, which gets each tensor's name and values.
    ///
    /// `progress` gets the bytes read so far and the total. A file that `SHA256SUMS` lists must have that sum, which
    /// is known when its last byte has been read.
    ///
    /// # Errors
    /// [`Error::Io`] for missing or unreadable files, [`Error::Weights`] for what they hold.
    pub fn read_weights(
        &self,
        parameters: &[Parameter],
        progress: impl FnMut(u64, u64),
        sink: &mut dyn FnMut(&str, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let files = self.weight_files()?;
        let stream = WeightStream::new(parameters, files.len() == 1, |_| None);
        self.read_files(&files, stream, progress, &mut |arrival| match arrival {
            Arrival::Announced { .. } => Ok(()),
            Arrival::Rows(rows) => sink(rows.name, &rows.to_f32()),
        })
    }

    /// Reads files of weights, checks their sums and hands their rows on.
    fn read_files(
        &self,
        files: &[PathBuf],
        mut stream: WeightStream,
        mut progress: impl FnMut(u64, u64),
        sink: &mut dyn FnMut(Arrival<'_>) -> Result<()>,
    ) -> Result<()> {
        let sums = self.sums()?;
        let size = |p: &PathBuf| p.metadata().map(|m| m.len()).map_err(|e| unreadable(p, &e));
        let total = files.iter().map(size).sum::<Result<u64>>()?;
        let mut done = 0;
        let mut chunk = vec![0; 1 << 20];
        for path in files {
            let at_file = |e: Error| match e {
                Error::Weights(m) => Error::Weights(format!("{}: {m}", path.display())),
                other => other,
            };
            let mut file = File::open(path).map_err(|e| unreadable(path, &e))?;
            let mut hash = sums.get(path).map(|expected| (expected, Sha256::new()));
            loop {
                let n = file.read(&mut chunk).map_err(|e| unreadable(path, &e))?;
                if n == 0 {
                    break;
                }
                if let Some((_, hash)) = &mut hash {
                    hash.update(&chunk[..n]);
                }
                stream.push(&chunk[..n], sink).map_err(at_file)?;
                done += n as u64;
                progress(done, total);
            }
            stream.end_file().map_err(at_file)?;
            if let Some((expected, hash)) = hash {
                let found = format!("{:x}", hash.finalize());
                if found != *expected {
                    return Err(at_file(Error::Weights(format!(
                        "expected SHA-256 {expected} ({SUMS}), found {found}"
                    ))));
                }
            }
        }
        stream.finish().map_err(|e| match e {
            Error::Weights(m) => Error::Weights(format!("{}: {m}", self.path.display())),
            other => other,
        })
    }

    /// The files that `SHA256SUMS` lists, with their sums in lower case.
    fn sums(&self) -> Result<HashMap<PathBuf, String>> {
        let path = self.path.join(SUMS);
        if !path.exists() {
            return Ok(HashMap::new());
        }
        let text = read(&path)?;
        let line = |line: &str| {
            let (sum, name) = line.split_once([' ', '\t'])?;
            let name = name.trim_start().trim_start_matches('*').trim_start_matches("./");
            let valid = sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
            valid.then(|| (self.path.join(name), sum.to_ascii_lowercase()))
        };
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        lines
            .map(|l| {
                line(l).ok_or_else(|| {
                    Error::Weights(format!("{}: expected lines of a SHA-256 and a name, found {l:?}", path.display()))
                })
            })
            .collect()
    }

    fn weight_files(&self) -> Result<Vec<PathBuf>> {
        let there = |name: &&&str| self.path.join(name).exists();
        let singles = PREFERRED.map(weights_file);
        if let Some(single) = singles.iter().find(there) {
            return Ok(vec![self.path.join(single)]);
        }
        let Some(index) = INDICES.iter().find(there) else {
            let hint = PICKLES.iter().find(there).map_or(String::new(), |pickle| {
                format!(" ({pickle} is a pickle, which is not read: convert it by tools/convert_checkpoint.py)")
            });
            return Err(Error::Io(format!("{}: no such file{hint}", self.path.join(singles[0]).display())));
        };
        let index = self.path.join(index);
        let bad = |what: &str| Error::Weights(format!("{}: {what}", index.display()));
        let json: Value = serde_json::from_str(&read(&index)?).map_err(|e| bad(&format!("not JSON: {e}")))?;
        let map = json["weight_map"].as_object().ok_or_else(|| bad("\"weight_map\" is missing"))?;
        let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() || names.iter().any(|n| n.contains(['/', '\\']) || n.starts_with('.')) {
            return Err(bad("expected plain file names in \"weight_map\""));
        }
        Ok(names.iter().map(|n| self.path.join("unet").join(n)).collect())
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, e: &std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::NotFound => Error::Io(format!("{}: no such file", path.display())),
        _ => Error::Io(format!("{}: {e}", path.display())),
    }
}
