//! `consistency-sampler evaluate`.

use std::path::{Path, PathBuf};

use clap::Args;
use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::file::check_writable;
use consistency_sampler::model::config::UNetConfig;
use consistency_sampler::train::classifier::{Classifier, FEATURES};
use consistency_sampler::train::data::{Source, animals, check_class_names, is_composed};
use consistency_sampler::train::dataset::Dataset;
use consistency_sampler::train::denoiser::Engine;
use consistency_sampler::train::evaluation::{Moments, copies, frechet_distance};
use consistency_sampler::train::teacher::{Guidance, Teacher};
use consistency_sampler::{AnyNetwork, Error, Pipeline, Precision, Request, Result};
use indicatif::ProgressBar;

use crate::console::{note, note_left_out, print};
use crate::device::{ModelArguments, PrecisionArguments, style};
use crate::guidance::GuidanceArguments;

/// Iterations of the classifier's training; on MNIST 6.4 epochs. Of large images, whose iterations take minutes by the hundred, a third.
fn classifier_iterations([_, height, width]: [usize; 3]) -> usize {
    if height * width > 32 * 32 { 1000 } else { 3000 }
}

/// Samples or images in one call of a network.
const BATCH: usize = 100;

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    #[command(flatten)]
    precision: PrecisionArguments,

    /// The training data: MNIST's IDX files, PNGs or JPEGs of one size with a sub-folder for each class, or the masks of animals
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
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let folder = arguments.model.folder(&arguments.precision)?;
    let (train, test) = Source::open_split(&arguments.data, folder.unet.sample_size[0])?;
    note(format_args!("data: {}; {} more to test", train.summary(), test.len()));
    note_left_out(&train.left_out);
    let guidance = arguments.guidance.guidance()?;
    check(arguments, &folder, &train, &guidance)?;
    check_class_names("--model", &folder, &train.classes)?;
    let file = classifier_file(arguments, &train)?;
    let guide =
        arguments.guidance.guide().map(|model| arguments.model.hub.open(model, Some(Precision::F32))).transpose()?;
    let mut sampler = match arguments.edm_steps {
        Some(steps) => Sampler::Edm(
            Box::new(Teacher::read(
                folder.path(),
                guide.as_ref().map(ModelFolder::path),
                &Engine::Cpu,
                &burn::tensor::Device::flex(),
            )?),
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
    let found = samples(arguments, &folder, &mut sampler, &classifier, &labels)?;
    let distance = frechet_distance(&Moments::new(&found.features, FEATURES), &moments);
    let dim: usize = train.shape.iter().product();
    let flatness = animals(&arguments.data, folder.unet.sample_size[0])?.map(|animals| animals.flatness(&found.images));
    // Of composed pictures the data is all that can be composed: a sample that is one of them is right, and no copy.
    let copied = (!is_composed(&arguments.data)?)
        .then(|| [copies(&found.images, &real.images, dim), copies(&found.features, &real.features, FEATURES)]);
    let accuracy = |c: &Classified| c.right as f64 / c.count as f64;
    let calls = match arguments.edm_steps {
        Some(steps) => 2 * steps - 1,
        None => arguments.request(&folder.unet, 0, &[0]).schedule(&folder.scheduler)?.steps.len(),
    };
    if arguments.json {
        return print(serde_json::json!({
            "class_accuracy": folder.unet.num_class_embeds.map(|_| accuracy(&found)),
            "frechet": distance,
            "frechet_floor": floor,
            "copies": copied.map(|[in_pixels, _]| in_pixels),
            "copies_in_features": copied.map(|[_, in_features]| in_features),
            "ground_deviation": flatness.map(|f| f.ground_deviation),
            "ground_in_palette": flatness.map(|f| f.ground_in_palette),
            "fur_in_palette": flatness.map(|f| f.fur_in_palette),
            "samples": found.count,
            "network_calls": calls,
            "seed": arguments.seed,
            "classifier_accuracy": accuracy(&held_out),
        }));
    }
    print(format_args!("{} samples in {calls} network calls each, seed {}", found.count, arguments.seed))?;
    if folder.unet.num_class_embeds.is_some() {
        print(format_args!("class accuracy     {:.2} %", 100.0 * accuracy(&found)))?;
    }
    print(format_args!("Fréchet distance   {distance:.3} ({:.2} × the floor {floor:.3})", distance / floor))?;
    if let Some([in_pixels, in_features]) = copied {
        print(format_args!("copies             {in_pixels} in pixels, {in_features} in features"))?;
    }
    if let Some(flatness) = flatness {
        let [ground, fur] = [flatness.ground_in_palette, flatness.fur_in_palette].map(|share| 100.0 * share);
        print(format_args!("ground deviation   {:.2} of 255", flatness.ground_deviation))?;
        print(format_args!("in the palette     {ground:.1} % of grounds, {fur:.1} % of furs"))?;
    }
    print(format_args!("(classifier        {:.2} % on the test images)", 100.0 * accuracy(&held_out)))
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

    /// The seed of a batch of samples.
    fn seed_of(&self, index: usize) -> u64 {
        self.seed.wrapping_add(index as u64)
    }
}

/// Checks the arguments before anything is computed.
fn check(arguments: &Arguments, folder: &ModelFolder, data: &Dataset, guidance: &Guidance) -> Result<()> {
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
    let [height, width] = folder.unet.sample_size;
    let (expected, found) = ([folder.unet.in_channels, height, width], data.shape);
    if expected != found {
        return Err(Error::Input(format!("--data: expected images [C,H,W] {expected:?}, found {found:?}")));
    }
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
#[derive(Default)]
struct Classified {
    images: Vec<f32>,
    features: Vec<f32>,
    /// Images whose likeliest class is their label.
    right: usize,
    count: usize,
}

impl Classified {
    fn push(&mut self, classifier: &Classifier, images: &[f32], labels: &[u32]) {
        let output = classifier.classify(images);
        self.images.extend(images);
        self.features.extend(output.features);
        self.right += output.classes.iter().zip(labels).filter(|(a, b)| a == b).count();
        self.count += output.classes.len();
    }
}

fn classify(classifier: &Classifier, data: &Dataset, what: &str) -> Classified {
    let bar = bar(data.len(), what);
    let mut classified = Classified::default();
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
) -> Result<Classified> {
    let bar = bar(labels.len(), "samples");
    let mut classified = Classified::default();
    for (index, labels) in labels.chunks(BATCH).enumerate() {
        let request = arguments.request(&folder.unet, index, labels);
        let mut images = match sampler {
            Sampler::Consistency(pipeline) => pollster::block_on(pipeline.sample(&request))?,
            Sampler::Edm(teacher, steps, guidance) => {
                teacher.sample(labels, *steps, guidance, arguments.seed_of(index))?
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
