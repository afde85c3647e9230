//! Editing against an independent NumPy version of the algorithm, on every interpreter, and from the command line.

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::consistency::edit::{LUMA, denoise, edit};
use consistency_sampler::consistency::noise::slerp;
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::consistency::schedule::Schedule;
use consistency_sampler::image::{from_rgba, to_unit};
use consistency_sampler::network::Network;
use consistency_sampler::{BatchNoise, Edit, EditRequest, Noise, Pipeline, Progress, Request, Task};
use safetensors::SafeTensors;
use serde_json::Value;

use common::*;

/// Four network calls, each within 1e-4 of diffusers'.
const TOLERANCE: f32 = 1e-3;

fn numbers(case: &Value, key: &str) -> Vec<f64> {
    case[key].as_array().unwrap_or(&Vec::new()).iter().map(|v| v.as_f64().unwrap()).collect()
}

fn edits_match<N: Network>(new: impl Fn(&ModelFolder) -> N) {
    let bytes = std::fs::read(goldens().join("edits.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let cases = json(&goldens().join("edits.json"));
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 11);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let folder = ModelFolder::open(goldens().join(case["checkpoint"].as_str().unwrap())).unwrap();
        let mut network = load(new(&folder), &folder).unwrap();
        let tensor = |key: &str| f32s(file.tensor(&format!("{name}.{key}")).unwrap().data());
        let (y, expected) = (tensor("y"), tensor("x"));
        let labels: Vec<u32> = numbers(case, "class_labels").iter().map(|&l| l as u32).collect();
        let sigmas = numbers(case, "sigmas");
        let kind = match case["kind"].as_str().unwrap() {
            "inpaint" => Edit::Inpaint { hole: numbers(case, "hole").iter().map(|&h| h == 1.0).collect() },
            "colorize" => Edit::Colorize,
            "super-resolution" => Edit::SuperResolution { patch: case["patch"].as_u64().unwrap() as usize },
            "stroke" => Edit::Stroke,
            "denoise" => {
                let run = denoise(&mut network, &folder.scheduler, sigmas[0], &y, &labels);
                assert_close(name, &pollster::block_on(run).unwrap(), &expected, TOLERANCE);
                continue;
            }
            "interpolate" => {
                let noise = |seed: f64| {
                    let mut z = vec![0.0; y.len() / 2];
                    Generator::new(seed as u64).randn(&mut z);
                    z
                };
                let seeds = numbers(case, "seeds");
                let (a, b) = (noise(seeds[0]), noise(seeds[1]));
                let high = folder.scheduler.sigma_max;
                let between = numbers(case, "shares").into_iter().flat_map(|share| slerp(&a, &b, share));
                let x: Vec<f32> = between.map(|z| z * high as f32).collect();
                let run = denoise(&mut network, &folder.scheduler, high, &x, &labels);
                assert_close(name, &pollster::block_on(run).unwrap(), &expected, TOLERANCE);
                continue;
            }
            other => panic!("{other}"),
        };
        let schedule = Schedule::from_sigmas(&folder.scheduler, &sigmas).unwrap();
        let mut generator = Generator::new(case["seed"].as_u64().unwrap());
        let noise = |z: &mut [f32]| generator.randn(z);
        let next = |_: Progress<'_>| ControlFlow::Continue(());
        let run = edit(&mut network, &folder.unet, &kind, &schedule, &y, &labels, noise, next);
        assert_close(name, &pollster::block_on(run).unwrap(), &expected, TOLERANCE);
    }
}

#[test]
fn edits_match_on_the_cpu() {
    edits_match(|f| consistency_sampler::cpu::CpuUNet::new(&f.unet));
}

#[cfg(feature = "burn")]
#[test]
fn edits_match_on_burn() {
    edits_match(|f| consistency_sampler::burn::BurnUNet::on_cpu(&f.unet));
}

#[test]
fn edits_match_on_the_gpu() {
    use consistency_sampler::gpu::{Gpu, GpuUNet};
    let gpu = pollster::block_on(Gpu::request()).expect("a GPU adapter, be it a software one");
    edits_match(|f| GpuUNet::new(&gpu, &f.unet).unwrap());
}

/// The whole way from pixels and options to pixels.
#[test]
fn requests_match_on_the_cpu() {
    let bytes = std::fs::read(goldens().join("requests.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let cases = json(&goldens().join("requests.json"));
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 15);
    for case in cases.iter().filter(|case| case["method"] != "denoise") {
        let name = case["name"].as_str().unwrap();
        let folder = ModelFolder::open(goldens().join(case["checkpoint"].as_str().unwrap())).unwrap();
        let unet = &folder.unet;
        let network = load(consistency_sampler::cpu::CpuUNet::new(unet), &folder).unwrap();
        let mut pipeline = Pipeline::new(network, folder.scheduler.clone());
        let options = &case["options"];
        let picture =
            |key: &str, channels: usize| from_rgba(file.tensor(&format!("{name}.{key}")).unwrap().data(), channels);
        let own = Noise::Seed(options["seed"].as_u64().unwrap());
        let noise = match options["blend"].as_object() {
            None => own,
            Some(blend) => {
                let other = Noise::Seed(blend["seed"].as_u64().unwrap());
                Noise::between(own, other, blend["amount"].as_f64().unwrap())
            }
        };
        let request = Request {
            noise: BatchNoise::Shared(noise),
            batch: options["count"].as_u64().unwrap() as usize,
            class_labels: Some(numbers(options, "classLabels").iter().map(|&l| l as u32).collect()),
            timesteps: options["timesteps"]
                .is_array()
                .then(|| numbers(options, "timesteps").iter().map(|&t| t as usize).collect()),
            num_inference_steps: None,
        };
        let channels = unet.in_channels;
        let sigma = || options["sigma"].as_f64().unwrap();
        let task = match options["kind"].as_str() {
            None => None,
            Some("inpaint") => {
                Some(Task::Edit(Edit::Inpaint { hole: picture("mask", 1).iter().map(|&v| v > 0.0).collect() }))
            }
            Some("colorize") => Some(Task::Edit(Edit::Colorize)),
            Some("super-resolution") => {
                Some(Task::Edit(Edit::SuperResolution { patch: options["patch"].as_u64().unwrap() as usize }))
            }
            Some("stroke") => Some(Task::Edit(Edit::Stroke)),
            Some("denoise") => Some(Task::Denoise { sigma: sigma() }),
            Some("interpolate") => Some(Task::Interpolate {
                to: picture("to", channels),
                sigma: sigma(),
                amounts: Some(numbers(options, "amounts")),
            }),
            Some(other) => panic!("{other}"),
        };
        let mut seen = Vec::new();
        let next = |p: Progress<'_>| {
            seen = p.denoised.to_vec();
            ControlFlow::Continue(())
        };
        let found = match task {
            None => pollster::block_on(pipeline.sample_with(&request, next)),
            Some(task) => {
                let edit = EditRequest { task, picture: picture("image", channels), request };
                let found = pollster::block_on(pipeline.edit_with(&edit, next)).unwrap();
                kept(name, &edit, &found, unet.sample_size[1]);
                Ok(found)
            }
        };
        let found = found.unwrap();
        assert_eq!(found, seen, "{name}: what the last step showed");
        let found: Vec<f32> = found.iter().map(|&v| to_unit(v)).collect();
        assert_close(name, &found, &f32s(file.tensor(&format!("{name}.images")).unwrap().data()), TOLERANCE);
    }
}

/// Asserts that each picture keeps what its edit keeps: pixels exactly, means and lumas to 1e-4.
fn kept(name: &str, edit: &EditRequest, found: &[f32], width: usize) {
    let y = &edit.picture;
    for x in found.chunks_exact(y.len()) {
        match &edit.task {
            Task::Edit(Edit::Inpaint { hole }) => {
                for i in (0..y.len()).filter(|i| !hole[i % hole.len()]) {
                    assert_eq!(x[i], y[i], "{name}: pixel {i}");
                }
            }
            Task::Edit(Edit::Colorize) => {
                let plane = y.len() / 3;
                let luma = |x: &[f32], i: usize| (0..3).map(|c| LUMA[c] * x[c * plane + i]).sum::<f32>();
                (0..plane).for_each(|i| assert!((luma(x, i) - luma(y, i)).abs() < 1e-4, "{name}: luma of pixel {i}"));
            }
            &Task::Edit(Edit::SuperResolution { patch }) => {
                let mean = |x: &[f32], row: usize, column: usize| {
                    let pixel = |i: usize| x[(row * patch + i / patch) * width + column * patch + i % patch];
                    (0..patch * patch).map(pixel).sum::<f32>() / (patch * patch) as f32
                };
                for (row, column) in (0..y.len() / width / patch).flat_map(|r| (0..width / patch).map(move |c| (r, c)))
                {
                    let (found, wanted) = (mean(x, row, column), mean(y, row, column));
                    assert!((found - wanted).abs() < 1e-4, "{name}: patch {row}, {column}: {found}, expected {wanted}");
                }
            }
            _ => (),
        }
    }
}

/// A folder of one test's files.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("consistency-sampler-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes an 8-bit PNG.
    fn png(&self, name: &str, [width, height]: [u32; 2], color: png::ColorType, bytes: &[u8]) -> String {
        let path = self.path(name);
        let mut encoder = png::Encoder::new(std::fs::File::create(&path).unwrap(), width, height);
        encoder.set_color(color);
        encoder.write_header().unwrap().write_image_data(bytes).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn read_png(path: &str) -> (u32, u32, Vec<u8>) {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    (info.width, info.height, bytes)
}

fn model(name: &str) -> String {
    goldens().join(name).to_str().unwrap().to_owned()
}

#[test]
fn the_command_line_keeps_what_the_mask_leaves() {
    let scratch = Scratch::new("inpaint");
    let picture: Vec<u8> = (0..28 * 28).map(|i| (i * 7 % 256) as u8).collect();
    let mask: Vec<u8> = (0..28 * 28).map(|i| if i % 28 < 10 { 255 } else { 0 }).collect();
    let input = scratch.png("in.png", [28, 28], png::ColorType::Grayscale, &picture);
    let mask = scratch.png("mask.png", [28, 28], png::ColorType::Grayscale, &mask);
    let (model, output) = (model("mnist-shape"), scratch.path("out.png"));
    let arguments = ["edit", "--device", "cpu", "--model", &model, "--kind", "inpaint", "--input", &input];
    let rest = ["--mask", &mask, "--seed", "1", "--class-labels", "3", "--output", &output];
    let done = run(&[&arguments[..], &rest[..]].concat());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let (width, height, found) = read_png(&output);
    assert_eq!((width, height), (28, 28));
    let differ = |inside: bool| (0..784).filter(|i| (i % 28 < 10) == inside && found[*i] != picture[*i]).count();
    assert_eq!(differ(false), 0, "pixels outside the hole");
    assert!(differ(true) > 100, "pixels in the hole are generated");
}

#[test]
fn every_kind_writes_its_pictures() {
    let scratch = Scratch::new("kinds");
    let colors: Vec<u8> = (0..16 * 16 * 3).map(|i| (i * 11 % 256) as u8).collect();
    let input = scratch.png("in.png", [16, 16], png::ColorType::Rgb, &colors);
    let grey: Vec<u8> = (0..16 * 16).map(|i| (i * 5 % 256) as u8).collect();
    let other = scratch.png("other.png", [16, 16], png::ColorType::Grayscale, &grey);
    let (model, output) = (model("attn-scale-shift"), scratch.path("out.png"));
    for (kind, options, size) in [
        ("colorize", &["--batch", "4"][..], (32, 32)),
        ("super-resolution", &["--patch", "4"], (16, 16)),
        ("stroke", &[], (16, 16)),
        ("denoise", &["--sigma", "0.5"], (16, 16)),
        ("interpolate", &["--to", &other, "--batch", "5"], (80, 16)),
    ] {
        let arguments = ["edit", "--device", "cpu", "--model", &model, "--kind", kind, "--input", &input];
        let rest = ["--class-labels", "1", "--output", &output];
        let done = run(&[&arguments[..], options, &rest[..]].concat());
        assert!(done.status.success(), "{kind}: {}", String::from_utf8_lossy(&done.stderr));
        let (width, height, _) = read_png(&output);
        assert_eq!((width, height), size, "{kind}");
        std::fs::remove_file(&output).unwrap();
    }
}

#[test]
fn mistakes_are_named() {
    let scratch = Scratch::new("mistakes");
    let small = scratch.png("small.png", [14, 28], png::ColorType::Grayscale, &[0; 14 * 28]);
    let input = scratch.png("in.png", [28, 28], png::ColorType::Rgba, &[128; 28 * 28 * 4]);
    let text = scratch.path("text.png");
    std::fs::write(&text, "no picture").unwrap();
    let (model, output) = (model("mnist-shape"), scratch.path("out.png"));
    let refused = |input: &str, options: &[&str]| {
        error(&[&["edit", "--model", &model, "--output", &output, "--input", input, "--kind"], options].concat())
    };
    assert!(refused(&small, &["stroke"]).ends_with("small.png: expected 28×28 pixels, found 28×14"));
    assert!(refused(&text, &["stroke"]).contains("text.png: not a PNG"));
    assert!(refused("nowhere.png", &["stroke"]).ends_with("nowhere.png: no such file"));
    assert_eq!(refused(&input, &["inpaint"]), "--mask is needed, found none");
    assert_eq!(refused(&input, &["colorize"]), "colorize: expected a model of 3 channels, found 1");
    assert_eq!(
        refused(&input, &["super-resolution", "--patch", "5"]),
        "patch: expected a divisor of 28 and 28, found 5"
    );
    assert_eq!(refused(&input, &["denoise", "--sigma", "90"]), "sigma: expected 0.002 to 80, found 90");
    assert_eq!(refused(&input, &["stroke", "--patch", "7"]), "--patch: --kind stroke has no such option");
    assert!(!Path::new(&output).exists());
}
