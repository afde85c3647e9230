//! The commands `train` and `evaluate`, on a tiny network and a folder of PNGs.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

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
            let pixels: Vec<u8> = (0..64).map(|p| grey + (p * 7 + i * 13) % 40).collect();
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
    assert!(model.join("training/loss.png").exists());
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
    let (training, _) = Source::open_split(&data).unwrap();
    Classifier::train(&training, 60, 0, |_, _| {}).write(&classifier).unwrap();
    let evaluate = ["evaluate", "--device", "cpu", "--model", str(&model), "--data", str(&data), "--samples", "20"];
    let more = ["--num-inference-steps", "2", "--classifier", str(&classifier), "--json"];
    let text = succeed(&[&evaluate[..], &more].concat());
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| json[key].as_f64().unwrap_or_else(|| panic!("{key} in {text}"));
    assert_eq!((number("samples"), number("network_calls"), number("seed")), (20.0, 2.0, 0.0));
    assert_eq!(number("classifier_accuracy"), 1.0, "dark and bright are told apart");
    assert!((0.0..=1.0).contains(&number("class_accuracy")));
    let text = succeed(&[&evaluate[..], &["--edm-steps", "3", "--classifier", str(&classifier), "--json"]].concat());
    assert!(text.contains("\"network_calls\":5"), "{text}");
    assert!(number("frechet") > 0.0 && number("frechet_floor") > 0.0);
    assert!(number("copies") <= 20.0 && number("copies_in_features") <= 20.0);
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
    assert!(refused.starts_with("guide: expected channels, size and classes"), "{refused}");
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
    assert_eq!(train("ect", &from), "--data: expected images [C,H,W] [1, 16, 16], found [1, 8, 8]");
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
