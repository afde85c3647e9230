//! `SHA256SUMS`: hashes of files of a model's folder, as `sha256sum` writes them.
//!
//! It is a list of hashes and not the list of the files: a file that it does not list may be there, and is not verified.
//! What it lists of a model's files must have that hash.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::file::{read_text, replace, unreadable};

/// The file's name; it may be missing.
pub(crate) const SUMS: &str = "SHA256SUMS";

/// The hashes in lower case, by path within the folder.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sums(BTreeMap<String, String>);

impl Sums {
    /// Reads a folder's sums; none without the file.
    ///
    /// # Errors
    /// [`Error::Io`] when it is unreadable, [`Error::Weights`] for a line that is none of `sha256sum`.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(SUMS);
        if !path.exists() {
            return Ok(Self::default());
        }
        Self::parse(&read_text(&path)?).map_err(|line| {
            Error::Weights(format!("{}: expected lines of a SHA-256 and a name, found {line:?}", path.display()))
        })
    }

    /// Parses lines of a hash, blanks with perhaps an asterisk, and a path, or `SHA256 (path) = hash` as BSD writes it.
    /// Empty lines and those that begin with `#` count for nothing; any other is returned as the error.
    fn parse(text: &str) -> Result<Self, &str> {
        let hash = |text: &str| {
            let valid = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            valid.then(|| text.to_ascii_lowercase())
        };
        let entry = |line: &str| match line.strip_prefix("SHA256 (") {
            Some(bsd) => {
                let (path, sum) = bsd.rsplit_once(") = ")?;
                Some((normal(path)?, hash(sum.trim())?))
            }
            None => {
                let (sum, path) = line.split_once([' ', '\t'])?;
                let path = path.trim_start();
                Some((normal(path.strip_prefix('*').unwrap_or(path))?, hash(sum)?))
            }
        };
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(|line| entry(line).ok_or(line)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a file is listed.
    pub fn lists(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Checks the hash of a file, if it is listed.
    ///
    /// # Errors
    /// [`Error::Weights`] with both hashes.
    pub fn check(&self, folder: &Path, name: &str, hash: Sha256) -> Result<()> {
        let found = hex(hash);
        match self.0.get(name).filter(|expected| **expected != found) {
            None => Ok(()),
            Some(expected) => {
                let path = folder.join(name);
                Err(Error::Weights(format!("{}: expected SHA-256 {expected} ({SUMS}), found {found}", path.display())))
            }
        }
    }

    /// Writes the file, such that it lists each of `names` as it is there, and `changed` anew. Other lines stay as long as
    /// their files are there: what was not written now keeps the hash that it must have.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(mut self, folder: &Path, names: &[String], changed: &str) -> Result<()> {
        self.0.retain(|name, _| name != changed && folder.join(name).is_file());
        for name in names {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), hash_of(&folder.join(name))?);
            }
        }
        let lines: String = self.0.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect();
        replace(&folder.join(SUMS), lines.as_bytes())
    }
}

/// A path with slashes, without `./`; `None` for an empty one.
fn normal(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.trim().split(['/', '\\']).filter(|part| !matches!(*part, "" | ".")).collect();
    Some(parts.join("/")).filter(|path| !path.is_empty())
}

/// The SHA-256 of a file, in lower case.
///
/// # Errors
/// [`unreadable`].
pub(crate) fn hash_of(path: &Path) -> Result<String> {
    let failed = |e: std::io::Error| unreadable(path, &e);
    let (mut file, mut hash) = (std::fs::File::open(path).map_err(failed)?, Sha256::new());
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk).map_err(failed)? {
            0 => return Ok(hex(hash)),
            n => hash.update(&chunk[..n]),
        }
    }
}

fn hex(hash: Sha256) -> String {
    format!("{:x}", hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_line_is_read_and_any_other_is_named() {
        let (a, b) = ("ab".repeat(32), "CD".repeat(32));
        let parsed = |text: String| Sums::parse(&text).map_err(str::to_owned);
        let unet = |sum: &str| Ok(Sums(BTreeMap::from([("unet/config.json".into(), sum.to_ascii_lowercase())])));
        for line in [
            format!("{a}  unet/config.json\n"),
            format!("{a} *unet/config.json"),
            format!("# sums\r\n\r\n{a}\t./unet/config.json\r\n"),
            format!("{a}  .\\unet\\config.json\r\n"),
            format!("SHA256 (./unet/config.json) = {a}\n"),
        ] {
            assert_eq!(parsed(line.clone()), unet(&a), "{line:?}");
        }
        assert_eq!(parsed(format!("{b}  unet/config.json")), unet(&b), "in capitals");
        for line in [&a[..], "hello", &format!("{}  x", &a[1..]), &format!("{a}  ./"), &format!("MD5 (x) = {a}")] {
            assert_eq!(parsed(format!("{b}  unet/config.json\n{line}\n")), Err(line.to_owned()));
        }
    }
}
