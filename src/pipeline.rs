//! A model ready to use: configuration, scheduler and network together.

use std::ops::ControlFlow;

use crate::consistency::edit;
use crate::consistency::edit_request::EditRequest;
use crate::consistency::sampler::{Progress, Request};
use crate::error::Result;
use crate::model::config::{SchedulerConfig, UNetConfig};
use crate::network::{ForwardInput, Network, Watch};

/// A consistency model on a device.
///
/// Images are (B, C, H, W), row-major, f32, in about \[−1, 1\]; [`crate::image::to_rgba`] makes pixels of them.
///
/// With the network of a [`crate::gpu::Gpu`] a pipeline and its futures are `Send` natively. A call waits for the device
/// on the calling thread.
pub struct Pipeline<N> {
    network: N,
    scheduler: SchedulerConfig,
}

impl<N: Network> Pipeline<N> {
    /// A pipeline of a network whose weights are loaded.
    pub fn new(network: N, scheduler: SchedulerConfig) -> Self {
        Self { network, scheduler }
    }

    /// The architecture: image size, channels, classes.
    pub fn unet(&self) -> &UNetConfig {
        self.network.config()
    }

    /// Noise levels and σ_data.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// The network.
    pub fn network(&mut self) -> &mut N {
        &mut self.network
    }

    /// What cancels calls and tells how far they are, from another thread: on a GPU within a network call, between two of the
    /// submits that it is cut into.
    pub fn watch(&self) -> Watch {
        self.network.watch()
    }

    /// Draws `request.batch` samples by Algorithm 1 of Song et al. 2023, as diffusers' `ConsistencyModelPipeline` does.
    ///
    /// # Errors
    /// [`crate::Error::Input`] for a request that does not fit the model, [`crate::Error::Gpu`] when the device fails.
    pub async fn sample(&mut self, request: &Request) -> Result<Vec<f32>> {
        self.sample_with(request, |_| ControlFlow::Continue(())).await
    }

    /// [`Pipeline::sample`] with a function that is called after each network call and may stop the run.
    ///
    /// # Errors
    /// Those of [`Pipeline::sample`], and [`crate::Error::Cancelled`] when `on_step` breaks off.
    pub async fn sample_with(
        &mut self,
        request: &Request,
        on_step: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<f32>> {
        let unet = self.network.config().clone();
        request.run(&mut self.network, &unet, &self.scheduler, on_step).await
    }

    /// Edits a picture by Algorithm 4 of Song et al. 2023, denoises it, or interpolates between two.
    ///
    /// # Errors
    /// [`crate::Error::Input`] for a request that does not fit the model, [`crate::Error::Gpu`] when the device fails.
    pub async fn edit(&mut self, request: &EditRequest) -> Result<Vec<f32>> {
        self.edit_with(request, |_| ControlFlow::Continue(())).await
    }

    /// [`Pipeline::edit`] with a function that is called after each network call and may stop the run.
    ///
    /// # Errors
    /// Those of [`Pipeline::edit`], and [`crate::Error::Cancelled`] when `on_step` breaks off.
    pub async fn edit_with(
        &mut self,
        request: &EditRequest,
        on_step: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Vec<f32>> {
        let unet = self.network.config().clone();
        request.run(&mut self.network, &unet, &self.scheduler, on_step).await
    }

    /// x₀ = f(x, σ) in one network call. `sigma` is the standard deviation of the noise in `x` (B, C, H, W), from σ_min to
    /// σ_max; `labels` has the class of each sample and is empty for an unconditional model.
    ///
    /// # Errors
    /// [`crate::Error::Input`] for arguments that do not fit, [`crate::Error::Gpu`] when the device fails.
    pub async fn denoise(&mut self, x: &[f32], sigma: f64, labels: &[u32]) -> Result<Vec<f32>> {
        edit::denoise(&mut self.network, &self.scheduler, sigma, x, labels).await
    }

    /// The bare network F(x, t), as diffusers' `UNet2DModel` is called.
    ///
    /// # Errors
    /// [`crate::Error::Input`] for arguments that do not fit, [`crate::Error::Gpu`] when the device fails.
    pub async fn forward(&mut self, input: ForwardInput<'_>) -> Result<Vec<f32>> {
        self.network.forward(input).await
    }
}
