//! `consistency-sampler evaluate`.

use std::path::{Path, PathBuf};

use clap::Args;
use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::file::check_writable;
use consistency_sampler::image::png::encode_grid;
use consistency_sampler::model::config::UNetConfig;
use consistency_sampler::train::classifier::{Classifier, FEATURES};
use consistency_sampler::train::data::{Flatness, Source};
use consistency_sampler::train::data_folder::{animals, check_class_names, check_shape, side};
use consistency_sampler::train::dataset::Dataset;
use consistency_sampler::train::denoiser::Engine;
use consistency_sampler::train::evaluation::{Moments, copies, frechet_distance};
use consistency_sampler::train::record::Record;
use consistency_sampler::train::teacher::{Guidance, Teacher};
use consistency_sampler::{AnyNetwork, Error, Pipeline, Precision, Request, Result};
use indicatif::ProgressBar;

use crate::console::{note, note_left_out, print};
use crate::device::{ModelArguments, PrecisionArguments, style};
use crate::guidance::GuidanceArguments;
use crate::report::{Report, number};

/// Iterations of the classifier's training; on MNIST 6.4 epochs. For large images, which take longer, a third of them.
fn classifier_iterations([_, height, width]: [usize; 3]) -> usize {
    if height * width > 32 * 32 { 1000 } else { 3000 }
}

/// Samples or images in one call of a network.
const BATCH: usize = 100;
/// Samples in the report, and in a row of it.
const SHOWN: usize = 96;
const COLUMNS: usize = 16;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    precision: PrecisionArguments,

    /// The training data: MNIST's IDX files, PNGs or JPEGs with a sub-folder for each class, or the masks of animals
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Number of samples, of the classes in the proportions of the training data
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    samples: usize,

    /// Number of evenly spaced network calls [default: 1]
    #[arg(long, value_name = "K", conflicts_with = "timesteps")]
    num_inference_steps: Option<usize>,

    /// Explicit timesteps as diffusers takes them: descending, 0 (σ_max) last, e.g. 25,0
    #[arg(long, value_name = "T,…", value_delimiter = ',')]
    timesteps: Option<Vec<usize>>,

    /// The model is an EDM denoiser: integrate its ODE in this many steps, 2·STEPS − 1 calls, on the CPU
    #[arg(long, value_name = "STEPS", conflicts_with_all = ["num_inference_steps", "timesteps"])]
    edm_steps: Option<usize>,

    #[command(flatten)]
    guidance: GuidanceArguments,

    /// Seed of the samples
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// The classifier; it is trained and written there if there is no such file [default: in the user's cache]
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// An HTML file to write as well: the figures and what they mean, samples, and which classes are taken for which
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let folder = arguments.model.folder(&arguments.precision)?;
    let guidance = arguments.guidance.guidance()?;
    check(arguments, &folder, &guidance)?;
    let (train, test) = Source::open_split(&arguments.data, side(&folder.unet))?;
    note(format_args!("data: {}; {} more to test", train.summary(), test.len()));
    note_left_out(&train.left_out);
    check_data(&folder, &train)?;
    if train.classes.len() == 1 {
        note(
            "the data have one class, which a classifier learns nothing from: the Fréchet distance in its features means little",
        );
    }
    check_class_names("--model", &folder, &train.classes)?;
    if let Some(report) = &arguments.report {
        arguments.model.check_output(&folder, "--report", report)?;
    }
    let file = classifier_file(arguments, &train)?;
    let guide =
        arguments.guidance.guide().map(|model| arguments.model.hub.open(model, Some(Precision::F32))).transpose()?;
    let mut sampler = match arguments.edm_steps {
        Some(steps) => Sampler::Edm(
            Box::new(Teacher::read(folder.path(), guide.as_ref().map(ModelFolder::path), &Engine::Cpu)?),
            steps,
            guidance,
        ),
        None => Sampler::Consistency(Box::new(arguments.model.pipeline(&folder)?)),
    };
    let classifier = classifier(file, &train)?;

    let real = classify(&classifier, &train, "training images");
    let held_out = classify(&classifier, &test, "test images");
    let moments = Moments::new(&real.features, FEATURES);
    let floor = frechet_distance(&Moments::new(&held_out.features, FEATURES), &moments);

    let labels = train.proportional_labels(arguments.samples);
    let found = samples(arguments, &folder, &mut sampler, &classifier, &labels, train.classes.len())?;
    let distance = frechet_distance(&Moments::new(&found.features, FEATURES), &moments);
    let dim: usize = train.shape.iter().product();
    let flatness = animals(&arguments.data, folder.unet.sample_size[0])?.map(|animals| animals.flatness(&found.images));
    // Of composed pictures the data is all that can be composed: a sample that is one of them is right, and no copy.
    let copied = flatness
        .is_none()
        .then(|| [copies(&found.images, &real.images, dim), copies(&found.features, &real.features, FEATURES)]);
    let calls = match arguments.edm_steps {
        Some(steps) => 2 * steps - 1,
        None => arguments.request(&folder.unet, 0, &[0]).schedule(&folder.scheduler)?.steps.len(),
    };
    let figures = Figures {
        class_accuracy: folder.unet.num_class_embeds.map(|_| found.accuracy()),
        distance,
        floor,
        copied,
        flatness,
        samples: found.count,
        training_images: real.count,
        test_images: held_out.count,
        calls,
        classifier_accuracy: held_out.accuracy(),
    };
    match arguments.json {
        true => print(figures.json(arguments.seed))?,
        false => figures.lines(arguments.seed).iter().try_for_each(print)?,
    }
    let Some(path) = &arguments.report else { return Ok(()) };
    let device = match &mut sampler {
        Sampler::Consistency(pipeline) => pipeline.network().device(),
        Sampler::Edm(..) => "CPU",
    };
    write_report(path, &figures, &found, &train, arguments, device)
}

/// Writes the HTML file of [`Arguments::report`].
fn write_report(
    path: &Path,
    figures: &Figures,
    found: &Classified,
    data: &Dataset,
    arguments: &Arguments,
    device: &str,
) -> Result<()> {
    let model = arguments.model.name();
    let name = model.file_name().unwrap_or(model.as_os_str()).to_string_lossy();
    let version = concat!("consistency-sampler ", env!("CARGO_PKG_VERSION"), " evaluate");
    let line = format!("{version}: {} samples in {} network calls each", number(figures.samples as f64), figures.calls);
    let mut report = Report::new(&format!("Evaluation of {name}"), &line);
    report.table(&["figure", "samples", "reference", "what it means"], &figures.rows());

    report.heading("Samples");
    let ([channels, height, width], shown) = (data.shape, SHOWN.min(found.count));
    let size = channels * height * width;
    let image = |i: usize| &found.images[i * found.count / shown * size..][..size];
    let images: Vec<f32> = (0..shown).flat_map(image).copied().collect();
    let caption = format!("{shown} of {}, evenly spaced in the order of their classes, not chosen", found.count);
    report.picture(&caption, &encode_grid([shown, channels, height, width], COLUMNS, &images)?);

    if figures.class_accuracy.is_some() {
        report.confusion(&data.classes, &found.confusion);
    }
    report.heading("Settings");
    report.table(&[], &arguments.settings(data, device));
    report.write(path)?;
    note(format_args!("report: {}", path.display()));
    Ok(())
}

/// What was measured.
struct Figures {
    /// Share of the samples that the classifier takes for their class, if they have classes.
    class_accuracy: Option<f64>,
    /// Fréchet distance of the samples from the training images.
    distance: f64,
    /// Fréchet distance of the test images from the training images.
    floor: f64,
    /// Copies of training images in pixels and in features.
    copied: Option<[usize; 2]>,
    flatness: Option<Flatness>,
    samples: usize,
    training_images: usize,
    test_images: usize,
    /// Network calls of a sample.
    calls: usize,
    /// Share of the test images that the classifier takes for their class.
    classifier_accuracy: f64,
}

impl Figures {
    fn json(&self, seed: u64) -> serde_json::Value {
        serde_json::json!({
            "class_accuracy": self.class_accuracy,
            "frechet": self.distance,
            "frechet_floor": self.floor,
            "copies": self.copied.map(|[in_pixels, _]| in_pixels),
            "copies_in_features": self.copied.map(|[_, in_features]| in_features),
            "ground_deviation": self.flatness.map(|f| f.ground_deviation),
            "ground_in_palette": self.flatness.map(|f| f.ground_in_palette),
            "fur_in_palette": self.flatness.map(|f| f.fur_in_palette),
            "samples": self.samples,
            "network_calls": self.calls,
            "seed": seed,
            "classifier_accuracy": self.classifier_accuracy,
        })
    }

    fn lines(&self, seed: u64) -> Vec<String> {
        let Self { distance, floor, .. } = self;
        let mut lines = vec![format!("{} samples in {} network calls each, seed {seed}", self.samples, self.calls)];
        lines.extend(self.class_accuracy.map(|share| format!("class accuracy     {:.2} %", 100.0 * share)));
        lines.push(format!("Fréchet distance   {distance:.3} ({:.2} × the floor {floor:.3})", distance / floor));
        if let Some([in_pixels, in_features]) = self.copied {
            lines.push(format!("copies             {in_pixels} in pixels, {in_features} in features"));
        }
        if let Some(flatness) = self.flatness {
            let [ground, fur] = [flatness.ground_in_palette, flatness.fur_in_palette].map(|share| 100.0 * share);
            lines.push(format!("ground deviation   {:.2} of 255", flatness.ground_deviation));
            lines.push(format!("in the palette     {ground:.1} % of grounds, {fur:.1} % of furs"));
        }
        lines.push(format!("(classifier        {:.2} % on the test images)", 100.0 * self.classifier_accuracy));
        lines
    }

    /// For each figure its name, the samples' value, one to compare it with, and what it means.
    fn rows(&self) -> Vec<[String; 4]> {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let row = |name: &str, value: String, reference: String, meaning: &str| {
            [name.to_owned(), value, reference, meaning.to_owned()]
        };
        let mut rows = vec![];
        rows.extend(self.class_accuracy.map(|share| {
            let reference = format!("{} of the test images", percent(self.classifier_accuracy));
            let meaning = "Share that the classifier takes for the class that was asked for. More is better.";
            row("class accuracy", percent(share), reference, meaning)
        }));
        let meaning = "Distance of the means and covariances of the classifier's features from those of the training images. \
                       The reference is the floor, the distance of the test images. Less is better; it grows with fewer samples.";
        let (distance, floor) = (self.distance, self.floor);
        let value = format!("{distance:.3}, {:.2} × the floor", distance / floor);
        let reference = format!("{floor:.3}, of {} test images", number(self.test_images as f64));
        rows.push(row("Fréchet distance", value, reference, meaning));
        if let Some([in_pixels, in_features]) = self.copied {
            let meaning = format!(
                "Samples whose nearest of the {} training images is less than a third as far as the second nearest. Few is better.",
                number(self.training_images as f64)
            );
            for (name, count) in [("copies in pixels", in_pixels), ("copies in features", in_features)] {
                rows.push(row(name, number(count as f64), String::new(), &meaning));
            }
        }
        if let Some(flatness) = self.flatness {
            let value = format!("{:.2} of 255", flatness.ground_deviation);
            let meaning = "Mean standard deviation of the pixels that are ground in every animal. Less is better.";
            rows.push(row("ground deviation", value, "0 in the data".into(), meaning));
            let shares = [("grounds", flatness.ground_in_palette), ("furs", flatness.fur_in_palette)];
            for (what, share) in shares {
                let meaning = "Share of the pictures where their mean colour is within 8/255 of one of the palette's.";
                let name = format!("{what} in the palette");
                rows.push(row(&name, percent(share), "100 % in the data".into(), meaning));
            }
        }
        rows
    }
}

impl Arguments {
    /// Batch `index`, with one label for each sample, as the sampler takes it.
    fn request(&self, config: &UNetConfig, index: usize, labels: &[u32]) -> Request {
        Request {
            noise: self.seed_of(index).into(),
            batch: labels.len(),
            class_labels: config.num_class_embeds.map(|_| labels.to_vec()),
            timesteps: self.timesteps.clone(),
            num_inference_steps: self.num_inference_steps,
        }
    }

    /// The settings by the names of the options, and the data.
    fn settings(&self, data: &Dataset, device: &str) -> Vec<[String; 2]> {
        let row = |name: &str, value: String| [name.to_owned(), value];
        let timesteps = |t: &Vec<usize>| t.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut rows = vec![
            row("--model", self.model.name().display().to_string()),
            row("--data", self.data.display().to_string()),
            row("training images", data.summary()),
            row("--samples", number(self.samples as f64)),
        ];
        match (&self.timesteps, self.edm_steps) {
            (_, Some(steps)) => rows.push(row("--edm-steps", steps.to_string())),
            (Some(t), None) => rows.push(row("--timesteps", timesteps(t))),
            (None, None) => rows.push(row("--num-inference-steps", self.num_inference_steps.unwrap_or(1).to_string())),
        }
        if self.edm_steps.is_some() {
            let mut guidance = Record::default();
            self.guidance.add_to(&mut guidance);
            rows.extend(guidance.entries().iter().map(|(name, value)| row(name, value.clone())));
            rows.extend(self.guidance.guide().map(|guide| row("--guide", guide.display().to_string())));
        }
        rows.push(row("--seed", self.seed.to_string()));
        rows.push(row("device", device.to_owned()));
        rows
    }

    /// The seed of a batch of samples.
    fn seed_of(&self, index: usize) -> u64 {
        self.seed.wrapping_add(index as u64)
    }
}

/// Checks the options before anything is read.
fn check(arguments: &Arguments, folder: &ModelFolder, guidance: &Guidance) -> Result<()> {
    arguments.request(&folder.unet, 0, &[0]).schedule(&folder.scheduler)?;
    if arguments.edm_steps.is_some_and(|steps| steps < 2) {
        return Err(Error::Input(format!(
            "--edm-steps: expected at least 2, found {}",
            arguments.edm_steps.unwrap_or(0)
        )));
    }
    if *guidance != Guidance::NONE && arguments.edm_steps.is_none() {
        return Err(Error::Input("--guidance: expected --edm-steps too, since only a denoiser is guided".into()));
    }
    if arguments.samples < 2 {
        return Err(Error::Input(format!("--samples: expected at least 2, found {}", arguments.samples)));
    }
    Ok(())
}

/// Checks that a model is one of the data.
fn check_data(folder: &ModelFolder, data: &Dataset) -> Result<()> {
    check_shape(&folder.unet, data.shape)?;
    match folder.unet.num_class_embeds {
        Some(n) if n != data.classes.len() => {
            Err(Error::Input(format!("--data: expected {n} classes, found {}", data.classes.len())))
        }
        _ => Ok(()),
    }
}

/// The model that draws the samples.
enum Sampler {
    /// A consistency model.
    Consistency(Box<Pipeline<AnyNetwork>>),
    /// A denoiser, its number of steps and its guidance.
    Edm(Box<Teacher>, usize, Guidance),
}

/// Images with their classification.
struct Classified {
    images: Vec<f32>,
    features: Vec<f32>,
    /// (C, C): how many images of a label (row) have that likeliest class (column).
    confusion: Vec<usize>,
    classes: usize,
    count: usize,
}

impl Classified {
    fn new(classes: usize) -> Self {
        Self { images: vec![], features: vec![], confusion: vec![0; classes * classes], classes, count: 0 }
    }

    /// The share of the images whose likeliest class is their label.
    fn accuracy(&self) -> f64 {
        self.confusion.iter().step_by(self.classes + 1).sum::<usize>() as f64 / self.count as f64
    }

    fn push(&mut self, classifier: &Classifier, images: &[f32], labels: &[u32]) {
        let output = classifier.classify(images);
        self.images.extend(images);
        self.features.extend(output.features);
        for (&class, &label) in output.classes.iter().zip(labels) {
            self.confusion[label as usize * self.classes + class as usize] += 1;
        }
        self.count += output.classes.len();
    }
}

fn classify(classifier: &Classifier, data: &Dataset, what: &str) -> Classified {
    let bar = bar(data.len(), what);
    let mut classified = Classified::new(data.classes.len());
    for first in (0..data.len()).step_by(BATCH) {
        let batch = data.batch(&(first..data.len().min(first + BATCH)).collect::<Vec<_>>());
        classified.push(classifier, &batch.images, &batch.labels);
        bar.set_position(classified.count as u64);
    }
    bar.finish_and_clear();
    classified
}

fn samples(
    arguments: &Arguments,
    folder: &ModelFolder,
    sampler: &mut Sampler,
    classifier: &Classifier,
    labels: &[u32],
    classes: usize,
) -> Result<Classified> {
    let bar = bar(labels.len(), "samples");
    let mut classified = Classified::new(classes);
    for (index, labels) in labels.chunks(BATCH).enumerate() {
        let request = arguments.request(&folder.unet, index, labels);
        let mut images = match sampler {
            Sampler::Consistency(pipeline) => pollster::block_on(pipeline.sample(&request))?,
            Sampler::Edm(teacher, steps, guidance) => {
                pollster::block_on(teacher.sample(labels, *steps, guidance, arguments.seed_of(index)))?
            }
        };
        // To the range of 8-bit images.
        images.iter_mut().for_each(|v| *v = v.clamp(-1.0, 1.0));
        classified.push(classifier, &images, request.class_labels.as_deref().unwrap_or_default());
        bar.set_position(classified.count as u64);
    }
    bar.finish_and_clear();
    Ok(classified)
}

/// Where the classifier of this data is, or is to be kept; `None` where the user's cache cannot be written.
///
/// A place that was named must be one: training takes minutes, which must not be lost.
fn classifier_file(arguments: &Arguments, data: &Dataset) -> Result<Option<PathBuf>> {
    let ready = |path: PathBuf| if path.exists() { Ok(path) } else { check_writable(&path).map(|()| path) };
    if let Some(path) = &arguments.classifier {
        return ready(path.clone()).map(Some);
    }
    let cached = cache().map(|cache| cache.join(format!("classifier-{:016x}.safetensors", data.fingerprint())));
    Ok(cached.and_then(ready).map_err(|e| note(not_kept(&e))).ok())
}

fn not_kept(e: &Error) -> String {
    format!("the classifier is not kept: {e} (--classifier FILE names another place)")
}

/// Reads the classifier of this data; trains it, and keeps it if it can, where there is none.
fn classifier(file: Option<PathBuf>, data: &Dataset) -> Result<Classifier> {
    if let Some(path) = file.as_ref().filter(|path| path.exists()) {
        return Classifier::read(path, data);
    }
    let iterations = classifier_iterations(data.shape);
    let bar = bar(iterations, "training the classifier");
    let classifier = Classifier::train(data, iterations, 0, |k, loss| {
        bar.set_position(k as u64 + 1);
        if bar.is_hidden() && (k + 1) % 250 == 0 {
            note(format_args!("classifier: iteration {} of {iterations}, loss {loss:.3}", k + 1));
        }
    });
    bar.finish_and_clear();
    if let Some(path) = file {
        match classifier.write(&path) {
            Ok(()) => note(format_args!("classifier: {}", path.display())),
            Err(e) => note(not_kept(&e)),
        }
    }
    Ok(classifier)
}

/// `$XDG_CACHE_HOME/consistency-sampler`, or the same under `~/.cache`.
fn cache() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
    let base = variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| {
        let home = variable("HOME").or_else(|| variable("USERPROFILE"))?;
        Some(Path::new(&home).join(".cache"))
    });
    let missing = || Error::Io("no cache folder: neither XDG_CACHE_HOME nor HOME is set".into());
    Ok(base.ok_or_else(missing)?.join("consistency-sampler"))
}

fn bar(length: usize, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(length as u64).with_style(style("{msg} {wide_bar} {pos}/{len}, {eta} left"));
    bar.set_message(what.to_owned());
    bar
}
