//! The launches of the network in order, over abstract buffers: for one sample, for any batch size, without a device.

use super::kernels::{Kernel, Shader};
use super::pack::Placement;

/// A buffer of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Storage {
    /// An activation: index into [`Program::activations`].
    Activation(usize),
    /// A packed weight: index into [`Program::weights`].
    Weight(usize),
    /// The sinusoidal features, (B, C padded to 4).
    Time,
    /// One class per sample, u32.
    Labels,
    /// Bound where a kernel's input is not used.
    Unused,
    /// The loss's gradient in the network's result, (B, C, H, W).
    #[cfg(feature = "gradient")]
    Outer,
    /// What the reverse pass holds once for the whole batch: index into its list of lengths.
    #[cfg(feature = "gradient")]
    Fixed(usize),
}

/// One kernel launch.
#[derive(Debug)]
pub(super) struct Dispatch {
    /// The layer's name in the checkpoint.
    pub(super) label: String,
    /// Multiply-adds per sample of its product; 0 for other kernels.
    pub(super) multiply_adds: usize,
    /// The kernels that may be launched: each serves batches from a size on, up to the next one's. The first serves all.
    pub(super) variants: Vec<Variant>,
    pub(super) output: Storage,
    pub(super) inputs: Vec<Storage>,
    /// `Params::time_offset` and `Params::time_pitch`, in vec4s.
    pub(super) time: [u32; 2],
}

impl Dispatch {
    /// The kernel and its workgroups at a batch size.
    pub(super) fn at(&self, batch: usize) -> &Variant {
        let (first, rest) = self.variants.split_first().expect("a launch has a kernel");
        rest.iter().rev().find(|variant| batch >= variant.from).unwrap_or(first)
    }

    /// The buffer of a product's weights.
    pub(super) fn weight(&self) -> Option<usize> {
        let kernel = self.variants.first().map(|variant| variant.shader.specialised.kernel);
        let is_product = matches!(kernel, Some(Kernel::Conv | Kernel::Gemm | Kernel::Tiled));
        match self.inputs.get(2) {
            Some(&Storage::Weight(buffer)) if is_product => Some(buffer),
            _ => None,
        }
    }

    /// Every shader that the launch may use.
    pub(super) fn shaders(&self) -> impl Iterator<Item = &Shader> {
        self.variants.iter().map(|variant| &variant.shader)
    }
}

/// A kernel and its workgroups, for batches of `from` samples and more.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) from: usize,
    pub(super) shader: Shader,
    pub(super) grid: Grid,
}

/// How a product (convolution, linear layer over a map) is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Products {
    /// conv.wgsl and gemm.wgsl.
    Registers,
    /// tiled.wgsl with this tile.
    Tiled(Tile),
}

impl Products {
    /// The same kernels, multiplying in single precision.
    pub(super) fn in_single_precision(self) -> Self {
        match self {
            Products::Tiled(tile) => Products::Tiled(Tile { is_half: false, ..tile }),
            Products::Registers => self,
        }
    }
}

/// The constants of tiled.wgsl that say how much a workgroup does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) across: usize,
    pub(super) down: usize,
    pub(super) rows: usize,
    pub(super) vectors: usize,
    pub(super) slices: usize,
    /// Whether it multiplies in half precision, for which the device needs `shader-f16`.
    pub(super) is_half: bool,
}

/// How many outputs a launch has at least for each kernel of a [`Choice`]: with few of them a large GPU has cores to spare,
/// which share the sums; with many it has work for every core, whatever the tile.
pub(super) const OUTPUTS: [usize; 3] = [0, 1 << 16, 1 << 19];

/// The kernels of products by their outputs, as [`OUTPUTS`] says.
pub(super) type Choice = [Products; OUTPUTS.len()];

/// The kernels that run everywhere.
pub(super) const SAFE: Choice = [Products::Registers; OUTPUTS.len()];

/// Workgroups of a launch, as a function of the batch size.
#[derive(Debug, Clone, Copy)]
pub(super) enum Grid {
    /// `tiles` times ⌈batch·rows / block⌉ invocations, `threads` to a workgroup.
    Tiles { tiles: usize, rows: usize, block: usize, threads: usize },
    /// (⌈batch·rows / block⌉, y).
    RowsY { rows: usize, block: usize, y: usize },
    /// (x, batch).
    XBatch { x: usize },
    /// (x, y, batch).
    XYBatch { x: usize, y: usize },
    /// The same for every batch.
    #[cfg(feature = "gradient")]
    Fixed { x: usize, y: usize },
}

impl Grid {
    pub(super) fn workgroups(self, batch: usize) -> [usize; 3] {
        match self {
            Grid::Tiles { tiles, rows, block, threads } => {
                [(tiles * (batch * rows).div_ceil(block)).div_ceil(threads), 1, 1]
            }
            Grid::RowsY { rows, block, y } => [(batch * rows).div_ceil(block), y, 1],
            Grid::XBatch { x } => [x, batch, 1],
            Grid::XYBatch { x, y } => [x, y, batch],
            #[cfg(feature = "gradient")]
            Grid::Fixed { x, y } => [x, y, 1],
        }
    }
}

/// The network as kernel launches over abstract buffers.
#[derive(Debug, Default)]
pub(super) struct Program {
    pub(super) dispatches: Vec<Dispatch>,
    /// Floats per sample of each activation.
    pub(super) activations: Vec<usize>,
    /// Floats of each weight buffer.
    pub(super) weights: Vec<usize>,
    /// Where each tensor of the checkpoint goes.
    pub(super) placements: Vec<(String, Placement)>,
    /// The preconditioned batch, written before the network: (B, H, W, C padded to 4).
    pub(super) sample: Option<Storage>,
    /// The network's result: (B, H, W, C padded to 4).
    pub(super) result: Option<Storage>,
}

impl Program {
    /// Bytes of the activations and weights that a launch reads and writes, each counted once.
    pub(super) fn bytes(&self, dispatch: &Dispatch, batch: usize, of_weight: impl Fn(usize) -> u64) -> u64 {
        let bytes = |storage: &Storage| match *storage {
            Storage::Activation(i) => (batch * self.activations[i] * 4) as u64,
            Storage::Weight(i) => of_weight(i),
            _ => 0,
        };
        std::iter::once(&dispatch.output).chain(&dispatch.inputs).map(bytes).sum()
    }

    /// Where a tensor of the checkpoint goes.
    pub(super) fn placement(&self, name: &str) -> Option<&Placement> {
        self.placements.iter().find(|(of, _)| of == name).map(|(_, placement)| placement)
    }
}
