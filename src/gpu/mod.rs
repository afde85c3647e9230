//! The WebGPU backend: it records the forward once and runs it as a static plan.
//!
//! `graph` records the operations, `fuse` groups them into kernel launches, the `program`, `memory` lets
//! activations share buffers, `plan` binds everything for one batch size, and `pace` cuts a call
//! into submits. The kernels are under `kernels/`, one file
//! each; `pack` brings weights into the order that they read, `weight_buffers` holds those. `device` is the GPU
//! through wgpu, and `tuning` finds out which kernels suit it.

mod device;
mod fuse;
#[cfg(feature = "gradient")]
mod gradient;
mod graph;
mod kernels;
mod memory;
mod network;
mod pace;
mod pack;
mod plan;
mod program;
#[cfg(all(test, feature = "cpu"))]
mod tests;
mod tuning;
mod weight_buffers;

pub use device::Gpu;
#[cfg(feature = "gradient")]
pub use gradient::{GpuGradient, GradientReport};
pub use network::GpuUNet;
pub use plan::{LaunchTime, Report};

use crate::error::Result;

impl Gpu {
    /// The device of the fastest adapter, with all limits that the adapter allows. A short trial chooses the kernels that
    /// suit it.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] when there is no adapter or it refuses a device.
    pub async fn request() -> Result<Self> {
        Ok(tuning::tuned(Self::open().await?).await)
    }

    /// The device once for each kind of kernels that the trial knows, for measurements.
    #[doc(hidden)]
    pub fn candidates(&self) -> Vec<Self> {
        let tiled = tuning::tiles(self).into_iter().map(program::Products::Tiled);
        let of = |products| {
            let mut gpu = self.clone();
            gpu.choice = [products; program::OUTPUTS.len()];
            gpu
        };
        std::iter::once(program::Products::Registers).chain(tiled).map(of).collect()
    }
}
