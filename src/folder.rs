//! A diffusers folder on disk.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{SchedulerConfig, UNetConfig, check_model_index};
use crate::error::{Error, Result};
use crate::unet::Parameter;
use crate::weights::WeightStream;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const INDEX: &str = "unet/diffusion_pytorch_model.safetensors.index.json";
const PICKLE: &str = "unet/diffusion_pytorch_model.bin";

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
    /// [`Error::Io`] naming a missing file, [`Error::Config`] for what the files say.
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

    /// Streams the weights, one file or a sharded set, into `sink`, which gets each tensor's name and values.
    ///
    /// `progress` is told the bytes read so far and the total.
    ///
    /// # Errors
    /// [`Error::Io`] for missing or unreadable files, [`Error::Weights`] for what they hold.
    pub fn read_weights(
        &self,
        parameters: &[Parameter],
        mut progress: impl FnMut(u64, u64),
        sink: &mut dyn FnMut(&str, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let files = self.weight_files()?;
        let size = |p: &PathBuf| p.metadata().map(|m| m.len()).map_err(|e| unreadable(p, &e));
        let total = files.iter().map(size).sum::<Result<u64>>()?;
        let mut done = 0;
        let mut stream = WeightStream::new(parameters, files.len() == 1);
        let mut chunk = vec![0; 1 << 20];
        for path in &files {
            let at_file = |e: Error| match e {
                Error::Weights(m) => Error::Weights(format!("{}: {m}", path.display())),
                other => other,
            };
            let mut file = File::open(path).map_err(|e| unreadable(path, &e))?;
            loop {
                let n = file.read(&mut chunk).map_err(|e| unreadable(path, &e))?;
                if n == 0 {
                    break;
                }
                stream.push(&chunk[..n], sink).map_err(at_file)?;
                done += n as u64;
                progress(done, total);
            }
            stream.end_file().map_err(at_file)?;
        }
        stream.finish().map_err(|e| match e {
            Error::Weights(m) => Error::Weights(format!("{}: {m}", self.path.display())),
            other => other,
        })
    }

    fn weight_files(&self) -> Result<Vec<PathBuf>> {
        let single = self.path.join(WEIGHTS);
        if single.exists() {
            return Ok(vec![single]);
        }
        let index = self.path.join(INDEX);
        if !index.exists() {
            let hint = if self.path.join(PICKLE).exists() {
                format!(" ({PICKLE} is a pickle, which is not read: convert it to safetensors)")
            } else {
                String::new()
            };
            return Err(Error::Io(format!("{}: no such file{hint}", single.display())));
        }
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
