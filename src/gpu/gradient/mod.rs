//! The gradient of the network's weights on the GPU.
//!
//! `reverse` appends to the launches of the forward those of the gradient, `kernels` names their kernels, and `plan` binds both
//! for one batch size. Weights and gradients each lie in one buffer, in the order in which the kernels read weights.

mod flat;
pub(super) mod kernels;
mod plan;
mod reverse;
#[cfg(all(test, feature = "cpu"))]
mod tests;

use super::device::{Buffer, Gpu, Role};
use super::fuse::fuse;
use super::graph::Graph;
use super::plan::{LaunchTime, padded_rows};
use super::program::{Choice, Products, Program};
use crate::error::Result;
use crate::model::config::UNetConfig;
use crate::model::unet::{Parameter, UNet};
use flat::Flat;
use plan::{Passes, Plan};
use reverse::{Fixed, append, permit_no_class};

/// The U-Net's forward and its gradient as a static plan on a GPU. Weights and gradients are flat, in the order of
/// `UNet::parameters`, as those of the CPU backend.
pub struct GpuGradient {
    gpu: Gpu,
    config: UNetConfig,
    parameters: Vec<Parameter>,
    program: Program,
    /// Launches of the forward, which come first.
    forward: usize,
    /// Floats per sample of the forward's activations.
    forward_floats: usize,
    /// As in [`Fixed::lengths`].
    lengths: Vec<usize>,
    flat: Flat,
    weights: Buffer,
    plan: Option<Plan>,
}

/// What a step costs, at the batch size of the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GradientReport {
    /// Launches of the forward.
    pub forward_launches: usize,
    /// Launches of the reverse pass.
    pub reverse_launches: usize,
    /// Bytes of all activations of the forward, most of which the gradient reads.
    pub forward_bytes: u64,
    /// Bytes of the buffers that the values and gradients of both passes share.
    pub activation_bytes: u64,
    /// Bytes of weights, their gradients and what these are made of.
    pub weight_bytes: u64,
}

/// The device's kernels; gradients are too small for half precision.
fn single_precision(gpu: &Gpu) -> Choice {
    gpu.choice.map(Products::in_single_precision)
}

impl GpuGradient {
    /// Plans forward and gradient of the network that `config` describes.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] when the device fails or its largest buffer is too small.
    pub fn new(gpu: &Gpu, config: &UNetConfig) -> Result<Self> {
        let choice = single_precision(gpu);
        Self::of_program(gpu, config, fuse(&Graph::record(config, &UNet::new(config)), choice), Some(choice))
    }

    /// Plans the forward alone, which takes less memory and has no gradient.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn forward_only(gpu: &Gpu, config: &UNetConfig) -> Result<Self> {
        Self::of_program(gpu, config, fuse(&Graph::record(config, &UNet::new(config)), single_precision(gpu)), None)
    }

    /// The forward `program`, with a reverse pass by the products of a choice.
    fn of_program(gpu: &Gpu, config: &UNetConfig, mut program: Program, choice: Option<Choice>) -> Result<Self> {
        permit_no_class(&mut program);
        let forward = program.dispatches.len();
        let forward_floats = program.activations.iter().sum();
        let lengths = match choice {
            Some(choice) => append(&mut program, choice, config.out_channels).lengths,
            None => Fixed::none().lengths,
        };
        let parameters = UNet::new(config).parameters();
        let flat = Flat::new(&program, &parameters)?;
        for &floats in &program.weights {
            gpu.fits("a weight", floats as u64 * 4, Role::Input)?;
        }
        let weights = gpu.buffer("the weights", flat.bytes(), Role::Parts)?;
        gpu.check()?;
        Ok(Self {
            gpu: gpu.clone(),
            config: config.clone(),
            parameters,
            program,
            forward,
            forward_floats,
            lengths,
            flat,
            weights,
            plan: None,
        })
    }

    /// The parameters in the order of the flat weights.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of values in the flat weights.
    pub fn weight_count(&self) -> usize {
        self.flat.positions.len()
    }

    /// Takes over all weights, in the order of the parameters.
    ///
    /// # Panics
    /// When their number is another.
    pub fn load(&mut self, weights: &[f32]) {
        assert_eq!(weights.len(), self.weight_count(), "one value per weight");
        self.gpu.write(&self.weights, 0, bytemuck::cast_slice(&self.flat.pack(weights)));
    }

    /// F(x, t) with the weights that were loaded last: `sample` (B, C, H, W), `time` (B, block_out_channels\[0\]), one label
    /// (a class or [`crate::model::unet::NO_CLASS`]) per sample, or none for a network without classes. What
    /// [`Self::gradient`] needs stays on the device until the next forward.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] when the device fails or the batch is too large for it.
    ///
    /// # Panics
    /// When a length does not fit the network.
    pub async fn forward(&mut self, sample: &[f32], time: &[f32], labels: &[u32]) -> Result<Vec<f32>> {
        let dim = self.config.block_out_channels[0];
        let [height, width] = self.config.sample_size;
        let batch = time.len() / dim;
        let pixels = height * width;
        assert_eq!(
            (sample.len(), time.len()),
            (batch * self.config.in_channels * pixels, batch * dim),
            "whole samples"
        );
        self.make_plan(batch)?;
        let (gpu, plan) = (&self.gpu, self.plan.as_mut().expect("made above"));
        let rows = padded_rows(time, dim);
        gpu.write(&plan.state, 0, bytemuck::cast_slice(sample));
        gpu.write(&plan.time, 0, bytemuck::cast_slice::<f32, u8>(&rows));
        gpu.write(&plan.labels, 0, bytemuck::cast_slice(labels));
        let result = plan.forward(gpu).await;
        self.settle(result)
    }

    /// The gradient Σ_b ∂L/∂F_b · ∂F_b/∂weights, flat, for `outer` = ∂L/∂F (B, C, H, W) of the last forward.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] when the device fails.
    ///
    /// # Panics
    /// When there was no forward, a length does not fit it, or this is a forward alone.
    pub async fn gradient(&mut self, outer: &[f32]) -> Result<Vec<f32>> {
        let plan = self.plan.as_mut().expect("a forward comes first");
        assert!(self.forward < self.program.dispatches.len(), "a forward alone has no gradient");
        assert_eq!(outer.len() * 4, plan.outer.size() as usize, "the gradient has the result's shape");
        self.gpu.write(&plan.outer, 0, bytemuck::cast_slice(outer));
        let packed = plan.reverse(&self.gpu).await;
        let packed = self.settle(packed)?;
        Ok(self.flat.unpack(&packed))
    }

    /// Does a step with the inputs of the last one and returns the time of each of its launches.
    ///
    /// # Errors
    /// [`crate::Error::Gpu`] when the device fails or its clock cannot be read.
    ///
    /// # Panics
    /// When there was no forward.
    pub async fn profile(&mut self) -> Result<Vec<LaunchTime>> {
        self.plan.as_ref().expect("a forward comes first").profile(&self.gpu, &self.program).await
    }

    /// The cost of a step on the device; `None` before the first forward.
    pub fn report(&self) -> Option<GradientReport> {
        let plan = self.plan.as_ref()?;
        let [forward_launches, reverse_launches] = plan.launches();
        Some(GradientReport {
            forward_launches,
            reverse_launches,
            forward_bytes: (plan.batch * self.forward_floats * 4) as u64,
            activation_bytes: plan.activation_bytes,
            weight_bytes: self.weights.size() + plan.weight_bytes,
        })
    }

    fn make_plan(&mut self, batch: usize) -> Result<()> {
        if self.plan.as_ref().is_none_or(|plan| plan.batch != batch) {
            self.plan = None; // its memory is released before the next one is made
            let passes = Passes { program: &self.program, forward: self.forward, lengths: &self.lengths };
            let plan = Plan::new(&self.gpu, &self.config, &passes, &self.flat, &self.weights, batch)?;
            self.plan = Some(plan);
        }
        Ok(())
    }

    /// Drops the plan after a failure, which may have left it without buffers.
    fn settle<T>(&mut self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.plan = None;
        }
        result
    }
}
