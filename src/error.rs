//! The error type of the crate. A message says what was expected and what was found.

use std::fmt;

/// A failure, by the part that found it.
///
/// `Display` gives one line without a trailing full stop, fit for a terminal or a page.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A file of the model folder is missing or unreadable.
    Io(String),
    /// A JSON configuration is malformed or asks for something this crate does not run.
    Config(String),
    /// The weights do not have the form that the configuration calls for.
    Weights(String),
    /// An argument of a call (labels, timesteps, sizes, …) is out of its range.
    Input(String),
    /// The GPU is missing, too small, or was lost.
    Gpu(String),
    /// The caller cancelled.
    Cancelled,
}

impl Error {
    /// A short, stable name of the kind, for callers that cannot match on the enum.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io(_) => "io",
            Error::Config(_) => "config",
            Error::Weights(_) => "weights",
            Error::Input(_) => "input",
            Error::Gpu(_) => "gpu",
            Error::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(m) | Error::Config(m) | Error::Weights(m) | Error::Input(m) | Error::Gpu(m) => one_line(m, f),
            Error::Cancelled => f.write_str("cancelled"),
        }
    }
}

/// A text in one line: each run of white space becomes one blank.
#[cfg(any(feature = "gpu", feature = "javascript"))]
pub(crate) fn collapse_whitespace(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The longest message, in characters.
const LONGEST: usize = 600;

/// Names and values in a message come from files that anyone may have made: they must not break the line, nor fill the
/// page.
fn one_line(message: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    use fmt::Write as _;
    for (i, c) in message.chars().enumerate() {
        if i == LONGEST {
            return f.write_char('…');
        }
        f.write_char(if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { '\u{fffd}' } else { c })?;
    }
    Ok(())
}

impl std::error::Error for Error {}

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_bounded_length_whatever_a_file_holds() {
        let name = format!("a\nb\u{1b}[31m\u{2028}{}", "x".repeat(1 << 20));
        let shown = Error::Weights(format!("unexpected tensor {name}")).to_string();
        assert!(shown.starts_with("unexpected tensor a\u{fffd}b\u{fffd}[31m\u{fffd}xxx"));
        assert_eq!(shown.chars().count(), LONGEST + 1);
    }
}
