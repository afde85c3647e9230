//! The networks that are measured, as files for each runtime: a diffusers folder and two ONNX graphs.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::model::unet::{Parameter, UNet};
use safetensors::tensor::{Dtype, TensorView};

use super::onnx::{self, Style};

/// A network for 32×32 RGB with attention at 16×16 and 8×8: 6 803 715 parameters, and diffusers' defaults elsewhere.
const RGB32: &str = r#"{
  "_class_name": "UNet2DModel",
  "sample_size": 32,
  "in_channels": 3,
  "out_channels": 3,
  "block_out_channels": [64, 128, 128],
  "layers_per_block": 2,
  "attention_head_dim": 64,
  "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
  "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]
}
"#;
const MODEL_INDEX: &str = r#"{"_class_name": "ConsistencyModelPipeline"}"#;
const SCHEDULER: &str = r#"{"_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 40}"#;

/// Seed of the random weights.
const SEED: u64 = 0;

/// Writes the random network's folder and both networks' graphs into `target`; `mnist` is the shipped model's folder.
pub fn write(target: &Path, mnist: &Path) -> Result<()> {
    let rgb32 = target.join("rgb32");
    random_folder(&rgb32)?;
    for (name, folder) in [("mnist", mnist), ("rgb32", &rgb32)] {
        let folder = ModelFolder::open(folder)?;
        let parameters = UNet::new(&folder.unet).parameters();
        let mut weights = HashMap::new();
        folder.read_weights(&parameters, |_, _| {}, &mut |name, values| {
            weights.insert(name.to_owned(), values.to_vec());
            Ok(())
        })?;
        for (style, suffix) in [(Style::Fused, "fused"), (Style::Plain, "plain")] {
            let file = target.join(format!("{name}-{suffix}.onnx"));
            write_file(&file, &onnx::export(&folder.unet, &weights, style))?;
        }
    }
    Ok(())
}

/// A diffusers folder with random weights that keep activations of about unit size.
fn random_folder(folder: &Path) -> Result<()> {
    write_file(&folder.join("model_index.json"), MODEL_INDEX.as_bytes())?;
    write_file(&folder.join("unet/config.json"), RGB32.as_bytes())?;
    write_file(&folder.join("scheduler/scheduler_config.json"), SCHEDULER.as_bytes())?;
    let unet = UNet::new(&ModelFolder::open(folder)?.unet);
    let mut generator = Generator::new(SEED);
    let tensors: Vec<(Parameter, Vec<u8>)> = unet
        .parameters()
        .into_iter()
        .map(|parameter| {
            let values = random_values(&mut generator, &parameter);
            (parameter, values.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(parameter, bytes)| Ok((&parameter.name, TensorView::new(Dtype::F32, parameter.shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    write_file(
        &folder.join("unet/diffusion_pytorch_model.safetensors"),
        &safetensors::serialize(views, None).context("cannot serialize the random weights")?,
    )
}

/// Matrices and kernels N(0, 1/fan-in), the scales of norms N(1, 0.1²), everything else N(0, 0.1²).
fn random_values(generator: &mut Generator, parameter: &Parameter) -> Vec<f32> {
    let mut values = vec![0.0; parameter.shape.iter().product()];
    generator.randn(&mut values);
    let (mean, deviation) = match parameter.shape.as_slice() {
        [_] if parameter.name.ends_with(".weight") => (1.0, 0.1),
        [_] => (0.0, 0.1),
        [_, inner @ ..] => (0.0, (inner.iter().product::<usize>() as f32).sqrt().recip()),
        [] => unreachable!("no parameter is a scalar"),
    };
    values.iter_mut().for_each(|v| *v = mean + deviation * *v);
    values
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::create_dir_all(path.parent().expect("a file in a folder"))?;
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use consistency_sampler::model::config::UNetConfig;

    use super::*;

    #[test]
    fn the_random_network_has_the_parameters_that_its_name_stands_for() {
        let config = UNetConfig::parse(RGB32).unwrap();
        assert_eq!(UNet::new(&config).parameter_count(), 6_803_715);
    }
}
