//! From the graph to a program: groups nodes into dispatches and assigns their inputs and outputs.
//!
//! Two kinds of chains are fused, each along links with a single user:
//! - product (convolution, linear) → + time → + residual → SiLU, into the product's epilogue;
//! - GroupNorm → scale and shift → SiLU → resampling, into the norm's output.
//!
//! Concatenations and resamplings of stored maps are never stored: the kernels that read them index their inputs. Linear layers of
//! one vector (every block's time projection) become one product. A program does not depend on the batch size.

use super::graph::{Graph, Node, NodeId, Op};
use super::kernels::{Kernel, Shader};
use super::pack::{Channels, Order, Placement, TILE};
use super::program::{Choice, Dispatch, Grid, OUTPUTS, Products, Program, Storage, Tile, Variant};
use crate::model::unet::{Conv2d, GroupNorm, SelfAttention};

/// The program of `graph` with the products' kernels of `choice`.
pub(super) fn fuse(graph: &Graph, choice: Choice) -> Program {
    let mut uses = vec![Vec::new(); graph.nodes.len()];
    for (id, node) in graph.nodes.iter().enumerate() {
        node.inputs.iter().for_each(|&input| uses[input].push(id));
    }
    let mut fusion = Fusion { graph, choice, uses, values: vec![None; graph.nodes.len()], program: Program::default() };
    for id in 0..graph.nodes.len() {
        fusion.node(id);
    }
    let last = graph.nodes.len() - 1;
    fusion.program.result = fusion.values[last].as_ref().map(|value| value.storage);
    fusion.program
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

/// A product: the size of its result, and how it goes over its input.
#[derive(Clone, Copy)]
pub(super) struct Launch {
    pub(super) output: [usize; 2],
    /// Size of the input after resampling.
    pub(super) input: [usize; 2],
    pub(super) resample: usize,
    pub(super) side: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
}

impl Launch {
    /// A linear layer over the pixels of `node`.
    fn pointwise(node: &Node) -> Self {
        let size = [node.height, node.width];
        Self { output: size, input: size, resample: SAME, side: 1, stride: 1, padding: 0 }
    }

    fn conv(node: &Node, input: &Node, layer: &Conv2d, resample: usize) -> Self {
        let (side, stride, padding) = (layer.kernel, layer.stride, layer.padding[0]);
        Self { output: [node.height, node.width], input: [input.height, input.width], resample, side, stride, padding }
    }

    fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// The kernel for `columns` output channels and its workgroups.
    fn kernel(&self, products: Products, columns: usize) -> (Shader, Grid) {
        let tiles = columns.div_ceil(TILE);
        let rows = self.pixels();
        match products {
            // A vector has one row a sample: a workgroup's tile would stay empty.
            Products::Tiled(tile) if rows > 1 => {
                let Tile { across, down, rows: of_one, vectors, slices, is_half } = tile;
                let [operand, matrix] = if is_half { ["vec4h", "mat4x4h"] } else { ["vec4f", "mat4x4f"] };
                let shader = Shader::new(Kernel::Tiled)
                    .u32("SIDE", self.side)
                    .u32("STRIDE", self.stride)
                    .u32("ACROSS", across)
                    .u32("DOWN", down)
                    .u32("ROWS", of_one)
                    .u32("VECTORS", vectors)
                    .u32("SLICES", slices)
                    .alias("Operand", operand)
                    .alias("Matrix", matrix)
                    .u32("A_LOADS", of_one * 4 / across)
                    .u32("B_LOADS", 16 * vectors / down);
                let y = columns.div_ceil(4 * across * vectors);
                (shader, Grid::RowsY { rows, block: down * of_one, y })
            }
            _ if self.side == 1 => {
                let (block, threads) = (8, 16);
                let shader = Shader::new(Kernel::Gemm).u32("ROWS", block).u32("THREADS", threads);
                (shader, Grid::Tiles { tiles, rows, block, threads })
            }
            _ => {
                let (down, across, threads) = (2, 8, 16);
                let shader = Shader::new(Kernel::Conv)
                    .u32("ROWS", down)
                    .u32("COLUMNS", across)
                    .u32("STRIDE", self.stride)
                    .u32("WINDOW", (across - 1) * self.stride + 3)
                    .u32("THREADS", threads);
                let [height, width] = self.output;
                let blocks = height.div_ceil(down) * width.div_ceil(across);
                (shader, Grid::Tiles { tiles, rows: blocks, block: 1, threads })
            }
        }
    }

    /// The kernels with their parameters and workgroups, by the batch sizes that they serve, for inputs of `parts` vec4s of
    /// channels side by side.
    pub(super) fn variants(self, choice: Choice, parts: [usize; 2], columns: usize, ending: Ending) -> Vec<Variant> {
        let variant = |from: usize, products: Products| {
            let (shader, grid) = self.kernel(products, columns);
            let shader = shader
                .size("in_h", self.input[0])
                .size("in_w", self.input[1])
                .size("up", usize::from(self.resample == UP))
                .size("padding", self.padding)
                .size("out_h", self.output[0])
                .size("out_w", self.output[1])
                .size("out_c", columns / 4)
                .size("a_c", parts[0])
                .size("b_c", parts[1])
                .size("tiles", columns.div_ceil(TILE))
                .size("add_time", usize::from(ending.add_time))
                .size("residual_reads", ending.residual.map_or(0, reads))
                .size("residual_up", usize::from(ending.residual == Some(UP)))
                .size("silu", usize::from(ending.silu));
            Variant { from, shader, grid }
        };
        let mut variants = vec![variant(0, choice[0])];
        for (i, outputs) in OUTPUTS.into_iter().enumerate().skip(1) {
            if self.pixels() > 1 && choice[i] != choice[i - 1] {
                variants.push(variant(outputs.div_ceil(self.pixels() * columns), choice[i]));
            }
        }
        variants
    }
}

/// What follows a product in its launch.
#[derive(Clone, Copy, Default)]
pub(super) struct Ending {
    pub(super) add_time: bool,
    /// How a residual is read, where one is added.
    pub(super) residual: Option<usize>,
    pub(super) silu: bool,
}

/// The shaders' numbers for resampling on read.
pub(super) const SAME: usize = 1;
const UP: usize = 2;
const DOWN: usize = 3;

/// The operations in a product's epilogue.
#[derive(Default)]
struct Epilogue {
    time: Option<NodeId>,
    residual: Option<NodeId>,
    silu: bool,
}

struct Fusion<'a> {
    graph: &'a Graph,
    choice: Choice,
    uses: Vec<Vec<NodeId>>,
    values: Vec<Option<Value>>,
    program: Program,
}

impl Fusion<'_> {
    fn node(&mut self, id: NodeId) {
        if self.values[id].is_some() || self.continues(id) {
            return;
        }
        let node = &self.graph.nodes[id];
        match &node.op {
            Op::Sample => {
                let storage = self.store(id, Channels::dense(node.channels), node.height * node.width);
                self.program.sample = Some(storage);
            }
            Op::Time => self.keep(id, Storage::Time, Channels::dense(node.channels)),
            Op::Concat => {} // its readers index both inputs
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
                self.dispatch(&layer.name, shader, output, vec![Storage::Labels, table], [0, 0], grid);
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

    /// Whether `user` can be done in the dispatch that does its input `id`, given that `id` has no other user.
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
        self.values[id] = Some(Value { storage, channels, offset: 0, pitch });
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
            let placement = Placement { buffer, offset, order: order.clone(), scales: None };
            offset += order.len();
            self.program.placements.push((name.clone(), placement));
        }
        self.program.weights.push(offset);
        Storage::Weight(buffer)
    }

    /// The buffers of weights and biases of layers side by side; their names without `.weight` and `.bias`, and the
    /// orders of their weights.
    fn product_weights(&mut self, layers: &[(&str, Order)]) -> [Storage; 2] {
        let named = |suffix: &str, of: fn(&Order) -> Order| -> Vec<(String, Order)> {
            layers.iter().map(|(name, order)| (format!("{name}.{suffix}"), of(order))).collect()
        };
        let bias_order = |order: &Order| match order {
            Order::Tiles { output, .. } => Order::Vector(output.clone()),
            other => other.clone(),
        };
        let first = self.program.placements.len();
        let weight = self.weight(&named("weight", Order::clone));
        let bias = self.weight(&named("bias", bias_order));
        // Scales lie as the biases do, after all of them.
        let length = self.program.weights.last_mut().expect("the biases");
        let half = *length;
        *length *= 2;
        for i in first..first + layers.len() {
            let (buffer, offset) = (self.program.weights.len() - 1, self.program.placements[i + layers.len()].1.offset);
            self.program.placements[i].1.scales = Some((buffer, half + offset));
        }
        [weight, bias]
    }

    fn dispatch(
        &mut self,
        label: &str,
        shader: Shader,
        output: Storage,
        mut inputs: Vec<Storage>,
        time: [u32; 2],
        grid: Grid,
    ) {
        // Every binding of the kernel must be filled; binding 1 is the output.
        inputs.resize(shader.specialised.kernel.bindings().len() - 1, Storage::Unused);
        self.program.dispatches.push(Dispatch {
            label: label.to_owned(),
            multiply_adds: 0,
            variants: vec![Variant { from: 0, shader, grid }],
            output,
            inputs,
            time,
        });
    }

    fn source(&self, id: NodeId) -> Source {
        if let Some(value) = &self.values[id] {
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
            _ => unreachable!("every other node is stored before it is read"),
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
            _ => unreachable!("only products come here"),
        }
    }

    fn conv(&mut self, id: NodeId, root: NodeId, layer: &Conv2d, epilogue: &Epilogue) {
        let node = &self.graph.nodes[root];
        let input = &self.graph.nodes[node.inputs[0]];
        let source = self.source(node.inputs[0]);
        assert_eq!((layer.kernel, source.parts.len()), (3, 1), "conv.wgsl is 3×3 over one map");
        assert_ne!(source.resample, DOWN, "the network has no convolution of a downsampled map");
        let launch = Launch::conv(node, input, layer, source.resample);
        self.layer(id, &layer.name, node.channels, &source, epilogue, launch);
    }

    fn gemm(&mut self, id: NodeId, root: NodeId, name: &str, epilogue: &Epilogue) {
        let node = &self.graph.nodes[root];
        let source = self.source(node.inputs[0]);
        assert_eq!(source.resample, SAME, "the network has no pointwise layer on a resampled map");
        self.layer(id, name, node.channels, &source, epilogue, Launch::pointwise(node));
    }

    /// One convolution or linear layer with its epilogue; `id` is the node of the result.
    fn layer(&mut self, id: NodeId, name: &str, channels: usize, source: &Source, epilogue: &Epilogue, launch: Launch) {
        let channels = Channels::dense(channels);
        let order = Order::Tiles { input: source.channels(), output: channels.clone(), side: launch.side };
        let weights = self.product_weights(&[(name, order)]);
        let columns = channels.padded();
        let output = self.store(id, channels, launch.pixels());
        self.launch_product(name, launch, source, weights, epilogue, columns, output);
    }

    /// A product of `columns` output channels, padding included, into `output`.
    #[expect(clippy::too_many_arguments, reason = "a product has that many parts")]
    fn launch_product(
        &mut self,
        label: &str,
        launch: Launch,
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
        let parts = [c(source.parts.first()), c(source.parts.get(1))];
        let ending = Ending {
            add_time: epilogue.time.is_some(),
            residual: residual.as_ref().map(|r| r.resample),
            silu: epilogue.silu,
        };
        let variants = launch.variants(self.choice, parts, columns, ending);
        let residual = residual.map_or(Storage::Unused, |r| r.parts[0].storage);
        let [first, second] = source.storages();
        self.program.dispatches.push(Dispatch {
            label: label.to_owned(),
            multiply_adds: launch.pixels() * columns * source.channels().real() * launch.side * launch.side,
            variants,
            output,
            inputs: vec![first, second, weight, bias, time, residual],
            time: slice,
        });
    }

    /// The buffer and the slice (offset and pitch, in vec4s) of a time projection.
    fn time(&self, node: Option<NodeId>) -> (Storage, [u32; 2]) {
        node.map_or((Storage::Unused, [0, 0]), |id| {
            let value = self.values[id].as_ref().expect("stored just before");
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
        let mut layers = Vec::new();
        let mut slices = Vec::new();
        let source = self.source(self.graph.nodes[ids[0]].inputs[0]);
        let mut pitch = 0;
        for &id in ids {
            let Op::Pointwise(layer) = &self.graph.nodes[id].op else { unreachable!("projections are linear layers") };
            let output = Channels::dense(layer.output);
            let input = source.parts[0].channels.clone();
            layers.push((layer.name.as_str(), Order::Tiles { input, output: output.clone(), side: 1 }));
            let padded = output.padded().next_multiple_of(TILE);
            slices.push((id, output, pitch));
            pitch += padded;
        }
        let weights = self.product_weights(&layers);
        let output = self.activation(pitch);
        for (id, channels, start) in slices {
            self.values[id] = Some(Value { storage: output, channels, offset: start / 4, pitch: pitch / 4 });
        }
        let launch = Launch::pointwise(&self.graph.nodes[ids[0]]);
        self.launch_product("time projections", launch, &source, weights, &Epilogue::default(), pitch, output);
    }

    fn attention(&mut self, id: NodeId, node: &Node, layer: &SelfAttention) {
        let source = self.source(node.inputs[0]);
        let heads = Channels::heads(layer.heads, layer.head_dim);
        let layers = [&layer.query, &layer.key, &layer.value];
        let order = Order::Tiles { input: source.channels(), output: heads.clone(), side: 1 };
        let weights = self.product_weights(&layers.map(|l| (l.name.as_str(), order.clone())));
        let each = heads.padded().next_multiple_of(TILE);
        let pixels = node.height * node.width;
        let qkv = self.activation(3 * each * pixels);
        let name = &layer.query.name;
        self.launch_product(name, Launch::pointwise(node), &source, weights, &Epilogue::default(), 3 * each, qkv);

        // Of a large map many share what they read; of a small one there would be too few workgroups.
        let queries = if pixels > 256 { 32 } else { 8 };
        let shader = Shader::new(Kernel::Attention)
            .size("pixels", pixels)
            .u32("QUERIES", queries)
            .u32("HEAD", layer.head_dim.div_ceil(4))
            .size("heads", layer.heads)
            .size("pitch", 3 * each / 4)
            .size("keys", each / 4)
            .size("values", 2 * each / 4)
            .f32("SCALE", 1.0 / (layer.head_dim as f32).sqrt());
        let output = self.store(id, heads, pixels);
        let grid = Grid::XYBatch { x: pixels.div_ceil(queries), y: layer.heads };
        self.dispatch("attention", shader, output, vec![qkv], [0, 0], grid);
        let dispatch = self.program.dispatches.last_mut().expect("just made");
        dispatch.multiply_adds = 2 * pixels * pixels * layer.heads * layer.head_dim;
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
                _ => unreachable!("nothing else is in a norm's chain"),
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
        let size = layer.channels / layer.groups;
        let span = (lcm4(size) / 4).min(channels.padded() / 4);
        let shader = Shader::new(Kernel::Norm)
            .size("in_h", input.height)
            .size("in_w", input.width)
            .size("span", span)
            .size("size", size)
            .size("channels", layer.channels)
            .size("a_real", a.channels.real())
            .size("a_c", a.channels.padded() / 4)
            .size("b_c", b.map_or(0, |b| b.channels.padded() / 4))
            .size("scale_shift", time.is_some().into())
            .size("silu", silu.into())
            .size("reads", reads(resample))
            .size("up", if resample == UP { 2 } else { 1 })
            .u32("THREADS", span.next_power_of_two().max(NORM_THREADS))
            .bool("MIXED", b.is_some() && a.channels.real() % 4 != 0)
            .f32("EPS", layer.eps);
        let x = channels.padded().div_ceil(4 * span);
        let node = &self.graph.nodes[id];
        let output = self.store(id, channels, node.height * node.width);
        let [first, second] = source.storages();
        let (time, slice) = self.time(time);
        let inputs = vec![first, second, weight, bias, time];
        self.dispatch(&layer.name, shader, output, inputs, slice, Grid::XBatch { x });
    }
}

/// Pixels of a map whose mean is one of the map that it is resampled to.
fn reads(resample: usize) -> usize {
    if resample == DOWN { 4 } else { 1 }
}

/// Least invocations of a workgroup of norm.wgsl. Groups of more than 1024 channels exceed what devices offer.
const NORM_THREADS: usize = 64;

/// The least common multiple of `n` and 4.
fn lcm4(n: usize) -> usize {
    match n % 4 {
        0 => n,
        2 => 2 * n,
        _ => 4 * n,
    }
}
