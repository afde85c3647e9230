//! Records the forward as a list of nodes. Nothing is fused or placed here.

use crate::model::config::UNetConfig;
use crate::model::unet::{Conv2d, Embedding, GroupNorm, Linear, Ops, SelfAttention, UNet};

/// Index of a node; inputs come before their users.
pub(super) type NodeId = usize;

/// One operation of the forward.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// The preconditioned batch.
    Sample,
    /// The sinusoidal features of the timesteps.
    Time,
    Conv(Conv2d),
    Pointwise(Linear),
    GroupNorm(GroupNorm),
    Silu,
    /// Input 0 plus input 1.
    Add,
    /// Map 0 plus vector 1.
    AddChannels,
    /// Map 0 times one plus scale, plus shift, both from vector 1.
    ScaleShift,
    Concat,
    Upsample,
    Downsample,
    Attention(SelfAttention),
    Embedding(Embedding),
}

/// A node with the shape of its result, without the batch; a vector is a map of one pixel.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) op: Op,
    pub(super) inputs: Vec<NodeId>,
    pub(super) channels: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

/// The forward's nodes; the last one is its result.
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
}

impl Graph {
    /// The graph of the U-Net's forward.
    pub(super) fn record(config: &UNetConfig, unet: &UNet) -> Self {
        let labels = config.num_class_embeds.map(|_| ());
        Self::of(config, |ops, sample, time| unet.forward(ops, sample, time, labels.as_ref()))
    }

    /// The graph of any function of the preconditioned batch and the sinusoidal features.
    pub(super) fn of(config: &UNetConfig, forward: impl FnOnce(&mut Self, &NodeId, &NodeId) -> NodeId) -> Self {
        let mut graph = Self { nodes: Vec::new() };
        let [height, width] = config.sample_size;
        let sample = graph.push(Op::Sample, &[], [config.in_channels, height, width]);
        let time = graph.push(Op::Time, &[], [config.block_out_channels[0], 1, 1]);
        let result = forward(&mut graph, &sample, &time);
        debug_assert_eq!(result + 1, graph.nodes.len());
        graph
    }

    fn push(&mut self, op: Op, inputs: &[NodeId], [channels, height, width]: [usize; 3]) -> NodeId {
        self.nodes.push(Node { op, inputs: inputs.to_vec(), channels, height, width });
        self.nodes.len() - 1
    }

    fn shape(&self, id: NodeId) -> [usize; 3] {
        let node = &self.nodes[id];
        [node.channels, node.height, node.width]
    }

    /// A node of the same shape as its first input.
    fn same(&mut self, op: Op, inputs: &[NodeId]) -> NodeId {
        self.push(op, inputs, self.shape(inputs[0]))
    }
}

impl Ops for Graph {
    type Map = NodeId;
    type Vector = NodeId;
    type Labels = (); // an input of the plan, not of a node

    fn conv2d(&mut self, &x: &NodeId, layer: &Conv2d) -> NodeId {
        let [_, h, w] = self.shape(x);
        let size = |n: usize| (n + layer.padding[0] + layer.padding[1] - layer.kernel) / layer.stride + 1;
        self.push(Op::Conv(layer.clone()), &[x], [layer.output, size(h), size(w)])
    }

    fn group_norm(&mut self, &x: &NodeId, layer: &GroupNorm) -> NodeId {
        self.same(Op::GroupNorm(layer.clone()), &[x])
    }

    fn silu(&mut self, &x: &NodeId) -> NodeId {
        self.same(Op::Silu, &[x])
    }

    fn add(&mut self, &a: &NodeId, &b: &NodeId) -> NodeId {
        self.same(Op::Add, &[a, b])
    }

    fn add_channels(&mut self, &x: &NodeId, &v: &NodeId) -> NodeId {
        self.same(Op::AddChannels, &[x, v])
    }

    fn scale_shift(&mut self, &x: &NodeId, &v: &NodeId) -> NodeId {
        self.same(Op::ScaleShift, &[x, v])
    }

    fn concat(&mut self, &a: &NodeId, &b: &NodeId) -> NodeId {
        let ([ca, h, w], [cb, ..]) = (self.shape(a), self.shape(b));
        self.push(Op::Concat, &[a, b], [ca + cb, h, w])
    }

    fn upsample(&mut self, &x: &NodeId) -> NodeId {
        let [c, h, w] = self.shape(x);
        self.push(Op::Upsample, &[x], [c, 2 * h, 2 * w])
    }

    fn downsample(&mut self, &x: &NodeId) -> NodeId {
        let [c, h, w] = self.shape(x);
        self.push(Op::Downsample, &[x], [c, h / 2, w / 2])
    }

    fn attention(&mut self, &x: &NodeId, layer: &SelfAttention) -> NodeId {
        let [_, h, w] = self.shape(x);
        self.push(Op::Attention(layer.clone()), &[x], [layer.heads * layer.head_dim, h, w])
    }

    fn pointwise(&mut self, &x: &NodeId, layer: &Linear) -> NodeId {
        let [_, h, w] = self.shape(x);
        self.push(Op::Pointwise(layer.clone()), &[x], [layer.output, h, w])
    }

    fn linear(&mut self, x: &NodeId, layer: &Linear) -> NodeId {
        self.pointwise(x, layer)
    }

    fn silu_vector(&mut self, x: &NodeId) -> NodeId {
        self.silu(x)
    }

    fn add_vector(&mut self, a: &NodeId, b: &NodeId) -> NodeId {
        self.add(a, b)
    }

    fn embedding(&mut self, (): &(), layer: &Embedding) -> NodeId {
        self.push(Op::Embedding(layer.clone()), &[], [layer.dim, 1, 1])
    }
}
