//! Files on disk: read with errors that name them, written whole or not at all.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The error for a file or folder that cannot be read.
pub fn unreadable(path: &Path, e: &io::Error) -> Error {
    match e.kind() {
        ErrorKind::NotFound => Error::Io(format!("{}: no such file", path.display())),
        ErrorKind::IsADirectory => Error::Io(format!("{}: expected a file, found a folder", path.display())),
        _ => Error::Io(format!("{}: {e}", path.display())),
    }
}

/// The error for a file that cannot be written.
pub fn unwritable(path: &Path, e: &dyn Display) -> Error {
    Error::Io(format!("{}: cannot be written: {e}", path.display()))
}

/// Reads a file whole.
///
/// # Errors
/// [`unreadable`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|e| unreadable(path, &e))
}

/// Reads a text file whole, as [`text`] does.
///
/// # Errors
/// [`unreadable`], and those of [`text`].
pub fn read_text(path: &Path) -> Result<String> {
    text(path, read(path)?)
}

/// The text of a file's bytes, UTF-8 with or without a byte order mark, which editors on Windows write.
///
/// # Errors
/// [`Error::Io`] for another encoding.
pub fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let found = if is_utf16 { "UTF-16" } else { "another encoding" };
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::Io(format!("{}: expected text in UTF-8, found {found}", path.display())))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Replaces a file by `bytes`, as [`replace_with`] does.
///
/// # Errors
/// [`unwritable`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    replace_with(path, |file| file.write_all(bytes).map_err(|e| unwritable(path, &e)))
}

/// Replaces a file, or makes it with its folders: `write` writes `{name}.partial` beside it, which is synced to the disk
/// and takes the name when it is whole. When anything fails, the file is as it was before.
///
/// A link is followed. What is no regular file, such as a pipe, is written to as it is.
///
/// # Errors
/// Those of `write`, and [`unwritable`].
pub fn replace_with<T>(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    let failed = |e: io::Error| unwritable(path, &e);
    let place = Place::of(path)?;
    let (Place::Direct(name) | Place::Beside { partial: name, .. }) = &place;
    let written = File::create(name).map_err(failed).and_then(|file| {
        let mut file = BufWriter::new(file);
        let result = write(&mut file)?;
        let file = file.into_inner().map_err(|e| failed(e.into_error()))?;
        if let Place::Beside { .. } = &place {
            file.sync_all().map_err(failed)?; // a pipe has no disk
        }
        Ok(result)
    });
    let written = written.and_then(|result| {
        if let Place::Beside { partial, file } = &place {
            fs::rename(partial, file).map_err(failed)?;
        }
        Ok(result)
    });
    if let (Err(_), Place::Beside { partial, .. }) = (&written, &place) {
        let _ = fs::remove_file(partial); // it may not have been made
    }
    written
}

/// Makes the folders of a file and fails where writing it would fail at once, so that nothing long is computed in vain.
///
/// # Errors
/// [`unwritable`].
pub fn check_writable(path: &Path) -> Result<()> {
    let failed = |e: io::Error| unwritable(path, &e);
    match Place::of(path)? {
        Place::Direct(name) => File::options().write(true).open(name).map(drop).map_err(failed),
        Place::Beside { partial, .. } => File::create(&partial).and_then(|_| fs::remove_file(&partial)).map_err(failed),
    }
}

/// How a file is written.
enum Place {
    /// To a name beside it, which is renamed.
    Beside { partial: PathBuf, file: PathBuf },
    /// As it is, because it is no regular file.
    Direct(PathBuf),
}

impl Place {
    /// Makes the file's folders.
    fn of(path: &Path) -> Result<Self> {
        let failed = |e: io::Error| unwritable(path, &e);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let file = match path.is_symlink() {
            true => fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()), // one to nowhere is replaced
            false => path.to_owned(),
        };
        match fs::metadata(&file) {
            Ok(found) if found.is_dir() => Err(unwritable(path, &"expected a file, found a folder")),
            Ok(found) if !found.is_file() => Ok(Self::Direct(file)),
            _ => {
                let mut name = file.file_name().unwrap_or_default().to_owned();
                name.push(".partial");
                Ok(Self::Beside { partial: file.with_file_name(name), file })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("consistency-sampler-file-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
        let folder = scratch("fails");
        let file = folder.join("a.json");
        replace(&file, b"old").unwrap();
        let failed = replace_with(&file, |f| {
            f.write_all(b"half").unwrap();
            Err::<(), _>(Error::Io("no room".into()))
        });
        assert_eq!(failed, Err(Error::Io("no room".into())));
        assert_eq!(read(&file).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert!(replace(&folder, b"").unwrap_err().to_string().ends_with("expected a file, found a folder"));
        let below = file.join("b.json");
        assert!(check_writable(&below).unwrap_err().to_string().contains("b.json: cannot be written: "));
        assert!(replace(&below, b"").is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn links_are_followed_and_a_full_device_is_an_error() {
        let folder = scratch("links");
        fs::create_dir(folder.join("real")).unwrap();
        let [link, real, full] = ["link", "real/a", "full"].map(|name| folder.join(name));
        replace(&real, b"old").unwrap();
        std::os::unix::fs::symlink("real/a", &link).unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!((read(&real).unwrap(), link.is_symlink()), (b"new".to_vec(), true));
        std::os::unix::fs::symlink("/dev/full", &full).unwrap();
        let message = replace(&full, b"new").unwrap_err().to_string();
        assert!(message.contains("full: cannot be written: No space left on device"), "{message}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_text() {
        let text = |bytes: &[u8]| text(Path::new("a.json"), bytes.to_vec()).map_err(|e| e.to_string());
        assert_eq!(text(b"\xef\xbb\xbf{}"), Ok("{}".into()));
        assert_eq!(text(b"{}"), Ok("{}".into()));
        assert_eq!(text(b"\xff\xfe{\0"), Err("a.json: expected text in UTF-8, found UTF-16".into()));
        assert_eq!(text(b"{\xff"), Err("a.json: expected text in UTF-8, found another encoding".into()));
    }
}
