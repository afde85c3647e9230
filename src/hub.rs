//! Models by id, from a hub into the cache that `huggingface_hub` uses.
//!
//! The rules of the cache, of the addresses and of their headers are those of `huggingface_hub`: a file is named by its ETag,
//! which for a large file is its SHA-256. A revision is resolved to a commit once, and all files are of that commit.

mod cache;
mod client;
mod id;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::checkpoint::folder::{CONFIGS, ModelFolder, choose_weights};
use crate::checkpoint::sums::hash_of;
use crate::checkpoint::tensor::Precision;
use crate::error::{Error, Result};
use crate::file::unwritable;
use cache::Repository;
use client::{Client, Failure};
use id::{ModelId, is_commit};

/// A source of models by id, with its cache.
pub struct Hub {
    client: Client,
    /// `None` where no variable names it and there is no home.
    cache: Option<PathBuf>,
    is_offline: bool,
}

/// What happens while a model is opened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum HubEvent<'a> {
    /// Bytes of a file came.
    Bytes {
        /// The file's path within the model's folder.
        file: &'a str,
        /// The bytes that are there, of all files that are received together.
        done: u64,
        /// The bytes of all these files.
        total: u64,
    },
    /// Something that a person may want to know, in one line.
    Notice(&'a str),
}

impl Hub {
    /// The hub that the environment names, as `huggingface_hub` reads it: `HF_ENDPOINT`; the cache in `HF_HUB_CACHE` or
    /// `HF_HOME`; the token in `HF_TOKEN` or where its login leaves it; `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        let home = env::home_dir();
        let folder = |name: &str| {
            let path = PathBuf::from(variable(name)?);
            match path.strip_prefix("~") {
                Ok(rest) => Some(home.as_ref()?.join(rest)),
                Err(_) => Some(path),
            }
        };
        let caches = folder("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        let own = folder("HF_HOME").or_else(|| Some(caches?.join("huggingface")));
        let within = |name: &str| Some(own.as_ref()?.join(name));
        let login = || fs::read_to_string(folder("HF_TOKEN_PATH").or_else(|| within("token"))?).ok();
        let token = variable("HF_TOKEN").or_else(login).map(|token| token.trim().to_owned());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let is_true = |text: String| ["1", "ON", "YES", "TRUE"].contains(&text.to_ascii_uppercase().as_str());
        Self {
            client: Client::new(endpoint.trim_end_matches('/').to_owned(), token.filter(|token| !token.is_empty())),
            cache: folder("HF_HUB_CACHE").or_else(|| folder("HUGGINGFACE_HUB_CACHE")).or_else(|| within("hub")),
            is_offline: variable("HF_HUB_OFFLINE").is_some_and(is_true),
        }
    }

    /// With `true`, what is in the cache is used and nothing is asked for.
    pub fn offline(mut self, is_offline: bool) -> Self {
        self.is_offline |= is_offline;
        self
    }

    /// Opens a model: a folder, if there is one with that path, else the id of a model, `owner/name` or
    /// `owner/name@revision`. Files that the cache lacks are downloaded.
    ///
    /// `precision` says which weights are read of a model that has several. Without it, those of a folder are in single
    /// precision; of an id they are in half precision, which is half the download, unless the cache has others alone.
    ///
    /// # Errors
    /// Those of [`ModelFolder::open`]; [`Error::Input`] for what is neither a folder nor an id; [`Error::Io`] for a model
    /// that the hub does not have or does not give, for what came otherwise than the hub says, and for a cache that cannot
    /// be written.
    pub fn open(
        &self,
        model: impl AsRef<Path>,
        precision: Option<Precision>,
        mut on_event: impl FnMut(HubEvent<'_>),
    ) -> Result<ModelFolder> {
        let model = model.as_ref();
        if model.exists() {
            return Ok(ModelFolder::open(model)?.preferring(precision.unwrap_or(Precision::F32)));
        }
        let id = model.to_str().and_then(ModelId::parse).ok_or_else(|| {
            let expected =
                "expected a model folder in the diffusers layout, or an id such as owner/name or owner/name@revision";
            Error::Input(format!("{}: {expected}, found neither", model.display()))
        })?;
        self.fetch(&id, precision, &mut on_event)
    }

    fn fetch(
        &self,
        id: &ModelId,
        precision: Option<Precision>,
        on_event: &mut dyn FnMut(HubEvent<'_>),
    ) -> Result<ModelFolder> {
        let no_cache =
            || Error::Input(format!("{id}: expected HF_HOME to name the cache's folder, found neither it nor a home"));
        let cache = self.cache.as_ref().ok_or_else(no_cache)?;
        let repository = Repository::new(cache, id);
        let preferred = precision.unwrap_or(Precision::F16);
        let is_wanted = |folder: &ModelFolder| precision.is_none_or(|precision| folder.has(precision));
        let cached = match repository.commit(&id.revision) {
            Some(commit) => whole(&repository.snapshot(&commit), preferred),
            None => Ok(None),
        };
        if self.is_offline {
            return cached?.ok_or_else(|| {
                let cache = cache.display();
                Error::Io(format!(
                    "{id}: not in the cache {cache}, nor a folder: run it once without --offline or HF_HUB_OFFLINE"
                ))
            });
        }
        let cached = cached.unwrap_or_default();
        let cached = match cached {
            Some(folder) if is_commit(&id.revision) && is_wanted(&folder) => return Ok(folder),
            other => other,
        };
        let listing = match (self.client.listing(id, cached.is_some()), cached) {
            (Ok(listing), _) => listing,
            (Err(Failure::Unreachable { reason, .. }), Some(folder)) => {
                on_event(HubEvent::Notice(&format!("{reason}; the copy in the cache is used")));
                return Ok(folder);
            }
            (Err(e), _) => return Err(e.into_error(format_args!("{id}: no such folder, and "))),
        };
        let commit = &listing.commit;
        let snapshot = repository.snapshot(commit);
        // What cannot be run is refused before its weights are downloaded.
        self.download(&repository, id, commit, &CONFIGS, on_event)?;
        let folder = ModelFolder::open(&snapshot)?.preferring(preferred);
        if !whole(&snapshot, preferred)?.is_some_and(|folder| is_wanted(&folder)) {
            let weights = choose_weights(&id.to_string(), &listing.names, preferred)?;
            self.download(&repository, id, commit, &[weights], on_event)?;
            let parts = folder.weight_files()?;
            self.download(&repository, id, commit, &parts.iter().map(String::as_str).collect::<Vec<_>>(), on_event)?;
        }
        repository.set_commit(&id.revision, commit)?;
        Ok(folder)
    }

    /// Downloads those of the named files that a commit's folder lacks.
    fn download(
        &self,
        repository: &Repository,
        id: &ModelId,
        commit: &str,
        names: &[&str],
        on_event: &mut dyn FnMut(HubEvent<'_>),
    ) -> Result<()> {
        let snapshot = repository.snapshot(commit);
        let missing = names.iter().filter(|name| !snapshot.join(name).exists());
        let files =
            missing.map(|name| Ok((*name, self.client.facts(id, commit, name)?))).collect::<Result<Vec<_>>>()?;
        let total = files.iter().map(|(_, facts)| facts.size).sum();
        let mut before = 0;
        for (file, facts) in files {
            let (etag, size) = (&facts.etag, facts.size);
            let waiting = || on_event(HubEvent::Notice(&format!("{file}: another process downloads it, waiting")));
            let lock = repository.lock(etag, waiting)?;
            let blob = repository.blob(etag);
            if !blob.exists() {
                let incomplete = repository.incomplete(etag);
                let mut progress = |done| on_event(HubEvent::Bytes { file, done: before + done, total });
                self.client.receive((id, commit, file), size, &incomplete, &mut progress)?;
                check(id, file, etag, &incomplete)?;
                fs::rename(&incomplete, &blob).map_err(|e| unwritable(&blob, &e))?;
            }
            if !snapshot.join(file).exists() {
                repository.link(etag, commit, file)?;
            }
            drop(lock);
            before += size;
        }
        Ok(())
    }
}

/// Removes a file whose SHA-256 is not the one that its ETag is; that of a small file is another hash.
fn check(id: &ModelId, name: &str, etag: &str, path: &Path) -> Result<()> {
    let found = hash_of(path)?;
    if etag.len() == found.len() && etag != found {
        fs::remove_file(path).map_err(|e| unwritable(path, &e))?;
        let m = format!("expected SHA-256 {etag}, found {found}: what came was not kept, try again");
        return Err(Error::Weights(format!("{id}: {name}: {m}")));
    }
    Ok(())
}

/// A commit's folder, if it holds a whole model.
fn whole(snapshot: &Path, preferred: Precision) -> Result<Option<ModelFolder>> {
    if !CONFIGS.iter().all(|name| snapshot.join(name).exists()) {
        return Ok(None);
    }
    let folder = ModelFolder::open(snapshot)?.preferring(preferred);
    let is_whole = folder.weight_files().is_ok_and(|names| names.iter().all(|name| snapshot.join(name).exists()));
    Ok(is_whole.then_some(folder))
}

/// A variable of the environment that is not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|text| !text.is_empty())
}
