//! The files of a run: the state to resume from, and the model in the diffusers layout.

use std::path::Path;

use crate::checkpoint::folder::{remove_derived, weights_file as weights_path};
use crate::checkpoint::tensor::Precision;
use crate::error::{Error, Result};
use crate::file::{read, replace};
use crate::model::unet::{Parameter, UNet};
use crate::train::checkpoint::{Saved, model_index, record_of, state_file, state_of, weights_file};
use crate::train::record::Record;
use crate::train::trainer::State;

/// Writes the model folder: `model_index.json` with the names of the classes, if it has any, the two configurations as
/// given, and `weights` in f32. Returns the files that it removed, since they were made of earlier weights.
///
/// # Errors
/// [`Error::Io`].
pub fn write_model(
    folder: &Path,
    class_names: &[String],
    unet_json: &str,
    scheduler_json: &str,
    unet: &UNet,
    weights: &[f32],
) -> Result<Vec<&'static str>> {
    // First: a reader that prefers them must not find old ones beside new weights.
    let removed = remove_derived(folder)?;
    replace(&folder.join("model_index.json"), model_index(class_names).as_bytes())?;
    replace(&folder.join("unet/config.json"), unet_json.as_bytes())?;
    replace(&folder.join("scheduler/scheduler_config.json"), scheduler_json.as_bytes())?;
    let weights = weights_file(&unet.parameters(), weights, None)?;
    replace(&folder.join(weights_path(Precision::F32)), &weights)?;
    Ok(removed)
}

/// Writes everything that a run needs to continue.
///
/// # Errors
/// [`Error::Io`].
pub fn write_state(path: &Path, saved: &Saved<'_>) -> Result<()> {
    replace(path, &state_file(saved)?)
}

/// Reads what a run was begun with from a file of [`write_state`]; `None` from one of a version that did not keep it.
///
/// # Errors
/// [`Error::Io`] when the file is unreadable, [`Error::Weights`] when it is no checkpoint.
pub fn read_record(path: &Path) -> Result<Option<Record>> {
    if !path.exists() {
        return Err(Error::Io(format!("{}: no such file: nothing to resume", path.display())));
    }
    record_of(&read(path)?).map_err(|e| named(path, e))
}

/// Reads the rest of what [`write_state`] wrote, for a network with `parameters` and a critic, if the run has one, with
/// `critic`.
///
/// # Errors
/// [`Error::Io`] when the file is unreadable, [`Error::Weights`] when it is of another network.
pub fn read_state(path: &Path, parameters: &[Parameter], critic: Option<&[Parameter]>) -> Result<State> {
    state_of(&read(path)?, parameters, critic).map_err(|e| named(path, e))
}

/// The error of a file's bytes with the name of the file.
pub(super) fn named(path: &Path, error: Error) -> Error {
    match error {
        Error::Weights(message) => Error::Weights(format!("{}: {message}", path.display())),
        other => other,
    }
}
