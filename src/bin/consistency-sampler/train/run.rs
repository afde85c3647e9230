//! One run of `consistency-sampler train`: its iterations, and the files that it writes.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::cpu::CpuUNet;
use consistency_sampler::file::read;
use consistency_sampler::image::png::write_grid;
use consistency_sampler::model::unet::Parameter;
use consistency_sampler::train::checkpoint::Saved;
use consistency_sampler::train::data::Source;
use consistency_sampler::train::dataset::Batch;
use consistency_sampler::train::objective::timesteps;
use consistency_sampler::train::record::Record;
use consistency_sampler::train::run_folder::{write_model, write_state};
use consistency_sampler::train::trainer::{State, Trainer};
use consistency_sampler::{Error, Pipeline, Request, Result};
use indicatif::ProgressBar;

use super::options::{Arguments, value_name};
use crate::console::{note, print};
use crate::device::style;
use crate::losses::Losses;
use crate::report::{Report, number};
use crate::signals::Stop;

/// Time between two checkpoints: the most training that an interruption loses.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(50);

/// The length of a run.
pub enum Length {
    Minutes(f64),
    Iterations(u64),
}

impl Length {
    pub fn progress(&self, state: &State) -> f64 {
        match *self {
            Self::Minutes(m) => state.seconds / (60.0 * m),
            Self::Iterations(n) => state.optimizer.step as f64 / n as f64,
        }
    }
}

/// A run with its files.
pub struct Run<'a> {
    pub arguments: &'a Arguments,
    pub length: Length,
    pub class_names: Vec<String>,
    pub unet_json: String,
    pub scheduler_json: String,
    pub record: Record,
    pub losses: Losses,
    pub trainer: Trainer,
    /// Of the network, and of the critic if there is one.
    pub parameters: Vec<Parameter>,
    pub critic: Option<Vec<Parameter>>,
}

impl Run<'_> {
    pub fn train(&mut self, data: &Source, stop: &Stop) -> Result<Option<u8>> {
        let bar = ProgressBar::new(1000).with_style(style("{msg} {wide_bar} {percent}% of the run, {elapsed}"));
        let (begin, first) = (Instant::now(), self.trainer.state.optimizer.step);
        self.show_data(data)?;
        let begun_at = self.length.progress(&self.trainer.state);
        let mut saved = Instant::now();
        let mut smooth = None;
        loop {
            let progress = self.length.progress(&self.trainer.state);
            if progress >= 1.0 {
                break;
            }
            if let Some(status) = stop.status() {
                self.save()?;
                unless_unwritable(self.write_report())?;
                bar.finish_and_clear();
                let (output, step) = (self.arguments.output.display(), self.trainer.state.optimizer.step);
                note(format_args!("{output}: stopped and saved at iteration {step}; --resume continues"));
                return Ok(Some(status));
            }
            let iteration = Instant::now();
            let mut generator = self.trainer.generator();
            let mut batch = data.draw(&mut generator, self.trainer.settings.batch);
            if self.arguments.flip {
                mirror_half(&mut batch, data.shape(), &mut generator);
            }
            let loss = pollster::block_on(self.trainer.step(&batch, &mut generator, progress))?;
            self.trainer.state.seconds += iteration.elapsed().as_secs_f64();

            let step = self.trainer.state.optimizer.step;
            let mean = smooth.map_or(loss, |s: f32| 0.98 * s + 0.02 * loss);
            smooth = Some(mean);
            let stage = self.trainer.settings.recipe.stage(progress);
            self.losses.push(step, self.trainer.state.seconds, loss, stage);
            let rate = (step - first) as f64 * batch.labels.len() as f64 / begin.elapsed().as_secs_f64();
            let now = self.length.progress(&self.trainer.state);
            let left = (1.0 - now).max(0.0) * begin.elapsed().as_secs_f64() / (now - begun_at);
            let losses = match self.trainer.critic_loss {
                Some(critic) => format!("loss {mean:.4}, critic's {critic:.3},"),
                None => format!("loss {mean:.4}"),
            };
            bar.set_message(format!(
                "iteration {step} {losses} {rate:.1} img/s, {} left",
                indicatif::HumanDuration(Duration::from_secs_f64(left.clamp(0.0, 1e7)))
            ));
            bar.set_position((now * 1000.0) as u64);
            if bar.is_hidden() && ((step - first).is_power_of_two() || step.is_multiple_of(50)) {
                note(format_args!("iteration {step} {losses} {rate:.1} img/s, {:.0} s left", left.min(1e7)));
            }
            let (is_grid_due, is_save_due) =
                (step.is_multiple_of(self.arguments.grid_every), saved.elapsed() >= CHECKPOINT_INTERVAL);
            if is_grid_due {
                unless_unwritable(self.write_grids(&format!("samples-{step:06}")))?;
            }
            if is_save_due {
                unless_unwritable(self.save())?;
                saved = Instant::now();
            }
            if is_grid_due || is_save_due {
                unless_unwritable(self.write_report())?;
            }
        }
        self.save()?;
        unless_unwritable(self.write_grids("samples-final"))?;
        unless_unwritable(self.write_report())?;
        bar.finish_and_clear();
        let (output, state) = (self.arguments.output.display(), &self.trainer.state);
        let (steps, seconds) = (state.optimizer.step, state.seconds);
        print(format_args!("{output}: {steps} iterations in {seconds:.0} s of training"))?;
        Ok(None)
    }

    fn save(&mut self) -> Result<()> {
        let state = &self.trainer.state;
        let (parameters, critic) = (&self.parameters, self.critic.as_deref());
        let saved = Saved { state, parameters, critic, record: &self.record, teacher: None };
        write_state(&self.arguments.state_file(), &saved)?;
        let unet = self.trainer.denoiser.unet();
        let (names, unet_json, scheduler_json) = (&self.class_names, &self.unet_json, &self.scheduler_json);
        let removed = write_model(&self.arguments.output, names, unet_json, scheduler_json, unet, &state.ema)?;
        if !removed.is_empty() {
            let removed = removed.join(", ");
            note(format_args!("removed, for it was made of earlier weights: {removed} (convert makes it anew)"));
        }
        self.losses.write()
    }

    /// Writes `training/data.png`: 64 training images.
    fn show_data(&self, data: &Source) -> Result<()> {
        let batch = data.draw(&mut Generator::new(self.trainer.settings.seed), 64);
        let [channels, height, width] = data.shape();
        write_grid(self.arguments.training("data.png"), [64, channels, height, width], 16, &batch.images)
    }

    /// Writes `{name}-1.png` and `{name}-2.png`: samples of the averaged weights in one and two steps, a column per class.
    fn write_grids(&self, name: &str) -> Result<()> {
        let denoiser = &self.trainer.denoiser;
        let network = CpuUNet::with_weights(&denoiser.config, self.trainer.state.ema.clone())?;
        let mut pipeline = Pipeline::new(network, denoiser.scheduler.clone());
        let classes = denoiser.config.num_class_embeds;
        let columns = classes.map_or(8, |c| c.min(10));
        let batch = 4 * columns;
        for calls in [1, 2] {
            let request = Request {
                batch,
                class_labels: classes.map(|_| (0..batch).map(|i| (i % columns) as u32).collect()),
                timesteps: Some(timesteps(&denoiser.scheduler, calls)),
                ..Default::default()
            };
            let samples = pollster::block_on(pipeline.sample(&request))?;
            let [height, width] = denoiser.config.sample_size;
            let path = self.arguments.training(&format!("{name}-{calls}.png"));
            write_grid(&path, [batch, denoiser.config.in_channels, height, width], columns, &samples)?;
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Writes `training/report.html`: how far the run is, its curves, its newest pictures, its settings.
    fn write_report(&self) -> Result<()> {
        let (arguments, trainer) = (self.arguments, &self.trainer);
        let (step, seconds, batch) = (trainer.state.optimizer.step, trainer.state.seconds, trainer.settings.batch);
        let name = arguments.output.file_name().unwrap_or(arguments.output.as_os_str());
        let version = concat!("consistency-sampler ", env!("CARGO_PKG_VERSION"), " train");
        let mut report = Report::new(&name.to_string_lossy(), version);
        let images = (step * batch as u64) as f64;
        let percent = 100.0 * self.length.progress(&trainer.state).min(1.0);
        let mut figures = vec![
            ["iterations".into(), format!("{}, {percent:.0} % of the run", number(step as f64))],
            ["images".into(), number(images)],
            ["time of training".into(), indicatif::HumanDuration(Duration::from_secs_f64(seconds)).to_string()],
            ["images per second".into(), format!("{:.1}", images / seconds.max(1e-9))],
            ["weights of the network".into(), number(trainer.denoiser.unet().parameter_count() as f64)],
        ];
        figures.extend(self.losses.last().map(|loss| ["loss, smoothed".into(), format!("{loss:.4}")]));
        report.table(&[], &figures);

        report.heading("Curves");
        self.losses.report(&mut report, batch);

        report.heading("Samples of the averaged weights");
        let folder = arguments.training("");
        let columns = match self.class_names.get(..self.class_names.len().min(10)) {
            Some(names @ [_, _, ..]) => format!(", a column for each class: {}", names.join(", ")),
            _ => String::new(),
        };
        let grids = newest_grids(&folder).into_iter().flat_map(|name| {
            [("one network call", 1), ("two network calls", 2)].map(|(calls, n)| (calls, format!("{name}-{n}.png")))
        });
        let samples = grids.map(|(calls, file)| (format!("{file}: {calls}{columns}"), file));
        let data = ("data.png: training images as the run sees them".to_owned(), "data.png".to_owned());
        for (caption, file) in samples.chain([data]) {
            if file == "data.png" {
                report.heading("Data");
            }
            let path = folder.join(file);
            if path.is_file() {
                report.picture(&caption, &read(&path)?);
            }
        }

        report.heading("Settings");
        let path = |option: &str, path: Option<&Path>| Some([option.to_owned(), path?.display().to_string()]);
        let length = match self.length {
            Length::Minutes(minutes) => ["--minutes".into(), minutes.to_string()],
            Length::Iterations(iterations) => ["--iterations".into(), iterations.to_string()],
        };
        let places = [
            path("--data", Some(&arguments.data)),
            path("--output", Some(&arguments.output)),
            path("--init", arguments.init.as_deref()),
            path("--config", arguments.config.as_deref()),
            path("--teacher", arguments.teacher.as_deref()),
            path("--guide", arguments.guidance.guide()),
            Some(["--device".into(), value_name(&arguments.device)]),
            Some(length),
        ];
        let row = |(name, value): &(String, String)| [name.clone(), value.clone()];
        let options = arguments.record(&trainer.settings.recipe);
        let settings = places.into_iter().flatten().chain(options.entries().iter().map(row));
        report.table(&[], &settings.collect::<Vec<_>>());
        let rest = self.record.entries().iter().skip(options.entries().len()).map(row);
        report.folded_table("Network, scheduler, data and teacher", &[], &rest.collect::<Vec<_>>());
        report.write(&folder.join("report.html"))
    }
}

/// What the names of the newest grids in a run's folder begin with.
fn newest_grids(folder: &Path) -> Option<String> {
    let grids = fs::read_dir(folder).ok()?.flatten().filter_map(|file| {
        let name = file.file_name().into_string().ok()?.strip_suffix("-1.png")?.to_owned();
        let metadata = file.metadata().ok().filter(|m| m.is_file() && name.starts_with("samples-"))?;
        Some((metadata.modified().ok()?, name))
    });
    grids.max().map(|(_, name)| name)
}

/// Mirrors each image left to right with probability ½.
fn mirror_half(batch: &mut Batch, [channels, height, width]: [usize; 3], generator: &mut Generator) {
    for image in batch.images.chunks_exact_mut(channels * height * width) {
        if generator.next_u32() & 1 == 1 {
            image.chunks_exact_mut(width).for_each(<[f32]>::reverse);
        }
    }
}

/// A full disk ends no run: what cannot be written now is said, and perhaps can be next time.
fn unless_unwritable(result: Result<()>) -> Result<()> {
    match result {
        Err(e @ Error::Io(_)) => {
            note(format_args!("the run goes on, but {e}"));
            Ok(())
        }
        other => other,
    }
}
