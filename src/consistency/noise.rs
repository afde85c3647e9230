//! Noise of a batch: from one seed, interpolated between two noises, or of each image on its own.

use super::rng::Generator;
use crate::compact;
use crate::error::{Error, Result};
use crate::json::number;

/// How deep [`Noise::Between`] may be nested.
pub const MAX_NESTING: usize = 64;

/// Where standard normals come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Noise {
    /// A generator of its own: `torch.Generator("cpu").manual_seed(seed)`.
    Seed(u64),
    /// Every draw is slerp(from, to, amount), image by image: variations of a sample, and interpolations between two.
    Between {
        /// The noise at amount 0.
        from: Box<Noise>,
        /// The noise at amount 1.
        to: Box<Noise>,
        /// From 0 to 1.
        amount: f64,
    },
}

impl Noise {
    /// `amount` of the way from one noise to another, from 0 to 1.
    pub fn between(from: Noise, to: Noise, amount: f64) -> Self {
        Self::Between { from: Box::new(from), to: Box::new(to), amount }
    }

    /// The seed of the noise at amount 0.
    fn first_seed(&self) -> u64 {
        match self {
            Self::Seed(seed) => *seed,
            Self::Between { from, .. } => from.first_seed(),
        }
    }

    fn source(&self, depth: usize) -> Result<Source> {
        match self {
            Self::Seed(seed) => Ok(Source::Seed(Box::new(Generator::new(*seed)))),
            Self::Between { .. } if depth == MAX_NESTING => Err(too_deep()),
            Self::Between { from, to, amount } if (0.0..=1.0).contains(amount) => {
                Ok(Source::Between(Box::new([from.source(depth + 1)?, to.source(depth + 1)?]), *amount))
            }
            Self::Between { amount, .. } => {
                let found = number(*amount);
                Err(Error::Input(format!("amount: expected a number from 0 to 1, found {found}")))
            }
        }
    }
}

/// The error for noises that are nested deeper than [`MAX_NESTING`].
pub(crate) fn too_deep() -> Error {
    Error::Input(format!("noise: expected at most {MAX_NESTING} within one another, found more"))
}

/// The noise of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchNoise {
    /// One noise for the whole batch, drawn as `torch.randn` draws (B, C, H, W) from one generator.
    Shared(Noise),
    /// A noise for each image, as diffusers draws from a list of generators.
    PerImage(Vec<Noise>),
}

impl BatchNoise {
    /// The seed that draws the classes which a request leaves open: that of the shared noise at amount 0, or 0 when each
    /// image has its own.
    pub(super) fn label_seed(&self) -> u64 {
        match self {
            Self::Shared(noise) => noise.first_seed(),
            Self::PerImage(_) => 0,
        }
    }

    /// A function that fills batches of `batch` images of `len` values with standard normals. Each draw continues where
    /// the one before ended.
    ///
    /// # Errors
    /// [`Error::Input`] when an amount is not from 0 to 1, noises are nested more than [`MAX_NESTING`] deep, or there are
    /// not as many noises as images.
    pub fn generator(&self, batch: usize, len: usize) -> Result<impl FnMut(&mut [f32]) + use<>> {
        // The shared noise fills all images in one draw.
        let (mut sources, images) = match self {
            Self::Shared(noise) => (vec![noise.source(0)?], batch),
            Self::PerImage(noises) if noises.len() == batch => {
                (noises.iter().map(|noise| noise.source(0)).collect::<Result<Vec<_>>>()?, 1)
            }
            Self::PerImage(noises) => {
                let found = noises.len();
                return Err(Error::Input(format!(
                    "seed: expected {batch} of them, one for each sample, found {found}"
                )));
            }
        };
        Ok(move |z: &mut [f32]| {
            z.chunks_mut((images * len).max(1)).zip(&mut sources).for_each(|(z, source)| source.fill(z, len));
        })
    }
}

impl Default for BatchNoise {
    fn default() -> Self {
        Self::from(0)
    }
}

impl From<u64> for BatchNoise {
    /// The noise of one seed, shared by the batch.
    fn from(seed: u64) -> Self {
        Self::Shared(Noise::Seed(seed))
    }
}

/// The generators of a [`Noise`].
enum Source {
    Seed(Box<Generator>),
    Between(Box<[Source; 2]>, f64),
}

impl Source {
    /// Fills images of `len` values each.
    fn fill(&mut self, z: &mut [f32], len: usize) {
        match self {
            Self::Seed(generator) => generator.randn(z),
            Self::Between(ends, amount) => {
                let mut other = vec![0.0; z.len()];
                ends[0].fill(z, len);
                ends[1].fill(&mut other, len);
                for (z, other) in z.chunks_mut(len).zip(other.chunks(len)) {
                    z.copy_from_slice(&slerp(z, other, *amount));
                }
            }
        }
    }
}

/// Spherical interpolation, `share` of the way from `a` to `b`. Between two noises it has the length of noise.
///
/// sin((1 − s)·θ)/sin θ·a + sin(s·θ)/sin θ·b, θ the angle between them; on a straight line where they are parallel.
pub fn slerp(a: &[f32], b: &[f32], share: f64) -> Vec<f32> {
    // ANCHOR: slerp
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let cosine = dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let angle = compact::acos(cosine.clamp(-1.0, 1.0));
    let (first, second) = match compact::sin(angle) > 1e-6 {
        true => [1.0 - share, share].map(|share| compact::sin(share * angle) / compact::sin(angle)).into(),
        false => (1.0 - share, share),
    };
    a.iter().zip(b).map(|(a, b)| (first * f64::from(*a) + second * f64::from(*b)) as f32).collect()
    // ANCHOR_END: slerp
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first and second draw for two images of 64 values.
    fn draws(noise: &BatchNoise) -> [Vec<f32>; 2] {
        let mut generator = noise.generator(2, 64).unwrap();
        [(), ()].map(|()| {
            let mut z = vec![0.0; 128];
            generator(&mut z);
            z
        })
    }

    fn shared(noise: Noise) -> BatchNoise {
        BatchNoise::Shared(noise)
    }

    #[test]
    fn interpolated_noise_is_the_slerp_of_both_ends_at_every_draw_and_image() {
        let (a, b) = (Noise::Seed(1), Noise::Seed(2));
        let (at_a, at_b) = (draws(&shared(a.clone())), draws(&shared(b.clone())));
        let at = |amount: f64| draws(&shared(Noise::between(a.clone(), b.clone(), amount)));
        assert_eq!((at(0.0), at(1.0)), (at_a.clone(), at_b.clone()));
        let middle = at(0.5);
        for (k, draw) in middle.iter().enumerate() {
            for image in [0..64, 64..128] {
                let expected = slerp(&at_a[k][image.clone()], &at_b[k][image.clone()], 0.5);
                assert_eq!(draw[image], expected, "draw {k}");
            }
        }
        let nested = Noise::between(Noise::between(a, b, 0.5), Noise::Seed(3), 0.25);
        let third = draws(&shared(Noise::Seed(3)));
        assert_eq!(draws(&shared(nested))[0][..64], slerp(&middle[0][..64], &third[0][..64], 0.25));
    }

    #[test]
    fn an_image_with_its_own_noise_equals_the_one_that_its_seed_makes_alone() {
        let alone = |seed: u64| {
            let (mut generator, mut first, mut second) =
                (BatchNoise::from(seed).generator(1, 64).unwrap(), vec![0.0; 64], vec![0.0; 64]);
            generator(&mut first);
            generator(&mut second);
            [first, second]
        };
        let both = draws(&BatchNoise::PerImage(vec![Noise::Seed(5), Noise::Seed(6)]));
        let (a, b) = (alone(5), alone(6));
        assert_eq!(both, [0, 1].map(|k| [a[k].clone(), b[k].clone()].concat()));
    }

    #[test]
    fn classes_are_drawn_from_the_seed_at_amount_0() {
        let between = Noise::between(Noise::Seed(7), Noise::Seed(8), 0.5);
        assert_eq!(shared(between.clone()).label_seed(), 7);
        assert_eq!(BatchNoise::PerImage(vec![between]).label_seed(), 0);
    }

    #[test]
    fn amounts_out_of_range_deep_nesting_and_wrong_counts_are_refused() {
        let message = |noise: BatchNoise| noise.generator(3, 64).err().unwrap().to_string();
        for amount in [-0.1, 1.1, f64::NAN] {
            let found = message(shared(Noise::between(Noise::Seed(1), Noise::Seed(2), amount)));
            assert_eq!(found, format!("amount: expected a number from 0 to 1, found {amount}"));
        }
        let deep = |n: usize| (0..n).fold(Noise::Seed(1), |noise, _| Noise::between(noise, Noise::Seed(2), 0.5));
        assert!(shared(deep(MAX_NESTING)).generator(1, 1).is_ok());
        assert!(message(shared(deep(MAX_NESTING + 1))).contains("at most 64 within one another"));
        let found = message(BatchNoise::PerImage(vec![Noise::Seed(5)]));
        assert_eq!(found, "seed: expected 3 of them, one for each sample, found 1");
    }

    #[test]
    fn slerp_keeps_the_length() {
        let mut generator = Generator::new(3);
        let (mut a, mut b) = (vec![0.0; 1000], vec![0.0; 1000]);
        generator.randn(&mut a);
        generator.randn(&mut b);
        let close = |found: &[f32], expected: &[f32]| found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6);
        assert!(close(&slerp(&a, &b, 0.0), &a) && close(&slerp(&a, &b, 1.0), &b) && close(&slerp(&a, &a, 0.3), &a));
        let length = |v: &[f32]| v.iter().map(|v| v * v).sum::<f32>().sqrt();
        let middle = length(&slerp(&a, &b, 0.5));
        assert!((middle / ((length(&a) + length(&b)) / 2.0) - 1.0).abs() < 1e-2, "{middle}");
    }
}
