//! The cache of `huggingface_hub`: for each repository `blobs/{etag}`, `refs/{revision}`, which holds a commit, and
//! `snapshots/{commit}/{path}`, which are links to blobs.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::id::{ModelId, is_commit};
use crate::error::Result;
use crate::file::{replace, unwritable};

/// The part of the cache that belongs to one repository.
pub(super) struct Repository {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repository {
    pub fn new(cache: &Path, id: &ModelId) -> Self {
        let name = format!("models--{}", id.name.replace('/', "--"));
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that a revision was when its files were last downloaded.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.folder.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes which commit a revision is.
    ///
    /// # Errors
    /// [`unwritable`].
    pub fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let _lock = self.lock(commit, || {})?;
        replace(&self.folder.join("refs").join(revision), commit.as_bytes())
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where the content with an ETag is.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where the content with an ETag is received.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Keeps other processes, those of `huggingface_hub` included, from writing the content with an ETag, or a commit's
    /// name, until the file is dropped. `waiting` is called when another one writes it now.
    ///
    /// # Errors
    /// [`unwritable`].
    pub fn lock(&self, name: &str, waiting: impl FnOnce()) -> Result<File> {
        let path = self.locks.join(format!("{name}.lock"));
        let failed = |e: io::Error| unwritable(&path, &e);
        let blobs = self.folder.join("blobs");
        fs::create_dir_all(&self.locks).map_err(failed)?;
        fs::create_dir_all(&blobs).map_err(|e| unwritable(&blobs, &e))?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()
            }
            Err(TryLockError::Error(e)) => Err(e),
            Ok(()) => Ok(()),
        };
        match locked {
            // A file system without locks: two processes would do the work twice.
            Err(e) if e.kind() != io::ErrorKind::Unsupported => Err(failed(e)),
            _ => Ok(file),
        }
    }

    /// Gives the content with an ETag its name in a commit's folder: a link, as far as the file system has links.
    ///
    /// # Errors
    /// [`unwritable`].
    pub fn link(&self, etag: &str, commit: &str, name: &str) -> Result<()> {
        let (blob, path) = (self.blob(etag), self.snapshot(commit).join(name));
        let failed = |e: io::Error| unwritable(&path, &e);
        let _ = fs::remove_file(&path); // a link to nowhere may be there
        fs::create_dir_all(path.parent().unwrap_or(&path)).map_err(failed)?;
        let up = "../".repeat(name.matches('/').count() + 2);
        let relative = PathBuf::from(format!("{up}blobs/{etag}"));
        #[cfg(unix)]
        let linked = std::os::unix::fs::symlink(relative, &path);
        #[cfg(windows)]
        let linked = std::os::windows::fs::symlink_file(relative.components().collect::<PathBuf>(), &path);
        #[cfg(not(any(unix, windows)))]
        let linked = Err::<(), _>(io::Error::other(relative.display().to_string()));
        // Windows lets not everyone make symbolic links.
        linked.or_else(|_| fs::hard_link(&blob, &path)).or_else(|_| fs::copy(&blob, &path).map(drop)).map_err(failed)
    }
}
