//! The command line as a person uses it: real files in, real files out, and one-line errors.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;

use common::*;

/// An empty folder of this test's own.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn forward_is_diffusers_forward() {
    let dir = scratch("forward");
    let model = goldens().join("attn-scale-shift");
    let golden = std::fs::read(model.join("goldens.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    let tensors = ["sample", "timestep", "class_labels"].map(|n| (n, golden.tensor(&format!("forward.{n}")).unwrap()));
    let (input, output) = (dir.join("in.safetensors"), dir.join("out.safetensors"));
    safetensors::serialize_to_file(tensors, None, &input).unwrap();
    for device in ["cpu", "gpu"] {
        let ran = run(&[
            "forward",
            "--device",
            device,
            "--model",
            str(&model),
            "--input",
            str(&input),
            "--output",
            str(&output),
        ]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let bytes = std::fs::read(&output).unwrap();
        let found = SafeTensors::deserialize(&bytes).unwrap();
        let found = found.tensor("sample").unwrap();
        let expected = golden.tensor("forward.output").unwrap();
        assert_eq!(found.shape(), expected.shape());
        assert_close(device, &f32s(found.data()), &f32s(expected.data()), 1e-4);
    }
}

#[test]
fn sample_is_diffusers_pipeline() {
    let dir = scratch("sample");
    let model = goldens().join("mnist-shape");
    let case = samples(&model.join("goldens")).remove(1);
    let list = |numbers: &[usize]| numbers.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let (seed, batch) = (case.seed.to_string(), case.request.batch.to_string());
    let labels = case.request.class_labels.unwrap().iter().map(|&l| l as usize).collect::<Vec<_>>();
    let (labels, timesteps) = (list(&labels), list(&case.request.timesteps.unwrap()));
    let tensors = dir.join("out.safetensors");
    let picture = dir.join("grid.png");
    for output in [&tensors, &picture] {
        let ran = run(&[
            "sample",
            "--device",
            "cpu",
            "--model",
            str(&model),
            "--seed",
            &seed,
            "--batch",
            &batch,
            "--class-labels",
            &labels,
            "--timesteps",
            &timesteps,
            "--output",
            str(output),
        ]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
    let bytes = std::fs::read(&tensors).unwrap();
    let found = SafeTensors::deserialize(&bytes).unwrap();
    let found = found.tensor("images").unwrap();
    let expected = case.images;
    assert_eq!(found.shape(), [3, 1, 28, 28]);
    assert_close("images", &f32s(found.data()), &expected, 1e-3);

    // Three samples in rows of two; the fourth place stays black.
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&picture).unwrap()));
    let mut reader = decoder.read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut pixels).unwrap();
    assert_eq!((info.width, info.height, info.color_type), (56, 56, png::ColorType::Grayscale));
    for (b, y, x) in [(0, 3, 20), (1, 27, 0), (2, 14, 14)] {
        let expected = expected[(b * 28 + y) * 28 + x] * 255.0;
        let found = pixels[(b / 2 * 28 + y) * 56 + b % 2 * 28 + x];
        assert!((f32::from(found) - expected).abs() <= 0.8, "sample {b} at {y}, {x}: {found}, expected {expected}");
    }
    assert_eq!(pixels[40 * 56 + 40], 0);
}

#[test]
fn samples_without_an_output_take_a_free_name_beside_the_caller() {
    let dir = scratch("free-name");
    for name in ["samples-7.png", "samples-7-2.png"] {
        let model = goldens().join("mnist-shape");
        let mut command = Command::new(env!("CARGO_BIN_EXE_consistency-sampler"));
        command.current_dir(&dir).args(["sample", "--device", "cpu", "--model", str(&model), "--seed", "7"]);
        let ran = command.output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(String::from_utf8_lossy(&ran.stdout).starts_with(&format!("{name}: ")), "{ran:?}");
        assert!(dir.join(name).is_file());
    }
}

#[test]
fn a_blend_of_seeds_ends_where_the_other_begins() {
    let dir = scratch("blend");
    let model = goldens().join("mnist-shape");
    let sample = |name: &str, options: &[&str]| {
        let output = dir.join(name);
        let fixed =
            ["sample", "--device", "cpu", "--model", str(&model), "--class-labels", "3", "--num-inference-steps", "2"];
        let ran = run(&[&fixed[..], options, &["--output", str(&output)]].concat());
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        std::fs::read(output).unwrap()
    };
    let other = sample("other.safetensors", &["--seed", "2"]);
    let blended =
        |amount: &str| sample("blended.safetensors", &["--seed", "1", "--blend-seed", "2", "--blend-amount", amount]);
    assert!(blended("1") == other);
    assert!(blended("0.9") != other);
    let refused = error(&[
        "sample",
        "--model",
        str(&model),
        "--blend-seed",
        "2",
        "--blend-amount",
        "-1",
        "--output",
        "never.png",
    ]);
    assert_eq!(refused, "amount: expected a number from 0 to 1, found -1");
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let model = goldens().join("mnist-shape");
    let with = |more: &[&str]| {
        let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join("never.png");
        error(&[&["sample", "--device", "cpu", "--model", str(&model), "--output", str(&output)], more].concat())
    };
    assert_eq!(with(&["--class-labels", "10"]), "class labels must be from 0 to 9, found 10");
    assert_eq!(
        with(&["--batch", "4", "--class-labels", "1,2"]),
        "expected one class label, or one for each of 4 samples, found 2"
    );
    assert_eq!(with(&["--batch", "0"]), "batch must be at least 1, found 0");
    assert_eq!(with(&["--timesteps", "0,22"]), "timesteps must descend, found 22 after 0");
    assert_eq!(with(&["--num-inference-steps", "99"]), "num_inference_steps must be from 1 to 40, found 99");
    let unconditional = goldens().join("default-shift");
    assert!(
        error(&[
            "sample",
            "--device",
            "cpu",
            "--model",
            str(&unconditional),
            "--class-labels",
            "1",
            "--output",
            "x.png"
        ])
        .contains("not class-conditional")
    );
    assert!(error(&["sample", "--model", str(&model), "--output", "x.jpg"]).contains("found x.jpg"));
}

#[test]
fn bad_folders_are_named() {
    let dir = scratch("folders");
    let good = goldens().join("mnist-shape");
    let broken = |name: &str, breakage: &dyn Fn(&Path)| {
        let folder = dir.join(name);
        copy_folder(&good, &folder);
        breakage(&folder);
        let message = error(&["sample", "--device", "cpu", "--model", str(&folder), "--output", "never.png"]);
        message.replace(str(&folder), "DIR")
    };
    const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";

    assert!(error(&["sample", "--model", "no/such/folder", "--output", "x.png"]).contains("expected a model folder"));
    for file in ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS] {
        let message = broken("missing", &|f| std::fs::remove_file(f.join(file)).unwrap());
        assert_eq!(message, format!("DIR/{file}: no such file"));
        std::fs::remove_dir_all(dir.join("missing")).unwrap();
    }
    let pickle = broken("pickle", &|f| {
        std::fs::rename(f.join(WEIGHTS), f.join("unet/diffusion_pytorch_model.bin")).unwrap();
    });
    assert!(pickle.contains("convert it by tools/convert_checkpoint.py"), "{pickle}");

    type Change<'a> = &'a dyn Fn(&str, Vec<usize>) -> Option<(String, Vec<usize>)>;
    // Rewrites the weights without, or with another shape of, one tensor.
    let rewrite = |folder: &Path, change: Change<'_>| {
        let bytes = std::fs::read(folder.join(WEIGHTS)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors: Vec<_> = file
            .iter()
            .filter_map(|(name, t)| {
                let (name, shape) = change(name, t.shape().to_vec())?;
                let view = safetensors::tensor::TensorView::new(t.dtype(), shape, t.data()).unwrap();
                Some((name, view))
            })
            .collect();
        safetensors::serialize_to_file(tensors, None, &folder.join(WEIGHTS)).unwrap();
    };
    let missing = broken("tensor", &|f| rewrite(f, &|n, s| (n != "conv_out.bias").then(|| (n.into(), s))));
    assert_eq!(missing, format!("DIR/{WEIGHTS}: missing tensor conv_out.bias: expected shape [1], found none"));
    let shape = broken("shape", &|f| {
        rewrite(f, &|n, s| Some((n.into(), if n == "time_embedding.linear_1.weight" { vec![8, 32] } else { s })));
    });
    assert_eq!(shape, format!("DIR/{WEIGHTS}: time_embedding.linear_1.weight: expected shape [32, 8], found [8, 32]"));
    let extra = broken("extra", &|f| {
        rewrite(f, &|n, s| Some((if n == "conv_in.bias" { "conv_in.offset".into() } else { n.into() }, s)));
    });
    assert!(extra.contains("unexpected tensor conv_in.offset"), "{extra}");
    let truncated = broken("truncated", &|f| {
        let bytes = std::fs::read(f.join(WEIGHTS)).unwrap();
        std::fs::write(f.join(WEIGHTS), &bytes[..bytes.len() - 10]).unwrap();
    });
    assert!(truncated.contains("truncated in"), "{truncated}");
    let option = broken("option", &|f| {
        let config = std::fs::read_to_string(f.join("unet/config.json")).unwrap();
        std::fs::write(f.join("unet/config.json"), config.replacen('{', "{\"attention_type\": \"linear\",", 1))
            .unwrap();
    });
    assert_eq!(option, "unet/config.json: unknown option \"attention_type\"");
}

#[test]
fn folders_as_people_have_them_are_read_or_their_names_explained() {
    let dir = scratch("as-people-have-them");
    let good = goldens().join("mnist-shape");
    let folder = dir.join("model");
    let weights = |variant: &str| folder.join(format!("unet/diffusion_pytorch_model{variant}.safetensors"));
    let sample = |model: &Path| {
        let output = dir.join("out.png");
        run(&["sample", "--device", "cpu", "--model", str(model), "--output", str(&output)])
    };
    let refused = |model: &Path| {
        let output = dir.join("out.png");
        error(&["sample", "--device", "cpu", "--model", str(model), "--output", str(&output)]).replace(str(&dir), "DIR")
    };

    // Any one variant is taken; of several, none.
    for variant in [".bf16", ".non_ema", ".fp16"] {
        let _ = std::fs::remove_dir_all(&folder);
        copy_folder(&good, &folder);
        std::fs::rename(weights(""), weights(variant)).unwrap();
        let ran = sample(&folder);
        assert!(ran.status.success(), "{variant}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    std::fs::rename(weights(".fp16"), weights(".bf16")).unwrap();
    std::fs::copy(weights(".bf16"), weights(".non_ema")).unwrap();
    let several = refused(&folder);
    let names = "unet/diffusion_pytorch_model.bf16.safetensors, unet/diffusion_pytorch_model.non_ema.safetensors";
    assert!(several.contains(&format!("several variants: {names}: rename the one")), "{several}");
    std::fs::remove_file(weights(".bf16")).unwrap();
    std::fs::rename(weights(".non_ema"), folder.join("unet/model.safetensors")).unwrap();
    assert!(refused(&folder).ends_with("(unet/model.safetensors is there: rename it if it holds them)"));
    std::fs::rename(folder.join("unet/model.safetensors"), weights("-00001-of-00002")).unwrap();
    assert!(refused(&folder).ends_with("-00001-of-00002.safetensors is there without the index of its set)"));
    std::fs::rename(weights("-00001-of-00002"), folder.join("unet/model.safetensors")).unwrap();
    std::fs::rename(folder.join("unet/model.safetensors"), weights("")).unwrap();

    // A byte order mark, and what the averaging of weights leaves in the configuration.
    let config = std::fs::read_to_string(folder.join("unet/config.json")).unwrap();
    let averaged = config.replacen('{', "\u{feff}{\"decay\": 0.9999, \"power\": 0.75, \"_name_or_path\": \"x\",", 1);
    std::fs::write(folder.join("unet/config.json"), averaged).unwrap();
    std::fs::write(folder.join("SHA256SUMS"), "\u{feff}# none\r\n").unwrap();
    let ran = sample(&folder);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    std::fs::write(folder.join("scheduler/scheduler_config.json"), b"\xff\xfe{\0}\0").unwrap();
    assert!(refused(&folder).ends_with("scheduler_config.json: expected text in UTF-8, found UTF-16"));

    // Part of a model's folder, or a folder with models in it.
    for part in ["unet", "model_index.json", "unet/diffusion_pytorch_model.safetensors"] {
        let message = refused(&folder.join(part));
        assert!(message.starts_with("DIR/model/") && message.ends_with(": give the folder DIR/model"), "{message}");
    }
    assert_eq!(refused(&dir), "DIR/model_index.json: no such file: give the folder DIR/model");
    copy_folder(&folder.join("unet"), &dir.join("checkpoint/unet_ema"));
    let alone = refused(&dir.join("checkpoint/unet_ema"));
    assert!(alone.ends_with("a U-Net alone, expected it as unet/ beside model_index.json and scheduler/"), "{alone}");
    copy_folder(&folder, &dir.join("snapshots/abc"));
    let message = refused(&dir);
    assert!(message.ends_with(": give one of DIR/model, DIR/snapshots/abc"), "{message}");
    let expected =
        "expected a model folder in the diffusers layout, or an id such as owner/name or owner/name@revision";
    assert_eq!(refused(&dir.join("none")), format!("DIR/none: {expected}, found neither"));
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_said_before_anything_is_computed_and_leaves_no_half_file() {
    let dir = scratch("unwritable");
    let model = goldens().join("mnist-shape");
    let (tensors, full) = (dir.join("out.safetensors"), dir.join("full.png"));
    let sample = |output: &Path| {
        let model = str(&model).to_owned();
        ["sample", "--device", "cpu", "--batch", "64", "--model", &model, "--output", str(output)].map(str::to_owned)
    };
    let with = |line: &str, output: &Path| {
        let arguments = sample(output);
        shell(line, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let below = model.join("model_index.json/out.png");
    let ran = with("\"$@\"", &below);
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.starts_with("error: ") && said.contains("out.png: cannot be written"), "{said}");

    let ran = with("\"$@\"", &model.join("scheduler/../unet/diffusion_pytorch_model.safetensors"));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.contains("lies among the model's weights: name another place"), "{said}");

    // A disk that is full, by a limit on a file's size and by a device.
    std::fs::write(&tensors, "before").unwrap();
    let ran = with("ulimit -f 8; exec \"$@\"", &tensors);
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(!ran.status.success() && said.contains("out.safetensors: cannot be written: File too large"), "{said}");
    assert_eq!(std::fs::read(&tensors).unwrap(), b"before");
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let said = String::from_utf8(with("\"$@\"", &full).stderr).unwrap();
    assert!(said.contains("full.png: cannot be written: No space left on device"), "{said}");
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 2, "no partial file is left");

    // Nobody reads, or nobody can write: the picture is there.
    for line in ["\"$@\" 2>&1 | true", "\"$@\" >&- 2>&-", "\"$@\" >/dev/full 2>/dev/full"] {
        let picture = dir.join("out.png");
        let ran = with(line, &picture);
        assert!(!String::from_utf8_lossy(&ran.stderr).contains("panicked"), "{line}");
        // A file that was read to its end is whole.
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&picture).unwrap())).read_info().unwrap();
        std::fs::remove_file(picture).unwrap();
    }
}

#[test]
fn pictures_that_do_not_fit_are_refused_and_alpha_is_seen_on_black() {
    let dir = scratch("pictures");
    let model = goldens().join("mnist-shape");
    let input = dir.join("in.png");
    let edit = |more: &[&str]| {
        let output = dir.join("out.png");
        let fixed =
            ["edit", "--device", "cpu", "--model", str(&model), "--output", str(&output), "--input", str(&input)];
        run(&[&fixed, more].concat())
    };
    let refused = |bytes: &[u8]| {
        std::fs::write(&input, bytes).unwrap();
        let ran = edit(&["--kind", "stroke"]);
        assert!(!ran.status.success());
        let message = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(message.lines().count(), 1, "{message}");
        message.trim().replace(str(&input), "PNG")
    };
    let png = |[width, height]: [u32; 2], color, depth, data: &[u8]| {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        bytes
    };
    use png::{BitDepth, ColorType};
    assert_eq!(refused(b""), "error: PNG: not a PNG: unexpected end of file");
    assert!(refused(b"GIF89a").contains("not a PNG"));
    let other = png([27, 28], ColorType::Grayscale, BitDepth::Eight, &[0; 27 * 28]);
    assert_eq!(refused(&other), "error: PNG: expected 28×28 pixels, found 28×27");
    // A hundred megapixels, all of them there.
    let huge = png([10_000, 10_000], ColorType::Grayscale, BitDepth::One, &vec![0; 1250 * 10_000]);
    let begin = std::time::Instant::now();
    assert_eq!(refused(&huge), "error: PNG: expected 28×28 pixels, found 10000×10000");
    assert!(begin.elapsed().as_secs() < 30);
    let whole = png([28, 28], ColorType::Grayscale, BitDepth::Eight, &[255; 28 * 28]);
    assert!(refused(&whole[..whole.len() - 20]).contains("damaged PNG"));

    // Half transparent white is the grey of half its level, in any of PNG's forms.
    let forms = [
        png([28, 28], ColorType::GrayscaleAlpha, BitDepth::Eight, &[255, 128].repeat(28 * 28)),
        png([28, 28], ColorType::Rgba, BitDepth::Eight, &[255, 255, 255, 128].repeat(28 * 28)),
        png([28, 28], ColorType::Grayscale, BitDepth::Eight, &[128].repeat(28 * 28)),
    ];
    let results = forms.map(|bytes| {
        std::fs::write(&input, bytes).unwrap();
        let ran = edit(&["--kind", "denoise", "--sigma", "0.5", "--class-labels", "3"]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        std::fs::read(dir.join("out.png")).unwrap()
    });
    assert!(results[0] == results[2] && results[1] == results[2]);
}

#[test]
fn numbers_out_of_range_are_refused_in_one_line() {
    let model = goldens().join("mnist-shape");
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join("never.png");
    let sample = ["sample", "--device", "cpu", "--model", str(&model), "--output", str(&output)];
    for option in ["--seed", "--batch", "--class-labels", "--num-inference-steps", "--timesteps"] {
        for value in ["NaN", "", "1.5", "1e3", "99999999999999999999999", "-99999999999999999999999", "inf"] {
            let ran = run(&[&sample[..], &[&format!("{option}={value}")]].concat());
            assert!(!ran.status.success(), "{option} {value}");
            let message = String::from_utf8(ran.stderr).unwrap();
            assert!(message.starts_with("error: ") && !message.contains("panicked"), "{option} {value}: {message}");
        }
    }
    let with = |more: &[&str]| error(&[&sample[..], more].concat());
    assert!(with(&["--batch", "18446744073709551615"]).starts_with("batch must be at most "));
    assert!(with(&["--batch", "1000000"]).starts_with("batch must be at most 85598 for images of 28×28"));
    assert_eq!(with(&["--class-labels", "4294967295"]), "class labels must be from 0 to 9, found 4294967295");
    assert!(with(&["--timesteps", "5,5"]).contains("descend"));
    assert!(with(&["--timesteps", "40,0"]).contains("below num_train_timesteps 40"));
    assert!(with(&["--num-inference-steps", "0"]).contains("from 1 to 40"));
}

/// The commands that are compiled in.
fn commands() -> impl Iterator<Item = &'static str> {
    let trainer: &[&str] = if cfg!(feature = "train") { &["train", "evaluate"] } else { &[] };
    ["sample", "edit", "forward", "convert", "completions"].into_iter().chain(trainer.iter().copied())
}

#[test]
fn every_command_has_an_example_of_options_that_it_has() {
    let help = |command: &str| String::from_utf8(run(&[command, "--help"]).stdout).unwrap();
    for command in commands() {
        let text = help(command);
        let (options, example) = text.split_once("\nExample").unwrap_or_else(|| panic!("{command}: {text}"));
        assert!(example.contains(&format!("consistency-sampler {command} ")), "{example}");
        for option in example.split_whitespace().filter(|word| word.starts_with("--")) {
            assert!(options.contains(option), "{command} has no {option}: {options}");
        }
    }
}

#[test]
fn shells_get_a_script_that_names_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run(&["completions", shell]);
        let script = String::from_utf8(ran.stdout).unwrap();
        for command in commands() {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    assert!(error(&["completions", "cmd"]).contains("invalid value 'cmd'"));
}
