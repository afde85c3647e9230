//! Signals: a request to stop, which a run answers by saving, and the limit on a file's size.

use std::sync::Arc;
#[cfg(feature = "train")]
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
#[cfg(feature = "train")]
use std::time::Duration;

use consistency_sampler::{Error, Result};
use signal_hook::{consts, flag};

#[cfg(feature = "train")]
use crate::console::note;

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

/// Requests that come so soon after the first are the same one: `timeout` sends its signal to a process and to its group.
#[cfg(feature = "train")]
const SAME: Duration = Duration::from_secs(1);

#[cfg(feature = "train")]
impl Stop {
    /// Takes Ctrl-C and SIGTERM as requests, and says so. A second one, more than a second later, ends the process at once.
    pub fn listen() -> Result<Self> {
        let (last, which): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        for signal in [consts::SIGINT, consts::SIGTERM] {
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&last))
                .and_then(|_| flag::register_usize(signal, Arc::clone(&which), signal as usize))
                .map_err(|e| refused(&e))?;
        }
        let stop = Self(which);
        let asked = Self(Arc::clone(&stop.0));
        std::thread::spawn(move || {
            while asked.status().is_none() {
                std::thread::sleep(Duration::from_millis(50));
            }
            note("stopping after this iteration; asked again, at once and without what was not saved");
            std::thread::sleep(SAME);
            last.store(true, Ordering::Relaxed);
        });
        Ok(stop)
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
