//! Consistency models (Song et al., ICML 2023): the U-Net and the multistep sampler, on WebGPU and on the CPU.
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

#[cfg(all(feature = "bench", target_arch = "wasm32"))]
pub mod bench;
#[cfg(any(feature = "burn", feature = "burn-wgpu"))]
pub mod burn;
pub mod checkpoint;
pub mod consistency;
#[cfg(feature = "cpu")]
pub mod cpu;
pub mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod image;
mod json;
pub mod model;
pub mod network;
#[cfg(all(feature = "train", not(target_arch = "wasm32")))]
pub mod train;
#[cfg(all(feature = "javascript", any(feature = "gpu", feature = "cpu"), target_arch = "wasm32"))]
pub mod web;

pub use error::{Error, Result};

/// Compiles and checks the README's Rust.
#[cfg(all(doctest, feature = "gpu"))]
#[doc = include_str!("../README.md")]
struct Readme;
