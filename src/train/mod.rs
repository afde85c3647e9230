//! Training of consistency models and EDM denoisers, on the CPU backend's gradients or the GPU's.
//!
//! # Layout
//! - [`data`]: the formats of training images (`mnist`, `image_folder`, `animals`), read into a [`dataset`].
//! - [`denoiser`]: the U-Net under its scalings, with gradients, which `network` computes; [`teacher`]: a denoiser under guidance.
//! - [`objective`]: objectives and their noise levels; `losses`: the losses, each beside its equation; [`dmd`]:
//!   distribution matching; `trajectories`: regression on a teacher's; `ode`: steps of the probability-flow ODE.
//! - [`trainer`]: one iteration; [`optimizer`]: RAdam, Muon, moving averages; [`weights`]: the flat weights; [`images`]: a batch.
//! - [`checkpoint`]: the files of a run; [`record`]: what it was begun with.
//! - [`classifier`], [`evaluation`]: measures of samples.
//!
//! The random numbers of iteration k are from a generator seeded with `(seed, k)`, so that a resumed run of a length in
//! iterations has the results of an uninterrupted one.

mod animals;
pub mod checkpoint;
pub mod classifier;
pub mod data;
pub mod dataset;
pub mod denoiser;
pub mod dmd;
pub mod evaluation;
mod image_folder;
pub mod images;
mod losses;
mod mnist;
mod network;
pub mod objective;
mod ode;
pub mod optimizer;
pub mod record;
pub mod teacher;
pub mod trainer;
mod trajectories;
pub mod weights;
