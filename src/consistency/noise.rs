//! Noise of single images: of a seed, or of what lies between two noises.

use crate::consistency::edit::slerp;
use crate::consistency::rng::Generator;
use crate::error::{Error, Result};
use crate::json::number;

/// How deep noises may be nested in one another.
const DEEPEST: usize = 64;

/// Where the noise of one image comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Noise {
    /// A generator of the image's own: `torch.Generator("cpu").manual_seed(seed)`.
    Seed(u64),
    /// Every draw is slerp(from, to, amount).
    Between {
        /// What it is at 0.
        from: Box<Noise>,
        /// What it is at 1.
        to: Box<Noise>,
        /// From 0 to 1.
        amount: f64,
    },
}

impl Noise {
    /// The generators behind it; each draw goes on where the one before ended.
    ///
    /// # Errors
    /// [`Error::Input`] when an amount is not from 0 to 1, or noises are nested more than 64 deep.
    pub fn source(&self) -> Result<NoiseSource> {
        self.source_at(0)
    }

    fn source_at(&self, depth: usize) -> Result<NoiseSource> {
        match self {
            Self::Seed(seed) => Ok(NoiseSource::Seed(Box::new(Generator::new(*seed)))),
            Self::Between { .. } if depth == DEEPEST => {
                Err(Error::Input(format!("noise: expected at most {DEEPEST} within one another, found more")))
            }
            Self::Between { from, to, amount } if (0.0..=1.0).contains(amount) => {
                let ends = Box::new([from.source_at(depth + 1)?, to.source_at(depth + 1)?]);
                Ok(NoiseSource::Between(ends, *amount))
            }
            Self::Between { amount, .. } => {
                let found = number(*amount);
                Err(Error::Input(format!("noise: expected an amount from 0 to 1, found {found}")))
            }
        }
    }
}

/// The generators of a [`Noise`].
pub enum NoiseSource {
    /// That of a seed.
    Seed(Box<Generator>),
    /// Those of both ends, and how far it is from the first.
    Between(Box<[NoiseSource; 2]>, f64),
}

impl NoiseSource {
    /// Fills an image with standard normals.
    pub fn fill(&mut self, z: &mut [f32]) {
        match self {
            Self::Seed(generator) => generator.randn(z),
            Self::Between(ends, amount) => {
                let mut other = vec![0.0; z.len()];
                ends[0].fill(z);
                ends[1].fill(&mut other);
                z.copy_from_slice(&slerp(z, &other, *amount));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(from: Noise, to: Noise, amount: f64) -> Noise {
        Noise::Between { from: Box::new(from), to: Box::new(to), amount }
    }

    fn draws(noise: &Noise) -> [Vec<f32>; 2] {
        let (mut source, mut first, mut second) = (noise.source().unwrap(), vec![0.0; 64], vec![0.0; 64]);
        source.fill(&mut first);
        source.fill(&mut second);
        [first, second]
    }

    #[test]
    fn it_goes_from_one_end_to_the_other_at_every_draw() {
        let (a, b) = (Noise::Seed(1), Noise::Seed(2));
        assert_eq!(draws(&between(a.clone(), b.clone(), 0.0)), draws(&a));
        assert_eq!(draws(&between(a.clone(), b.clone(), 1.0)), draws(&b));
        let [middle, _] = draws(&between(a.clone(), b.clone(), 0.5));
        assert_eq!(middle, slerp(&draws(&a)[0], &draws(&b)[0], 0.5));
        let nested = between(between(a.clone(), b, 0.5), Noise::Seed(3), 0.25);
        assert_eq!(draws(&nested)[0], slerp(&middle, &draws(&Noise::Seed(3))[0], 0.25));
    }

    #[test]
    fn what_is_none_is_refused() {
        for amount in [-0.1, 1.1, f64::NAN] {
            let found = between(Noise::Seed(1), Noise::Seed(2), amount).source().err().unwrap().to_string();
            assert_eq!(found, format!("noise: expected an amount from 0 to 1, found {amount}"));
        }
        let deep = (0..100).fold(Noise::Seed(1), |noise, _| between(noise, Noise::Seed(2), 0.5));
        assert!(deep.source().is_err());
    }
}
