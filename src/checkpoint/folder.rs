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

/// The order in which precisions are looked for: on a disk, full precision costs no download.
const PREFERRED: [Precision; 3] = [Precision::F32, Precision::F16, Precision::I8];
/// What the name of every file of weights begins with.
const STEM: &str = "diffusion_pytorch_model";
/// The small files of a model.
pub(crate) const CONFIGS: [&str; 3] = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"];

/// The path within a folder of weights in one file.
pub fn weights_file(precision: Precision) -> &'static str {
    candidates(precision)[0]
}

/// The paths within a folder of a precision's weights: in one file, or the index of several. Where the variant stands in an
/// index's name depends on the version of diffusers.
fn candidates(precision: Precision) -> &'static [&'static str] {
    match precision {
        Precision::F32 => {
            &["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors.index.json"]
        }
        Precision::F16 => &[
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "unet/diffusion_pytorch_model.safetensors.fp16.index.json",
        ],
        Precision::I8 => &["unet/diffusion_pytorch_model.int8.safetensors"],
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
    preferred: Precision,
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
        Ok(Self { path, unet, scheduler, texts, sums, preferred: Precision::F32 })
    }

    /// Reads the weights of this precision where the folder has several; without this call, those in single precision.
    pub fn preferring(mut self, precision: Precision) -> Self {
        self.preferred = precision;
        self
    }

    /// Whether the folder has weights of this precision.
    #[cfg(feature = "hub")]
    pub(crate) fn has(&self, precision: Precision) -> bool {
        candidates(precision).iter().any(|name| self.path.join(name).exists())
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
    pub fn path(&self) -> &Path {
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
    pub(crate) fn weight_files(&self) -> Result<Vec<String>> {
        let names: Vec<String> = entries(&self.path.join("unet")).iter().map(|name| format!("unet/{name}")).collect();
        match choose_weights(&self.path.display().to_string(), &names, self.preferred)? {
            index if index.ends_with(".json") => self.indexed(index),
            single => Ok(vec![single.to_owned()]),
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
}

/// Chooses among a folder's files, by their paths within it, the file of weights or the index of several. `folder` names the
/// folder in errors.
///
/// # Errors
/// [`Error::Io`] where none is named as weights, [`Error::Weights`] where several are and none of a precision.
pub(crate) fn choose_weights<'a>(folder: &str, names: &'a [String], preferred: Precision) -> Result<&'a str> {
    let order = [preferred].into_iter().chain(PREFERRED).flat_map(candidates);
    let find = |wanted: &&str| names.iter().find(|name| name == wanted).map(String::as_str);
    if let Some(found) = order.into_iter().find_map(find) {
        return Ok(found);
    }
    let others = names.iter().map(String::as_str).filter(|name| is_weights(name) && !name.contains("-of-"));
    match others.collect::<Vec<_>>().as_slice() {
        [] => Err(without_weights(folder, names)),
        [only] => Ok(only),
        several => Err(Error::Weights(format!(
            "{folder}: expected {}, found several variants: {}: rename the one that is meant",
            weights_file(Precision::F32),
            several.join(", ")
        ))),
    }
}

/// The error for a folder whose weights are not there or not of a kind that is read.
fn without_weights(folder: &str, names: &[String]) -> Error {
    let other = |ending: &str| names.iter().find(|name| name.starts_with("unet/") && name.ends_with(ending));
    let pickle = other(".bin").or_else(|| other(".pt")).or_else(|| other(".ckpt"));
    let hint = match (pickle, other(".safetensors")) {
        (_, Some(part)) if part.contains("-of-") => format!(" ({part} is there without the index of its set)"),
        (_, Some(name)) => format!(" ({name} is there: rename it if it holds them)"),
        (Some(name), None) => {
            format!(" ({name} is a pickle, which is not read: convert it by tools/convert_checkpoint.py)")
        }
        (None, None) => String::new(),
    };
    Error::Io(format!("{}: no such file{hint}", Path::new(folder).join(weights_file(Precision::F32)).display()))
}

/// The names of a folder's entries, sorted; none where it cannot be read.
fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Whether a path within a folder is named as weights or an index of them.
fn is_weights(name: &str) -> bool {
    let index = name.ends_with(".json") && name.contains(".safetensors.");
    name.strip_prefix("unet/").is_some_and(|name| name.starts_with(STEM) && !name.contains(['/', '\\']))
        && (name.ends_with(".safetensors") || index)
}

/// The paths within a folder of everything in `unet/` that is named as weights or an index of them.
pub(crate) fn weight_names(folder: &Path) -> Vec<String> {
    let names = entries(&folder.join("unet")).into_iter().map(|name| format!("unet/{name}"));
    names.filter(|name| is_weights(name)).collect()
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
    let derived =
        PREFERRED.into_iter().flat_map(candidates).copied().filter(|name| *name != weights_file(Precision::F32));
    let there = |name: &&str| folder.join(name).is_file();
    let names: Vec<&str> = derived.chain([SUMS]).filter(there).collect();
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
