//! Consistency models (Song et al., ICML 2023): one network call from noise to an image, more calls for a better one.
//!
//! # Layout
//! - [`config`], [`weights`], `folder`: what a diffusers folder says and holds.
//! - [`consistency`], [`sampler`], [`rng`]: the algebra of noise levels, Algorithm 1, PyTorch's random numbers.
//! - [`unet`]: the network's forward, once, over a trait of operations.
//! - `gpu` (feature `gpu`): the interpreter that records a static WebGPU plan.
//! - [`network`], [`image`]: what every interpreter offers; from its numbers to pixels, and PNG files (feature `png`).
//! - `cpu` (feature `cpu`): the interpreter on the CPU, with gradients.
//! - `burn` (features `burn`: on the CPU, `burn-wgpu`: on a GPU): the interpreter on burn tensors.
//! - `train` (feature `train`): data, objectives, optimizer, checkpoints.
//! - `web` (features `web`: on WebGPU, `web-cpu`: on the CPU): the only place that knows JavaScript exists, but for
//!   `bench`.
//! - `bench` (feature `bench`): the burn interpreter for the browser benchmark; it is in no page.

// The modules are public for the command line, the tests and the tools of this repository, without a promise that they
// stay as they are. What users call is exported below.
#[cfg(all(feature = "bench", target_arch = "wasm32"))]
pub mod bench;
#[cfg(any(feature = "burn", feature = "burn-wgpu"))]
#[doc(hidden)]
pub mod burn;
#[doc(hidden)]
pub mod checkpoint;
#[doc(hidden)]
pub mod consistency;
#[cfg(feature = "cpu")]
#[doc(hidden)]
pub mod cpu;
#[cfg(all(any(feature = "gpu", feature = "cpu"), not(target_arch = "wasm32")))]
mod device;
mod error;
#[cfg(feature = "gpu")]
#[doc(hidden)]
pub mod gpu;
#[doc(hidden)]
pub mod image;
mod json;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod network;
mod pipeline;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
#[doc(hidden)]
pub mod train;
#[cfg(all(feature = "javascript", any(feature = "gpu", feature = "cpu"), target_arch = "wasm32"))]
pub mod web;

#[cfg(not(target_arch = "wasm32"))]
pub use checkpoint::convert::{Report as ConversionReport, convert};
#[cfg(not(target_arch = "wasm32"))]
pub use checkpoint::folder::ModelFolder;
pub use checkpoint::tensor::{Arrival, Precision, Rows};
pub use consistency::edit::Edit;
pub use consistency::edit_request::{EditRequest, Task};
pub use consistency::noise::{BatchNoise, Noise};
pub use consistency::sampler::{ConsistencyFunction, Progress, Request};
pub use consistency::schedule::{Scalings, Schedule, Step};
#[cfg(feature = "cpu")]
pub use cpu::CpuUNet;
#[cfg(all(any(feature = "gpu", feature = "cpu"), not(target_arch = "wasm32")))]
pub use device::{AnyNetwork, Device};
pub use error::{Error, Result};
#[cfg(feature = "gpu")]
pub use gpu::{Gpu, GpuUNet, LaunchTime, Report};
#[cfg(feature = "png")]
pub use image::png::{read as read_png, write_grid};
pub use image::{from_rgba, to_rgba};
pub use model::config::{BlockType, Resample, SchedulerConfig, TimeScaleShift, UNetConfig};
pub use network::{ForwardInput, Network};
pub use pipeline::Pipeline;

/// Compiles the Rust of the README.
#[cfg(all(doctest, feature = "gpu"))]
#[doc = include_str!("../README.md")]
struct Readme;
