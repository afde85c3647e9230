//! From the graph to a program: which nodes one dispatch does, what it reads, where results live.
//!
//! Two kinds of chains are fused, each along links with a single user:
//! - product (convolution, linear) → + time → + residual → SiLU, into the product's epilogue;
//! - GroupNorm → scale and shift → SiLU → resampling, into the norm's store.
//!
//! Concatenations and resamplings of stored maps are never materialised: they are ways of reading. Linear layers of
//! one vector (every block's time projection) become one product. A program does not depend on the batch size.

use std::collections::HashMap;

use super::graph::{Graph, Node, NodeId, Op};
use super::kernels::{Kernel, Shader};
use super::pack::{Channels, Order, Placement, TILE};
use crate::unet::{Conv2d, GroupNorm, SelfAttention};

/// A buffer of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Storage {
    /// An activation: index into [`Program::activations`].
    Activation(usize),
    /// A packed weight: index into [`Program::weights`].
    Weight(usize),
    /// The preconditioned batch, written before the network.
    Sample,
    /// The sinusoidal features, (B, C padded to 4).
    Time,
    /// One class per sample, u32.
    Labels,
    /// Bound where a kernel's input is not used.
    Unused,
}

/// One kernel launch.
#[derive(Debug)]
pub(super) struct Dispatch {
    pub(super) shader: Shader,
    pub(super) output: Storage,
    pub(super) inputs: Vec<Storage>,
    /// `Params::time_offset` and `Params::time_pitch`, in vec4s.
    pub(super) time: [u32; 2],
    pub(super) grid: Grid,
}

/// Workgroups of a launch, as a function of the batch size.
#[derive(Debug, Clone, Copy)]
pub(super) enum Grid {
    /// `tiles` times ⌈batch·rows / block⌉ invocations, `threads` to a workgroup.
    Tiles { tiles: usize, rows: usize, block: usize, threads: usize },
    /// (x, batch).
    XBatch { x: usize },
    /// (x, y, batch).
    XYBatch { x: usize, y: usize },
}

impl Grid {
    pub(super) fn workgroups(self, batch: usize) -> [usize; 3] {
        match self {
            Grid::Tiles { tiles, rows, block, threads } => {
                [(tiles * (batch * rows).div_ceil(block)).div_ceil(threads), 1, 1]
            }
            Grid::XBatch { x } => [x, batch, 1],
            Grid::XYBatch { x, y } => [x, y, batch],
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
    pub(super) placements: HashMap<String, Placement>,
    /// The network's result: (B, H, W, C padded to 4).
    pub(super) result: Option<Storage>,
}

impl Program {
    pub(super) fn lower(graph: &Graph) -> Self {
        let mut uses = vec![Vec::new(); graph.nodes.len()];
        for (id, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|&input| uses[input].push(id));
        }
        let mut lowering = Lowering { graph, uses, values: HashMap::new(), program: Program::default() };
        for id in 0..graph.nodes.len() {
            lowering.node(id);
        }
        let last = graph.nodes.len() - 1;
        lowering.program.result = Some(lowering.values[&last].storage);
        lowering.program
    }
}

/// A stored map or vector.
#[derive(Debug, Clone)]
struct Value {
    storage: Storage,
    channels: Channels,
    /// Where it begins in a row and the length of a row, in vec4s; only vectors have slices of rows.
    offset: usize,
    pitch: usize,
}

/// How a product or norm reads its input: one or two stored maps side by side, perhaps resampled.
struct Source {
    parts: Vec<Value>,
    resample: usize,
}

impl Source {
    /// The channels of the parts, side by side.
    fn channels(&self) -> Channels {
        Channels::concat(self.parts.iter().map(|p| &p.channels))
    }

    /// The buffers for a kernel's `input_a` and `input_b`.
    fn storages(&self) -> [Storage; 2] {
        [self.parts[0].storage, self.parts.get(1).map_or(Storage::Unused, |p| p.storage)]
    }
}

/// A product's kernel with its own parameters, the node whose shape the result has, and its workgroups.
struct Launch<'a> {
    shader: Shader,
    node: &'a Node,
    grid: Grid,
}

impl<'a> Launch<'a> {
    /// gemm.wgsl over the pixels of `node`.
    fn gemm(node: &'a Node, columns: usize) -> Self {
        let rows = node.height * node.width;
        // A vector has one row a sample, and a small batch would leave most of a block empty.
        let (block, threads) = if rows == 1 { (2, 16) } else { (8, 16) };
        let shader = Shader::new(Kernel::Gemm).u32("ROWS", block).u32("THREADS", threads);
        Self { shader, node, grid: Grid::Tiles { tiles: columns.div_ceil(TILE), rows, block, threads } }
    }

    /// conv.wgsl from maps of the size of `input`, after resampling.
    fn conv(node: &'a Node, input: &Node, layer: &Conv2d, resample: usize) -> Self {
        let (rows, columns, threads) = (2, 8, 16);
        let shader = Shader::new(Kernel::Conv)
            .size("in_h", input.height)
            .size("in_w", input.width)
            .size("up", usize::from(resample == UP))
            .size("padding", layer.padding[0])
            .u32("ROWS", rows)
            .u32("COLUMNS", columns)
            .u32("STRIDE", layer.stride)
            .u32("WINDOW", (columns - 1) * layer.stride + 3)
            .u32("THREADS", threads);
        let tiles = Channels::dense(node.channels).padded().div_ceil(TILE);
        let blocks = node.height.div_ceil(rows) * node.width.div_ceil(columns);
        Self { shader, node, grid: Grid::Tiles { tiles, rows: blocks, block: 1, threads } }
    }
}

/// The shaders' numbers for ways of reading.
const SAME: usize = 1;
const UP: usize = 2;
const DOWN: usize = 3;

/// What follows a product in its epilogue.
#[derive(Default)]
struct Epilogue {
    time: Option<NodeId>,
    residual: Option<NodeId>,
    silu: bool,
}

struct Lowering<'a> {
    graph: &'a Graph,
    uses: Vec<Vec<NodeId>>,
    values: HashMap<NodeId, Value>,
    program: Program,
}

impl Lowering<'_> {
    fn node(&mut self, id: NodeId) {
        if self.values.contains_key(&id) || self.continues(id) {
            return;
        }
        let node = &self.graph.nodes[id];
        match &node.op {
            Op::Sample => self.keep(id, Storage::Sample, Channels::dense(node.channels)),
            Op::Time => self.keep(id, Storage::Time, Channels::dense(node.channels)),
            Op::Concat => {} // a way of reading
            Op::Upsample | Op::Downsample if !self.is_norm_chain(id) => {}
            Op::Attention(layer) => self.attention(id, node, layer),
            Op::Embedding(layer) => {
                let channels = Channels::dense(layer.dim);
                let order = Order::Rows { rows: layer.rows, row: channels.clone() };
                let table = self.weight(&[(format!("{}.weight", layer.name), order)]);
                let dim = channels.padded() / 4;
                let shader = Shader::new(Kernel::Embedding).size("dim", dim);
                let output = self.store(id, channels, 1);
                let grid = Grid::XBatch { x: dim.div_ceil(64) };
                self.dispatch(shader, output, vec![Storage::Labels, table], [0, 0], grid);
            }
            _ if self.is_norm_chain(id) => self.norm(id),
            _ => self.product(id),
        }
    }

    /// Whether the node is done in the dispatch of its only user.
    fn continues(&self, id: NodeId) -> bool {
        let &[user] = self.uses[id].as_slice() else {
            return false;
        };
        self.fuses(id, user)
    }

    /// Whether `user` can be done in the dispatch that does its input `id`, given that nobody else wants `id`.
    fn fuses(&self, id: NodeId, user: NodeId) -> bool {
        let (node, next) = (&self.graph.nodes[id], &self.graph.nodes[user]);
        let first = next.inputs[0] == id;
        match (&node.op, &next.op) {
            (Op::GroupNorm(_), Op::ScaleShift) => first,
            (Op::GroupNorm(_) | Op::ScaleShift, Op::Silu) => true,
            (Op::Silu, Op::Upsample | Op::Downsample) => self.is_norm_chain(id),
            (Op::Conv(_) | Op::Pointwise(_), Op::AddChannels) => first,
            (Op::Conv(_) | Op::Pointwise(_) | Op::AddChannels, Op::Add) => self.main_operand(user) == Some(id),
            (Op::Conv(_) | Op::Pointwise(_) | Op::AddChannels | Op::Add, Op::Silu) => true,
            _ => false,
        }
    }

    /// The operand of a sum whose product does the sum; the other one is its residual.
    ///
    /// The second is preferred: in a residual block that is the last product, and the first may be a shortcut, which
    /// must be stored before.
    fn main_operand(&self, add: NodeId) -> Option<NodeId> {
        let inputs = &self.graph.nodes[add].inputs;
        let is_product = |&&id: &&NodeId| {
            matches!(self.graph.nodes[id].op, Op::Conv(_) | Op::Pointwise(_) | Op::AddChannels)
                && self.uses[id].len() == 1
        };
        inputs.iter().rev().find(is_product).copied()
    }

    /// Whether the node ends a chain that begins with a GroupNorm.
    fn is_norm_chain(&self, id: NodeId) -> bool {
        let node = &self.graph.nodes[id];
        match node.op {
            Op::GroupNorm(_) => true,
            Op::ScaleShift | Op::Silu | Op::Upsample | Op::Downsample => {
                let input = node.inputs[0];
                self.uses[input].len() == 1 && self.fuses(input, id) && self.is_norm_chain(input)
            }
            _ => false,
        }
    }

    fn keep(&mut self, id: NodeId, storage: Storage, channels: Channels) {
        let pitch = channels.padded() / 4;
        self.values.insert(id, Value { storage, channels, offset: 0, pitch });
    }

    /// A new activation for the result of `id`.
    fn store(&mut self, id: NodeId, channels: Channels, pixels: usize) -> Storage {
        let storage = self.activation(channels.padded() * pixels);
        self.keep(id, storage, channels);
        storage
    }

    fn activation(&mut self, floats: usize) -> Storage {
        self.program.activations.push(floats);
        Storage::Activation(self.program.activations.len() - 1)
    }

    /// A weight buffer that holds `tensors` one after the other.
    fn weight(&mut self, tensors: &[(String, Order)]) -> Storage {
        let buffer = self.program.weights.len();
        let mut offset = 0;
        for (name, order) in tensors {
            let placement = Placement { buffer, offset, order: order.clone() };
            offset += order.len();
            self.program.placements.insert(name.clone(), placement);
        }
        self.program.weights.push(offset);
        Storage::Weight(buffer)
    }

    fn dispatch(&mut self, shader: Shader, output: Storage, mut inputs: Vec<Storage>, time: [u32; 2], grid: Grid) {
        // Every binding of the kernel must be filled; binding 1 is the output.
        inputs.resize(shader.specialised.kernel.bindings().len() - 1, Storage::Unused);
        self.program.dispatches.push(Dispatch { shader, output, inputs, time, grid });
    }

    fn source(&self, id: NodeId) -> Source {
        if let Some(value) = self.values.get(&id) {
            return Source { parts: vec![value.clone()], resample: SAME };
        }
        let node = &self.graph.nodes[id];
        match node.op {
            Op::Concat => {
                let parts = node.inputs.iter().flat_map(|&i| self.source(i).parts).collect();
                Source { parts, resample: SAME }
            }
            Op::Upsample => Source { resample: UP, ..self.source(node.inputs[0]) },
            Op::Downsample => Source { resample: DOWN, ..self.source(node.inputs[0]) },
            ref op => unreachable!("{op:?} is stored before it is read"),
        }
    }

    fn product(&mut self, id: NodeId) {
        let mut epilogue = Epilogue::default();
        let mut root = id;
        loop {
            let node = &self.graph.nodes[root];
            root = match node.op {
                Op::Silu => {
                    epilogue.silu = true;
                    node.inputs[0]
                }
                Op::AddChannels => {
                    epilogue.time = Some(node.inputs[1]);
                    node.inputs[0]
                }
                Op::Add => {
                    let main = self.main_operand(root).expect("every sum of the network has a product");
                    epilogue.residual = node.inputs.iter().copied().find(|&i| i != main);
                    main
                }
                _ => break,
            };
        }
        match &self.graph.nodes[root].op {
            Op::Conv(layer) if layer.kernel != 1 => self.conv(id, root, layer, &epilogue),
            Op::Conv(layer) => {
                self.gemm(id, root, &layer.name, &epilogue);
            }
            Op::Pointwise(layer) => {
                let siblings = self.projections_of_one_vector(root);
                if id == root && siblings.len() > 1 {
                    self.projections(&siblings);
                } else {
                    self.gemm(id, root, &layer.name, &epilogue);
                }
            }
            op => unreachable!("{op:?} is no product"),
        }
    }

    fn conv(&mut self, id: NodeId, root: NodeId, layer: &Conv2d, epilogue: &Epilogue) {
        let node = &self.graph.nodes[root];
        let input = &self.graph.nodes[node.inputs[0]];
        let source = self.source(node.inputs[0]);
        assert_eq!((layer.kernel, source.parts.len()), (3, 1), "conv.wgsl is 3×3 over one map");
        assert_ne!(source.resample, DOWN, "the network has no convolution of a downsampled map");
        let launch = Launch::conv(node, input, layer, source.resample);
        self.layer(id, &layer.name, 3, &source, epilogue, launch);
    }

    fn gemm(&mut self, id: NodeId, root: NodeId, name: &str, epilogue: &Epilogue) {
        let node = &self.graph.nodes[root];
        let source = self.source(node.inputs[0]);
        assert_eq!(source.resample, SAME, "the network has no pointwise layer on a resampled map");
        let launch = Launch::gemm(node, Channels::dense(node.channels).padded());
        self.layer(id, name, 1, &source, epilogue, launch);
    }

    /// One convolution or linear layer with what follows it; `id` is the node that its result is.
    fn layer(&mut self, id: NodeId, name: &str, side: usize, source: &Source, epilogue: &Epilogue, launch: Launch<'_>) {
        let node = launch.node;
        let channels = Channels::dense(node.channels);
        let order = Order::Tiles { input: source.channels(), output: channels.clone(), side };
        let weight = self.weight(&[(format!("{name}.weight"), order)]);
        let bias = self.weight(&[(format!("{name}.bias"), Order::Vector(channels.clone()))]);
        let columns = channels.padded();
        let output = self.store(id, channels, node.height * node.width);
        self.launch_product(launch, source, [weight, bias], epilogue, columns, output);
    }

    /// A product of `columns` output channels, padding included, into `output`.
    fn launch_product(
        &mut self,
        launch: Launch<'_>,
        source: &Source,
        [weight, bias]: [Storage; 2],
        epilogue: &Epilogue,
        columns: usize,
        output: Storage,
    ) {
        let (time, slice) = self.time(epilogue.time);
        let residual = epilogue.residual.map(|r| self.source(r));
        if let Some(r) = &residual {
            assert_eq!(r.parts.len(), 1, "the network adds no concatenated map");
        }
        let c = |part: Option<&Value>| part.map_or(0, |p| p.channels.padded() / 4);
        let shader = launch
            .shader
            .size("out_h", launch.node.height)
            .size("out_w", launch.node.width)
            .size("out_c", columns / 4)
            .size("a_c", c(source.parts.first()))
            .size("b_c", c(source.parts.get(1)))
            .size("tiles", columns.div_ceil(TILE))
            .size("add_time", usize::from(epilogue.time.is_some()))
            .size("residual_reads", residual.as_ref().map_or(0, |r| if r.resample == DOWN { 4 } else { 1 }))
            .size("residual_up", usize::from(residual.as_ref().is_some_and(|r| r.resample == UP)))
            .size("silu", usize::from(epilogue.silu));
        let residual = residual.map_or(Storage::Unused, |r| r.parts[0].storage);
        let [first, second] = source.storages();
        self.dispatch(shader, output, vec![first, second, weight, bias, time, residual], slice, launch.grid);
    }

    /// The buffer and the slice (offset and pitch, in vec4s) of a time projection.
    fn time(&self, node: Option<NodeId>) -> (Storage, [u32; 2]) {
        node.map_or((Storage::Unused, [0, 0]), |id| {
            let value = &self.values[&id];
            (value.storage, [value.offset as u32, value.pitch as u32])
        })
    }

    /// Bare linear layers that read the same vector as `root`.
    fn projections_of_one_vector(&self, root: NodeId) -> Vec<NodeId> {
        let input = self.graph.nodes[root].inputs[0];
        let is_bare = |&id: &NodeId| {
            let node = &self.graph.nodes[id];
            matches!(node.op, Op::Pointwise(_)) && node.height * node.width == 1 && !self.continues(id)
        };
        self.uses[input].iter().copied().filter(is_bare).collect()
    }

    /// All linear layers of one vector as one product; each result is a slice of its rows.
    fn projections(&mut self, ids: &[NodeId]) {
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        let mut slices = Vec::new();
        let source = self.source(self.graph.nodes[ids[0]].inputs[0]);
        let mut pitch = 0;
        for &id in ids {
            let Op::Pointwise(layer) = &self.graph.nodes[id].op else { unreachable!("projections are linear layers") };
            let output = Channels::dense(layer.output);
            let input = source.parts[0].channels.clone();
            weights.push((format!("{}.weight", layer.name), Order::Tiles { input, output: output.clone(), side: 1 }));
            biases.push((format!("{}.bias", layer.name), Order::Vector(output.clone())));
            let padded = output.padded().next_multiple_of(TILE);
            slices.push((id, output, pitch));
            pitch += padded;
        }
        let (weight, bias) = (self.weight(&weights), self.weight(&biases));
        let output = self.activation(pitch);
        for (id, channels, start) in slices {
            self.values.insert(id, Value { storage: output, channels, offset: start / 4, pitch: pitch / 4 });
        }
        let launch = Launch::gemm(&self.graph.nodes[ids[0]], pitch);
        self.launch_product(launch, &source, [weight, bias], &Epilogue::default(), pitch, output);
    }

    fn attention(&mut self, id: NodeId, node: &Node, layer: &SelfAttention) {
        let source = self.source(node.inputs[0]);
        let heads = Channels::heads(layer.heads, layer.head_dim);
        let layers = [&layer.query, &layer.key, &layer.value];
        let order = Order::Tiles { input: source.channels(), output: heads.clone(), side: 1 };
        let weight = self.weight(&layers.map(|l| (format!("{}.weight", l.name), order.clone())));
        let bias = self.weight(&layers.map(|l| (format!("{}.bias", l.name), Order::Vector(heads.clone()))));
        let each = heads.padded().next_multiple_of(TILE);
        let pixels = node.height * node.width;
        let qkv = self.activation(3 * each * pixels);
        let launch = Launch::gemm(node, 3 * each);
        self.launch_product(launch, &source, [weight, bias], &Epilogue::default(), 3 * each, qkv);

        let shader = Shader::new(Kernel::Attention)
            .size("pixels", pixels)
            .u32("HEAD", layer.head_dim.div_ceil(4))
            .size("heads", layer.heads)
            .size("pitch", 3 * each / 4)
            .size("keys", each / 4)
            .size("values", 2 * each / 4)
            .f32("SCALE", 1.0 / (layer.head_dim as f32).sqrt());
        let output = self.store(id, heads, pixels);
        let grid = Grid::XYBatch { x: pixels.div_ceil(8), y: layer.heads };
        self.dispatch(shader, output, vec![qkv], [0, 0], grid);
    }

    fn norm(&mut self, id: NodeId) {
        let (mut silu, mut time, mut resample) = (false, None, SAME);
        let mut root = id;
        let layer: &GroupNorm = loop {
            let node = &self.graph.nodes[root];
            match &node.op {
                Op::Upsample => resample = UP,
                Op::Downsample => resample = DOWN,
                Op::Silu => silu = true,
                Op::ScaleShift => time = Some(node.inputs[1]),
                Op::GroupNorm(layer) => break layer,
                op => unreachable!("{op:?} in a norm's chain"),
            }
            root = node.inputs[0];
        };
        let input = &self.graph.nodes[self.graph.nodes[root].inputs[0]];
        let source = self.source(self.graph.nodes[root].inputs[0]);
        assert_eq!(source.resample, SAME, "the network has no norm of a resampled map");
        let vector = Order::Vector(Channels::dense(layer.channels));
        let weight = self.weight(&[(format!("{}.weight", layer.name), vector.clone())]);
        let bias = self.weight(&[(format!("{}.bias", layer.name), vector)]);
        let channels = Channels::dense(layer.channels);
        let (a, b) = (&source.parts[0], source.parts.get(1));
        let shader = Shader::new(Kernel::Norm)
            .size("in_h", input.height)
            .size("in_w", input.width)
            .size("groups", layer.groups)
            .size("size", layer.channels / layer.groups)
            .size("a_real", a.channels.real())
            .size("a_pitch", a.channels.padded())
            .size("b_pitch", b.map_or(0, |b| b.channels.padded()))
            .size("out_pitch", channels.padded())
            .f32("EPS", layer.eps)
            .bool("SCALE_SHIFT", time.is_some())
            .bool("SILU", silu)
            .u32("RESAMPLE", resample);
        let node = &self.graph.nodes[id];
        let output = self.store(id, channels, node.height * node.width);
        let [first, second] = source.storages();
        let (time, slice) = self.time(time);
        self.dispatch(shader, output, vec![first, second, weight, bias, time], slice, Grid::XBatch { x: layer.groups });
    }
}
