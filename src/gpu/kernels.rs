//! The WGSL kernels and how they are specialised.
//!
//! A kernel is one file under `kernels/`; its header states layout, tiling, traffic and the constants it wants. Shapes
//! are constants in the shader, so that loops have fixed bounds; the batch size and offsets are not, so that layers of
//! one shape share a pipeline and another batch needs no new one.

use std::fmt::{Display, Write};

/// Which file a pipeline is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kernel {
    Conv,
    Gemm,
    Norm,
    Attention,
    Embedding,
    Precondition,
    Denoise,
}

impl Kernel {
    fn source(self) -> [&'static str; 3] {
        const PARAMS: &str = include_str!("kernels/params.wgsl");
        const EPILOGUE: &str = include_str!("kernels/epilogue.wgsl");
        match self {
            Kernel::Conv => [PARAMS, EPILOGUE, include_str!("kernels/conv.wgsl")],
            Kernel::Gemm => [PARAMS, EPILOGUE, include_str!("kernels/gemm.wgsl")],
            Kernel::Norm => [PARAMS, include_str!("kernels/norm.wgsl"), ""],
            Kernel::Attention => [PARAMS, include_str!("kernels/attention.wgsl"), ""],
            Kernel::Embedding => [PARAMS, include_str!("kernels/embedding.wgsl"), ""],
            Kernel::Precondition => [include_str!("kernels/precondition.wgsl"), "", ""],
            Kernel::Denoise => [include_str!("kernels/denoise.wgsl"), "", ""],
        }
    }

    /// The bindings after the uniform at 0: how many storage buffers, and which of them are written.
    pub(super) fn bindings(self) -> &'static [Access] {
        use Access::{Read, Write};
        match self {
            Kernel::Conv | Kernel::Gemm => &[Write, Read, Read, Read, Read, Read, Read],
            Kernel::Norm => &[Write, Read, Read, Read, Read, Read],
            Kernel::Attention | Kernel::Precondition => &[Write, Read],
            Kernel::Embedding => &[Write, Read, Read],
            Kernel::Denoise => &[Write, Read, Read, Write],
        }
    }

    /// A name for the device's error messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kernel::Conv => "conv",
            Kernel::Gemm => "gemm",
            Kernel::Norm => "norm",
            Kernel::Attention => "attention",
            Kernel::Embedding => "embedding",
            Kernel::Precondition => "precondition",
            Kernel::Denoise => "denoise",
        }
    }
}

/// What a kernel does with a storage buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A kernel with its constants: what a pipeline is cached under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Specialised {
    pub(super) kernel: Kernel,
    constants: String,
}

impl Specialised {
    pub(super) fn new(kernel: Kernel) -> Self {
        Self { kernel, constants: String::new() }
    }

    pub(super) fn u32(self, name: &str, value: usize) -> Self {
        self.constant(name, format_args!("{value}u"))
    }

    pub(super) fn f32(self, name: &str, value: f32) -> Self {
        self.constant(name, format_args!("{value:?}"))
    }

    pub(super) fn bool(self, name: &str, value: bool) -> Self {
        self.constant(name, value)
    }

    fn constant(mut self, name: &str, value: impl Display) -> Self {
        writeln!(self.constants, "const {name} = {value};").expect("writing to a string");
        self
    }

    /// The whole shader.
    pub(super) fn wgsl(&self) -> String {
        let mut text = self.constants.clone();
        self.kernel.source().iter().for_each(|part| text.push_str(part));
        text
    }
}
