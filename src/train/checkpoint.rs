//! The files of a run: the state to resume from, and the model in the diffusers layout.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::burn::Weights;
use crate::checkpoint::stream::WeightStream;
use crate::checkpoint::tensor::Arrival;
use crate::error::{Error, Result};
use crate::model::unet::{Parameter, UNet};
use crate::train::dmd::CriticState;
use crate::train::optimizer::{RAdam, track_all};
use crate::train::trainer::State;

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

/// Replaces a file as a whole: writes `{name}.partial` beside it and renames that.
///
/// # Errors
/// [`Error::Io`].
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: std::io::Error| Error::Io(format!("{}: cannot be written: {e}", path.display()));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let partial = path.with_file_name(name);
    fs::write(&partial, bytes).map_err(failed)?;
    fs::File::open(&partial).and_then(|f| f.sync_all()).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}

/// Writes the model folder: `model_index.json` with the names of the classes, if it has any, the two configurations as
/// given, and `weights` in f32.
///
/// # Errors
/// [`Error::Io`].
pub fn write_model(
    folder: &Path,
    class_names: &[String],
    unet_json: &str,
    scheduler_json: &str,
    unet: &UNet,
    weights: &Weights,
) -> Result<()> {
    write_atomically(&folder.join("model_index.json"), index(class_names).as_bytes())?;
    write_atomically(&folder.join("unet/config.json"), unet_json.as_bytes())?;
    write_atomically(&folder.join("scheduler/scheduler_config.json"), scheduler_json.as_bytes())?;
    write_weights(&folder.join("unet/diffusion_pytorch_model.safetensors"), &unet.parameters(), weights)
}

/// Writes `weights` in f32 as one safetensors file.
///
/// # Errors
/// [`Error::Io`].
///
/// # Panics
/// When one of `parameters` has no weight.
pub(super) fn write_weights(path: &Path, parameters: &[Parameter], weights: &Weights) -> Result<()> {
    let mut file = Tensors::default();
    for Parameter { name, shape } in parameters {
        file.push(name.clone(), shape.clone(), &weights[name])?;
    }
    let metadata = HashMap::from([("format".into(), "pt".into())]);
    write_atomically(path, &file.serialize(metadata)?)
}

/// Reads a safetensors file that holds exactly `parameters`.
///
/// # Errors
/// [`Error::Io`] when it is unreadable, [`Error::Weights`] when it holds something else.
pub(super) fn read_weights(path: &Path, parameters: &[Parameter], device: &Device) -> Result<Weights> {
    let bytes = fs::read(path).map_err(|e| Error::Io(format!("{}: {e}", path.display())))?;
    let mut weights = Weights::new();
    let mut stream = WeightStream::new(parameters, true, |_| None);
    let mut keep = |arrival: Arrival<'_>| {
        if let Arrival::Rows(rows) = arrival {
            let values = rows.to_f32();
            let shape = [values.len()];
            weights.insert(rows.name.to_owned(), Tensor::from_data(TensorData::new(values, shape), device));
        }
        Ok(())
    };
    stream
        .push(&bytes, &mut keep)
        .and_then(|()| stream.end_file())
        .and_then(|()| stream.finish())
        .map_err(|e| Error::Weights(format!("{}: {e}", path.display())))?;
    Ok(weights)
}

/// Writes everything that a run needs to continue: weights, moments, averages, iteration and time.
///
/// `settings` is kept beside them for [`read_state`] to compare.
///
/// # Errors
/// [`Error::Io`].
pub fn write_state(path: &Path, state: &State, settings: &str) -> Result<()> {
    let mut file = Tensors::default();
    let mut push = |group: &str, weights: &Weights| -> Result<()> {
        let mut names: Vec<&String> = weights.keys().collect();
        names.sort();
        names.into_iter().try_for_each(|name| {
            let w = &weights[name];
            file.push(format!("{group}/{name}"), w.dims().to_vec(), w)
        })
    };
    push("weights", &state.weights)?;
    push("ema", &state.ema)?;
    push("first", &state.optimizer.first)?;
    push("second", &state.optimizer.second)?;
    if let Some(target) = &state.target {
        push("target", target)?;
    }
    if let Some(critic) = &state.critic {
        push("critic/weights", &critic.weights)?;
        push("critic/first", &critic.optimizer.first)?;
        push("critic/second", &critic.optimizer.second)?;
    }
    let metadata = HashMap::from([
        ("step".into(), state.optimizer.step.to_string()),
        // The bits of the f64, so that a resumed run has the same number.
        ("seconds".into(), state.seconds.to_bits().to_string()),
        ("settings".into(), settings.into()),
    ]);
    write_atomically(path, &file.serialize(metadata)?)
}

/// Reads what [`write_state`] wrote, for a network with `parameters` and a critic, if the run has one, with `critic`.
///
/// # Errors
/// [`Error::Io`] when the file is unreadable, [`Error::Weights`] when it is of another network, [`Error::Input`] when
/// it is of a run with other `settings`.
pub fn read_state(
    path: &Path,
    parameters: &[Parameter],
    critic: Option<&[Parameter]>,
    settings: &str,
    device: &Device,
) -> Result<State> {
    let bytes = fs::read(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Error::Io(format!("{}: no such file: nothing to resume", path.display())),
        _ => Error::Io(format!("{}: {e}", path.display())),
    })?;
    let bad = |m: String| Error::Weights(format!("{}: {m}", path.display()));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(format!("not a checkpoint: {e}")))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(format!("not a checkpoint: {e}")))?;
    let metadata = header.metadata().as_ref();
    let entry = |key: &str| metadata.and_then(|m| m.get(key)).ok_or_else(|| bad(format!("\"{key}\" is missing")));
    let number = |key: &str| entry(key)?.parse::<u64>().map_err(|e| bad(format!("\"{key}\": {e}")));
    let found = entry("settings")?;
    if found != settings {
        return Err(Error::Input(format!(
            "{}: expected a run with settings {settings}, found {found}",
            path.display()
        )));
    }
    let read_group = |group: &str, parameters: &[Parameter]| -> Result<Weights> {
        let read = |p: &Parameter| {
            let name = format!("{group}/{}", p.name);
            let view = file.tensor(&name).map_err(|_| bad(format!("missing tensor {name}")))?;
            let length: usize = p.shape.iter().product();
            if view.dtype() != Dtype::F32 || view.shape() != [length] {
                let found = (view.dtype(), view.shape());
                return Err(bad(format!("{name}: expected {length} values of F32, found {found:?}")));
            }
            let values: Vec<f32> = view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            Ok((p.name.clone(), Tensor::from_data(TensorData::new(values, [length]), device)))
        };
        parameters.iter().map(read).collect()
    };
    let group = |name: &str| read_group(name, parameters);
    let step = number("step")?;
    let critic = critic.map(|parameters| -> Result<CriticState> {
        let group = |name: &str| read_group(name, parameters);
        let weights = track_all(group("critic/weights")?);
        let optimizer = RAdam { step, first: group("critic/first")?, second: group("critic/second")? };
        Ok(CriticState { weights, optimizer })
    });
    let target = file.names().iter().any(|n| n.starts_with("target/")).then(|| group("target")).transpose()?;
    let weights = track_all(group("weights")?);
    let optimizer = RAdam { step, first: group("first")?, second: group("second")? };
    let seconds = f64::from_bits(number("seconds")?);
    Ok(State { weights, ema: group("ema")?, target, optimizer, critic: critic.transpose()?, seconds })
}

/// Names, shapes and bytes of the tensors of a safetensors file.
#[derive(Default)]
struct Tensors(Vec<(String, Vec<usize>, Vec<u8>)>);

impl Tensors {
    fn push(&mut self, name: String, shape: Vec<usize>, tensor: &Tensor<1>) -> Result<()> {
        let data = tensor.clone().without_autodiff().into_data();
        let values = data.try_to_vec::<f32>().map_err(|e| Error::Gpu(format!("burn: {e:?}")))?;
        self.0.push((name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()));
        Ok(())
    }

    fn serialize(&self, metadata: HashMap<String, String>) -> Result<Vec<u8>> {
        let views = self.0.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape says");
            (name.as_str(), view)
        });
        safetensors::serialize(views, Some(metadata)).map_err(|e| Error::Io(format!("safetensors: {e}")))
    }
}
