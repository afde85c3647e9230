//! Zero-shot editing: Algorithm 4 of Song et al. 2023.
//!
//! A picture y goes through an orthogonal transform A; a mask Ω selects the coefficients that are generated, the others
//! are kept. Pictures are (B, C, H, W), row-major, in [−1, 1].
//!
//! A and Ω are never formed: each [`Edit`] keeps either pixels, or for each pixel or patch the component along one unit
//! vector q (the first column of A's blocks), and A⁻¹\[(A·y)·(1 − Ω) + (A·x)·Ω\] = x + q·(qᵀ·(y − x)) whatever the other
//! columns are.

use std::ops::ControlFlow;

use super::sampler::{ConsistencyFunction, Progress, add_noise};
use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::model::config::{SchedulerConfig, UNetConfig};

/// Weights of R, G and B in a picture's luma (ITU-R BT.601), to which colourisation adds colours.
pub const LUMA: [f32; 3] = [0.2989, 0.5870, 0.1140];

/// Noise levels of stroke-guided generation, Song et al. 2023, appendix D.
pub const STROKE_SIGMAS: [f64; 2] = [5.38, 2.24];

/// The part of a picture that an edit keeps.
#[derive(Debug, Clone, PartialEq)]
pub enum Edit {
    /// Every pixel but those of the hole.
    Inpaint {
        /// H·W entries, true where pixels are to be generated.
        hole: Vec<bool>,
    },
    /// The luma of each pixel; colours are generated.
    Colorize,
    /// The mean of each patch of each channel; detail is generated.
    SuperResolution {
        /// Pixels along a side of a patch; divides height and width.
        patch: usize,
    },
    /// Nothing is kept: noise is added to the picture, and its strokes guide the result.
    Stroke,
}

impl Edit {
    /// Whether a model of this shape can be edited so.
    ///
    /// # Errors
    /// [`Error::Input`] when the hole has another size than the model's pictures, a grey model is to colorize,
    /// or patches do not tile the picture.
    pub fn check(&self, config: &UNetConfig) -> Result<()> {
        let [height, width] = config.sample_size;
        match self {
            Self::Inpaint { hole } if hole.len() != height * width => Err(Error::Input(format!(
                "mask: expected {height}×{width} = {} pixels, found {}",
                height * width,
                hole.len()
            ))),
            Self::Colorize if config.in_channels != 3 => {
                Err(Error::Input(format!("colorize: expected a model of 3 channels, found {}", config.in_channels)))
            }
            Self::SuperResolution { patch } if *patch == 0 || height % patch != 0 || width % patch != 0 => {
                Err(Error::Input(format!("patch: expected a divisor of {height} and {width}, found {patch}")))
            }
            _ => Ok(()),
        }
    }

    /// The default noise levels.
    ///
    /// # Errors
    /// Those of [`Schedule`].
    pub fn schedule(&self, config: &SchedulerConfig) -> Result<Schedule> {
        match self {
            Self::Stroke => Schedule::from_sigmas(config, &STROKE_SIGMAS),
            _ => Schedule::evenly_spaced(config, config.num_train_timesteps.min(8)),
        }
    }

    /// x ← A⁻¹\[(A·y)·(1 − Ω) + (A·x)·Ω\]: the kept part of `x` becomes that of `y`.
    fn replace(&self, x: &mut [f32], y: &[f32], config: &UNetConfig) {
        let [height, width] = config.sample_size;
        match self {
            Self::Inpaint { hole } => {
                let planes = x.chunks_exact_mut(hole.len()).zip(y.chunks_exact(hole.len()));
                for (x, y) in planes {
                    x.iter_mut().zip(y).zip(hole).filter(|(_, hole)| !**hole).for_each(|((x, y), _)| *x = *y);
                }
            }
            Self::Colorize | Self::SuperResolution { .. } => {
                for part in self.parts(x.len(), config) {
                    let missing = part.component(y) - part.component(x);
                    part.cells().for_each(|(at, q)| x[at] += q * missing);
                }
            }
            Self::Stroke => debug_assert_eq!(x.len() % (height * width), 0),
        }
    }

    /// Clamps a result of [`edit`] to [−1, 1] such that the kept part stays that of `y`.
    ///
    /// Clamping alone would change a patch's mean or a pixel's luma: x is moved along q so far that the clamped one has
    /// y's component, which exists as long as y itself lies in [−1, 1].
    pub fn into_range(&self, x: &mut [f32], y: &[f32], config: &UNetConfig) {
        for part in self.parts(x.len(), config) {
            if part.cells().all(|(at, _)| (-1.0..=1.0).contains(&x[at])) {
                continue;
            }
            let wanted = part.component(y);
            let moved = |by: f32| part.cells().map(|(at, q)| q * (x[at] + q * by).clamp(-1.0, 1.0)).sum::<f32>();
            // The component grows with the step; beyond these bounds every cell is clamped.
            let largest = part.cells().map(|(at, q)| (1.0 + x[at].abs()) / q).fold(0.0, f32::max);
            let (mut low, mut high) = (-largest, largest);
            for _ in 0..60 {
                let middle = (low + high) / 2.0;
                match moved(middle) < wanted {
                    true => low = middle,
                    false => high = middle,
                }
            }
            part.cells().for_each(|(at, q)| x[at] += q * high);
        }
        x.iter_mut().for_each(|x| *x = x.clamp(-1.0, 1.0));
    }

    /// The pixels or patches of which one component is kept.
    fn parts(&self, len: usize, config: &UNetConfig) -> Vec<Part> {
        let [height, width] = config.sample_size;
        let pixels = height * width;
        match *self {
            Self::Inpaint { .. } | Self::Stroke => Vec::new(),
            Self::Colorize => {
                let norm = LUMA.iter().map(|w| w * w).sum::<f32>().sqrt();
                let cell = |at: usize| (0..3).map(|c| (at + c * pixels, LUMA[c] / norm)).collect();
                let pixel = |i: usize| i / pixels * 3 * pixels + i % pixels;
                (0..len / 3).map(|i| Part(cell(pixel(i)))).collect()
            }
            Self::SuperResolution { patch } => {
                let q = 1.0 / patch as f32;
                let (rows, columns) = (len / pixels * height / patch, width / patch);
                let cell = |row: usize, column: usize| {
                    let at = row * patch * width + column * patch;
                    (0..patch * patch).map(|i| (at + i / patch * width + i % patch, q)).collect()
                };
                (0..rows * columns).map(|i| Part(cell(i / columns, i % columns))).collect()
            }
        }
    }
}

/// The cells of one pixel or patch, each with its entry of the unit vector q.
struct Part(Vec<(usize, f32)>);

impl Part {
    fn cells(&self) -> impl Iterator<Item = (usize, f32)> {
        self.0.iter().copied()
    }

    /// qᵀ·x.
    fn component(&self, x: &[f32]) -> f32 {
        self.cells().map(|(at, q)| q * x[at]).sum()
    }
}

/// Algorithm 4: keeps the part of `y` that `kind` keeps and generates the rest.
///
/// `noise` fills its argument with standard normals: once before the first network call and once before each further
/// one. `on_step` gets each intermediate picture with the kept part in place and may stop the edit. The result may leave
/// \[−1, 1\]; see [`Edit::into_range`].
///
/// # Errors
/// Those of [`Edit::check`] and of the function, [`Error::Input`] when `y` is no batch of the model's pictures, and
/// [`Error::Cancelled`] when `on_step` breaks off.
#[expect(clippy::too_many_arguments, reason = "a picture, a model and what is injected")]
pub async fn edit<F: ConsistencyFunction>(
    function: &mut F,
    config: &UNetConfig,
    kind: &Edit,
    schedule: &Schedule,
    y: &[f32],
    labels: &[u32],
    mut noise: impl FnMut(&mut [f32]),
    mut on_step: impl FnMut(Progress<'_>) -> ControlFlow<()>,
) -> Result<Vec<f32>> {
    kind.check(config)?;
    let [height, width] = config.sample_size;
    let len = config.in_channels * height * width;
    if y.is_empty() || !y.len().is_multiple_of(len) {
        let c = config.in_channels;
        return Err(Error::Input(format!("picture: expected B×{c}×{height}×{width} values, found {}", y.len())));
    }
    // ANCHOR: edit
    // The first call gets only the kept part of y; for strokes it gets all of y (as printed, the algorithm would give it
    // none).
    let mut x = match kind {
        Edit::Stroke => y.to_vec(),
        _ => {
            let mut seen = vec![0.0; y.len()];
            kind.replace(&mut seen, y, config);
            seen
        }
    };
    let mut z = vec![0.0; y.len()];
    let steps = schedule.steps.len();
    let mut scale = schedule.steps.first().map_or(0.0, |s| s.sigma);
    for (index, step) in schedule.steps.iter().enumerate() {
        noise(&mut z);
        add_noise(&mut x, scale, &z);
        x = function.denoise(&x, step, labels).await?;
        kind.replace(&mut x, y, config);
        scale = step.noise_scale;
        if on_step(Progress { index, steps, sigma: step.sigma, denoised: &x }).is_break() {
            return Err(Error::Cancelled);
        }
    }
    Ok(x)
    // ANCHOR_END: edit
}

/// f(x, σ): a noisy batch, denoised in one call. `sigma` is the standard deviation of the noise in `x`.
///
/// # Errors
/// Those of [`Schedule::from_sigmas`] and of the function.
pub async fn denoise<F: ConsistencyFunction>(
    function: &mut F,
    config: &SchedulerConfig,
    sigma: f64,
    x: &[f32],
    labels: &[u32],
) -> Result<Vec<f32>> {
    let schedule = Schedule::from_sigmas(config, &[sigma])?;
    function.denoise(x, &schedule.steps[0], labels).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consistency::rng::Generator;
    use crate::consistency::schedule::Step;

    const RGB: &str = r#"{
      "_class_name": "UNet2DModel", "sample_size": 4, "in_channels": 3, "out_channels": 3, "layers_per_block": 1,
      "block_out_channels": [8], "norm_num_groups": 2, "down_block_types": ["DownBlock2D"],
      "up_block_types": ["UpBlock2D"]
    }"#;

    fn config() -> UNetConfig {
        UNetConfig::parse(RGB).unwrap()
    }

    fn picture(seed: u64) -> Vec<f32> {
        let mut generator = Generator::new(seed);
        (0..96).map(|_| (2.0 * generator.uniform_f64() - 1.0) as f32).collect() // two of 3×4×4
    }

    /// Returns a fixed picture and records every x.
    struct Fixed {
        answer: Vec<f32>,
        asked: Vec<Vec<f32>>,
    }

    impl ConsistencyFunction for Fixed {
        async fn denoise(&mut self, x: &[f32], _: &Step, _: &[u32]) -> Result<Vec<f32>> {
            self.asked.push(x.to_vec());
            Ok(self.answer.clone())
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(v) => v,
            std::task::Poll::Pending => panic!("nothing here waits"),
        }
    }

    fn edited(kind: &Edit, y: &[f32], sigmas: &[f64], z: f32) -> (Vec<f32>, Fixed) {
        let mut f = Fixed { answer: picture(2).iter().map(|v| v * 1.3).collect(), asked: vec![] };
        let schedule = Schedule::from_sigmas(&SchedulerConfig::default(), sigmas).unwrap();
        let noise = |out: &mut [f32]| out.fill(z);
        let next = |_: Progress<'_>| ControlFlow::Continue(());
        let x = run(edit(&mut f, &config(), kind, &schedule, y, &[], noise, next)).unwrap();
        (x, f)
    }

    fn means(x: &[f32], patch: usize) -> Vec<f32> {
        let at = |plane: usize, y: usize, x: usize| plane * 16 + y * 4 + x;
        let cells = (0..6).flat_map(|p| (0..4 / patch).flat_map(move |r| (0..4 / patch).map(move |c| (p, r, c))));
        let mean = |(p, r, c)| {
            let pixels = (0..patch * patch).map(|i| x[at(p, r * patch + i / patch, c * patch + i % patch)]);
            pixels.sum::<f32>() / (patch * patch) as f32
        };
        cells.map(mean).collect()
    }

    fn lumas(x: &[f32]) -> Vec<f32> {
        let luma = |i: usize| (0..3).map(|c| LUMA[c] * x[i / 16 * 48 + c * 16 + i % 16]).sum();
        (0..32).map(luma).collect()
    }

    fn close(found: &[f32], expected: &[f32], tolerance: f32) {
        assert_eq!(found.len(), expected.len());
        let error = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
        assert!(error < tolerance, "off by {error}");
    }

    #[test]
    fn inpainting_keeps_pixels_and_never_shows_the_hole() {
        let hole: Vec<bool> = (0..16).map(|i| i % 3 == 0).collect();
        let kind = Edit::Inpaint { hole: hole.clone() };
        let y = picture(1);
        let (x, f) = edited(&kind, &y, &[80.0, 2.0], 0.0);
        for (i, (x, y)) in x.iter().zip(&y).enumerate() {
            let expected = if hole[i % 16] { f.answer[i] } else { *y };
            assert_eq!(*x, expected, "pixel {i}");
            assert_eq!(f.asked[0][i], if hole[i % 16] { 0.0 } else { *y }, "the first call sees only what is kept");
            assert_eq!(f.asked[1][i], expected, "the second sees the first one's answer");
        }
    }

    #[test]
    fn means_and_lumas_are_kept_even_in_range() {
        let y = picture(1);
        type Kept = fn(&[f32]) -> Vec<f32>;
        let kinds: [(Edit, Kept); 3] = [
            (Edit::SuperResolution { patch: 2 }, |x| means(x, 2)),
            (Edit::SuperResolution { patch: 4 }, |x| means(x, 4)),
            (Edit::Colorize, lumas),
        ];
        for (kind, kept) in kinds {
            let (mut x, f) = edited(&kind, &y, &[80.0], 0.0);
            close(&kept(&x), &kept(&y), 1e-6);
            close(&kept(&f.asked[0]), &kept(&y), 1e-6);
            assert!(x.iter().any(|v| v.abs() > 1.0), "the answer leaves the range");
            kind.into_range(&mut x, &y, &config());
            assert!(x.iter().all(|v| v.abs() <= 1.0));
            close(&kept(&x), &kept(&y), 1e-5);
        }
        let mut whole = y.clone();
        Edit::SuperResolution { patch: 1 }.replace(&mut whole, &picture(5), &config());
        close(&whole, &picture(5), 1e-6);
    }

    #[test]
    fn strokes_are_seen_whole_under_noise_of_each_level() {
        let y = picture(1);
        let (x, f) = edited(&Edit::Stroke, &y, &STROKE_SIGMAS, 1.0);
        assert_eq!(x, f.answer, "nothing is kept");
        let noisy = |x: &[f32], by: f64| x.iter().map(|x| x + by as f32).collect::<Vec<_>>();
        close(&f.asked[0], &noisy(&y, 5.38), 1e-6);
        close(&f.asked[1], &noisy(&f.answer, (2.24f64.powi(2) - 0.002f64.powi(2)).sqrt()), 1e-6);
    }

    #[test]
    fn masks_patches_and_channels_that_do_not_fit_are_refused() {
        let message = |kind: Edit| kind.check(&config()).unwrap_err().to_string();
        assert_eq!(message(Edit::Inpaint { hole: vec![true; 15] }), "mask: expected 4×4 = 16 pixels, found 15");
        assert_eq!(message(Edit::SuperResolution { patch: 3 }), "patch: expected a divisor of 4 and 4, found 3");
        assert_eq!(message(Edit::SuperResolution { patch: 0 }), "patch: expected a divisor of 4 and 4, found 0");
        let grey = UNetConfig::parse(&RGB.replace("channels\": 3", "channels\": 1")).unwrap();
        let found = Edit::Colorize.check(&grey).unwrap_err().to_string();
        assert_eq!(found, "colorize: expected a model of 3 channels, found 1");
    }
}
