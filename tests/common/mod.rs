//! Reading the goldens that `tests/goldens/make.py` made with diffusers, and comparing with them.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use consistency_sampler::Request;
use consistency_sampler::Result;
use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::network::{ForwardInput, Network};
use safetensors::SafeTensors;
use serde_json::Value;

/// A U-Net configuration to train: two levels with attention, 8×8 pixels, two classes.
pub const TINY: &str = r#"{
  "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
  "block_out_channels": [8, 16], "norm_num_groups": 4, "attention_head_dim": 8, "num_class_embeds": 2,
  "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
  "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
  "resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet"
}"#;

/// Runs the command line.
pub fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_consistency-sampler")).args(arguments).output().unwrap()
}

/// Runs, expects failure, and returns the one line that says why.
pub fn error(arguments: &[&str]) -> String {
    let output = run(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{arguments:?} succeeded");
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    let &[line] = lines.as_slice() else { panic!("expected one line of error, found {text:?}") };
    line["error: ".len()..].to_owned()
}

/// Runs a line of `sh`, in which `$1` is the command line's program and further arguments follow.
#[cfg(unix)]
pub fn shell(line: &str, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_consistency-sampler");
    Command::new("sh").args(["-c", line, "sh", program]).args(arguments).output().unwrap()
}

pub fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Every golden checkpoint, with its name.
pub fn checkpoints() -> Vec<(String, ModelFolder)> {
    let mut found: Vec<_> = std::fs::read_dir(goldens())
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("model_index.json").exists())
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), ModelFolder::open(&p).unwrap()))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(found.len() >= 7, "found only {} golden checkpoints", found.len());
    found
}

/// Every model under `weights/`, with where its golden samples are.
pub fn shipped() -> Vec<(PathBuf, ModelFolder)> {
    let weights = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights");
    let models: Vec<_> = std::fs::read_dir(weights)
        .unwrap()
        .map(|e| e.unwrap())
        .map(|e| (goldens().join("shipped").join(e.file_name()), ModelFolder::open(e.path()).unwrap()))
        .collect();
    assert!(!models.is_empty());
    models
}

/// Loads a folder's weights into a network.
pub fn load<N: Network>(mut network: N, folder: &ModelFolder) -> Result<N> {
    folder.load_into(&mut network, |_, _| {})?;
    Ok(network)
}

pub fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// A forward's inputs and diffusers' output.
pub struct Forward {
    pub name: String,
    pub sample: Vec<f32>,
    pub timestep: Vec<f32>,
    pub class_labels: Vec<u32>,
    pub output: Vec<f32>,
}

impl Forward {
    pub fn input(&self) -> ForwardInput<'_> {
        ForwardInput { sample: &self.sample, timestep: &self.timestep, class_labels: &self.class_labels }
    }
}

/// The forwards in a checkpoint's `goldens.safetensors`.
pub fn forwards(checkpoint: &str) -> Vec<Forward> {
    let bytes = std::fs::read(goldens().join(checkpoint).join("goldens.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    ["forward", "forward1", "forward5"]
        .iter()
        .filter(|name| file.names().contains(&format!("{name}.output").as_str()))
        .map(|name| {
            let get = |key: &str| file.tensor(&format!("{name}.{key}")).ok().map(|t| t.data().to_vec());
            let labels = get("class_labels").unwrap_or_default();
            Forward {
                name: format!("{checkpoint} {name}"),
                sample: f32s(&get("sample").unwrap()),
                timestep: f32s(&get("timestep").unwrap()),
                class_labels: labels.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as u32).collect(),
                output: f32s(&get("output").unwrap()),
            }
        })
        .collect()
}

/// One picture that diffusers' pipeline made, and how.
pub struct Sample {
    pub name: String,
    pub seed: u64,
    pub request: Request,
    /// (B, C, H, W) in [0, 1].
    pub images: Vec<f32>,
}

/// The samples described by `{path}.json`, with their images in `{path}.safetensors`.
pub fn samples(path: &Path) -> Vec<Sample> {
    let bytes = std::fs::read(path.with_extension("safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let sample = |case: &Value| {
        let numbers = |key: &str| -> Option<Vec<usize>> {
            Some(case[key].as_array()?.iter().map(|v| v.as_u64().unwrap() as usize).collect())
        };
        let name = case["name"].as_str().unwrap();
        Sample {
            name: format!("{} {name}", path.display()),
            seed: case["seed"].as_u64().unwrap(),
            request: Request {
                noise: case["seed"].as_u64().unwrap().into(),
                batch: case["batch"].as_u64().unwrap() as usize,
                class_labels: numbers("class_labels").map(|l| l.iter().map(|&l| l as u32).collect()),
                timesteps: numbers("timesteps"),
                num_inference_steps: case["num_inference_steps"].as_u64().map(|n| n as usize),
            },
            images: f32s(file.tensor(&format!("{name}.images")).unwrap().data()),
        }
    };
    json(&path.with_extension("json")).as_array().unwrap().iter().map(sample).collect()
}

/// Fails, with both values, where the two differ by more than `tolerance`.
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: lengths differ");
    let worst = (0..found.len()).max_by(|&a, &b| {
        let error = |i: usize| (found[i] - expected[i]).abs();
        error(a).partial_cmp(&error(b)).unwrap_or(std::cmp::Ordering::Greater)
    });
    let Some(i) = worst else { return };
    let error = (found[i] - expected[i]).abs();
    assert!(error <= tolerance, "{what}: found {} at {i}, expected {}: {error} > {tolerance}", found[i], expected[i]);
}
