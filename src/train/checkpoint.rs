//! The files of a run: the state to resume from, and the model in the diffusers layout.

use std::collections::HashMap;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::checkpoint::folder::{remove_derived, weights_file};
use crate::checkpoint::stream::WeightStream;
use crate::checkpoint::tensor::{Arrival, Precision, f32_bytes};
use crate::error::{Error, Result};
use crate::file::{read, replace};
use crate::model::unet::{Parameter, UNet};
use crate::train::dmd::CriticState;
use crate::train::optimizer::RAdam;
use crate::train::record::Record;
use crate::train::trainer::State;
use crate::train::weights::{in_order, parts};

/// `model_index.json`; where a class has a name other than its label, with `id2label` as DiT's pipeline of diffusers has.
fn index(class_names: &[String]) -> String {
    let mut index = serde_json::json!({
        "_class_name": "ConsistencyModelPipeline",
        "scheduler": ["diffusers", "CMStochasticIterativeScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    });
    if class_names.iter().enumerate().any(|(label, name)| *name != label.to_string()) {
        let names = class_names.iter().enumerate().map(|(label, name)| (label.to_string(), name.as_str().into()));
        index["id2label"] = serde_json::Value::Object(names.collect());
    }
    format!("{index:#}\n")
}

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
    replace(&folder.join("model_index.json"), index(class_names).as_bytes())?;
    replace(&folder.join("unet/config.json"), unet_json.as_bytes())?;
    replace(&folder.join("scheduler/scheduler_config.json"), scheduler_json.as_bytes())?;
    write_weights(&folder.join(weights_file(Precision::F32)), &unet.parameters(), weights, None)?;
    Ok(removed)
}

/// Writes `weights` in f32 as one safetensors file, with an entry of its metadata.
///
/// # Errors
/// [`Error::Io`].
///
/// # Panics
/// When there are fewer weights than `parameters` have.
pub(super) fn write_weights(
    path: &Path,
    parameters: &[Parameter],
    weights: &[f32],
    entry: Option<(&str, String)>,
) -> Result<()> {
    let mut file = Tensors::default();
    for (parameter, values) in parts(parameters, weights) {
        file.push(parameter.name.clone(), parameter.shape.clone(), values);
    }
    let entry = entry.map(|(key, value)| (key.to_owned(), value));
    let metadata = entry.into_iter().chain([("format".into(), "pt".into())]).collect();
    replace(path, &file.serialize(metadata)?)
}

/// The metadata of a safetensors file, read from its bytes.
///
/// # Errors
/// [`Error::Weights`] when it is none.
pub(super) fn metadata(path: &Path, bytes: &[u8]) -> Result<HashMap<String, String>> {
    let (_, header) = SafeTensors::read_metadata(bytes)
        .map_err(|e| Error::Weights(format!("{}: not a checkpoint: {e}", path.display())))?;
    Ok(header.metadata().clone().unwrap_or_default())
}

/// Reads weights from the bytes of a safetensors file that holds exactly `parameters`.
///
/// # Errors
/// [`Error::Weights`] when it holds something else.
pub(super) fn read_weights(path: &Path, bytes: &[u8], parameters: &[Parameter]) -> Result<Vec<f32>> {
    let mut by_name = HashMap::<String, Vec<f32>>::new();
    let mut stream = WeightStream::new(parameters, true, |_| None);
    let mut keep = |arrival: Arrival<'_>| {
        if let Arrival::Rows(rows) = arrival {
            by_name.entry(rows.name.to_owned()).or_default().extend(rows.to_f32().iter());
        }
        Ok(())
    };
    stream
        .push(bytes, &mut keep)
        .and_then(|()| stream.end_file())
        .and_then(|()| stream.finish())
        .map_err(|e| Error::Weights(format!("{}: {e}", path.display())))?;
    Ok(in_order(parameters, by_name))
}

/// Writes everything that a run of a network with `parameters` needs to continue: weights, moments, averages, iteration and
/// time.
///
/// `record` is kept beside them for [`read_record`]. `critic` are the parameters of the critic, of a run that has one.
///
/// # Errors
/// [`Error::Io`].
pub fn write_state(
    path: &Path,
    state: &State,
    parameters: &[Parameter],
    critic: Option<&[Parameter]>,
    record: &Record,
) -> Result<()> {
    let mut file = Tensors::default();
    let mut push = |group: &str, parameters: &[Parameter], weights: &[f32]| {
        for (parameter, values) in parts(parameters, weights) {
            file.push(format!("{group}/{}", parameter.name), vec![values.len()], values);
        }
    };
    push("weights", parameters, &state.weights);
    push("ema", parameters, &state.ema);
    push("first", parameters, &state.optimizer.first);
    push("second", parameters, &state.optimizer.second);
    if let Some(target) = &state.target {
        push("target", parameters, target);
    }
    if let (Some(critic), Some(parameters)) = (&state.critic, critic) {
        push("critic/weights", parameters, &critic.weights);
        push("critic/first", parameters, &critic.optimizer.first);
        push("critic/second", parameters, &critic.optimizer.second);
    }
    let metadata = HashMap::from([
        ("step".into(), state.optimizer.step.to_string()),
        // The bits of the f64, so that a resumed run has the same number.
        ("seconds".into(), state.seconds.to_bits().to_string()),
        ("record".into(), record.to_json()),
    ]);
    replace(path, &file.serialize(metadata)?)
}

/// Reads what a run was begun with from a file of [`write_state`]; `None` from one of a version that did not keep it.
///
/// # Errors
/// [`Error::Io`] when the file is unreadable, [`Error::Weights`] when it is no checkpoint.
pub fn read_record(path: &Path) -> Result<Option<Record>> {
    if !path.exists() {
        return Err(Error::Io(format!("{}: no such file: nothing to resume", path.display())));
    }
    let bad = |e| Error::Weights(format!("{}: \"record\": {e}", path.display()));
    metadata(path, &read(path)?)?.get("record").map(|json| Record::parse(json).map_err(bad)).transpose()
}

/// Reads the rest of what [`write_state`] wrote, for a network with `parameters` and a critic, if the run has one, with
/// `critic`.
///
/// # Errors
/// [`Error::Io`] when the file is unreadable, [`Error::Weights`] when it is of another network.
pub fn read_state(path: &Path, parameters: &[Parameter], critic: Option<&[Parameter]>) -> Result<State> {
    let bytes = read(path)?;
    let bad = |m: String| Error::Weights(format!("{}: {m}", path.display()));
    let metadata = metadata(path, &bytes)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(format!("not a checkpoint: {e}")))?;
    let entry = |key: &str| metadata.get(key).ok_or_else(|| bad(format!("\"{key}\" is missing")));
    let number = |key: &str| entry(key)?.parse::<u64>().map_err(|e| bad(format!("\"{key}\": {e}")));
    let read_group = |group: &str, parameters: &[Parameter]| -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for p in parameters {
            let name = format!("{group}/{}", p.name);
            let view = file.tensor(&name).map_err(|_| bad(format!("missing tensor {name}")))?;
            let length = p.count();
            if view.dtype() != Dtype::F32 || view.shape() != [length] {
                let (dtype, shape) = (view.dtype(), view.shape());
                return Err(bad(format!("{name}: expected {length} values of F32, found shape {shape:?} of {dtype}")));
            }
            values.extend(view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)));
        }
        Ok(values)
    };
    let group = |name: &str| read_group(name, parameters);
    let step = number("step")?;
    let critic = critic.map(|parameters| -> Result<CriticState> {
        let group = |name: &str| read_group(name, parameters);
        let weights = group("critic/weights")?;
        let optimizer = RAdam { step, first: group("critic/first")?, second: group("critic/second")? };
        Ok(CriticState { weights, optimizer })
    });
    let target = file.names().iter().any(|n| n.starts_with("target/")).then(|| group("target")).transpose()?;
    let (weights, ema) = (group("weights")?, group("ema")?);
    let optimizer = RAdam { step, first: group("first")?, second: group("second")? };
    let seconds = f64::from_bits(number("seconds")?);
    Ok(State { weights, ema, target, optimizer, critic: critic.transpose()?, seconds })
}

/// Names, shapes and bytes of the tensors of a safetensors file.
#[derive(Default)]
struct Tensors(Vec<(String, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn push(&mut self, name: String, shape: Vec<usize>, values: &[f32]) {
        self.0.push((name, shape, f32_bytes(values)));
    }

    fn serialize(&self, metadata: HashMap<String, String>) -> Result<Vec<u8>> {
        let views = self.0.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape says");
            (name.as_str(), view)
        });
        safetensors::serialize(views, Some(metadata)).map_err(|e| Error::Io(format!("safetensors: {e}")))
    }
}
