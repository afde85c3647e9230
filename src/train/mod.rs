//! Training consistency models and their EDM teachers, by the CPU interpreter's gradients or burn's autodiff.
//!
//! # Layout
//! - [`data`], [`heroes`]: batches of images with classes.
//! - [`losses`]: the losses, each beside its equation; no data, no weights.
//! - [`optimizer`]: RAdam and the moving average.
//! - [`objective`]: which objective at which noise levels, by the progress of a run.
//! - [`initial`]: random weights to start from.
//! - [`trainer`]: one iteration; [`checkpoint`]: what a run keeps on disk.
//! - [`dmd`]: distribution matching distillation, with its critic.
//! - [`teacher`]: a denoiser under guidance, and its samples.
//! - [`classifier`], [`evaluation`]: how good samples are.
//!
//! A run draws the random numbers of iteration k from a generator that `(seed, k)` seeds, so that a resumed run
//! needs no generator state to continue as if it had not been interrupted.

pub mod checkpoint;
pub mod classifier;
pub mod data;
pub mod dataset;
pub mod denoiser;
pub mod dmd;
pub mod evaluation;
mod heroes;
mod image_folder;
pub mod initial;
mod losses;
mod mnist;
pub mod objective;
mod ode;
pub mod optimizer;
pub mod teacher;
pub mod trainer;
