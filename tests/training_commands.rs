//! The commands `train` and `evaluate`, on a tiny network and a folder of PNGs.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::train::classifier::Classifier;
use consistency_sampler::train::data::Source;

use common::*;

fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with a configuration and `data/`: ten dark images of class `a`, ten bright ones of class `b`.
fn scratch(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    for (class, grey) in [("a", 20u8), ("b", 200)] {
        let folder = path.join("data").join(class);
        fs::create_dir_all(&folder).unwrap();
        for i in 0..10 {
            let file = File::create(folder.join(format!("{i}.png"))).unwrap();
            let mut encoder = png::Encoder::new(file, 8, 8);
            encoder.set_color(png::ColorType::Grayscale);
            let pixels: Vec<u8> =
                (0..64).map(|p| grey + u8::wrapping_add(u8::wrapping_mul(p, 7), i * 13) % 40).collect();
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
        }
    }
    fs::write(path.join("config.json"), TINY).unwrap();
    path
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_model_is_trained_resumed_sampled_and_evaluated() {
    let dir = scratch("train");
    let (data, config, model) = (dir.join("data"), dir.join("config.json"), dir.join("model"));
    let train = |more: &[&'static str]| {
        let fixed =
            ["train", "--recipe", "ect", "--data", str(&data), "--output", str(&model), "--config", str(&config)];
        [&fixed[..], &["--batch", "4", "--stages", "0,1"], more].concat()
    };
    succeed(&train(&["--iterations", "5"]));
    assert!(error(&train(&["--iterations", "8"])).contains("holds a run: continue it with --resume"));
    let other = error(&train(&["--iterations", "8", "--resume", "--seed", "1"]));
    assert_eq!(other, "--seed: the run has 0, found 1");
    succeed(&train(&["--iterations", "8", "--resume"]));
    let csv = fs::read_to_string(model.join("training/loss.csv")).unwrap();
    let iterations: Vec<&str> = csv.lines().map(|l| l.split(',').next().unwrap()).collect();
    assert_eq!(iterations, ["iteration", "1", "2", "3", "4", "5", "6", "7", "8"]);
    for steps in [1, 2] {
        let reader = png::Decoder::new(std::io::BufReader::new(
            File::open(model.join(format!("training/samples-final-{steps}.png"))).unwrap(),
        ));
        let info = reader.read_info().unwrap();
        assert_eq!((info.info().width, info.info().height), (16, 32), "two classes, four samples of each");
    }

    let picture = dir.join("picture.png");
    succeed(&["sample", "--device", "cpu", "--model", str(&model), "--output", str(&picture), "--class-labels", "1"]);
    assert!(picture.exists());

    let classifier = dir.join("classifier.safetensors");
    let (training, _) = Source::open_split(&data, 0).unwrap();
    Classifier::train(&training, 60, 0, |_, _| {}).write(&classifier).unwrap();
    let evaluate = ["evaluate", "--device", "cpu", "--model", str(&model), "--data", str(&data), "--samples", "20"];
    let more = ["--num-inference-steps", "2", "--classifier", str(&classifier), "--json"];
    let text = succeed(&[&evaluate[..], &more].concat());
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key} in {text}"));
    assert_eq!((number("samples"), number("network_calls"), number("seed")), (20.0, 2.0, 0.0));
    assert_eq!(number("classifier_accuracy"), 1.0, "dark and bright are told apart");
    assert!((0.0..=1.0).contains(&number("class_accuracy")));
    let report = dir.join("reports/evaluation.html");
    let more = ["--edm-steps", "3", "--classifier", str(&classifier), "--json", "--report", str(&report)];
    let text = succeed(&[&evaluate[..], &more].concat());
    let html = fs::read_to_string(&report).unwrap();
    assert_is_self_contained(&html);
    for expected in ["class accuracy", "Fréchet distance", "copies in pixels", "--edm-steps", "not chosen"] {
        assert!(html.contains(expected), "{expected} in {html}");
    }
    let rows = html.split("<table class=\"matrix\">").nth(1).unwrap().split("</table>").next().unwrap();
    let counts = rows.split("%\">").skip(1).map(|cell| cell.split('<').next().unwrap().parse::<usize>().unwrap());
    assert_eq!(counts.sum::<usize>(), 20, "every sample is taken for a class");
    let among = model.join("unet/report.html");
    let refused = error(&[&evaluate[..], &["--report", str(&among)]].concat());
    assert_eq!(refused, format!("--report: {} lies among the model's weights: name another place", str(&among)));
    assert!(text.contains("\"network_calls\":5"), "{text}");
    assert!(number("frechet") > 0.0 && number("frechet_floor") > 0.0);
    assert!(number("copies") <= 20.0 && number("copies_in_features") <= 20.0);
}

/// Checks that a report asks for no other file.
#[test]
fn without_a_recipe_a_denoiser_is_trained_and_distilled() {
    let dir = scratch("planned");
    let (data, model) = (dir.join("pictures"), dir.join("mine"));
    // Mixed sizes; one is too small.
    for (class, width, height) in
        [("dark", 40, 30), ("dark", 33, 35), ("bright", 64, 29), ("bright", 31, 31), ("bright", 9, 9)]
    {
        fs::create_dir_all(data.join(class)).unwrap();
        let file = File::create(data.join(class).join(format!("{width}.png"))).unwrap();
        let mut encoder = png::Encoder::new(file, width, height);
        encoder.set_color(png::ColorType::Rgb);
        let value = if class == "dark" { 20 } else { 230 };
        let pixels = vec![value; (3 * width * height) as usize];
        encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    }
    let fixed = ["train", "--data", str(&data), "--output", str(&model)];
    let train = |more: &[&str]| {
        let ran = run(&[&fixed[..], more].concat());
        let said = String::from_utf8(ran.stderr).unwrap();
        assert!(ran.status.success(), "{said}");
        said
    };
    let small = ["--size", "28", "--iterations", "5"];
    let said = train(&small);
    assert!(said.contains("plan: pictures of 28×28, a network of "), "{said}");
    assert!(said.contains("left out: bright/9.png (9×9 pixels)"), "{said}");
    for folder in [model.join("denoiser"), model.clone()] {
        let found = ModelFolder::open(&folder).unwrap();
        assert_eq!((found.unet.sample_size, found.class_names().unwrap().len()), ([28, 28], 2));
    }
    let rows =
        |folder: &str| fs::read_to_string(model.join(folder).join("training/loss.csv")).unwrap().lines().count() - 1;
    assert_eq!((rows("denoiser"), rows("")), (3, 2));
    assert!(error(&[&fixed[..], &small].concat()).contains("holds a run: continue it with --resume"));
    train(&["--iterations", "10", "--resume"]);
    assert_eq!((rows("denoiser"), rows("")), (3, 4), "what is distilled stays as it is");

    let refused = |more: &[&str]| error(&[&fixed[..], more].concat());
    assert_eq!(refused(&["--iterations", "12", "--resume", "--size", "32"]), "--size: the run has 28, found 32");
    // Minutes in place of iterations change nothing in the network.
    train(&["--minutes", "0.0001", "--resume"]);
    assert_eq!(refused(&["--iterations", "1"]), "--iterations: expected at least 2 without --recipe, found 1");
    assert_eq!(refused(&["--minutes", "-1"]), "--minutes: expected a positive number, found -1");
    let guidance = refused(&["--iterations", "2", "--guidance", "2"]);
    assert_eq!(guidance, "--guidance: expected --recipe too, found none");
    let other = dir.join("other");
    let fixed = ["train", "--data", str(&data), "--output", str(&other), "--iterations", "2"];
    let size = error(&[&fixed[..], &["--size", "30"]].concat());
    assert_eq!(size, "--size: expected a multiple of 4 from 8 to 256, found 30");
    let with_size = [&fixed[..], &["--size", "28", "--lr", "1"]].concat();
    assert_eq!(run(&with_size).status.code(), Some(2), "--lr needs --recipe");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("training"), "").unwrap();
    let blocked = error(&fixed);
    assert!(
        blocked.starts_with("--output: expected a folder at ") && blocked.ends_with("training, found a file"),
        "{blocked}"
    );
}

fn assert_is_self_contained(html: &str) {
    for (at, source) in html.match_indices("src=\"") {
        assert!(html[at + source.len()..].starts_with("data:image/png;base64,iVBOR"), "{}", &html[at..at + 60]);
    }
    for other in ["http:", "https:", "<script", "<link", "url("] {
        assert!(!html.contains(other), "{other} in {html}");
    }
}

#[test]
fn a_run_has_a_report_with_its_curves_its_pictures_and_its_settings() {
    let dir = scratch("report");
    fs::rename(dir.join("data/b"), dir.join("data/R&D's")).unwrap();
    let file = dir.join("m&m/training/report.html");
    let train = |more: &[&str]| run(&words(&train_on(&dir, "data", "m&m", more)));
    let report = |more: &[&str]| {
        let ran = train(more);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let html = fs::read_to_string(&file).unwrap();
        assert_is_self_contained(&html);
        let loss = html.split("<svg").nth(1).unwrap().split("</svg>").next().unwrap().to_owned();
        let points = loss.split("class=\"faint\" d=\"").nth(1).unwrap().split("h0").next().unwrap().split('L').count();
        (html, loss, points)
    };
    let (html, loss, points) = report(&["--iterations", "4"]);
    assert_eq!(points, 4);
    assert!(loss.contains(">stage 1</text>"), "{loss}");
    for expected in [
        "<h1>m&amp;m</h1>",
        "4, 100 % of the run",
        "samples-final-2.png: two network calls, a column for each class: R&amp;D&#39;s, a",
        "<th scope=\"row\">--lr</th><td>0.0001</td>",
        "<th scope=\"row\">unet/config.json, norm_num_groups</th><td>4</td>",
    ] {
        assert!(html.contains(expected), "{expected} in {html}");
    }
    assert!(!html.contains("R&D's"));
    assert_eq!(html.matches("<img ").count(), 3, "samples of one and two calls, and data");
    let (html, _, points) = report(&["--iterations", "6", "--resume"]);
    assert_eq!(points, 6);
    assert!(html.contains("6, 100 % of the run"), "{html}");

    // A report that cannot be written ends no run.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let ran = train(&["--iterations", "7", "--resume"]);
    let said = String::from_utf8(ran.stderr).unwrap();
    let expected = "training/report.html: cannot be written: expected a file, found a folder";
    assert!(ran.status.success() && said.contains("the run goes on, but ") && said.contains(expected), "{said}");
    let csv = fs::read_to_string(dir.join("m&m/training/loss.csv")).unwrap();
    assert_eq!(csv.lines().count(), 8);
}

/// The arguments of a run on `data/` in a folder of [`scratch`].
fn train_on(dir: &Path, data: &str, output: &str, more: &[&str]) -> Vec<String> {
    let [data, output, config] = [data, output, "config.json"].map(|name| str(&dir.join(name)).to_owned());
    let fixed = ["train", "--recipe", "ect", "--stages", "0,1", "--data", &data, "--output", &output];
    let fixed = fixed.into_iter().chain(["--config", &config, "--batch", "4"]);
    fixed.chain(more.iter().copied()).map(str::to_owned).collect()
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

#[test]
fn a_run_on_a_gpu_has_the_losses_of_one_on_the_cpu() {
    let dir = scratch("train-gpu");
    let losses = |device: &str| -> Vec<f64> {
        let more = ["--iterations", "4", "--device", device];
        succeed(&words(&train_on(&dir, "data", device, &more)));
        let csv = fs::read_to_string(dir.join(device).join("training/loss.csv")).unwrap();
        csv.lines().skip(1).map(|line| line.split(',').nth(2).unwrap().parse().unwrap()).collect()
    };
    let (cpu, gpu) = (losses("cpu"), losses("gpu"));
    assert_eq!((cpu.len(), gpu.len()), (4, 4));
    for (found, expected) in gpu.iter().zip(&cpu) {
        assert!((found - expected).abs() <= 1e-3 * expected, "found {gpu:?}, expected {cpu:?}");
    }
}

#[test]
fn a_resumed_run_has_the_settings_and_the_data_that_it_was_begun_with() {
    let dir = scratch("other-runs");
    succeed(&words(&train_on(&dir, "data", "model", &["--iterations", "1"])));
    let resumed = |data: &str, more: &[&str]| {
        error(&words(&train_on(&dir, data, "model", &[&["--iterations", "2", "--resume"], more].concat())))
    };
    for (more, expected) in [
        (["--lr", "0.002"], "--lr: the run has 0.0001, found 0.002"),
        (["--batch", "5"], "--batch: the run has 4, found 5"),
        (["--optimizer", "muon"], "--optimizer: the run has radam, found muon"),
        (["--p-mean", "-1"], "--p-mean: the run has -1.1, found -1"),
        (["--weighting", "even"], "--weighting: the run has gap, found even"),
    ] {
        let (option, value) = (more[0], more[1]);
        let changed = if option == "--batch" {
            let mut all = train_on(&dir, "data", "model", &["--iterations", "2", "--resume"]);
            let at = all.iter().position(|word| word == "--batch").unwrap();
            all[at + 1] = value.into();
            error(&words(&all))
        } else {
            resumed("data", &more)
        };
        assert_eq!(changed, expected);
    }
    let renamed = dir.join("renamed");
    let copy = |to: &Path| {
        let _ = fs::remove_dir_all(to);
        for class in ["a", "b"] {
            fs::create_dir_all(to.join(class)).unwrap();
            (0..10).for_each(|i| {
                let name = format!("{class}/{i}.png");
                fs::copy(dir.join("data").join(&name), to.join(name)).unwrap();
            });
        }
    };
    copy(&renamed);
    fs::rename(renamed.join("b"), renamed.join("c")).unwrap();
    assert_eq!(resumed("renamed", &[]), "--data, class 1: the run has b, found c");
    copy(&renamed);
    fs::remove_file(renamed.join("a/3.png")).unwrap();
    assert_eq!(resumed("renamed", &[]), "--data, images: the run has 20, found 19");
    copy(&renamed);
    fs::copy(renamed.join("a/1.png"), renamed.join("a/2.png")).unwrap();
    assert!(resumed("renamed", &[]).starts_with("--data, hash of the images: the run has "));
    let config = fs::read_to_string(dir.join("config.json")).unwrap();
    fs::write(dir.join("config.json"), config.replace("\"norm_num_groups\": 4", "\"norm_num_groups\": 8")).unwrap();
    assert_eq!(resumed("data", &[]), "unet/config.json, norm_num_groups: the run has 4, found 8");
}

#[test]
fn a_run_overwrites_nothing_but_itself() {
    let dir = scratch("overwrite");
    let model = dir.join("model");
    succeed(&words(&train_on(&dir, "data", "model", &["--iterations", "1"])));
    let read = || fs::read(model.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    let before = read();
    let refused = |output: &str, source: &[&str]| {
        let (data, output) = (dir.join("data"), dir.join(output));
        let fixed = ["train", "--recipe", "ect", "--data", str(&data), "--output", str(&output), "--iterations", "1"];
        error(&[&fixed[..], source].concat()).replace(str(&dir), "DIR")
    };
    let init = ["--init", str(&model)];
    let expected = "is --init, which would be overwritten: name another folder";
    assert_eq!(refused("model", &init), format!("--output: DIR/model {expected}"));
    assert_eq!(refused("data/../model", &init), format!("--output: DIR/data/../model {expected}"));
    let teacher = [&init[..], &["--teacher", str(&model)]].concat();
    assert!(refused("model/", &teacher).contains("is --teacher, which would be overwritten"));
    assert_eq!(
        refused("data/model", &init),
        "--output: DIR/data/model would be read as a class: name a folder outside of --data"
    );
    fs::remove_dir_all(model.join("training")).unwrap();
    let config = dir.join("config.json");
    let other = refused("model", &["--config", str(&config)]);
    assert!(other.starts_with("DIR/model holds a model that is no run of this trainer"), "{other}");
    assert!(before == read());
}

#[cfg(unix)]
#[test]
fn a_run_that_is_asked_to_stop_is_saved_and_a_second_request_ends_it_at_once() {
    use std::io::Read as _;
    use std::process::{Child, Command, Stdio};
    let dir = scratch("stopped");
    let start = |output: &str, more: &[&str]| -> Child {
        let arguments = train_on(&dir, "data", output, more);
        let mut command = Command::new(env!("CARGO_BIN_EXE_consistency-sampler"));
        command.args(arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    };
    let signal = |child: &Child, name: &str| {
        assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
    };
    // The first iteration's line says that the loop runs.
    let wait_for_begin = |child: &mut Child| {
        let (stderr, mut text) = (child.stderr.as_mut().unwrap(), Vec::new());
        while !String::from_utf8_lossy(&text).contains("iteration 1 ") {
            let mut byte = [0];
            assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&text));
            text.push(byte[0]);
        }
    };
    let last = |output: &str| {
        let csv = fs::read_to_string(dir.join(output).join("training/loss.csv")).unwrap();
        csv.lines().last().unwrap().split(',').next().unwrap().parse::<u64>().unwrap()
    };
    for (name, status) in [("-INT", 130), ("-TERM", 143)] {
        let output = format!("run{name}");
        let mut child = start(&output, &["--iterations", "1000000"]);
        wait_for_begin(&mut child);
        // Twice at once, as `timeout` does, is once.
        let twice = format!("kill {name} {0} && kill {name} {0}", child.id());
        assert!(Command::new("sh").args(["-c", &twice]).status().unwrap().success());
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(status), "{said}");
        let step = last(&output);
        assert!(said.ends_with(&format!("stopped and saved at iteration {step}; --resume continues\n")), "{said}");
        let two_more = (step + 2).to_string();
        succeed(&words(&train_on(&dir, "data", &output, &["--iterations", &two_more, "--resume"])));
        assert_eq!(last(&output), step + 2);
    }
    // Iterations of several seconds, so that the second request comes before the first is answered.
    let mut arguments = train_on(&dir, "data", "twice", &["--iterations", "1000000"]);
    let at = arguments.iter().position(|word| word == "--batch").unwrap();
    arguments[at + 1] = "30000".into();
    let mut command = Command::new(env!("CARGO_BIN_EXE_consistency-sampler"));
    let mut child = command.args(&arguments).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    wait_for_begin(&mut child);
    signal(&child, "-INT");
    std::thread::sleep(std::time::Duration::from_millis(1300));
    signal(&child, "-TERM");
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(143), "{said}");
    assert!(said.contains("stopping after this iteration"), "{said}");
    assert!(!String::from_utf8_lossy(&ended.stderr).contains("stopped and saved"));
    assert!(!dir.join("twice/training/state.safetensors").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_outlives_its_readers_and_a_full_disk_spoils_no_file() {
    let dir = scratch("outlives");
    let shell = |line: &str, output: &str, more: &[&str]| shell(line, &words(&train_on(&dir, "data", output, more)));
    shell("\"$@\" 2>&1 | head -n 1", "piped", &["--iterations", "70"]);
    let state = dir.join("piped/training/state.safetensors");
    let csv = fs::read_to_string(dir.join("piped/training/loss.csv")).unwrap();
    assert_eq!(csv.lines().count(), 71, "every iteration was trained after head had enough");
    assert!(state.exists() && dir.join("piped/training/samples-final-2.png").exists());

    // A grid that cannot be written ends no run.
    std::os::unix::fs::symlink("/dev/full", dir.join("piped/training/samples-000072.png")).unwrap();
    for grid in ["samples-000072-1.png", "samples-000072-2.png"] {
        std::os::unix::fs::symlink("/dev/full", dir.join("piped/training").join(grid)).unwrap();
    }
    let ran = shell("\"$@\"", "piped", &["--iterations", "74", "--resume", "--grid-every", "72"]);
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.success() && said.contains("the run goes on, but "), "{said}");
    assert!(said.contains("samples-000072-1.png: cannot be written: No space left on device"), "{said}");

    // What cannot be saved in the end is an error, and the state before it is whole.
    let before = fs::read(&state).unwrap();
    let ran = shell("ulimit -f 60; exec \"$@\"", "piped", &["--iterations", "75", "--resume"]);
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(!ran.status.success() && said.contains("state.safetensors: cannot be written: File too large"), "{said}");
    assert!(before == fs::read(&state).unwrap());
    assert!(!dir.join("piped/training/state.safetensors.partial").exists());
    succeed(&words(&train_on(&dir, "data", "piped", &["--iterations", "75", "--resume"])));
}

#[test]
fn files_made_of_a_runs_weights_do_not_outlive_them() {
    let dir = scratch("derived");
    let model = dir.join("model");
    succeed(&words(&train_on(&dir, "data", "model", &["--iterations", "1"])));
    let convert = ["convert", "--model", str(&model), "--output", str(&model), "--samples", "0", "--precision"];
    ["f16", "int8"].iter().for_each(|precision| drop(succeed(&[&convert[..], &[precision]].concat())));
    let ran = run(&words(&train_on(&dir, "data", "model", &["--iterations", "2", "--resume"])));
    let said = String::from_utf8(ran.stderr).unwrap();
    let removed =
        "unet/diffusion_pytorch_model.fp16.safetensors, unet/diffusion_pytorch_model.int8.safetensors, SHA256SUMS";
    assert!(
        ran.status.success() && said.contains(&format!("removed, for it was made of earlier weights: {removed}")),
        "{said}"
    );
    let mut left: Vec<_> = fs::read_dir(model.join("unet")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["config.json", "diffusion_pytorch_model.safetensors"]);
    assert!(!model.join("SHA256SUMS").exists());
}

#[test]
fn data_is_counted_and_what_would_shift_labels_is_refused() {
    let dir = scratch("counted");
    let data = dir.join("data");
    for litter in [".ipynb_checkpoints", "__MACOSX"] {
        fs::create_dir(data.join(litter)).unwrap();
        fs::copy(data.join("a/1.png"), data.join(litter).join("1.png")).unwrap();
    }
    fs::write(data.join(".DS_Store"), "").unwrap();
    fs::write(data.join("a/notes.txt"), "").unwrap();
    let ran = run(&words(&train_on(&dir, "data", "model", &["--iterations", "1"])));
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(ran.status.success(), "{said}");
    assert!(
        said.starts_with("data: 20 images of 8×8 in grey: a 10, b 10\nleft out: a/notes.txt (neither PNG nor JPEG)\n"),
        "{said}"
    );
    fs::create_dir(data.join("aa")).unwrap();
    let refused = error(&words(&train_on(&dir, "data", "model2", &["--iterations", "1"])));
    assert!(refused.ends_with("data/aa: expected images of the class, found none"), "{refused}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_judge_that_cannot_be_kept_is_said_before_it_is_trained() {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Command, Stdio};
    let dir = scratch("judge");
    let (data, model) = (dir.join("data"), dir.join("model"));
    succeed(&words(&train_on(&dir, "data", "model", &["--iterations", "1"])));
    let evaluate = ["evaluate", "--device", "cpu", "--model", str(&model), "--data", str(&data), "--samples", "4"];
    let refused = error(&[&evaluate[..], &["--classifier", "/proc/none/classifier"]].concat());
    assert!(refused.starts_with("/proc/none/classifier: cannot be written: "), "{refused}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_consistency-sampler"));
    command.args(evaluate).env("XDG_CACHE_HOME", "/proc/none").stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    let said: Vec<String> = lines.take_while(|line| !line.starts_with("classifier: iteration 250")).collect();
    assert!(said.iter().any(|line| line.starts_with("the classifier is not kept: /proc/none/")), "{said:?}");
    assert!(!said.iter().any(|line| line.starts_with("error")), "{said:?}");
    child.kill().unwrap();
    child.wait().unwrap();

    // Nor is one of other classes: the model's first is `a`.
    fs::rename(data.join("b"), data.join("A")).unwrap();
    let refused = error(&evaluate);
    assert_eq!(refused, "--model: expected class 0 to be A as in --data, found a");
    let student = train_on(&dir, "data", "student", &["--iterations", "1", "--teacher", str(&model)]);
    assert_eq!(error(&words(&student)), "--teacher: expected class 0 to be A as in --data, found a");
    fs::rename(data.join("A"), data.join("b")).unwrap();

    // A judge of other images is no judge of these.
    let file = dir.join("classifier.safetensors");
    let (training, _) = Source::open_split(&data, 0).unwrap();
    Classifier::train(&training, 1, 0, |_, _| {}).write(&file).unwrap();
    fs::copy(data.join("a/1.png"), data.join("a/2.png")).unwrap();
    let refused = error(&[&evaluate[..], &["--classifier", str(&file)]].concat());
    assert!(refused.contains("classifier.safetensors: expected a classifier of these images ("), "{refused}");
}

#[test]
fn guided_teachers_are_distilled_by_ect_cd_and_dmd() {
    let dir = scratch("guided");
    let (data, config) = (dir.join("data"), dir.join("config.json"));
    let (teacher, student) = (dir.join("teacher"), dir.join("student"));
    let train = |recipe: &'static str, output: &Path, more: &[&str]| {
        let fixed = ["train", "--data", str(&data), "--batch", "4", "--iterations", "3", "--optimizer", "muon"];
        succeed(&[&fixed[..], &["--recipe", recipe, "--output", str(output)], more].concat());
    };
    train("edm", &teacher, &["--config", str(&config), "--class-dropout", "0.5"]);
    let guided = ["--teacher", str(&teacher), "--guidance", "2", "--guidance-interval", "0.1,10"];
    train("ect", &student, &[&["--init", str(&teacher)], &guided[..]].concat());
    train("cd", &dir.join("cd"), &[&["--init", str(&teacher)], &guided[..]].concat());
    train("dmd", &dir.join("dmd"), &[&["--init", str(&teacher)], &guided[..]].concat());
    let (weaker, led) = (dir.join("weaker"), dir.join("led"));
    train("edm", &weaker, &["--config", str(&config), "--seed", "1"]);
    let guide = ["--init", str(&teacher), "--guide", str(&weaker)];
    train("ect", &led, &[&guide[..], &guided[..]].concat());
    let read = |model: &Path| fs::read(model.join("unet/diffusion_pytorch_model.safetensors")).unwrap();
    assert_ne!(read(&teacher), read(&student));
    assert_ne!(read(&student), read(&led), "the guide changes the student");
    let other = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/mnist-shape");
    let fixed = ["train", "--data", str(&data), "--iterations", "3", "--recipe", "ect", "--output", str(&dir)];
    let refused = error(&[&fixed[..], &["--init", str(&teacher), "--guide", str(&other)], &guided[..]].concat());
    let expected = "guide: expected 1 channels of 8×8 and 2 classes, found 1 channels of 28×28 and 10 classes";
    assert_eq!(refused, expected);
}

#[test]
fn bad_requests_are_refused_in_one_line() {
    let dir = scratch("refused");
    let (data, config, model) = (dir.join("data"), dir.join("config.json"), dir.join("model"));
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/mnist-shape");
    let train = |recipe: &str, more: &[&str]| {
        let fixed = ["train", "--recipe", recipe, "--data", str(&data), "--output", str(&model), "--iterations", "1"];
        error(&[&fixed[..], more].concat())
    };
    let from = ["--config", str(&config)];
    let with = |more: &[&'static str]| train("ect", &[&from[..], more].concat());
    assert_eq!(with(&["--lr", "0"]), "--lr: expected a positive number, found 0");
    assert_eq!(with(&["--ema", "1.5"]), "--ema: expected 0 to 1, found 1.5");
    assert_eq!(with(&["--batch", "0"]), "--batch: expected at least 1, found 0");
    assert_eq!(with(&["--stages", "3,1"]), "--stages: expected the first not above the last, found 3,1");
    assert_eq!(with(&["--stages", "3"]), "--stages: expected two numbers, found 1");
    assert_eq!(with(&["--q", "1"]), "--q: expected above 1, found 1");
    assert_eq!(with(&["--class-dropout", "2"]), "--class-dropout: expected 0 to 1, found 2");
    assert_eq!(with(&["--guidance", "-1"]), "--guidance: expected a number of at least 0, found -1");
    let interval = with(&["--guidance-interval", "4,1"]);
    assert_eq!(interval, "--guidance-interval: expected LOW,HIGH with 0 ≤ LOW ≤ HIGH, found 4,1");
    let guide = with(&["--guide", "anything"]);
    assert_eq!(guide, "--guide: expected --guidance too, and not of 1, which is none");
    assert_eq!(with(&["--guidance", "2"]), "guidance needs a teacher, found none");
    assert!(with(&["--resume"]).contains("nothing to resume"));
    assert_eq!(train("cd", &from), "distillation needs a teacher, found none");
    assert_eq!(train("dmd", &from), "distillation needs a teacher, found none");
    assert_eq!(with(&["--critic-lr", "0"]), "--critic-lr: expected a positive number, found 0");
    assert!(train("ect", &["--init", str(&dir)]).contains("model_index.json: no such file"));
    fs::write(&config, TINY.replace("\"sample_size\": 8", "\"sample_size\": 16")).unwrap();
    let small = train("ect", &from);
    assert!(small.contains("a: expected a picture of 16×16 pixels or more, found none of 10: a/"), "{small}");
    fs::write(&config, TINY.replace("\"num_class_embeds\": 2", "\"num_class_embeds\": 1")).unwrap();
    assert_eq!(train("ect", &from), "--data: expected at most 1 classes, found 2");
    let edm = ["evaluate", "--model", str(&goldens), "--data", str(&data), "--edm-steps", "1"];
    assert_eq!(error(&edm), "--edm-steps: expected at least 2, found 1");
    let guided = ["evaluate", "--model", str(&goldens), "--data", str(&data), "--guidance", "2"];
    assert_eq!(error(&guided), "--guidance: expected --edm-steps too, since only a denoiser is guided");
    assert!(!model.exists(), "a refused run leaves nothing behind");
    let evaluate = error(&["evaluate", "--model", str(&dir), "--data", str(&data)]);
    assert!(evaluate.contains("model_index.json: no such file"), "{evaluate}");
}
