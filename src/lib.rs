//! Consistency models (Song et al., ICML 2023): one network call from noise to an image, more calls for a better one.
//!
//! [`Pipeline`] samples from and edits with a model in the diffusers layout, on WebGPU (feature `gpu`) or on the CPU
//! (feature `cpu`):
//!
//! ```no_run
//! use consistency_sampler::{Device, Pipeline, Request};
//!
//! # async fn digits() -> consistency_sampler::Result<()> {
//! let mut pipeline = Pipeline::open("weights/mnist", Device::Auto)?;
//! let images = pipeline.sample(&Request { noise: 1.into(), batch: 10, ..Default::default() }).await?;
//! assert_eq!(images.len(), 10 * 28 * 28);
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//! - [`model`]: a folder's configuration, and the U-Net's forward, written once over a trait of operations.
//! - [`consistency`]: noise levels, noise, Algorithm 1 and Algorithm 4, over any consistency function.
//! - [`checkpoint`]: folders on disk, safetensors from a stream of bytes, conversion to fewer bits.
//! - [`network`]: the interface of a backend. Backends: `gpu`, `cpu`, `burn` (features of these names).
//! - `train` (feature `train`): data, losses, optimizer, checkpoints.
//! - `web` (features `web`, on WebGPU, and `web-cpu`, on the CPU): the bindings of the page's WebAssembly module.

#[cfg(all(feature = "bench", target_arch = "wasm32"))]
pub mod bench;
#[cfg(any(feature = "burn", feature = "burn-wgpu"))]
pub mod burn;
pub mod checkpoint;
pub mod consistency;
#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(all(any(feature = "gpu", feature = "cpu"), not(target_arch = "wasm32")))]
mod device;
mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod image;
mod json;
pub mod model;
pub mod network;
#[cfg(feature = "png")]
pub mod picture;
mod pipeline;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
pub mod train;
#[cfg(all(feature = "javascript", any(feature = "gpu", feature = "cpu"), target_arch = "wasm32"))]
pub mod web;

pub use checkpoint::tensor::Precision;
pub use consistency::edit::Edit;
pub use consistency::edit_request::{EditRequest, Task};
pub use consistency::noise::{BatchNoise, Noise};
pub use consistency::sampler::{Progress, Request};
#[cfg(all(any(feature = "gpu", feature = "cpu"), not(target_arch = "wasm32")))]
pub use device::{AnyNetwork, Device};
pub use error::{Error, Result};
pub use pipeline::Pipeline;

/// Compiles the Rust of the README.
#[cfg(all(doctest, feature = "gpu"))]
#[doc = include_str!("../README.md")]
struct Readme;
