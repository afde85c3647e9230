//! The WGSL kernels and how they are specialised.
//!
//! A kernel is one file under `kernels/`; its header states layout, tiling, traffic, and the parameters and constants
//! that it wants. What changes the code (a residual or none, the stride, …) is a constant; sizes are parameters in a
//! uniform, so that layers share pipelines: compiling is what a cold page waits for.

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
        const STEP: &str = include_str!("kernels/step.wgsl");
        const EPILOGUE: &str = include_str!("kernels/epilogue.wgsl");
        match self {
            Kernel::Conv => [PARAMS, EPILOGUE, include_str!("kernels/conv.wgsl")],
            Kernel::Gemm => [PARAMS, EPILOGUE, include_str!("kernels/gemm.wgsl")],
            Kernel::Norm => [PARAMS, include_str!("kernels/norm.wgsl"), ""],
            Kernel::Attention => [PARAMS, include_str!("kernels/attention.wgsl"), ""],
            Kernel::Embedding => [PARAMS, include_str!("kernels/embedding.wgsl"), ""],
            Kernel::Precondition => [STEP, include_str!("kernels/precondition.wgsl"), ""],
            Kernel::Denoise => [STEP, include_str!("kernels/denoise.wgsl"), ""],
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

/// A kernel with its constants and the names of its parameters: what a pipeline is cached under.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Specialised {
    pub(super) kernel: Kernel,
    constants: String,
    /// The fields of `Params` after the first three.
    fields: String,
}

/// A specialised kernel with the values of its parameters.
#[derive(Debug)]
pub(super) struct Shader {
    pub(super) specialised: Specialised,
    pub(super) sizes: Vec<u32>,
}

impl Shader {
    pub(super) fn new(kernel: Kernel) -> Self {
        let specialised = Specialised { kernel, constants: String::new(), fields: String::new() };
        Self { specialised, sizes: Vec::new() }
    }

    /// A parameter, read as `params.{name}`.
    pub(super) fn size(mut self, name: &str, value: usize) -> Self {
        write!(self.specialised.fields, " {name}: u32,").expect("writing to a string");
        self.sizes.push(u32::try_from(value).expect("sizes are bounded by the configuration"));
        self
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
        writeln!(self.specialised.constants, "const {name} = {value};").expect("writing to a string");
        self
    }
}

impl Specialised {
    /// The whole shader.
    pub(super) fn wgsl(&self) -> String {
        let mut text = self.constants.clone();
        text.push_str("struct Params { batch: u32, time_offset: u32, time_pitch: u32,");
        text.push_str(&self.fields);
        text.push_str(" }\n");
        self.kernel.source().iter().for_each(|part| text.push_str(part));
        text
    }
}
