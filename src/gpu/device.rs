//! The GPU with this crate's pipelines, and what went wrong on it.
//!
//! What differs between wgpu and a browser is behind [`backend::Device`]: `native.rs` and `web/webgpu.rs` offer the same
//! functions.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::backend;
use super::kernels::{Kernel, Specialised};
use super::program::Choice;
#[cfg(not(target_arch = "wasm32"))]
use super::program::Products;
#[cfg(not(target_arch = "wasm32"))]
use super::tuning;
use crate::error::{Error, Result};

/// What a device takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of the longest buffer.
    pub(crate) buffer: u64,
    /// Bytes of the longest storage buffer that a kernel can be given.
    pub(crate) binding: u64,
    /// The most workgroups of a launch along one dimension.
    pub(crate) workgroups: u32,
}

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Kernels read it, the host writes it.
    Input,
    /// Kernels read and write it.
    Scratch,
    /// Kernels write it, then it is copied.
    Result,
    /// It is copied to and read by the host.
    Readback,
    /// A kernel's parameters.
    Uniform,
    /// Clock readings.
    #[cfg(not(target_arch = "wasm32"))]
    Clock,
}

/// A part of a buffer, as a kernel is given it; begins at a multiple of 256 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Slice<'a> {
    pub(crate) buffer: &'a backend::Buffer,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

impl<'a> Slice<'a> {
    pub(crate) fn whole(buffer: &'a backend::Buffer) -> Self {
        Self { buffer, offset: 0, bytes: buffer.size() }
    }
}

/// What a device reported outside of any call. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Fault(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The first error since the last one was taken.
    error: Option<String>,
    /// Whether the device was lost, after which nothing works on it.
    lost: bool,
}

impl Fault {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Keeps `message` unless there is one already.
    pub(crate) fn note(&self, message: &str) {
        self.state().error.get_or_insert_with(|| message.to_owned());
    }

    /// Keeps for good that the device was lost, for the reason that the platform gives.
    pub(crate) fn note_loss(&self, reason: &str) {
        *self.state() = State { error: Some(format!("the GPU device was lost: {reason}")), lost: true };
    }

    /// The error, which is forgotten unless the device was lost.
    fn take(&self) -> Option<String> {
        let mut state = self.state();
        if state.lost { state.error.clone() } else { state.error.take() }
    }
}

/// A WebGPU device with this crate's pipelines. Clones share it.
#[derive(Clone)]
pub struct Gpu {
    pub(super) device: backend::Device,
    /// The kernels that suit the device.
    pub(super) choice: Choice,
    fault: Fault,
    // A network has some twenty pipelines: a list is searched as fast as a table.
    pipelines: Rc<RefCell<Vec<(Specialised, backend::Pipeline)>>>,
    layouts: Rc<RefCell<Vec<(Kernel, backend::Layout)>>>,
}

impl Gpu {
    /// Asks for the fastest adapter and for all that it allows, and finds out which kernels suit it.
    ///
    /// # Errors
    /// [`Error::Gpu`] when there is no adapter or it refuses a device.
    pub async fn request() -> Result<Self> {
        let fault = Fault::default();
        let device = backend::Device::request(&fault).await?;
        let (pipelines, layouts) = (Rc::default(), Rc::default());
        let gpu = Self { device, choice: Choice::SAFE, fault, pipelines, layouts };
        // The page keeps what runs everywhere: the trial is 7 KB of its 150, and no browser on a real GPU has shown yet
        // what it would gain.
        #[cfg(not(target_arch = "wasm32"))]
        let gpu = Self { choice: tuning::choose(&gpu).await?, ..gpu };
        Ok(gpu)
    }

    /// The adapter's name for people, as far as the platform tells it.
    pub fn description(&self) -> &str {
        match self.device.description() {
            "" => "WebGPU adapter",
            name => name,
        }
    }

    /// Which kernels the trial has chosen for products of few outputs and of many, for people.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn kernels(&self) -> String {
        let name = |products| match products {
            Products::Registers => "registers".to_owned(),
            Products::Tiled(t) => format!("tiles of {} × {}", t.down * t.rows, t.across * 4 * t.vectors),
        };
        format!("{} and {}", name(self.choice.few), name(self.choice.many))
    }

    /// Whether the adapter is a program that imitates a GPU.
    pub fn is_software(&self) -> bool {
        self.device.is_software()
    }

    /// Forgets the errors so far, of which one failure can bring several; returns whether the device still works. One
    /// that was lost does not: it, and all that is on it, must be made anew.
    pub fn forgive(&self) -> bool {
        self.fault.take();
        !self.fault.state().lost
    }

    /// An error if the device has reported one since the last time. Only a loss is reported again and again: the memory
    /// that one call did not get must not stop a smaller one.
    pub(super) fn check(&self) -> Result<()> {
        self.fault.take().map_or(Ok(()), |message| Err(Error::Gpu(message)))
    }

    /// A zeroed buffer of `bytes`, which are checked against the device's limits.
    pub(super) fn buffer(&self, what: &str, bytes: u64, role: Role) -> Result<backend::Buffer> {
        self.fits(what, bytes, role)?;
        Ok(self.device.buffer(what, bytes.max(16), role))
    }

    /// An error if the device has no buffers of `bytes`.
    pub(super) fn fits(&self, what: &str, bytes: u64, role: Role) -> Result<()> {
        let limits = self.device.limits();
        let most = match role {
            Role::Input | Role::Scratch | Role::Result => limits.buffer.min(limits.binding),
            _ => limits.buffer,
        };
        if bytes > most {
            let message = format!("{what} needs a buffer of {bytes} bytes, but this GPU's largest is {most}");
            return Err(Error::Gpu(message));
        }
        Ok(())
    }

    /// The pipeline of a specialised kernel, compiled when it is first asked for.
    pub(super) fn pipeline(&self, shader: &Specialised) -> backend::Pipeline {
        if let Some((_, pipeline)) = self.pipelines.borrow().iter().find(|(of, _)| of == shader) {
            return pipeline.clone();
        }
        let pipeline = self.device.pipeline(shader.kernel.name(), shader.wgsl(), &self.layout(shader.kernel));
        self.pipelines.borrow_mut().push((shader.clone(), pipeline.clone()));
        pipeline
    }

    /// How many pipelines have been compiled.
    pub fn pipeline_count(&self) -> usize {
        self.pipelines.borrow().len()
    }

    /// The bind group layout of a kernel: a uniform at 0, then its storage buffers.
    pub(super) fn layout(&self, kernel: Kernel) -> backend::Layout {
        let mut layouts = self.layouts.borrow_mut();
        if let Some((_, layout)) = layouts.iter().find(|(of, _)| *of == kernel) {
            return layout.clone();
        }
        let layout = self.device.layout(kernel);
        layouts.push((kernel, layout.clone()));
        layout
    }

    /// Waits for a [`Role::Readback`] buffer and copies it out.
    pub(super) async fn read(&self, buffer: &backend::Buffer) -> Result<Vec<f32>> {
        let values = self.device.read(buffer).await;
        self.check()?;
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_reported_once_and_a_loss_for_good() {
        let fault = Fault::default();
        fault.note("no memory");
        fault.note("because of it");
        assert_eq!(fault.take().as_deref(), Some("no memory"));
        assert_eq!(fault.take(), None);
        fault.note("no memory");
        fault.note_loss("a reason");
        for _ in 0..2 {
            assert_eq!(fault.take().as_deref(), Some("the GPU device was lost: a reason"));
        }
    }
}
