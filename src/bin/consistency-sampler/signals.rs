//! Signals: a request to stop, which a run answers by saving, and the limit on a file's size.

use std::sync::Arc;
#[cfg(feature = "train")]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use consistency_sampler::{Error, Result};
use signal_hook::{consts, flag};

/// Lets a write beyond the limit on a file's size (`ulimit -f`) fail as one to a full disk does, in place of ending the
/// process.
pub fn let_limits_be_errors() -> Result<()> {
    #[cfg(unix)]
    flag::register(consts::SIGXFSZ, Arc::default()).map_err(|e| refused(&e))?;
    Ok(())
}

/// The requests to stop from here on.
#[cfg(feature = "train")]
pub struct Stop(Arc<AtomicUsize>);

#[cfg(feature = "train")]
impl Stop {
    /// Takes Ctrl-C and SIGTERM as requests. A second one ends the process at once.
    pub fn listen() -> Result<Self> {
        let (asked, which): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        for signal in [consts::SIGINT, consts::SIGTERM] {
            // In this order: the first finds `asked` false and sets it.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked))
                .and_then(|_| flag::register(signal, Arc::clone(&asked)))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&which), signal as usize))
                .map_err(|e| refused(&e))?;
        }
        Ok(Self(which))
    }

    /// The exit status of a process that was asked to stop, 128 + the signal; `None` as long as it was not.
    pub fn status(&self) -> Option<u8> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            signal => Some(128 + signal as u8),
        }
    }
}

fn refused(e: &std::io::Error) -> Error {
    Error::Io(format!("signals: {e}"))
}
