//! `consistency-sampler convert` on the shipped models: smaller files, the same pictures to the eye, on both devices.

mod common;

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use common::*;

/// The least signal-to-noise ratio of pictures in [0, 1], in decibels, at which a change cannot be seen.
const PSNR: f64 = 40.0;

const F32: &str = "unet/diffusion_pytorch_model.safetensors";

fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    path
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/mnist")
}

fn succeeds(arguments: &[&str]) -> String {
    let ran = run(arguments);
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).unwrap()
}

/// Eight samples of one call, in [0, 1].
fn pictures(model: &Path, device: &str, output: &Path) -> Vec<f32> {
    let [model, file] = [model, output].map(|p| p.to_str().unwrap());
    succeeds(&["sample", "--model", model, "--device", device, "--batch", "8", "--seed", "5", "--output", file]);
    let bytes = std::fs::read(output).unwrap();
    f32s(SafeTensors::deserialize(&bytes).unwrap().tensor("images").unwrap().data())
}

fn psnr(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    10.0 * (a.len() as f64 / squares).log10()
}

/// The shipped model in a folder of the test's own.
fn converted(precision: &str, test: &str) -> PathBuf {
    let output = scratch(&format!("convert-{precision}-{test}"));
    let (model, to) = (shipped(), output.to_str().unwrap());
    let arguments = ["convert", "--model", model.to_str().unwrap(), "--device", "cpu", "--precision", precision];
    let said = succeeds(&[&arguments[..], &["--output", to, "--samples", "4"]].concat());
    assert!(said.contains("error of the weights") && said.contains("PSNR"), "{said}");
    output
}

#[test]
fn shipped_models_keep_their_pictures_in_fewer_bits() {
    let exact = pictures(&shipped(), "cpu", &scratch("convert-exact.safetensors"));
    let full = std::fs::metadata(shipped().join("unet/diffusion_pytorch_model.safetensors")).unwrap().len();
    for (precision, name, bytes) in [("f16", "fp16", 0.51), ("int8", "int8", 0.28)] {
        let folder = converted(precision, "pictures");
        let file = folder.join(format!("unet/diffusion_pytorch_model.{name}.safetensors"));
        let size = std::fs::metadata(&file).unwrap().len();
        assert!((size as f64) < bytes * full as f64, "{precision}: {size} of {full} bytes");
        for device in ["cpu", "gpu"] {
            let output = scratch(&format!("convert-{precision}-{device}.safetensors"));
            let psnr = psnr(&exact, &pictures(&folder, device, &output));
            println!("{precision} on {device}: {psnr:.1} dB");
            assert!(psnr >= PSNR, "{precision} on {device}: expected at least {PSNR} dB, found {psnr:.1}");
        }
    }
}

#[test]
fn eight_bit_weights_are_off_by_half_a_scale_at_most() {
    let folder = converted("int8", "scales");
    let exact = std::fs::read(shipped().join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let exact = SafeTensors::deserialize(&exact).unwrap();
    let stored = std::fs::read(folder.join("unet/diffusion_pytorch_model.int8.safetensors")).unwrap();
    let stored = SafeTensors::deserialize(&stored).unwrap();
    for (name, tensor) in exact.tensors() {
        let values = f32s(tensor.data());
        let found = stored.tensor(&name).unwrap();
        assert_eq!(found.shape(), tensor.shape(), "{name}");
        if tensor.shape().len() < 2 {
            assert_eq!((found.dtype(), f32s(found.data())), (Dtype::F32, values), "{name}");
            continue;
        }
        assert_eq!(found.dtype(), Dtype::I8, "{name}");
        let scales = f32s(stored.tensor(&format!("{name}_scale")).unwrap().data());
        let length = values.len() / scales.len();
        for (i, (&v, &q)) in values.iter().zip(found.data()).enumerate() {
            let scale = scales[i / length];
            assert!((v - f32::from(q as i8) * scale).abs() <= 0.5001 * scale, "{name} at {i}");
        }
    }
}

#[test]
fn existing_files_are_kept_and_values_beyond_half_precision_are_named() {
    let folder = converted("f16", "kept");
    let (model, to) = (shipped(), folder.to_str().unwrap());
    let arguments = ["convert", "--model", model.to_str().unwrap(), "--precision", "f16", "--output", to];
    let refused = error(&arguments);
    assert!(refused.contains("fp16.safetensors: expected a new folder, found converted weights"), "{refused}");

    // A model with one weight beyond half precision.
    let large = scratch("convert-large");
    for name in ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"] {
        std::fs::create_dir_all(large.join(name).parent().unwrap()).unwrap();
        std::fs::copy(model.join(name), large.join(name)).unwrap();
    }
    let mut bytes = std::fs::read(model.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let end = bytes.len() - 4;
    bytes[end..].copy_from_slice(&1e6f32.to_le_bytes());
    std::fs::write(large.join("unet/diffusion_pytorch_model.safetensors"), bytes).unwrap();
    let output = scratch("convert-refused");
    let (model, to) = (large.to_str().unwrap(), output.to_str().unwrap());
    let refused = error(&["convert", "--model", model, "--precision", "f16", "--output", to]);
    assert!(refused.contains("1000000 is too large for half precision, at most 65504"), "{refused}");
    assert!(!output.exists(), "a conversion that fails leaves nothing");
}

#[test]
fn a_conversion_within_the_models_folder_is_compared_with_what_it_was_made_of() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/mnist-shape");
    let model = scratch("in-place");
    for file in ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", F32] {
        std::fs::create_dir_all(model.join(file).parent().unwrap()).unwrap();
        std::fs::copy(goldens.join(file), model.join(file)).unwrap();
    }
    let folder = model.to_str().unwrap();
    let said = succeeds(&["convert", "--model", folder, "--precision", "int8", "--output", folder, "--device", "cpu"]);
    let (_, rest) = said.split_once("PSNR ").unwrap();
    let psnr: f64 = rest.split(' ').next().unwrap().parse().unwrap();
    assert!((PSNR..200.0).contains(&psnr), "{said}");
}

#[test]
fn the_sums_list_all_that_was_converted_and_another_model_is_refused() {
    let folder = converted("f16", "sums");
    let to = folder.to_str().unwrap();
    let convert = |model: &Path, precision: &'static str| {
        let model = model.to_str().unwrap().to_owned();
        ["convert", "--model", &model, "--precision", precision, "--output", to, "--samples", "0"].map(str::to_owned)
    };
    let words = |line: &[String]| run(&line.iter().map(String::as_str).collect::<Vec<_>>());
    std::fs::write(folder.join("README.md"), "mine").unwrap();
    let sums = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let mine = format!("{:064x}  README.md\n", 7);
    std::fs::write(folder.join("SHA256SUMS"), sums.clone() + &mine).unwrap();
    assert!(words(&convert(&shipped(), "int8")).status.success());
    let all = std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let mut lines: Vec<&str> = all.lines().collect();
    assert!(sums.lines().chain(mine.lines()).all(|line| lines.contains(&line)), "{all}");
    lines.retain(|line| !line.ends_with("README.md"));
    assert_eq!(lines.len(), 5, "three configurations, two files of weights: {all}");
    for line in lines {
        let (sum, name) = line.split_once("  ").unwrap();
        let bytes = std::fs::read(folder.join(name)).unwrap();
        assert_eq!(sum, format!("{:x}", <sha2::Sha256 as sha2::Digest>::digest(bytes)), "{name}");
    }

    // The same configuration with other weights, as a model that was trained from this one has it.
    let other = scratch("convert-other");
    for name in ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"] {
        std::fs::create_dir_all(other.join(name).parent().unwrap()).unwrap();
        std::fs::copy(shipped().join(name), other.join(name)).unwrap();
    }
    let mut bytes = std::fs::read(shipped().join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(other.join("unet/diffusion_pytorch_model.safetensors"), bytes).unwrap();
    let ran = words(&convert(&other, "f32"));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(
        said.contains("expected a new folder or one of this model, found weights that were not made of it"),
        "{said}"
    );
    std::fs::write(other.join("model_index.json"), r#"{"_class_name": "ConsistencyModelPipeline"}"#).unwrap();
    let said = String::from_utf8(words(&convert(&other, "f32")).stderr).unwrap();
    assert!(said.contains("model_index.json: expected a new folder or one of this model, found another"), "{said}");
    assert_eq!(std::fs::read_to_string(folder.join("SHA256SUMS")).unwrap(), all);
    assert!(!folder.join("unet/diffusion_pytorch_model.safetensors").exists());
}

#[test]
fn golden_checkpoints_give_the_bytes_that_the_page_saves() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let expected = std::fs::read(tests.join("conversions.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
    let mut found = serde_json::Map::new();
    for (model, precisions) in expected.as_object().unwrap() {
        let hashes = precisions.as_object().unwrap().keys().map(|precision| {
            let (from, output) = (tests.join("goldens").join(model), scratch(&format!("golden-{model}-{precision}")));
            let [from, to] = [&from, &output].map(|path| path.to_str().unwrap());
            succeeds(&["convert", "--model", from, "--precision", precision, "--output", to, "--samples", "0"]);
            let sums = std::fs::read_to_string(output.join("SHA256SUMS")).unwrap();
            let line = sums.lines().find(|line| line.ends_with(".safetensors")).unwrap();
            (precision.clone(), line[..64].into())
        });
        found.insert(model.clone(), serde_json::Value::Object(hashes.collect()));
    }
    assert_eq!(serde_json::Value::Object(found), expected);
}
