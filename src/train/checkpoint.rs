//! A run and a model as the bytes of safetensors files: the state to resume from, and the weights.

use std::collections::HashMap;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::checkpoint::tensor::f32_bytes;
use crate::error::{Error, Result};
use crate::model::unet::Parameter;
use crate::train::dmd::CriticState;
use crate::train::optimizer::RAdam;
use crate::train::record::Record;
use crate::train::trainer::State;
use crate::train::weights::parts;

/// `model_index.json`; where a class has a name other than its label, with `id2label` as DiT's pipeline of diffusers has.
pub fn model_index(class_names: &[String]) -> String {
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

/// Weights in f32 as one safetensors file, with an entry of its metadata.
///
/// # Errors
/// [`Error::Io`] when there are too many for one.
///
/// # Panics
/// When there are fewer weights than `parameters` have.
pub fn weights_file(parameters: &[Parameter], weights: &[f32], entry: Option<(&str, String)>) -> Result<Vec<u8>> {
    let mut file = Tensors::default();
    for (parameter, values) in parts(parameters, weights) {
        file.push(parameter.name.clone(), parameter.shape.clone(), values);
    }
    let entry = entry.map(|(key, value)| (key.to_owned(), value));
    file.serialize(entry.into_iter().chain([("format".into(), "pt".into())]).collect())
}

/// The metadata of a safetensors file, read from its bytes.
///
/// # Errors
/// [`Error::Weights`] when it is none.
pub(super) fn metadata(bytes: &[u8]) -> Result<HashMap<String, String>> {
    let (_, header) =
        SafeTensors::read_metadata(bytes).map_err(|e| Error::Weights(format!("not a checkpoint: {e}")))?;
    Ok(header.metadata().clone().unwrap_or_default())
}

/// What a run needs to continue, beside its settings and its data.
pub struct Saved<'a> {
    /// Weights, moments, averages, iteration and time.
    pub state: &'a State,
    /// Of the network.
    pub parameters: &'a [Parameter],
    /// Of the critic, of a run that has one.
    pub critic: Option<&'a [Parameter]>,
    /// What the run was begun with, kept for [`record_of`].
    pub record: &'a Record,
    /// The weights of a teacher of the network's architecture, where it has no file of its own; kept for [`teacher_of`].
    pub teacher: Option<&'a [f32]>,
}

/// A safetensors file of a run.
///
/// # Errors
/// [`Error::Io`] when it is too large for one.
pub fn state_file(saved: &Saved<'_>) -> Result<Vec<u8>> {
    let Saved { state, parameters, critic, record, teacher } = *saved;
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
    if let Some(teacher) = teacher {
        push("teacher", parameters, teacher);
    }
    let metadata = HashMap::from([
        ("step".into(), state.optimizer.step.to_string()),
        // The bits of the f64, so that a resumed run has the same number.
        ("seconds".into(), state.seconds.to_bits().to_string()),
        ("record".into(), record.to_json()),
    ]);
    file.serialize(metadata)
}

/// What a run was begun with, from the bytes of [`state_file`]; `None` from a version that did not keep it.
///
/// # Errors
/// [`Error::Weights`] when they are no checkpoint.
pub fn record_of(bytes: &[u8]) -> Result<Option<Record>> {
    let bad = |e| Error::Weights(format!("\"record\": {e}"));
    metadata(bytes)?.get("record").map(|json| Record::parse(json).map_err(bad)).transpose()
}

/// The weights of the teacher that [`state_file`] kept.
///
/// # Errors
/// [`Error::Weights`] when the file is of another network.
pub fn teacher_of(bytes: &[u8], parameters: &[Parameter]) -> Result<Option<Vec<f32>>> {
    let file = deserialize(bytes)?;
    has_group(&file, "teacher").then(|| read_group(&file, "teacher", parameters)).transpose()
}

/// The state that [`state_file`] kept, for a network with `parameters` and a critic, if the run has one, with `critic`.
///
/// # Errors
/// [`Error::Weights`] when the file is of another network.
pub fn state_of(bytes: &[u8], parameters: &[Parameter], critic: Option<&[Parameter]>) -> Result<State> {
    let metadata = metadata(bytes)?;
    let file = deserialize(bytes)?;
    let bad = |m: String| Error::Weights(m);
    let entry = |key: &str| metadata.get(key).ok_or_else(|| bad(format!("\"{key}\" is missing")));
    let number = |key: &str| entry(key)?.parse::<u64>().map_err(|e| bad(format!("\"{key}\": {e}")));
    let group = |name: &str| read_group(&file, name, parameters);
    let step = number("step")?;
    let critic = critic.map(|parameters| -> Result<CriticState> {
        let group = |name: &str| read_group(&file, name, parameters);
        let weights = group("critic/weights")?;
        let optimizer = RAdam { step, first: group("critic/first")?, second: group("critic/second")? };
        Ok(CriticState { weights, optimizer })
    });
    let target = has_group(&file, "target").then(|| group("target")).transpose()?;
    let (weights, ema) = (group("weights")?, group("ema")?);
    let optimizer = RAdam { step, first: group("first")?, second: group("second")? };
    let seconds = f64::from_bits(number("seconds")?);
    Ok(State { weights, ema, target, optimizer, critic: critic.transpose()?, seconds })
}

fn deserialize(bytes: &[u8]) -> Result<SafeTensors<'_>> {
    SafeTensors::deserialize(bytes).map_err(|e| Error::Weights(format!("not a checkpoint: {e}")))
}

fn has_group(file: &SafeTensors<'_>, group: &str) -> bool {
    file.names().iter().any(|name| name.split_once('/').is_some_and(|(first, _)| first == group))
}

/// One number for each weight of `parameters`, from the tensors `group/…`.
fn read_group(file: &SafeTensors<'_>, group: &str, parameters: &[Parameter]) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    for p in parameters {
        let name = format!("{group}/{}", p.name);
        let view = file.tensor(&name).map_err(|_| Error::Weights(format!("missing tensor {name}")))?;
        let length = p.count();
        if view.dtype() != Dtype::F32 || view.shape() != [length] {
            let (dtype, shape) = (view.dtype(), view.shape());
            let message = format!("{name}: expected {length} values of F32, found shape {shape:?} of {dtype}");
            return Err(Error::Weights(message));
        }
        values.extend(view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)));
    }
    Ok(values)
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
