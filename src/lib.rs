//! Consistency models (Song et al., ICML 2023): one network call from noise to an image, more calls for a better one.
//!
//! A [`Pipeline`] samples from and edits with a model in the diffusers layout, on WebGPU (feature `gpu`) or on the CPU
//! (feature `cpu`); both are on by default.
//!
//! ```no_run
//! use consistency_sampler::{Device, Pipeline, Request};
//!
//! # async fn digits() -> consistency_sampler::Result<()> {
//! let mut pipeline = Pipeline::open("weights/mnist", Device::Auto)?;
//! let request = Request { noise: 1.into(), batch: 10, class_labels: Some(vec![7]), ..Default::default() };
//! let images = pipeline.sample(&request).await?;
//! assert_eq!(images.len(), 10 * 28 * 28);
//! # Ok(())
//! # }
//! ```
//!
//! `noise: 1.into()` is seed 1: it gives the picture that diffusers gives with `torch.Generator("cpu").manual_seed(1)`.
//! The calls are asynchronous; any executor runs them, for instance `pollster::block_on`.
//!
//! Feature `hub` adds `Pipeline::from_pretrained`, which downloads a model by its id, `owner/name`, and `Hub` behind it.
//! Feature `png` adds `read_png` and `write_grid`. The other features build the command line (`cli`), the trainer
//! (`train`), the page's modules (`web`, `web-cpu`, `web-train`) and a backend on burn (`burn`, `burn-wgpu`).

// The modules are public for the command line, the tests and the tools of this repository, without a promise that they
// stay as they are. What users call is exported below.
#[cfg(all(feature = "bench", target_arch = "wasm32"))]
pub mod bench;
#[cfg(any(feature = "burn", feature = "burn-wgpu"))]
#[doc(hidden)]
pub mod burn;
#[doc(hidden)]
pub mod checkpoint;
mod compact;
#[doc(hidden)]
pub mod consistency;
#[cfg(feature = "cpu")]
#[doc(hidden)]
pub mod cpu;
#[cfg(all(any(feature = "gpu", feature = "cpu"), not(target_arch = "wasm32")))]
mod device;
mod error;
#[doc(hidden)]
pub mod file;
#[cfg(feature = "gpu")]
#[doc(hidden)]
pub mod gpu;
#[cfg(all(feature = "hub", not(target_arch = "wasm32")))]
mod hub;
#[doc(hidden)]
pub mod image;
mod json;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod network;
mod pipeline;
#[cfg(feature = "trainer")]
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
#[cfg(all(feature = "hub", not(target_arch = "wasm32")))]
pub use hub::{Hub, HubEvent};
#[cfg(feature = "png")]
pub use image::png::{read as read_png, write_grid};
pub use image::{from_rgba, to_rgba};
pub use model::config::{BlockType, Resample, SchedulerConfig, TimeScaleShift, UNetConfig};
pub use network::{ForwardInput, Network, Watch};
pub use pipeline::Pipeline;

/// Compiles the Rust of the README and of the book's chapter.
#[cfg(all(doctest, feature = "gpu"))]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../docs/rust.md")]
struct Readme;
