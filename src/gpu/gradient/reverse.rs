//! The reverse pass: appends to the launches of a forward those that make the gradients of its weights.
//!
//! It walks backwards over the forward's launches, which are fused already; what each of them computes is told by the
//! parameters of its kernel. So the gradient of a norm with scale, shift, SiLU and resampling is made at once, of the norm's
//! stored input: what lies between is computed anew. Memory is planned for both passes together, whence what the gradient
//! reads stays, and the rest shares buffers as before.
//!
//! Padded channels hold zeros here, in values and gradients, so that the gradients of padded weights are zero too.

use super::super::fuse::{Ending, Launch, SAME};
use super::super::kernels::{Kernel, Shader};
use super::super::pack::TILE;
use super::super::program::{Choice, Dispatch, Grid, Program, Storage, Variant};
use super::kernels::Reverse;

/// Invocations that a weight gradient should have, for which rows are shared out.
const MANY_INVOCATIONS: usize = 1 << 14;

/// Floats that the shares of a weight gradient may take.
const MANY_FLOATS: usize = 1 << 24;

/// Storages of the reverse pass whose length does not depend on the batch.
#[derive(Debug)]
pub(super) struct Fixed {
    /// Floats of each: zeros, turned weights, shares, then the gradients of the program's weight buffers.
    pub(super) lengths: Vec<usize>,
}

impl Fixed {
    const ZEROS: usize = 0;
    const TURNED: usize = 1;
    const SHARES: usize = 2;
    /// The first gradient of a weight buffer.
    pub(super) const GRADIENTS: usize = 3;

    /// Those of a forward alone.
    pub(super) fn none() -> Self {
        Self { lengths: vec![4; Self::GRADIENTS] }
    }

    fn grow(&mut self, which: usize, floats: usize) -> Storage {
        self.lengths[which] = self.lengths[which].max(floats);
        Storage::Fixed(which)
    }
}

/// The storage of a weight buffer's gradient.
fn gradient_of(weight: usize) -> Storage {
    Storage::Fixed(Fixed::GRADIENTS + weight)
}

/// Has a forward take samples without a class.
pub(super) fn permit_no_class(program: &mut Program) {
    for dispatch in &mut program.dispatches {
        if let Layer::Embedding { dim, .. } = Layer::of(dispatch)
            && let Storage::Weight(table) = dispatch.inputs[1]
        {
            let rows = program.weights[table] / (4 * dim);
            let shader = Shader::new(Kernel::Reverse(Reverse::Class)).size("dim", dim).size("rows", rows);
            dispatch.variants.iter_mut().for_each(|variant| variant.shader = shader.clone());
        }
    }
}

/// Appends the reverse pass to a forward; `channels` are those of an image.
pub(super) fn append(program: &mut Program, choice: Choice, channels: usize) -> Fixed {
    let layers: Vec<Layer> = program.dispatches.iter().map(Layer::of).collect();
    let mut maps = vec![Map::default(); program.activations.len()];
    for (layer, dispatch) in layers.iter().zip(&program.dispatches) {
        if let Storage::Activation(a) = dispatch.output {
            maps[a] = layer.map();
        }
    }
    let mut fixed = Fixed::none();
    fixed.lengths.extend(&program.weights);
    let count = program.dispatches.len();
    let mut walk = Walk { program, choice, maps, pending: Vec::new(), fixed, rows: Vec::new() };
    walk.begin(count - 1, channels);
    for (i, layer) in layers.into_iter().enumerate().rev() {
        let output = walk.program.dispatches[i].output;
        if let Some(gradient) = walk.resolve(output) {
            match layer {
                Layer::Product(product) => walk.product(i, &product, gradient),
                Layer::Norm(norm) => walk.norm(i, &norm, gradient),
                Layer::Attention { pixels, heads, head, .. } => walk.attention(i, [pixels, heads, head], gradient),
                Layer::Embedding { dim, .. } => walk.embedding(i, dim, gradient),
            }
        }
    }
    walk.fixed
}

/// The shape of an activation: height, width, vec4s of channels.
#[derive(Debug, Clone, Copy, Default)]
struct Map {
    height: usize,
    width: usize,
    channels: usize,
}

impl Map {
    fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// What a launch of the forward computes.
enum Layer {
    Product(Product),
    Norm(Norm),
    Attention { pixels: usize, heads: usize, head: usize },
    Embedding { dim: usize },
}

struct Product {
    launch: Launch,
    /// Vec4s of channels of the two inputs, and of the result.
    parts: [usize; 2],
    columns: usize,
    adds_time: bool,
    residual: Option<Read>,
    silu: bool,
}

struct Norm {
    height: usize,
    width: usize,
    groups: usize,
    size: usize,
    /// Channels of the first input, and of both with their padding.
    first: usize,
    pitches: [usize; 2],
    eps: f32,
    scale_shift: bool,
    silu: bool,
    read: Read,
}

impl Norm {
    fn channels(&self) -> usize {
        self.groups * self.size
    }

    fn padded(&self) -> usize {
        self.channels().next_multiple_of(4)
    }

    /// A kernel with the parameters that those of a norm's gradient share.
    fn shader(&self, kernel: Reverse) -> Shader {
        Shader::new(Kernel::Reverse(kernel))
            .size("in_h", self.height)
            .size("in_w", self.width)
            .size("groups", self.groups)
            .size("size", self.size)
            .size("a_real", self.first)
            .size("a_pitch", self.pitches[0])
            .size("b_pitch", self.pitches[1])
            .size("out_pitch", self.padded())
            .bool("SILU", self.silu)
            .u32("RESAMPLE", self.read as usize)
    }
}

/// How a launch reads a map. The numbers are gather.wgsl's and norm_outer.wgsl's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    Same = 1,
    Upsampled = 2,
    Downsampled = 3,
}

impl Layer {
    fn of(dispatch: &Dispatch) -> Self {
        let shader = &dispatch.variants.first().expect("a launch has a kernel").shader;
        let maybe = |name: &str| shader.number(name);
        let number = |name: &str| maybe(name).expect("a number that the kernel's header names");
        let read = |is_up: bool, is_down: bool| match (is_up, is_down) {
            (true, _) => Read::Upsampled,
            (_, true) => Read::Downsampled,
            _ => Read::Same,
        };
        match shader.specialised.kernel {
            kernel @ (Kernel::Conv | Kernel::Gemm | Kernel::Tiled) => Self::Product(Product {
                launch: Launch {
                    output: [number("out_h"), number("out_w")],
                    input: [number("in_h"), number("in_w")],
                    resample: SAME + number("up"),
                    side: maybe("SIDE").unwrap_or(if kernel == Kernel::Conv { 3 } else { 1 }),
                    stride: maybe("STRIDE").unwrap_or(1),
                    padding: number("padding"),
                },
                parts: [number("a_c"), number("b_c")],
                columns: 4 * number("out_c"),
                adds_time: number("add_time") == 1,
                residual: (number("residual_reads") > 0)
                    .then(|| read(number("residual_up") == 1, number("residual_reads") == 4)),
                silu: number("silu") == 1,
            }),
            Kernel::Norm => Self::Norm(Norm {
                height: number("in_h"),
                width: number("in_w"),
                groups: number("channels") / number("size"),
                size: number("size"),
                first: number("a_real"),
                pitches: [4 * number("a_c"), 4 * number("b_c")],
                eps: shader.fraction("EPS").expect("a norm's constant"),
                scale_shift: number("scale_shift") == 1,
                silu: number("silu") == 1,
                read: read(number("up") == 2, number("reads") == 4),
            }),
            Kernel::Attention => {
                Self::Attention { pixels: number("pixels"), heads: number("heads"), head: number("HEAD") }
            }
            Kernel::Embedding => Self::Embedding { dim: number("dim") },
            Kernel::Reverse(Reverse::Class) => Self::Embedding { dim: number("dim") },
            Kernel::Precondition | Kernel::Denoise | Kernel::Reverse(_) => unreachable!("no launch of a forward"),
        }
    }

    /// The shape of the result.
    fn map(&self) -> Map {
        match self {
            Self::Product(product) => {
                let [height, width] = product.launch.output;
                Map { height, width, channels: product.columns / 4 }
            }
            Self::Norm(norm) => {
                let size = |n: usize| match norm.read {
                    Read::Same => n,
                    Read::Upsampled => 2 * n,
                    Read::Downsampled => n / 2,
                };
                Map { height: size(norm.height), width: size(norm.width), channels: norm.padded() / 4 }
            }
            Self::Attention { pixels, heads, head } => Map { height: *pixels, width: 1, channels: heads * head },
            Self::Embedding { dim } => Map { height: 1, width: 1, channels: *dim },
        }
    }
}

/// A gradient that a launch left for what it read: one map with the channels of all `parts`.
struct Pending {
    parts: Vec<Storage>,
    gradient: Storage,
    read: Read,
}

struct Walk<'a> {
    program: &'a mut Program,
    choice: Choice,
    maps: Vec<Map>,
    pending: Vec<Pending>,
    fixed: Fixed,
    /// The gradients of time projections, of which every launch that reads some writes its slice.
    rows: Vec<(Storage, Storage)>,
}

impl Walk<'_> {
    /// Brings the caller's gradient to the network's layout, for the result of launch `last`.
    fn begin(&mut self, last: usize, channels: usize) {
        let result = self.program.dispatches[last].output;
        let pixels = self.map(result).pixels();
        let gradient = self.activation(4 * pixels);
        let shader = Shader::new(Kernel::Reverse(Reverse::Outer)).size("channels", channels).size("pixels", pixels);
        self.launch("", shader, gradient, vec![Storage::Outer], over(pixels));
        self.pending.push(Pending { parts: vec![result], gradient, read: Read::Same });
    }

    fn activation(&mut self, floats: usize) -> Storage {
        self.program.activations.push(floats);
        self.maps.push(Map::default());
        Storage::Activation(self.program.activations.len() - 1)
    }

    fn map(&self, storage: Storage) -> Map {
        match storage {
            Storage::Activation(a) => self.maps[a],
            _ => unreachable!("only activations have gradients"),
        }
    }

    /// Whether a storage has a gradient that weights depend on.
    fn is_tracked(&self, storage: Storage) -> bool {
        matches!(storage, Storage::Activation(_)) && self.program.sample != Some(storage)
    }

    fn launch(&mut self, label: &str, shader: Shader, output: Storage, inputs: Vec<Storage>, grid: Grid) {
        self.launch_variants(label, vec![Variant { from: 0, shader, grid }], output, inputs);
    }

    fn launch_variants(&mut self, label: &str, variants: Vec<Variant>, output: Storage, mut inputs: Vec<Storage>) {
        let kernel = variants.first().expect("a launch has a kernel").shader.specialised.kernel;
        inputs.resize(kernel.bindings().len() - 1, Storage::Unused);
        let label = label.to_owned();
        self.program.dispatches.push(Dispatch { label, multiply_adds: 0, variants, output, inputs, time: [0, 0] });
    }

    fn label(&self, i: usize) -> String {
        self.program.dispatches[i].label.clone()
    }

    /// The whole gradient of a result; `None` when nothing depends on it.
    fn resolve(&mut self, storage: Storage) -> Option<Storage> {
        if let Some(&(_, gradient)) = self.rows.iter().find(|(of, _)| *of == storage) {
            return Some(gradient);
        }
        let map = self.map(storage);
        // Where the gradient lies: offset and pitch in vec4s. A map may be concatenated with itself.
        let mut parts: Vec<(Storage, usize, usize, Read)> = Vec::new();
        for Pending { parts: of, gradient, read } in &self.pending {
            let channels = |parts: &[Storage]| parts.iter().map(|&part| self.map(part).channels).sum::<usize>();
            let own = (0..of.len()).filter(|&at| of[at] == storage);
            parts.extend(own.map(|at| (*gradient, channels(&of[..at]), channels(of), *read)));
        }
        while parts.len() > 1 || parts.first().is_some_and(|p| (p.1, p.2, p.3) != (0, map.channels, Read::Same)) {
            let taken: Vec<_> = parts.drain(..parts.len().min(4)).collect();
            let mut shader = Shader::new(Kernel::Reverse(Reverse::Gather))
                .size("height", map.height)
                .size("width", map.width)
                .size("channels", map.channels);
            for n in 0..4 {
                let (offset, pitch, read) = taken.get(n).map_or((0, 0, 0), |p| (p.1, p.2, p.3 as usize));
                shader = shader
                    .size(&format!("offset{n}"), offset)
                    .size(&format!("pitch{n}"), pitch)
                    .size(&format!("mode{n}"), read);
            }
            let sum = self.activation(4 * map.channels * map.pixels());
            let inputs = taken.iter().map(|p| p.0).collect();
            self.launch("", shader, sum, inputs, over(map.channels * map.pixels()));
            parts.insert(0, (sum, 0, map.channels, Read::Same));
        }
        parts.first().map(|p| p.0)
    }

    /// A gradient that another launch left for exactly these maps, to be added in place of being kept.
    fn addend(&mut self, parts: &[Storage]) -> Option<Storage> {
        let at = self.pending.iter().position(|p| p.parts == parts && p.read == Read::Same)?;
        Some(self.pending.swap_remove(at).gradient)
    }

    /// The gradient of the rows of time projections.
    fn rows(&mut self, of: Storage) -> Storage {
        if let Some(&(_, gradient)) = self.rows.iter().find(|(seen, _)| *seen == of) {
            return gradient;
        }
        let Storage::Activation(a) = of else { unreachable!("projections are activations") };
        let gradient = self.activation(self.program.activations[a]);
        self.rows.push((of, gradient));
        gradient
    }

    /// Sums over the samples into the gradient of a weight: `count` vec4s at `offset` of rows of `pitch`.
    fn sample_sums(
        &mut self,
        label: &str,
        weight: Storage,
        rows: Storage,
        [offset, pitch, count]: [usize; 3],
        time: Option<(Storage, [u32; 2])>,
    ) {
        let Storage::Weight(weight) = weight else { unreachable!("a weight's gradient") };
        let shader = Shader::new(Kernel::Reverse(Reverse::SampleSums))
            .size("count", count)
            .size("offset", offset)
            .size("pitch", pitch)
            .size("scaled", time.is_some().into());
        let (storage, slice) = time.unwrap_or((Storage::Unused, [0, 0]));
        let grid = Grid::Fixed { x: count.div_ceil(64), y: 1 };
        self.launch(label, shader, gradient_of(weight), vec![rows, storage], grid);
        self.last().time = slice;
    }

    fn last(&mut self) -> &mut Dispatch {
        self.program.dispatches.last_mut().expect("just launched")
    }

    fn product(&mut self, i: usize, product: &Product, gradient: Storage) {
        let forward = &self.program.dispatches[i];
        let (label, inputs, slice) = (forward.label.clone(), forward.inputs.clone(), forward.time);
        let &[first, second, weight, bias, time, residual] = inputs.as_slice() else {
            unreachable!("a product has six inputs");
        };
        let Product { launch, columns, .. } = *product;
        let pixels = launch.output[0] * launch.output[1];
        let vectors = columns / 4;
        let mut gradient = gradient;
        if product.silu {
            // The value before it was not stored.
            let before = self.activation(columns * pixels);
            let ending = Ending {
                add_time: product.adds_time,
                residual: product.residual.map(|read| read as usize),
                silu: false,
            };
            let variants = launch.variants(self.choice, product.parts, columns, ending);
            self.launch_variants(&label, variants, before, inputs.clone());
            self.last().time = slice;
            let after = gradient;
            gradient = self.activation(columns * pixels);
            let shader = Shader::new(Kernel::Reverse(Reverse::Silu)).size("count", vectors * pixels);
            self.launch(&label, shader, gradient, vec![before, after], over(vectors * pixels));
        }
        if let Some(read) = product.residual {
            self.pending.push(Pending { parts: vec![residual], gradient, read });
        }

        // The bias, and the time projection.
        let (rows, [offset, pitch]) = if pixels == 1 {
            (gradient, [0, vectors])
        } else if product.adds_time {
            (self.rows(time), slice.map(|n| n as usize))
        } else {
            (self.activation(columns), [0, vectors])
        };
        if pixels > 1 {
            let shader = Shader::new(Kernel::Reverse(Reverse::PixelSums))
                .size("pixels", pixels)
                .size("in_c", vectors)
                .size("offset", offset)
                .size("pitch", pitch);
            self.launch(&label, shader, rows, vec![gradient], Grid::XBatch { x: width(vectors, offset, pitch) });
        } else {
            assert!(!product.adds_time, "the network adds no time projection to a vector");
        }
        self.sample_sums(&label, bias, rows, [offset, pitch, vectors], None);
        self.weights(&label, product, [first, second], weight, gradient);

        let parts: Vec<Storage> = [first, second].into_iter().filter(|&part| part != Storage::Unused).collect();
        if parts.iter().any(|&part| self.is_tracked(part)) {
            self.product_input(&label, product, parts, weight, gradient);
        }
    }

    /// The gradient of a product's weights.
    fn weights(&mut self, label: &str, product: &Product, inputs: [Storage; 2], weight: Storage, gradient: Storage) {
        let Storage::Weight(weight) = weight else { unreachable!("a product's weights") };
        let Launch { output: [out_h, out_w], input: [in_h, in_w], resample, side, stride, padding } = product.launch;
        let channels = product.parts[0] + product.parts[1];
        let tiles = product.columns.div_ceil(TILE);
        let size = TILE * tiles * side * side * channels;
        // A row of taps is 3 or 1 long; both have much to do for what they read.
        let (block, columns) = (if side == 3 { 1 } else { 4 }, if out_w == 1 { 1 } else { 4 });
        let invocations = side * tiles * channels.div_ceil(block);
        let shares = (MANY_INVOCATIONS / invocations).min(MANY_FLOATS / (4 * size)).clamp(1, out_h.max(4));
        let to = match shares {
            1 => gradient_of(weight),
            _ => self.fixed.grow(Fixed::SHARES, 4 * size * shares),
        };
        let mut first = 0;
        for (input, part) in inputs.into_iter().zip(product.parts).filter(|(_, part)| *part > 0) {
            let shader = Shader::new(Kernel::Reverse(Reverse::Weights))
                .size("in_h", in_h)
                .size("in_w", in_w)
                .size("up", resample - SAME)
                .size("padding", padding)
                .size("out_h", out_h)
                .size("out_w", out_w)
                .size("out_c", product.columns / 4)
                .size("x_c", part)
                .size("first", first)
                .size("channels", channels)
                .size("tiles", tiles)
                .size("shares", shares)
                .size("size", size)
                .u32("SIDE", side)
                .u32("STRIDE", stride)
                .u32("COLUMNS", columns)
                .u32("WINDOW", (columns - 1) * stride + side)
                .u32("INPUTS", block);
            let x = (side * tiles * part.div_ceil(block)).div_ceil(64);
            self.launch(label, shader, to, vec![input, gradient], Grid::Fixed { x, y: shares });
            self.last().multiply_adds = out_h * out_w * product.columns * 4 * part * side * side;
            first += part;
        }
        if shares > 1 {
            let shader = Shader::new(Kernel::Reverse(Reverse::Reduce)).size("count", size).size("copies", shares);
            self.launch(label, shader, gradient_of(weight), vec![to], across(size));
        }
    }

    /// The gradient of a product's input: a product of the result's gradient with the turned weights.
    fn product_input(
        &mut self,
        label: &str,
        product: &Product,
        parts: Vec<Storage>,
        weight: Storage,
        gradient: Storage,
    ) {
        let Launch { output, input, resample, side, stride, padding } = product.launch;
        let channels = product.parts[0] + product.parts[1];
        let columns = 4 * channels;
        let vectors = product.columns / 4;
        let count = columns.div_ceil(TILE) * TILE * side * side * vectors;
        let turned = self.fixed.grow(Fixed::TURNED, 4 * count);
        let shader = Shader::new(Kernel::Reverse(Reverse::Turn))
            .size("channels", channels)
            .size("out_c", vectors)
            .size("count", count)
            .u32("SIDE", side);
        self.launch(label, shader, turned, vec![weight], across(count));

        let (mut from, mut from_size) = (gradient, output);
        if stride == 2 {
            let [height, width] = output;
            from_size = [2 * height, 2 * width];
            from = self.activation(4 * height * width * product.columns);
            let shader = Shader::new(Kernel::Reverse(Reverse::Spread))
                .size("height", height)
                .size("width", width)
                .size("channels", vectors);
            self.launch(label, shader, from, vec![gradient], over(4 * height * width * vectors));
        }
        let read = if resample == SAME { Read::Same } else { Read::Upsampled };
        let addend = if read == Read::Same { self.addend(&parts) } else { None };
        let turned_launch =
            Launch { output: input, input: from_size, resample: SAME, side, stride: 1, padding: side - 1 - padding };
        let ending = Ending { residual: addend.map(|_| SAME), ..Ending::default() };
        let variants = turned_launch.variants(self.choice, [vectors, 0], columns, ending);
        let zeros = self.fixed.grow(Fixed::ZEROS, columns);
        let to = self.activation(input[0] * input[1] * columns);
        let bound = vec![from, Storage::Unused, turned, zeros, Storage::Unused, addend.unwrap_or(Storage::Unused)];
        self.launch_variants(label, variants, to, bound);
        self.last().multiply_adds = input[0] * input[1] * columns * product.columns * side * side;
        self.pending.push(Pending { parts, gradient: to, read });
    }

    fn norm(&mut self, i: usize, norm: &Norm, gradient: Storage) {
        let forward = &self.program.dispatches[i];
        let (label, inputs, slice) = (forward.label.clone(), forward.inputs.clone(), forward.time);
        let &[first, second, weight, bias, time] = inputs.as_slice() else {
            unreachable!("a norm has five inputs");
        };
        let vectors = norm.padded() / 4;
        let sums = self.activation(6 * norm.padded());
        let shader = norm.shader(Reverse::NormSums).f32("EPS", norm.eps).bool("SCALE_SHIFT", norm.scale_shift);
        let bound = vec![first, second, gradient, weight, bias, time];
        self.launch(&label, shader, sums, bound, Grid::XBatch { x: norm.groups });
        self.last().time = slice;

        let scaled = norm.scale_shift.then_some((time, slice));
        self.sample_sums(&label, bias, sums, [0, 6 * vectors, vectors], scaled);
        self.sample_sums(&label, weight, sums, [vectors, 6 * vectors, vectors], scaled);
        if norm.scale_shift {
            let [offset, pitch] = slice.map(|n| n as usize);
            let rows = self.rows(time);
            let width = width((2 * norm.channels()).div_ceil(4), offset, pitch);
            let shader = Shader::new(Kernel::Reverse(Reverse::NormTime))
                .size("channels", norm.channels())
                .size("planes", norm.padded())
                .size("width", width)
                .size("offset", offset)
                .size("pitch", pitch);
            self.launch(&label, shader, rows, vec![sums, weight, bias], over(4 * width));
        }

        let parts: Vec<Storage> = [first, second].into_iter().filter(|&part| part != Storage::Unused).collect();
        if parts.iter().any(|&part| self.is_tracked(part)) {
            let addend = self.addend(&parts);
            let shader = norm.shader(Reverse::NormInput).size("add", addend.is_some().into());
            let floats = norm.height * norm.width * (norm.pitches[0] + norm.pitches[1]);
            let to = self.activation(floats);
            let bound = vec![first, second, gradient, sums, addend.unwrap_or(Storage::Unused)];
            self.launch(&label, shader, to, bound, over(floats));
            self.pending.push(Pending { parts, gradient: to, read: Read::Same });
        }
    }

    fn attention(&mut self, i: usize, [pixels, heads, head]: [usize; 3], gradient: Storage) {
        let forward = &self.program.dispatches[i];
        let (result, qkv) = (forward.output, forward.inputs[0]);
        let shader = |kernel: Reverse| {
            let number = |name: &str| forward.variants[0].shader.number(name).expect("attention has it");
            Shader::new(Kernel::Reverse(kernel))
                .size("pixels", pixels)
                .size("heads", heads)
                .size("pitch", number("pitch"))
                .size("keys", number("keys"))
                .size("values", number("values"))
                .u32("HEAD", head)
                .f32("SCALE", forward.variants[0].shader.fraction("SCALE").expect("attention has it"))
        };
        let [of_rows, of_queries, of_keys] =
            [Reverse::AttentionRows, Reverse::AttentionQueries, Reverse::AttentionKeys].map(shader);
        let label = self.label(i);
        let grid = Grid::XYBatch { x: pixels.div_ceil(8), y: heads };
        let rows = self.activation(2 * heads * pixels);
        self.launch(&label, of_rows, rows, vec![qkv, result, gradient], grid);
        let Storage::Activation(a) = qkv else { unreachable!("a product's result") };
        let to = self.activation(self.program.activations[a]);
        let multiply_adds = 4 * pixels * pixels * heads * head;
        self.last().multiply_adds = multiply_adds;
        self.launch(&label, of_queries, to, vec![qkv, gradient, rows], grid);
        self.last().multiply_adds = 3 * multiply_adds;
        self.launch(&label, of_keys, to, vec![qkv, gradient, rows], grid);
        self.last().multiply_adds = 4 * multiply_adds;
        self.pending.push(Pending { parts: vec![qkv], gradient: to, read: Read::Same });
    }

    fn embedding(&mut self, i: usize, dim: usize, gradient: Storage) {
        let Storage::Weight(table) = self.program.dispatches[i].inputs[1] else { unreachable!("a table of rows") };
        let label = self.label(i);
        let rows = self.program.weights[table] / (4 * dim);
        let shader = Shader::new(Kernel::Reverse(Reverse::ClassTable)).size("dim", dim).size("rows", rows);
        self.launch(&label, shader, gradient_of(table), vec![Storage::Labels, gradient], across(rows * dim));
    }
}

/// The vec4s of a slice of time projections, which begins at a multiple of 8 channels and ends at one, or with its row.
fn width(vectors: usize, offset: usize, pitch: usize) -> usize {
    vectors.next_multiple_of(2).min(pitch - offset)
}

/// Workgroups of 64 invocations, one for each of `count` things of a sample.
fn over(count: usize) -> Grid {
    Grid::XBatch { x: count.div_ceil(64) }
}

/// Workgroups of 64 invocations, one for each of `count` things of the whole batch.
fn across(count: usize) -> Grid {
    let groups = count.div_ceil(64);
    let x = groups.min(1 << 10);
    Grid::Fixed { x, y: groups.div_ceil(x) }
}
