//! Lines for people: a reader that is gone, or a disk that is full, ends no command whose work is in files.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stderr, stdout};

use consistency_sampler::{Error, Result};

/// Says something beside the results, on the standard error, if there is one.
pub fn note(line: impl Display) {
    let _ = writeln!(stderr(), "{line}");
}

/// Names what was found among the training images and is none of them.
#[cfg(feature = "train")]
pub fn note_left_out(names: &[String]) {
    const SHOWN: usize = 5;
    if !names.is_empty() {
        let more = match names.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
        note(format_args!("left out: {shown}{more}"));
    }
}

/// Prints a line of results on the standard output. One that was closed, as `head` does when it has enough, wants no more.
///
/// # Errors
/// [`Error::Io`] when the output cannot be written for another reason, a full disk for instance.
pub fn print(line: impl Display) -> Result<()> {
    let mut output = stdout();
    match writeln!(output, "{line}").and_then(|()| output.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Io(format!("standard output: cannot be written: {e}")))
        }
        _ => Ok(()),
    }
}
