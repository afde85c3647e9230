//! A diffusers folder on disk.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::stream::WeightStream;
use super::sums::{SUMS, Sums};
use super::tensor::{Arrival, Precision};
use crate::error::{Error, Result};
use crate::file::{read, text, unreadable, unwritable};
use crate::model::config::{SchedulerConfig, UNetConfig};
use crate::model::parse::check_model_index;
use crate::model::unet::{Parameter, UNet};
use crate::network::Network;

/// The order in which files of weights are looked for: on a disk, full precision costs no download.
const PREFERRED: [Precision; 3] = [Precision::F32, Precision::F16, Precision::I8];
/// Indices of weights in several files, without a variant and with half precision's: where the variant stands in the name
/// depends on the version of diffusers.
const INDICES: [&str; 3] = [
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
    "unet/diffusion_pytorch_model.safetensors.fp16.index.json",
];
/// What the name of every file of weights begins with.
const STEM: &str = "diffusion_pytorch_model";
/// The small files of a model.
pub(crate) const CONFIGS: [&str; 3] = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"];

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
    texts: [String; 3],
    sums: Sums,
}

impl ModelFolder {
    /// Reads the folder's configuration files. One that `SHA256SUMS` lists must have that sum.
    ///
    /// # Errors
    /// [`Error::Io`] naming a missing file, and the folder that may be meant, if one is near; [`Error::Config`] for an
    /// unsupported or malformed configuration, [`Error::Weights`] for a wrong sum or a malformed `SHA256SUMS`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if !path.is_dir() {
            let (found, hint) = (path.display(), hint(&path));
            return Err(Error::Io(format!("{found}: expected a model folder in the diffusers layout{hint}")));
        }
        let index = path.join(CONFIGS[0]);
        if !index.exists() {
            return Err(Error::Io(format!("{}: no such file{}", index.display(), hint(&path))));
        }
        let sums = Sums::read(&path)?;
        let config = |name: &str| -> Result<String> {
            let file = path.join(name);
            let bytes = read(&file)?;
            if sums.lists(name) {
                sums.check(&path, name, Sha256::new_with_prefix(&bytes))?;
            }
            text(&file, bytes)
        };
        let texts = [config(CONFIGS[0])?, config(CONFIGS[1])?, config(CONFIGS[2])?];
        check_model_index(&texts[0])?;
        let (unet, scheduler) = (UNetConfig::parse(&texts[1])?, SchedulerConfig::parse(&texts[2])?);
        Ok(Self { path, unet, scheduler, texts, sums })
    }

    /// The text of `unet/config.json`.
    pub fn unet_json(&self) -> &str {
        &self.texts[1]
    }

    /// The text of `scheduler/scheduler_config.json`.
    pub fn scheduler_json(&self) -> &str {
        &self.texts[2]
    }

    /// The names of the classes by label, where `model_index.json` has them (`id2label`).
    pub fn class_names(&self) -> Option<Vec<String>> {
        let index: Value = serde_json::from_str(&self.texts[0]).ok()?;
        let names = index["id2label"].as_object()?;
        (0..names.len()).map(|label| names.get(&label.to_string())?.as_str().map(str::to_owned)).collect()
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
        files: &[String],
        mut stream: WeightStream,
        mut progress: impl FnMut(u64, u64),
        sink: &mut dyn FnMut(Arrival<'_>) -> Result<()>,
    ) -> Result<()> {
        let size = |name: &String| {
            let path = self.path.join(name);
            path.metadata().map(|m| m.len()).map_err(|e| unreadable(&path, &e))
        };
        let total = files.iter().map(size).sum::<Result<u64>>()?;
        let mut done = 0;
        let mut chunk = vec![0; 1 << 20];
        for name in files {
            let path = &self.path.join(name);
            let at_file = |e: Error| match e {
                Error::Weights(m) => Error::Weights(format!("{}: {m}", path.display())),
                other => other,
            };
            let mut file = File::open(path).map_err(|e| unreadable(path, &e))?;
            let mut hash = self.sums.lists(name).then(Sha256::new);
            loop {
                let n = file.read(&mut chunk).map_err(|e| unreadable(path, &e))?;
                if n == 0 {
                    break;
                }
                if let Some(hash) = &mut hash {
                    hash.update(&chunk[..n]);
                }
                stream.push(&chunk[..n], sink).map_err(at_file)?;
                done += n as u64;
                progress(done, total);
            }
            stream.end_file().map_err(at_file)?;
            if let Some(hash) = hash {
                self.sums.check(&self.path, name, hash)?;
            }
        }
        stream.finish().map_err(|e| match e {
            Error::Weights(m) => Error::Weights(format!("{}: {m}", self.path.display())),
            other => other,
        })
    }

    /// The paths within the folder of the weights, one file or several.
    fn weight_files(&self) -> Result<Vec<String>> {
        let names = weight_names(&self.path);
        let there = |name: &str| names.iter().any(|n| n == name);
        let single = PREFERRED.map(weights_file).into_iter().find(|name| there(name));
        if let Some(single) = single {
            return Ok(vec![single.to_owned()]);
        }
        match INDICES.into_iter().find(|name| there(name)) {
            Some(index) => self.indexed(index),
            None => match names.iter().filter(|name| !name.contains("-of-")).collect::<Vec<_>>().as_slice() {
                [] => Err(self.without_weights()),
                [only] if only.ends_with(".json") => self.indexed(only),
                [only] => Ok(vec![only.to_string()]),
                several => Err(Error::Weights(format!(
                    "{}: expected {}, found several variants: {}: rename the one that is meant",
                    self.path.display(),
                    weights_file(Precision::F32),
                    several.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
                ))),
            },
        }
    }

    /// The files that an index lists.
    fn indexed(&self, name: &str) -> Result<Vec<String>> {
        let index = self.path.join(name);
        let bad = |what: &str| Error::Weights(format!("{}: {what}", index.display()));
        let bytes = read(&index)?;
        if self.sums.lists(name) {
            self.sums.check(&self.path, name, Sha256::new_with_prefix(&bytes))?;
        }
        let json: Value = serde_json::from_str(&text(&index, bytes)?).map_err(|e| bad(&format!("not JSON: {e}")))?;
        let map = json["weight_map"].as_object().ok_or_else(|| bad("\"weight_map\" is missing"))?;
        let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() || names.iter().any(|n| n.contains(['/', '\\']) || n.starts_with('.')) {
            return Err(bad("expected plain file names in \"weight_map\""));
        }
        Ok(names.iter().map(|n| format!("unet/{n}")).collect())
    }

    /// The error for a folder whose weights are not there or not of a kind that is read.
    fn without_weights(&self) -> Error {
        let expected = self.path.join(weights_file(Precision::F32));
        let others = entries(&self.path.join("unet"));
        let other = |ending: &str| others.iter().find(|name| name.ends_with(ending));
        let pickle = other(".bin").or_else(|| other(".pt")).or_else(|| other(".ckpt"));
        let hint = match (pickle, other(".safetensors")) {
            (_, Some(part)) if part.contains("-of-") => format!(" (unet/{part} is there without the index of its set)"),
            (_, Some(name)) => format!(" (unet/{name} is there: rename it if it holds them)"),
            (Some(name), None) => {
                format!(" (unet/{name} is a pickle, which is not read: convert it by tools/convert_checkpoint.py)")
            }
            (None, None) => String::new(),
        };
        Error::Io(format!("{}: no such file{hint}", expected.display()))
    }
}

/// The names of a folder's entries, sorted; none where it cannot be read.
fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The paths within a folder of everything in `unet/` that is named as weights or an index of them.
pub(crate) fn weight_names(folder: &Path) -> Vec<String> {
    let of_weights = |name: &String| {
        let index = name.ends_with(".json") && name.contains(".safetensors.");
        name.starts_with(STEM) && (name.ends_with(".safetensors") || index)
    };
    entries(&folder.join("unet")).into_iter().filter(of_weights).map(|name| format!("unet/{name}")).collect()
}

/// Whether a folder holds a model, be it in parts.
pub fn holds_model(folder: &Path) -> bool {
    CONFIGS.iter().any(|name| folder.join(name).exists()) || !weight_names(folder).is_empty()
}

/// Removes, before the weights in full precision are written anew, what was made of those before and would be read in their
/// place: files in other precisions, indices, `SHA256SUMS`. Returns what it removed.
///
/// # Errors
/// [`Error::Io`].
pub fn remove_derived(folder: &Path) -> Result<Vec<&'static str>> {
    let derived = [weights_file(Precision::F16), weights_file(Precision::I8), SUMS];
    let there = |name: &&str| folder.join(name).is_file();
    let names: Vec<&str> = derived.into_iter().chain(INDICES).filter(there).collect();
    for name in &names {
        let path = folder.join(name);
        std::fs::remove_file(&path).map_err(|e| unwritable(&path, &e))?;
    }
    Ok(names)
}

/// The model folder that someone may mean who names `path`: one around it, or within it.
fn hint(path: &Path) -> String {
    let is_model = |folder: &PathBuf| folder.join(CONFIGS[0]).is_file();
    let within = |folder: &PathBuf| -> Vec<PathBuf> {
        let folders = entries(folder).into_iter().take(1000).map(|name| folder.join(name));
        folders.filter(|path| path.is_dir()).collect()
    };
    let around = path.ancestors().skip(1).take(2).map(Path::to_owned);
    let mut models: Vec<PathBuf> = around.filter(|folder| path.exists() && is_model(folder)).collect();
    if models.is_empty() {
        let children = within(&path.to_owned());
        let deeper = children.iter().flat_map(within).collect::<Vec<_>>();
        models = children.into_iter().chain(deeper).filter(is_model).collect();
    }
    let name = |folder: &PathBuf| match folder.as_os_str().is_empty() {
        true => ".".to_owned(),
        false => folder.display().to_string(),
    };
    match models.as_slice() {
        [] if path.join("config.json").is_file() => {
            ": a U-Net alone, expected it as unet/ beside model_index.json and scheduler/".to_owned()
        }
        [] => String::new(),
        [model] => format!(": give the folder {}", name(model)),
        several => format!(": give one of {}", several.iter().map(name).collect::<Vec<_>>().join(", ")),
    }
}
