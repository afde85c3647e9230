//! The losses of a run: `loss.csv` and, as a curve, `loss.png`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use consistency_sampler::Result;
use consistency_sampler::file::{read_text, replace};
use consistency_sampler::image::png::write_grid;

const WIDTH: usize = 640;
const HEIGHT: usize = 320;

/// The losses of a run, as `iteration,seconds,loss,stage`.
pub struct Losses {
    path: PathBuf,
    text: String,
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

    /// Writes the file, and the curve beside it as `loss.png`.
    pub fn write(&self) -> Result<()> {
        replace(&self.path, self.text.as_bytes())?;
        let loss = |line: &str| line.split(',').nth(2)?.parse().ok();
        let losses: Vec<f32> = self.text.lines().skip(1).filter_map(loss).collect();
        match losses.is_empty() {
            true => Ok(()),
            false => write_curve(&self.path.with_extension("png"), &losses),
        }
    }
}

/// Writes `values`, all positive, as a curve: iterations to the right, the logarithm upwards, from the least to the
/// greatest. Grey lines mark 1, 2 and 5 times the powers of ten; each column shows the mean of its values.
fn write_curve(path: &Path, values: &[f32]) -> Result<()> {
    write_grid(path, [1, 1, HEIGHT, WIDTH], 1, &curve(values))
}

/// The picture, (1, 1, HEIGHT, WIDTH) in [−1, 1].
fn curve(values: &[f32]) -> Vec<f32> {
    let mut picture = vec![1.0; WIDTH * HEIGHT];
    let columns = WIDTH.min(values.len());
    let means: Vec<f32> = (0..columns)
        .map(|x| {
            let part = &values[x * values.len() / columns..(x + 1) * values.len() / columns];
            (part.iter().sum::<f32>() / part.len() as f32).max(f32::MIN_POSITIVE).ln()
        })
        .collect();
    let (low, high) = means.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let span = (high - low).max(1e-6);
    let row = |v: f32| ((high - v) / span * (HEIGHT - 1) as f32).round() as usize;
    for exponent in -38..38 {
        for factor in [1.0, 2.0, 5.0f32] {
            let v = factor.ln() + exponent as f32 * std::f32::consts::LN_10;
            if (low..=high).contains(&v) {
                picture[row(v) * WIDTH..][..WIDTH].fill(0.6);
            }
        }
    }
    for (x, pair) in (0..WIDTH).map(|x| (x, x * columns / WIDTH)) {
        let here = row(means[pair]);
        let before = row(means[(x.max(1) - 1) * columns / WIDTH]);
        for y in here.min(before)..=here.max(before) {
            picture[y * WIDTH + x] = -1.0;
        }
    }
    picture
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exponential_is_drawn_as_a_straight_line() {
        let values: Vec<f32> = (0..1280).map(|i| (-(i as f32) / 200.0).exp()).collect();
        let picture = curve(&values);
        for x in 1..WIDTH {
            let dark: Vec<usize> = (0..HEIGHT).filter(|y| picture[y * WIDTH + x] == -1.0).collect();
            let expected = x as f32 / (WIDTH - 1) as f32 * (HEIGHT - 1) as f32;
            let last = *dark.last().unwrap() as f32;
            assert!((last - expected).abs() <= 1.0, "column {x}: drawn down to {last}, expected {expected}");
        }
    }

    #[test]
    fn few_or_equal_values_fill_all_columns() {
        for values in [vec![3.0], vec![1.0; 5], vec![2.0, 0.0]] {
            let picture = curve(&values);
            for x in 0..WIDTH {
                assert!((0..HEIGHT).any(|y| picture[y * WIDTH + x] == -1.0), "{values:?}: column {x} is empty");
            }
        }
    }
}
