//! The losses of a run: `loss.csv`, and their curves in the report.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use consistency_sampler::Result;
use consistency_sampler::file::{read_text, replace};

use crate::report::{Chart, Line, Report, number};

/// The most points of a curve: more are averaged in groups.
const POINTS: usize = 600;
/// The least time, in seconds, over which images are counted; `loss.csv` has tenths of seconds.
const SPAN: f64 = 2.0;

/// The losses of a run, as `iteration,seconds,loss,stage`.
pub struct Losses {
    path: PathBuf,
    text: String,
}

/// A line of `loss.csv`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    iteration: f64,
    seconds: f64,
    loss: f64,
    stage: usize,
}

impl Losses {
    /// Continues the file up to iteration `step`; later lines, of iterations after the last checkpoint, are dropped.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let mut text = String::from("iteration,seconds,loss,stage\n");
        if step > 0 && path.exists() {
            let old = read_text(path)?;
            let kept = |l: &&str| l.split(',').next().and_then(|n| n.parse().ok()).is_some_and(|n: u64| n <= step);
            old.lines().filter(kept).for_each(|l| text.extend([l, "\n"]));
        }
        Ok(Self { path: path.to_owned(), text })
    }

    pub fn push(&mut self, step: u64, seconds: f64, loss: f32, stage: usize) {
        writeln!(self.text, "{step},{seconds:.1},{loss},{stage}").expect("a String takes everything");
    }

    pub fn write(&self) -> Result<()> {
        replace(&self.path, self.text.as_bytes())
    }

    /// Adds the curves of the loss and of the images per second, of `batch` images an iteration.
    pub fn report(&self, report: &mut Report, batch: usize) {
        let entries = entries(&self.text);
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return };
        let range = [first.iteration - 1.0, last.iteration];
        let mut marks = vec![(range[0], format!("stage {}", first.stage))];
        let begins = entries.windows(2).filter(|pair| pair[0].stage != pair[1].stage);
        marks.extend(begins.map(|pair| (pair[0].iteration, format!("stage {}", pair[1].stage))));
        if marks.len() == 1 {
            marks.clear();
        }
        let (group, reach) = (entries.len().div_ceil(POINTS), reach(&entries));
        let each = match group {
            1 => "each iteration".to_owned(),
            n => format!("means of {} iterations", number(n as f64)),
        };
        let smooth = format!("mean of the {} iterations before and after, within a stage", number(reach as f64));
        let losses: Vec<_> = entries.iter().map(|entry| (entry.iteration, entry.loss)).collect();
        let thin = |part: Line| means(&part, group);
        let smoothed = smoothed(&entries, reach).into_iter().map(thin).collect();
        report.chart(&Chart {
            caption: "Loss",
            curves: vec![(&each, vec![means(&losses, group)]), (&smooth, smoothed)],
            range,
            marks: marks.clone(),
            from_zero: false,
        });
        let rates = rates(&entries, batch);
        if !rates.is_empty() {
            let caption = "Images per second of training";
            report.chart(&Chart { caption, curves: vec![("", vec![rates])], range, marks, from_zero: true });
        }
    }

    /// The last value of the smoothed loss.
    pub fn last(&self) -> Option<f64> {
        let entries = entries(&self.text);
        Some(smoothed(&entries, reach(&entries)).last()?.last()?.1)
    }
}

/// The lines that have four numbers.
fn entries(text: &str) -> Vec<Entry> {
    let entry = |line: &str| {
        let mut fields = line.split(',');
        let mut number = || fields.next()?.parse().ok().filter(|v: &f64| v.is_finite());
        let [iteration, seconds, loss] = [number()?, number()?, number()?];
        Some(Entry { iteration, seconds, loss, stage: fields.next()?.parse().ok()? })
    };
    text.lines().filter_map(entry).collect()
}

/// Iterations on either side over which losses are smoothed: a fiftieth of all.
fn reach(entries: &[Entry]) -> usize {
    entries.len().div_ceil(50)
}

/// The mean loss of `reach` iterations before and after each, in the parts that are of one stage.
fn smoothed(entries: &[Entry], reach: usize) -> Vec<Line> {
    let smooth = |part: &[Entry]| {
        let sums: Vec<f64> = std::iter::once(0.0)
            .chain(part.iter().scan(0.0, |sum, entry| {
                *sum += entry.loss;
                Some(*sum)
            }))
            .collect();
        let mean = |(i, entry): (usize, &Entry)| {
            let (from, to) = (i.saturating_sub(reach), (i + reach + 1).min(part.len()));
            (entry.iteration, (sums[to] - sums[from]) / (to - from) as f64)
        };
        part.iter().enumerate().map(mean).collect()
    };
    entries.chunk_by(|a, b| a.stage == b.stage).map(smooth).collect()
}

/// Means of groups of points.
fn means(points: &[(f64, f64)], group: usize) -> Line {
    let mean = |part: &[(f64, f64)]| {
        let (x, y) = part.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / part.len() as f64, y / part.len() as f64)
    };
    points.chunks(group).map(mean).collect()
}

/// Images per second, at the end of spans of at least [`SPAN`] and a hundredth of the time.
fn rates(entries: &[Entry], batch: usize) -> Line {
    let [mut begin, .., last] = *entries else { return vec![] };
    let span = SPAN.max((last.seconds - begin.seconds) / 100.0);
    let mut rates = vec![];
    for entry in entries {
        let (iterations, seconds) = (entry.iteration - begin.iteration, entry.seconds - begin.seconds);
        if seconds >= span {
            rates.push((entry.iteration, iterations * batch as f64 / seconds));
            begin = *entry;
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_smoothed_within_a_stage_and_images_counted_by_the_second() {
        let text =
            "iteration,seconds,loss,stage\n1,1.0,4,0\n2,2.0,2,0\n3,3.0,NaN,0\n4,6.0,9,1\n5,8.0,7,1\n\n6,8.5,8,1\n";
        let entries = entries(text);
        assert_eq!(entries.len(), 5, "{entries:?}");
        let expected = [vec![(1.0, 3.0), (2.0, 3.0)], vec![(4.0, 8.0), (5.0, 8.0), (6.0, 7.5)]];
        assert_eq!(smoothed(&entries, 1), expected);
        assert_eq!(means(&expected[1], 2), [(4.5, 8.0), (6.0, 7.5)]);
        assert_eq!(rates(&entries, 10), [(4.0, 6.0), (5.0, 5.0)]);
    }
}
