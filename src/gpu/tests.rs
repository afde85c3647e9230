//! Each kernel against the CPU backend, on shapes that do not fit its tiles.
//!
//! A case is a small function over [`Ops`] from an RGB image to an RGB image; both backends run the same one with the
//! same random weights. `tests/diffusers.rs` compares both with diffusers on whole models, and `tests/gradients.rs` the
//! CPU's gradients with PyTorch's, so an error that both backends have fails there.

use std::collections::BTreeMap;

use super::graph::Graph;
use super::program::{OUTPUTS, Products};
use super::tuning::TILES;
use super::{Gpu, GpuUNet};
use crate::checkpoint::tensor::{Arrival, Rows, f32_bytes};
use crate::consistency::rng::Generator;
use crate::cpu::CpuGraph;
use crate::model::config::UNetConfig;
use crate::model::unet::{Conv2d, Embedding, GroupNorm, Linear, Ops, Parameter, SelfAttention, time_features};
use crate::network::{ForwardInput, Network};

/// f32 sums of up to a thousand products of order 1, in another order.
const TOLERANCE: f32 = 5e-5;

trait Case {
    fn forward<O: Ops>(&self, ops: &mut O, x: &O::Map, time: &O::Vector, labels: &O::Labels) -> O::Map;
}

/// Runs the case on both backends with every kind of products, at batch 1 and 5.
fn check(what: &str, size: usize, weights: &Weights, case: &impl Case) {
    let tiled = TILES.map(Products::Tiled);
    for products in std::iter::once(Products::Registers).chain(tiled) {
        check_products(&format!("{what}, {products:?}"), size, weights, case, products);
    }
}

fn check_products(what: &str, size: usize, weights: &Weights, case: &impl Case, products: Products) {
    let config = UNetConfig::parse(&format!(
        r#"{{"_class_name": "UNet2DModel", "sample_size": {size}, "block_out_channels": [20], "norm_num_groups": 1,
            "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "num_class_embeds": 4}}"#
    ))
    .unwrap();
    let gpu = pollster::block_on(Gpu::request()).unwrap();
    let graph = Graph::of(&config, |ops, x, time| case.forward(ops, x, time, &()));
    let mut network = GpuUNet::of_graph(&gpu, &config, &graph, [products; OUTPUTS.len()]).unwrap();
    let parameter = |(name, values): (&String, &Vec<f32>)| Parameter { name: name.clone(), shape: vec![values.len()] };
    let parameters = weights.0.iter().map(parameter).collect();
    let cpu = CpuGraph::of(&config, parameters, |ops, x, time| case.forward(ops, x, time, &()));
    let flat: Vec<f32> = weights.0.values().flatten().copied().collect();
    for (name, values) in &weights.0 {
        network.load(Arrival::Rows(Rows::whole_f32(name, &f32_bytes(values)))).unwrap();
    }
    // What it leaves in the buffers must not matter.
    pollster::block_on(network.warm_up()).unwrap();
    for batch in [1, 5] {
        let mut sample = vec![0.0; batch * 3 * size * size];
        Generator::new(batch as u64).randn(&mut sample);
        let timestep: Vec<f32> = (0..batch).map(|b| 80.0 - 300.0 * b as f32).collect();
        let class_labels: Vec<u32> = (0..batch as u32).map(|b| (3 * b + 2) % 4).collect();

        let expected = cpu.forward(&flat, &sample, &time_features(&config, &timestep), &class_labels);
        assert_eq!(expected.len(), sample.len());
        let input = ForwardInput { sample: &sample, timestep: &timestep, class_labels: &class_labels };
        let found = pollster::block_on(network.forward(input)).unwrap();
        let scale = expected.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        let worst = found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0.0, f32::max);
        assert!(worst <= TOLERANCE * scale, "{what}, batch {batch}: off by {worst}, the largest value is {scale}");
    }
}

/// Random weights under their names; the layers that own them are made along the way.
#[derive(Default)]
struct Weights(BTreeMap<String, Vec<f32>>);

impl Weights {
    fn tensor(&mut self, name: String, len: usize, mean: f32, deviation: f32) {
        let mut values = vec![0.0; len];
        Generator::new(self.0.len() as u64 + 100).randn(&mut values);
        values.iter_mut().for_each(|v| *v = mean + deviation * *v);
        self.0.insert(name, values);
    }

    fn product(&mut self, name: &str, input: usize, output: usize) {
        self.tensor(format!("{name}.weight"), input * output, 0.0, (input as f32).powf(-0.5));
        self.tensor(format!("{name}.bias"), output, 0.0, 0.3);
    }

    fn conv(&mut self, name: &str, input: usize, output: usize, kernel: usize) -> Conv2d {
        self.product(name, input * kernel * kernel, output);
        Conv2d { name: name.into(), input, output, kernel, stride: 1, padding: [kernel / 2; 2] }
    }

    fn linear(&mut self, name: &str, input: usize, output: usize) -> Linear {
        self.product(name, input, output);
        Linear { name: name.into(), input, output }
    }

    fn norm(&mut self, name: &str, channels: usize, groups: usize) -> GroupNorm {
        self.tensor(format!("{name}.weight"), channels, 1.0, 0.3);
        self.tensor(format!("{name}.bias"), channels, 0.0, 0.3);
        GroupNorm { name: name.into(), channels, groups, eps: 1e-5 }
    }
}

const CHANNELS: [usize; 6] = [12, 24, 40, 72, 96, 15];

struct Convs(Vec<Conv2d>);

impl Case for Convs {
    fn forward<O: Ops>(&self, ops: &mut O, x: &O::Map, _: &O::Vector, _: &O::Labels) -> O::Map {
        self.0.iter().fold(x.clone(), |x, conv| ops.conv2d(&x, conv))
    }
}

#[test]
fn convolutions_of_awkward_channels() {
    for c in CHANNELS {
        let mut w = Weights::default();
        let convs = vec![w.conv("a", 3, c, 3), w.conv("b", c, c + 1, 1), w.conv("c", c + 1, 3, 3)];
        check(&format!("3×3, 1×1, 3×3 over {c} channels"), 7, &w, &Convs(convs));
    }
}

/// A strided convolution, then back up to the first size.
struct DownAndUp {
    first: Conv2d,
    down: Conv2d,
    up: Conv2d,
    shortcut: Conv2d,
}

impl Case for DownAndUp {
    fn forward<O: Ops>(&self, ops: &mut O, x: &O::Map, _: &O::Vector, _: &O::Labels) -> O::Map {
        let x = ops.conv2d(x, &self.first);
        let small = ops.conv2d(&x, &self.down);
        let means = ops.downsample(&x);
        let small = ops.add(&means, &small); // the residual is read through 2×2 means
        let big = ops.upsample(&small);
        let big = ops.conv2d(&big, &self.up); // the input is read upsampled
        let up = ops.upsample(&small);
        let sum = ops.concat(&big, &x);
        let sum = ops.conv2d(&sum, &self.shortcut);
        ops.add(&up, &sum) // the residual is read upsampled
    }
}

#[test]
fn strides_and_resampling() {
    for (size, padding) in [(6, [1, 1]), (10, [0, 1]), (14, [1, 1])] {
        let mut w = Weights::default();
        let first = w.conv("first", 3, 3, 3);
        let down = Conv2d { stride: 2, padding, ..w.conv("down", 3, 3, 3) };
        let (up, shortcut) = (w.conv("up", 3, 12, 3), w.conv("shortcut", 15, 3, 1));
        check(&format!("{size}², padding {padding:?}"), size, &w, &DownAndUp { first, down, up, shortcut });
    }
}

/// Norms of a concatenation, with and without scale and shift, SiLU and resampling in the store.
struct Norms {
    a: Conv2d,
    b: Conv2d,
    plain: GroupNorm,
    middle: Conv2d,
    time: Linear,
    shifted: GroupNorm,
    out: Conv2d,
}

impl Case for Norms {
    fn forward<O: Ops>(&self, ops: &mut O, x: &O::Map, time: &O::Vector, _: &O::Labels) -> O::Map {
        let (a, b) = (ops.conv2d(x, &self.a), ops.conv2d(x, &self.b));
        let h = ops.concat(&a, &b);
        let h = ops.group_norm(&h, &self.plain);
        let h = ops.silu(&h);
        let h = ops.downsample(&h);
        let h = ops.conv2d(&h, &self.middle);
        let time = ops.linear(time, &self.time);
        let h = ops.group_norm(&h, &self.shifted);
        let h = ops.scale_shift(&h, &time);
        let h = ops.silu(&h);
        let h = ops.upsample(&h);
        ops.conv2d(&h, &self.out)
    }
}

#[test]
fn norms_of_awkward_groups() {
    for (a, b, groups) in [(12, 12, 8), (24, 16, 5), (40, 32, 3), (72, 24, 32), (15, 6, 7), (1, 3, 2)] {
        let mut w = Weights::default();
        let c = a + b;
        let case = Norms {
            a: w.conv("a", 3, a, 3),
            b: w.conv("b", 3, b, 1),
            plain: w.norm("plain", c, groups),
            middle: w.conv("middle", c, c, 3),
            time: w.linear("time", 20, 2 * c),
            shifted: w.norm("shifted", c, if groups % 2 == 0 { 1 } else { groups }),
            out: w.conv("out", c, 3, 3),
        };
        check(&format!("{a} + {b} channels in {groups} groups"), 14, &w, &case);
    }
}

/// Attention over all pixels, the norm before it optional.
struct Attention {
    first: Conv2d,
    norm: Option<GroupNorm>,
    attention: SelfAttention,
    project: Linear,
    out: Conv2d,
}

impl Case for Attention {
    fn forward<O: Ops>(&self, ops: &mut O, x: &O::Map, _: &O::Vector, _: &O::Labels) -> O::Map {
        let x = ops.conv2d(x, &self.first);
        let h = match &self.norm {
            Some(norm) => ops.group_norm(&x, norm),
            None => x.clone(),
        };
        let h = ops.attention(&h, &self.attention);
        let h = ops.pointwise(&h, &self.project);
        let x = ops.add(&x, &h);
        ops.conv2d(&x, &self.out)
    }
}

#[test]
fn attention_of_awkward_heads() {
    // Channels, heads, channels of a head; 40 is more than one round of a workgroup's lanes, 6 is no multiple of 4.
    for (c, heads, head_dim, size) in
        [(12, 2, 6, 7), (40, 2, 16, 7), (40, 1, 40, 6), (72, 9, 8, 3), (24, 1, 24, 1), (8, 2, 4, 9), (12, 2, 6, 18)]
    {
        let mut w = Weights::default();
        let inner = heads * head_dim;
        let case = Attention {
            first: w.conv("first", 3, c, 3),
            norm: (c != 24).then(|| w.norm("norm", c, 4)),
            attention: SelfAttention {
                query: w.linear("q", c, inner),
                key: w.linear("k", c, inner),
                value: w.linear("v", c, inner),
                heads,
                head_dim,
            },
            project: w.linear("project", inner, c),
            out: w.conv("out", c, 3, 3),
        };
        check(&format!("{heads} heads of {head_dim} over {size}² pixels"), size, &w, &case);
    }
}

/// The embedding path, with one and with several linear layers of its result.
struct Time {
    one: Linear,
    two: Linear,
    table: Embedding,
    many: Vec<Linear>,
    convs: Vec<Conv2d>,
}

impl Case for Time {
    fn forward<O: Ops>(&self, ops: &mut O, x: &O::Map, time: &O::Vector, labels: &O::Labels) -> O::Map {
        let h = ops.linear(time, &self.one);
        let h = ops.silu_vector(&h);
        let h = ops.linear(&h, &self.two);
        let rows = ops.embedding(labels, &self.table);
        let h = ops.add_vector(&h, &rows);
        let temb = ops.silu_vector(&h);
        let mut x = x.clone();
        for (linear, conv) in self.many.iter().zip(&self.convs) {
            let h = ops.conv2d(&x, conv);
            let v = ops.linear(&temb, linear);
            x = ops.add_channels(&h, &v);
        }
        x
    }
}

#[test]
fn time_and_class_embeddings() {
    for (dim, widths) in [(50, vec![3]), (80, vec![12, 5, 40, 3])] {
        let mut w = Weights::default();
        let (one, two) = (w.linear("one", 20, dim), w.linear("two", dim, dim));
        w.tensor("table.weight".into(), 4 * dim, 0.0, 1.0);
        let many = widths.iter().enumerate().map(|(i, &c)| w.linear(&format!("time{i}"), dim, c)).collect();
        let mut input = 3;
        let mut conv = |(i, &c): (usize, &usize)| {
            let conv = w.conv(&format!("conv{i}"), input, c, 3);
            input = c;
            conv
        };
        let convs = widths.iter().enumerate().map(&mut conv).collect();
        let table = Embedding { name: "table".into(), rows: 4, dim };
        check(&format!("{dim} features to {widths:?}"), 5, &w, &Time { one, two, table, many, convs });
    }
}
