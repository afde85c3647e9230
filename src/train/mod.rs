//! Training of consistency models and EDM denoisers, on the CPU backend's gradients or the GPU's.
//!
//! # Layout
//! - [`data`]: images to draw from, a [`dataset`] or composed `animals`; `data_folder`: the formats of a folder of them (`mnist`,
//!   `image_folder`, `animals`).
//! - [`denoiser`]: the U-Net under its scalings, with gradients, which `network` computes; [`teacher`]: a denoiser under guidance.
//! - [`objective`]: objectives and their noise levels; `losses`: the losses, each beside its equation; [`dmd`]:
//!   distribution matching; `trajectories`: regression on a teacher's; `ode`: steps of the probability-flow ODE.
//! - [`session`]: a run on pictures in memory, in two phases. [`trainer`]: one iteration; [`optimizer`]: RAdam, Muon, moving averages; [`weights`]: the flat weights; [`images`]: a batch.
//! - [`checkpoint`]: a run as bytes; `run_folder`: as files; [`record`]: what it was begun with.
//! - `classifier`, `evaluation`: measures of samples.
//!
//! With feature `trainer` alone, as in a page, images come from memory, and there are no measures of samples.
//!
//! The random numbers of iteration k are from a generator seeded with `(seed, k)`, so that a resumed run of a length in
//! iterations has the results of an uninterrupted one.

mod animals;
pub mod checkpoint;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
pub mod classifier;
pub mod data;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
pub mod data_folder;
pub mod dataset;
pub mod denoiser;
pub mod dmd;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
pub mod evaluation;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
mod image_folder;
pub mod images;
mod losses;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
mod mnist;
mod network;
pub mod objective;
mod ode;
pub mod optimizer;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
mod picture;
pub mod record;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
pub mod run_folder;
pub mod session;
pub mod teacher;
pub mod trainer;
mod trajectories;
pub mod weights;
