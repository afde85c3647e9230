//! The one error type of the crate: a sentence that says what was expected and what was found.

use std::fmt;

/// What went wrong, by the part that noticed it.
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
            Error::Io(m) | Error::Config(m) | Error::Weights(m) | Error::Input(m) | Error::Gpu(m) => f.write_str(m),
            Error::Cancelled => f.write_str("cancelled"),
        }
    }
}

impl std::error::Error for Error {}

/// `Result` with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
