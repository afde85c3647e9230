//! The CPU backend: the forward and its gradient, made for batches on a few cores.
//!
//! Each operation has one kernel and one gradient; matrix products are faer's, or our own in WebAssembly. Tests compare
//! its outputs with diffusers' and its gradients with those of PyTorch's autograd. It is in turn what the GPU's kernels
//! and gradients are tested against on shapes that no golden has.
//!
//! A batch is cut into independent groups of `GROUP` samples. Threads share out the groups, and the gradients of groups
//! are summed in order, so that a result does not depend on the number of threads. Within a
//! group a map is (C, n, H·W) and a vector (C, n), rows contiguous; weights are one flat slice in the order of
//! `UNet::parameters`.
//!
//! This file records the operations and walks them forwards and backwards; `kernels` computes, `product` multiplies
//! matrices. In WebAssembly there is one thread.

mod kernels;
mod product;

use std::collections::HashMap;
use std::ops::Range;

#[cfg(not(target_arch = "wasm32"))]
use rayon::prelude::*;

use crate::checkpoint::tensor::Arrival;
use crate::consistency::sampler::ConsistencyFunction;
use crate::consistency::schedule::Step;
use crate::error::{Error, Result};
use crate::model::config::UNetConfig;
use crate::model::unet::{
    Conv2d, Embedding, GroupNorm, Linear, NO_CLASS, Ops, Parameter, SelfAttention, UNet, time_features,
};
use crate::network::{self, ForwardInput, Network};
use kernels::{Attention, Normalisation};

pub(crate) use kernels::Convolution;
#[cfg(feature = "trainer")]
pub(crate) use product::{Matrix, MatrixMut, Store, product};

/// Samples that one thread takes at a time: enough columns for a matrix product at 7×7, few enough to stay in cache.
const GROUP: usize = 4;

/// A value's index in [`Graph::values`].
pub(crate) type Id = usize;

/// One sample's value; a vector is a map of one pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
}

impl Shape {
    fn pixels(self) -> usize {
        self.height * self.width
    }

    fn len(self) -> usize {
        self.channels * self.pixels()
    }
}

/// The operation that computes a value.
enum Op {
    Sample,
    Time,
    Embedding { table: Range<usize> },
    Convolution { x: Id, layer: Convolution },
    GroupNorm { x: Id, layer: Normalisation },
    Silu { x: Id },
    Add { a: Id, b: Id },
    AddChannels { x: Id, v: Id },
    ScaleShift { x: Id, v: Id },
    Concat { a: Id, b: Id },
    Upsample { x: Id },
    Downsample { x: Id },
    Attention { q: Id, k: Id, v: Id, layer: Attention },
}

impl Op {
    fn inputs(&self) -> impl Iterator<Item = Id> {
        let inputs = match *self {
            Self::Sample | Self::Time | Self::Embedding { .. } => [None; 3],
            Self::Convolution { x, .. }
            | Self::GroupNorm { x, .. }
            | Self::Silu { x }
            | Self::Upsample { x }
            | Self::Downsample { x } => [Some(x), None, None],
            Self::Add { a, b } | Self::Concat { a, b } => [Some(a), Some(b), None],
            Self::AddChannels { x, v } | Self::ScaleShift { x, v } => [Some(x), Some(v), None],
            Self::Attention { q, k, v, .. } => [Some(q), Some(k), Some(v)],
        };
        inputs.into_iter().flatten()
    }
}

/// The operations in the order of the forward.
struct Graph {
    values: Vec<(Op, Shape)>,
    /// Whether the gradient with respect to a value is needed; it is not for a value that depends on no weight.
    tracked: Vec<bool>,
    /// The last operation that reads a value; its own for one that is only the answer.
    last_use: Vec<Id>,
}

/// The network's operations and where its weights lie in a flat slice; it holds no weights.
pub struct CpuGraph {
    graph: Graph,
    places: Places,
    parameters: Vec<Parameter>,
}

/// Where each parameter lies in the flat weights.
struct Places {
    ranges: HashMap<String, Range<usize>>,
    total: usize,
}

impl Places {
    fn new(parameters: &[Parameter]) -> Self {
        let mut total = 0;
        let ranges = parameters.iter().map(|p| {
            let start = total;
            total += p.count();
            (p.name.clone(), start..total)
        });
        Self { ranges: ranges.collect(), total }
    }

    fn of(&self, layer: &str) -> (Range<usize>, Range<usize>) {
        (self.ranges[&format!("{layer}.weight")].clone(), self.ranges[&format!("{layer}.bias")].clone())
    }
}

/// A recorded forward for [`CpuGraph::gradient`]: each group's values and statistics.
pub struct Tape {
    groups: Vec<Group>,
    labels: Vec<u32>,
}

/// Values of the samples of one group.
struct Group {
    values: Vec<Vec<f32>>,
    /// Mean and 1/√(var + ε) of each sample's groups of channels, where a normalisation made the value.
    statistics: Vec<Vec<[f32; 2]>>,
}

impl CpuGraph {
    /// Records the operations of `unet`.
    pub fn new(config: &UNetConfig, unet: &UNet) -> Self {
        let labels = config.num_class_embeds.map(|_| ());
        Self::of(config, unet.parameters(), |ops, sample, time| unet.forward(ops, sample, time, labels.as_ref()))
    }

    /// Records any function of the sample and the time features, with the parameters that it uses.
    pub(crate) fn of(
        config: &UNetConfig,
        parameters: Vec<Parameter>,
        forward: impl FnOnce(&mut Recorder, &Id, &Id) -> Id,
    ) -> Self {
        let [height, width] = config.sample_size;
        let mut recorder = Recorder { values: Vec::new(), places: Places::new(&parameters) };
        let sample = recorder.push(Op::Sample, Shape { channels: config.in_channels, height, width });
        let time = recorder.push(Op::Time, vector(config.block_out_channels[0]));
        let result = forward(&mut recorder, &sample, &time);
        debug_assert_eq!(result + 1, recorder.values.len());
        let mut last_use: Vec<Id> = (0..recorder.values.len()).collect();
        let mut tracked: Vec<bool> = Vec::new();
        for (id, (op, _)) in recorder.values.iter().enumerate() {
            op.inputs().for_each(|input| last_use[input] = id);
            let has_weights = matches!(op, Op::Embedding { .. } | Op::Convolution { .. } | Op::GroupNorm { .. });
            tracked.push(has_weights || op.inputs().any(|input| tracked[input]));
        }
        let graph = Graph { values: recorder.values, tracked, last_use };
        Self { graph, places: recorder.places, parameters }
    }

    /// The parameters in the order of the flat weights.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of values in the flat weights.
    pub fn weight_count(&self) -> usize {
        self.places.total
    }

    /// Where a parameter lies in the flat weights.
    ///
    /// # Panics
    /// When the network has no parameter of that name.
    pub fn place(&self, name: &str) -> Range<usize> {
        self.places.ranges[name].clone()
    }

    /// F(x, t): `sample` (B, C, H, W), `time` (B, block_out_channels\[0\]), one label (a class or [`NO_CLASS`]) per
    /// sample, or none for a network without classes.
    ///
    /// # Panics
    /// When a length does not fit the network.
    pub fn forward(&self, weights: &[f32], sample: &[f32], time: &[f32], labels: &[u32]) -> Vec<f32> {
        self.walk(weights, sample, time, labels, false).0
    }

    /// [`Self::forward`] with a record for [`Self::gradient`].
    ///
    /// # Panics
    /// When a length does not fit the network.
    pub fn record(&self, weights: &[f32], sample: &[f32], time: &[f32], labels: &[u32]) -> (Vec<f32>, Tape) {
        let (output, groups) = self.walk(weights, sample, time, labels, true);
        (output, Tape { groups, labels: labels.to_vec() })
    }

    fn walk(
        &self,
        weights: &[f32],
        sample: &[f32],
        time: &[f32],
        labels: &[u32],
        keep: bool,
    ) -> (Vec<f32>, Vec<Group>) {
        assert_eq!(weights.len(), self.places.total, "one value per weight");
        let per_sample = self.graph.values[0].1.len();
        let features = self.graph.values[1].1.len();
        let batch = sample.len() / per_sample;
        assert_eq!((sample.len(), time.len()), (batch * per_sample, batch * features), "whole samples");
        let groups = shared_out((0..batch.div_ceil(GROUP)).collect(), |g: usize| {
            let from = g * GROUP;
            let to = (from + GROUP).min(batch);
            let input = GroupInput {
                sample: &sample[from * per_sample..to * per_sample],
                time: &time[from * features..to * features],
                labels: labels.get(from..to).unwrap_or_default(),
                count: to - from,
            };
            self.group_forward(weights, &input, keep)
        });
        let shape = self.graph.values[self.graph.values.len() - 1].1;
        let mut output = Vec::with_capacity(batch * shape.len());
        for group in &groups {
            let last = group.values.last().expect("a network has operations");
            output.extend(from_rows(last, last.len() / shape.len(), shape));
        }
        (output, groups)
    }

    fn group_forward(&self, weights: &[f32], input: &GroupInput<'_>, keep: bool) -> Group {
        let n = input.count;
        let values = &self.graph.values;
        let mut group = Group { values: Vec::with_capacity(values.len()), statistics: Vec::new() };
        group.statistics.resize_with(values.len(), Vec::new);
        let mut columns = Vec::new();
        for (id, (op, shape)) in values.iter().enumerate() {
            let (v, pixels) = (&group.values, shape.pixels());
            let out = match op {
                Op::Sample => to_rows(input.sample, n, *shape),
                Op::Time => to_rows(input.time, n, *shape),
                Op::Embedding { table } => {
                    let table = &weights[table.clone()];
                    let mut rows = vec![0.0; n * shape.channels];
                    for (row, &label) in rows.chunks_exact_mut(shape.channels).zip(input.labels) {
                        if label != NO_CLASS {
                            row.copy_from_slice(&table[label as usize * shape.channels..][..shape.channels]);
                        }
                    }
                    to_rows(&rows, n, *shape)
                }
                Op::Convolution { x, layer } => layer.forward(weights, &v[*x], n, &mut columns),
                Op::GroupNorm { x, layer } => {
                    let (out, statistics) = layer.forward(weights, &v[*x], n, pixels);
                    group.statistics[id] = statistics;
                    out
                }
                Op::Silu { x } => kernels::silu(&v[*x]),
                Op::Add { a, b } => kernels::add(&v[*a], &v[*b]),
                Op::AddChannels { x, v: t } => kernels::add_channels(&v[*x], &v[*t], pixels),
                Op::ScaleShift { x, v: t } => kernels::scale_shift(&v[*x], &v[*t], pixels),
                Op::Concat { a, b } => [v[*a].as_slice(), v[*b].as_slice()].concat(),
                Op::Upsample { x } => kernels::upsample(&v[*x], shape.width / 2),
                Op::Downsample { x } => kernels::downsample(&v[*x], shape.width),
                Op::Attention { q, k, v: values, layer } => layer.forward([&v[*q], &v[*k], &v[*values]], n, pixels),
            };
            group.values.push(out);
            if !keep {
                let done = op.inputs().filter(|&input| self.graph.last_use[input] == id);
                done.for_each(|input| group.values[input] = Vec::new());
            }
        }
        group
    }

    /// The gradient Σ_b ∂L/∂F_b · ∂F_b/∂weights, flat, for `gradient` = ∂L/∂F (B, C, H, W) and the same `weights` as
    /// were recorded.
    ///
    /// # Panics
    /// When a length does not fit the network.
    pub fn gradient(&self, weights: &[f32], tape: Tape, gradient: &[f32]) -> Vec<f32> {
        let shape = self.graph.values[self.graph.values.len() - 1].1;
        let labels = &tape.labels;
        let parts = shared_out(tape.groups.into_iter().enumerate().collect(), |(g, group): (usize, Group)| {
            let n = group.values[0].len() / self.graph.values[0].1.len();
            let own = &gradient[g * GROUP * shape.len()..][..n * shape.len()];
            let rows = to_rows(own, n, shape);
            let labels = labels.get(g * GROUP..g * GROUP + n).unwrap_or_default();
            self.group_gradient(weights, group, labels, rows, n)
        });
        let mut sum = vec![0.0; self.places.total];
        shared_out(sum.chunks_mut(1 << 14).enumerate().collect(), |(i, sum): (usize, &mut [f32])| {
            parts.iter().for_each(|part| kernels::accumulate(&part[i << 14..][..sum.len()], sum));
        });
        sum
    }

    fn group_gradient(&self, weights: &[f32], mut group: Group, labels: &[u32], last: Vec<f32>, n: usize) -> Vec<f32> {
        let mut dw = vec![0.0; self.places.total];
        let mut columns = Vec::new();
        let mut gradients = Gradients { of: Vec::new(), graph: &self.graph };
        gradients.of.resize_with(self.graph.values.len(), Vec::new);
        *gradients.of.last_mut().expect("a network has operations") = last;
        for (id, (op, shape)) in self.graph.values.iter().enumerate().rev() {
            let g = std::mem::take(&mut gradients.of[id]);
            // All readers of this value are done; the gradient of its own operation may still read it.
            let own = std::mem::take(&mut group.values[id]);
            if g.is_empty() {
                continue;
            }
            let (v, pixels) = (&group.values, shape.pixels());
            match op {
                Op::Sample | Op::Time => {}
                Op::Embedding { table } => {
                    let table = &mut dw[table.clone()];
                    for (s, &label) in labels.iter().enumerate().filter(|(_, label)| **label != NO_CLASS) {
                        let row = &mut table[label as usize * shape.channels..][..shape.channels];
                        row.iter_mut().enumerate().for_each(|(c, w)| *w += g[c * n + s]);
                    }
                }
                Op::Convolution { x, layer } => {
                    let is_needed = self.graph.tracked[*x];
                    let dx = layer.gradient(weights, &v[*x], n, &g, &mut dw, is_needed, &mut columns);
                    dx.into_iter().for_each(|dx| gradients.add(*x, dx));
                }
                Op::GroupNorm { x, layer } => {
                    let statistics = &group.statistics[id];
                    gradients.add(*x, layer.gradient(weights, &v[*x], statistics, n, pixels, &g, &mut dw));
                }
                Op::Silu { x } => gradients.add(*x, kernels::silu_gradient(&v[*x], &g)),
                Op::Add { a, b } => {
                    gradients.add(*a, g.clone());
                    gradients.add(*b, g);
                }
                Op::AddChannels { x, v: t } => {
                    gradients.add(*t, kernels::add_channels_gradient(&g, pixels));
                    gradients.add(*x, g);
                }
                Op::ScaleShift { x, v: t } => {
                    gradients.add(*x, kernels::scale_gradient(&v[*t], &g, pixels));
                    gradients.add(*t, kernels::scale_shift_gradient(&v[*x], &g, pixels));
                }
                Op::Concat { a, b } => {
                    let (first, second) = g.split_at(v[*a].len());
                    gradients.add(*a, first.to_vec());
                    gradients.add(*b, second.to_vec());
                }
                Op::Upsample { x } => gradients.add(*x, kernels::upsample_gradient(&g, shape.width / 2)),
                Op::Downsample { x } => gradients.add(*x, kernels::downsample_gradient(&g, shape.width)),
                Op::Attention { q, k, v: values, layer } => {
                    let of = layer.gradient([&v[*q], &v[*k], &v[*values]], n, pixels, &g);
                    [q, k, values].into_iter().zip(of).for_each(|(id, gradient)| gradients.add(*id, gradient));
                }
            }
            drop(own);
        }
        dw
    }
}

/// The results of some pieces of work, in order, on as many threads as there are.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn shared_out<T: Send, R: Send>(work: Vec<T>, each: impl Fn(T) -> R + Sync + Send) -> Vec<R> {
    work.into_par_iter().map(each).collect()
}

#[cfg(target_arch = "wasm32")]
pub(crate) fn shared_out<T, R>(work: Vec<T>, each: impl Fn(T) -> R) -> Vec<R> {
    work.into_iter().map(each).collect()
}

/// The arguments of a forward for one group.
struct GroupInput<'a> {
    sample: &'a [f32],
    time: &'a [f32],
    labels: &'a [u32],
    count: usize,
}

/// Gradients with respect to values: empty until something is added.
struct Gradients<'a> {
    of: Vec<Vec<f32>>,
    graph: &'a Graph,
}

impl Gradients<'_> {
    fn add(&mut self, id: Id, gradient: Vec<f32>) {
        let sum = &mut self.of[id];
        match sum.is_empty() {
            _ if !self.graph.tracked[id] => {}
            true => *sum = gradient,
            false => kernels::accumulate(&gradient, sum),
        }
    }
}

/// The U-Net with its weights, on the CPU.
pub struct CpuUNet {
    config: UNetConfig,
    unet: CpuGraph,
    weights: Vec<f32>,
}

impl CpuUNet {
    /// A network with these weights, which lie as [`Self::weights`] says.
    ///
    /// # Errors
    /// [`Error::Weights`] when they are of another number.
    pub fn with_weights(config: &UNetConfig, weights: Vec<f32>) -> Result<Self> {
        let unet = CpuGraph::new(config, &UNet::new(config));
        if weights.len() != unet.weight_count() {
            let (expected, found) = (unet.weight_count(), weights.len());
            return Err(Error::Weights(format!("expected {expected} weights, found {found}")));
        }
        Ok(Self { config: config.clone(), unet, weights })
    }

    /// The weights, one parameter after the other in the order of [`UNet::parameters`].
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// A network whose weights are 0 until they are loaded.
    pub fn new(config: &UNetConfig) -> Self {
        let unet = CpuGraph::new(config, &UNet::new(config));
        let weights = vec![0.0; unet.weight_count()];
        Self { config: config.clone(), unet, weights }
    }
}

impl Network for CpuUNet {
    fn config(&self) -> &UNetConfig {
        &self.config
    }

    fn piece_granularity(&self, _: &str) -> Option<usize> {
        Some(1)
    }

    fn load(&mut self, arrival: Arrival<'_>) -> Result<()> {
        let Arrival::Rows(rows) = arrival else { return Ok(()) };
        let (name, values) = (rows.name, rows.to_f32());
        let parameter = self.unet.parameters().iter().find(|p| p.name == name);
        let start = parameter.map(|p| rows.first * p.shape.iter().skip(1).product::<usize>());
        let place = self.unet.places.ranges.get(name).and_then(|r| self.weights.get_mut(r.clone()));
        match start.zip(place).and_then(|(start, place)| place.get_mut(start..start + values.len())) {
            Some(rows) => rows.copy_from_slice(&values),
            None => {
                return Err(Error::Weights(format!("unexpected rows of {name}: the configuration has no such rows")));
            }
        }
        Ok(())
    }

    async fn forward(&mut self, input: ForwardInput<'_>) -> Result<Vec<f32>> {
        input.check(&self.config)?;
        let time = time_features(&self.config, input.timestep);
        Ok(self.unet.forward(&self.weights, input.sample, &time, input.class_labels))
    }
}

impl ConsistencyFunction for CpuUNet {
    async fn denoise(&mut self, x: &[f32], step: &Step, labels: &[u32]) -> Result<Vec<f32>> {
        network::denoise(self, x, step, labels).await
    }
}

/// (n, C, H·W) to (C, n, H·W).
pub(crate) fn to_rows(samples: &[f32], n: usize, shape: Shape) -> Vec<f32> {
    let pixels = shape.pixels();
    (0..n * shape.channels)
        .flat_map(|row| {
            let (c, s) = (row / n, row % n);
            &samples[(s * shape.channels + c) * pixels..][..pixels]
        })
        .copied()
        .collect()
}

/// (C, n, H·W) to (n, C, H·W).
pub(crate) fn from_rows(rows: &[f32], n: usize, shape: Shape) -> Vec<f32> {
    let pixels = shape.pixels();
    (0..n * shape.channels)
        .flat_map(|row| {
            let (s, c) = (row / shape.channels, row % shape.channels);
            &rows[(c * n + s) * pixels..][..pixels]
        })
        .copied()
        .collect()
}

/// The shape of a vector.
fn vector(channels: usize) -> Shape {
    Shape { channels, height: 1, width: 1 }
}

/// The interpreter that writes the operations down.
pub(crate) struct Recorder {
    values: Vec<(Op, Shape)>,
    places: Places,
}

impl Recorder {
    fn push(&mut self, op: Op, shape: Shape) -> Id {
        self.values.push((op, shape));
        self.values.len() - 1
    }

    fn shape(&self, id: Id) -> Shape {
        self.values[id].1
    }

    fn same(&mut self, like: Id, op: Op) -> Id {
        self.push(op, self.shape(like))
    }

    fn linear_layer(&mut self, x: Id, layer: &Linear) -> Id {
        let input = self.shape(x);
        let output = Shape { channels: layer.output, ..input };
        let (weight, bias) = self.places.of(&layer.name);
        let layer = Convolution { weight, bias, input, output, kernel: 1, stride: 1, padding: 0 };
        self.push(Op::Convolution { x, layer }, output)
    }
}

impl Ops for Recorder {
    type Map = Id;
    type Vector = Id;
    type Labels = ();

    fn conv2d(&mut self, &x: &Id, layer: &Conv2d) -> Id {
        let input = self.shape(x);
        let size = |size: usize| (size + layer.padding[0] + layer.padding[1] - layer.kernel) / layer.stride + 1;
        let output = Shape { channels: layer.output, height: size(input.height), width: size(input.width) };
        let (weight, bias) = self.places.of(&layer.name);
        let (kernel, stride, padding) = (layer.kernel, layer.stride, layer.padding[0]);
        let layer = Convolution { weight, bias, input, output, kernel, stride, padding };
        self.push(Op::Convolution { x, layer }, output)
    }

    fn group_norm(&mut self, &x: &Id, layer: &GroupNorm) -> Id {
        let (weight, bias) = self.places.of(&layer.name);
        let layer = Normalisation { weight, bias, groups: layer.groups, eps: layer.eps };
        self.same(x, Op::GroupNorm { x, layer })
    }

    fn silu(&mut self, &x: &Id) -> Id {
        self.same(x, Op::Silu { x })
    }

    fn add(&mut self, &a: &Id, &b: &Id) -> Id {
        self.same(a, Op::Add { a, b })
    }

    fn add_channels(&mut self, &x: &Id, &v: &Id) -> Id {
        self.same(x, Op::AddChannels { x, v })
    }

    fn scale_shift(&mut self, &x: &Id, &v: &Id) -> Id {
        self.same(x, Op::ScaleShift { x, v })
    }

    fn concat(&mut self, &a: &Id, &b: &Id) -> Id {
        let channels = self.shape(a).channels + self.shape(b).channels;
        self.push(Op::Concat { a, b }, Shape { channels, ..self.shape(a) })
    }

    fn upsample(&mut self, &x: &Id) -> Id {
        let Shape { channels, height, width } = self.shape(x);
        self.push(Op::Upsample { x }, Shape { channels, height: 2 * height, width: 2 * width })
    }

    fn downsample(&mut self, &x: &Id) -> Id {
        let Shape { channels, height, width } = self.shape(x);
        self.push(Op::Downsample { x }, Shape { channels, height: height / 2, width: width / 2 })
    }

    fn attention(&mut self, &x: &Id, layer: &SelfAttention) -> Id {
        let [q, k, v] = [&layer.query, &layer.key, &layer.value].map(|linear| self.linear_layer(x, linear));
        let layer = Attention { heads: layer.heads, head_dim: layer.head_dim };
        self.same(q, Op::Attention { q, k, v, layer })
    }

    fn pointwise(&mut self, &x: &Id, layer: &Linear) -> Id {
        self.linear_layer(x, layer)
    }

    fn linear(&mut self, &x: &Id, layer: &Linear) -> Id {
        self.linear_layer(x, layer)
    }

    fn silu_vector(&mut self, &x: &Id) -> Id {
        self.same(x, Op::Silu { x })
    }

    fn add_vector(&mut self, &a: &Id, &b: &Id) -> Id {
        self.same(a, Op::Add { a, b })
    }

    fn embedding(&mut self, (): &(), layer: &Embedding) -> Id {
        let table = self.places.ranges[&format!("{}.weight", layer.name)].clone();
        self.push(Op::Embedding { table }, vector(layer.dim))
    }
}
