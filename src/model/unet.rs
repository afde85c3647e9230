//! The forward of diffusers' `UNet2DModel`, written once.
//!
//! [`UNet`] is a description: layers with their checkpoint names and shapes, no weights. [`UNet::forward`] walks it
//! over any [`Ops`]; a backend implements the operations: it records a GPU dispatch, computes with burn, or only propagates
//! shapes. The network knows no σ: the preconditioning wraps it in
//! [`crate::consistency::sampler`].
//!
//! Shapes are logical: a map is (B, C, H, W) and a vector (B, N), whatever the interpreter's layout in memory.

use crate::compact;
use crate::model::config::{BlockType, Resample, TimeScaleShift, UNetConfig};

/// The label of a sample without a class: nothing is added to its time embedding.
///
/// Training and guidance use it, on the CPU backend and in gradients on the GPU; a sampler's labels are classes.
pub const NO_CLASS: u32 = u32::MAX;

/// The operations of the forward, on maps (B, C, H, W) and vectors (B, N).
///
/// Operations cannot fail: a configuration that parses has shapes that fit, and an interpreter checks its weights
/// against [`UNet::parameters`] before it runs.
pub trait Ops {
    /// A feature map (B, C, H, W).
    type Map: Clone;
    /// One vector per sample (B, N).
    type Vector: Clone;
    /// One class index per sample (B).
    type Labels;

    /// Convolution with bias; zero padding.
    fn conv2d(&mut self, x: &Self::Map, layer: &Conv2d) -> Self::Map;
    /// (x − mean)/√(var + ε)·weight + bias, statistics over each group of channels of each sample.
    fn group_norm(&mut self, x: &Self::Map, layer: &GroupNorm) -> Self::Map;
    /// x·sigmoid(x).
    fn silu(&mut self, x: &Self::Map) -> Self::Map;
    /// Sum of two maps of one shape.
    fn add(&mut self, a: &Self::Map, b: &Self::Map) -> Self::Map;
    /// x + v, v (B, C) broadcast over the pixels.
    fn add_channels(&mut self, x: &Self::Map, v: &Self::Vector) -> Self::Map;
    /// x·(1 + scale) + shift, `v` (B, 2C) holding the scales and then the shifts, broadcast over the pixels.
    fn scale_shift(&mut self, x: &Self::Map, v: &Self::Vector) -> Self::Map;
    /// Channels of `a`, then those of `b`.
    fn concat(&mut self, a: &Self::Map, b: &Self::Map) -> Self::Map;
    /// Nearest-neighbour upsampling to (2H, 2W).
    fn upsample(&mut self, x: &Self::Map) -> Self::Map;
    /// Means of 2×2 blocks: (H/2, W/2).
    fn downsample(&mut self, x: &Self::Map) -> Self::Map;
    /// Multi-head self-attention among the pixels, without the output projection: (B, heads·head_dim, H, W).
    fn attention(&mut self, x: &Self::Map, layer: &SelfAttention) -> Self::Map;
    /// A linear layer applied to every pixel.
    fn pointwise(&mut self, x: &Self::Map, layer: &Linear) -> Self::Map;

    /// A linear layer with bias.
    fn linear(&mut self, x: &Self::Vector, layer: &Linear) -> Self::Vector;
    /// x·sigmoid(x).
    fn silu_vector(&mut self, x: &Self::Vector) -> Self::Vector;
    /// Sum of two vectors of one shape.
    fn add_vector(&mut self, a: &Self::Vector, b: &Self::Vector) -> Self::Vector;
    /// The rows of the table that the labels name: (B, dim).
    fn embedding(&mut self, labels: &Self::Labels, layer: &Embedding) -> Self::Vector;
}

/// A tensor that a checkpoint must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the safetensors file.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<usize>,
}

impl Parameter {
    /// Number of its values.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// `{name}.weight` (out, in, k, k) and `{name}.bias` (out).
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// Checkpoint prefix.
    pub name: String,
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Kernel size, 1 or 3.
    pub kernel: usize,
    /// 1 or 2.
    pub stride: usize,
    /// Zero rows and columns before the first and after the last one.
    pub padding: [usize; 2],
}

/// `{name}.weight` (out, in) and `{name}.bias` (out).
#[derive(Debug, Clone)]
pub struct Linear {
    /// Checkpoint prefix.
    pub name: String,
    /// Input features.
    pub input: usize,
    /// Output features.
    pub output: usize,
}

/// `{name}.weight` (channels) and `{name}.bias` (channels).
#[derive(Debug, Clone)]
pub struct GroupNorm {
    /// Checkpoint prefix.
    pub name: String,
    /// Channels of the map.
    pub channels: usize,
    /// Number of groups of channels.
    pub groups: usize,
    /// ε inside the square root.
    pub eps: f32,
}

/// `{name}.weight` (rows, dim).
#[derive(Debug, Clone)]
pub struct Embedding {
    /// Checkpoint prefix.
    pub name: String,
    /// Number of classes.
    pub rows: usize,
    /// Length of a row.
    pub dim: usize,
}

/// Queries, keys and values of softmax(q·kᵀ/√head_dim)·v.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// `{name}.to_q`.
    pub query: Linear,
    /// `{name}.to_k`.
    pub key: Linear,
    /// `{name}.to_v`.
    pub value: Linear,
    /// Number of heads; head `i` owns channels `i·head_dim ..`.
    pub heads: usize,
    /// Channels of one head.
    pub head_dim: usize,
}

/// The network's layers.
#[derive(Debug, Clone)]
pub struct UNet {
    conv_in: Conv2d,
    time_embedding: [Linear; 2],
    class_embedding: Option<Embedding>,
    down: Vec<DownBlock>,
    mid: Option<MidBlock>,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Debug, Clone)]
struct DownBlock {
    layers: Vec<(ResnetBlock, Option<AttentionBlock>)>,
    downsampler: Option<Resampler>,
}

#[derive(Debug, Clone)]
struct MidBlock {
    before: ResnetBlock,
    attention: Option<AttentionBlock>,
    after: ResnetBlock,
}

#[derive(Debug, Clone)]
struct UpBlock {
    layers: Vec<(ResnetBlock, Option<AttentionBlock>)>,
    upsampler: Option<Resampler>,
}

#[derive(Debug, Clone)]
enum Resampler {
    Conv(Conv2d),
    Resnet(Box<ResnetBlock>),
}

#[derive(Debug, Clone)]
struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    time_scale_shift: TimeScaleShift,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    direction: Direction,
}

/// Whether a residual block changes the resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Same,
    Down,
    Up,
}

#[derive(Debug, Clone)]
struct AttentionBlock {
    norm: Option<GroupNorm>,
    attention: SelfAttention,
    out: Linear,
}

impl UNet {
    /// Lays out the network that `config` describes.
    pub fn new(config: &UNetConfig) -> Self {
        let channels = &config.block_out_channels;
        let levels = channels.len();
        let first = channels[0];
        let build = Builder { config };

        let mut input = first;
        let down = (0..levels)
            .map(|i| {
                let block = build.down_block(i, input);
                input = channels[i];
                block
            })
            .collect();
        let mid = config.mid_block.then(|| build.mid_block(channels[levels - 1]));
        let up = (0..levels).map(|i| build.up_block(i)).collect();
        Self {
            conv_in: conv("conv_in", config.in_channels, first, 3),
            time_embedding: [
                linear("time_embedding.linear_1", first, config.time_embed_dim),
                linear("time_embedding.linear_2", config.time_embed_dim, config.time_embed_dim),
            ],
            class_embedding: config.num_class_embeds.map(|rows| Embedding {
                name: "class_embedding".into(),
                rows,
                dim: config.time_embed_dim,
            }),
            down,
            mid,
            up,
            norm_out: build.norm("conv_norm_out", first),
            conv_out: conv("conv_out", first, config.out_channels, 3),
        }
    }

    /// F(x, t): `sample` (B, C, H, W), `time` the sinusoidal features (B, block_out_channels\[0\]) of
    /// [`time_features`], `labels` one class per sample if the model is class-conditional.
    ///
    /// # Panics
    /// When `labels` are absent though the model has a class embedding.
    pub fn forward<O: Ops>(
        &self,
        ops: &mut O,
        sample: &O::Map,
        time: &O::Vector,
        labels: Option<&O::Labels>,
    ) -> O::Map {
        let h = ops.linear(time, &self.time_embedding[0]);
        let h = ops.silu_vector(&h);
        let mut temb = ops.linear(&h, &self.time_embedding[1]); // (B, time_embed_dim)
        if let Some(table) = &self.class_embedding {
            let rows = ops.embedding(labels.expect("a class-conditional model needs labels"), table);
            temb = ops.add_vector(&temb, &rows);
        }
        // Every residual block begins with this, so it is done once.
        let temb = ops.silu_vector(&temb);

        let mut x = ops.conv2d(sample, &self.conv_in); // (B, block_out_channels[0], H, W)
        let mut skips = vec![x.clone()];
        for block in &self.down {
            for (resnet, attention) in &block.layers {
                x = resnet.forward(ops, &x, &temb);
                if let Some(attention) = attention {
                    x = attention.forward(ops, &x);
                }
                skips.push(x.clone());
            }
            if let Some(downsampler) = &block.downsampler {
                x = match downsampler {
                    Resampler::Conv(conv) => ops.conv2d(&x, conv),
                    Resampler::Resnet(resnet) => resnet.forward(ops, &x, &temb),
                };
                skips.push(x.clone()); // (B, C, H/2, W/2)
            }
        }

        if let Some(mid) = &self.mid {
            x = mid.before.forward(ops, &x, &temb);
            if let Some(attention) = &mid.attention {
                x = attention.forward(ops, &x);
            }
            x = mid.after.forward(ops, &x, &temb);
        }

        for block in &self.up {
            for (resnet, attention) in &block.layers {
                let skip = skips.pop().expect("the decoder takes what the encoder left");
                x = ops.concat(&x, &skip); // (B, C + C_skip, H, W)
                x = resnet.forward(ops, &x, &temb);
                if let Some(attention) = attention {
                    x = attention.forward(ops, &x);
                }
            }
            x = match &block.upsampler {
                None => x,
                Some(Resampler::Resnet(resnet)) => resnet.forward(ops, &x, &temb),
                Some(Resampler::Conv(conv)) => {
                    let x = ops.upsample(&x); // (B, C, 2H, 2W)
                    ops.conv2d(&x, conv)
                }
            };
        }

        let x = ops.group_norm(&x, &self.norm_out);
        let x = ops.silu(&x);
        ops.conv2d(&x, &self.conv_out) // (B, out_channels, H, W)
    }

    /// Every tensor that a checkpoint must hold, in the order of the layers.
    pub fn parameters(&self) -> Vec<Parameter> {
        let mut p = Vec::new();
        self.conv_in.parameters(&mut p);
        self.time_embedding.iter().for_each(|l| l.parameters(&mut p));
        if let Some(table) = &self.class_embedding {
            p.push(Parameter { name: format!("{}.weight", table.name), shape: vec![table.rows, table.dim] });
        }
        for block in &self.down {
            layers_parameters(&block.layers, block.downsampler.as_ref(), &mut p);
        }
        if let Some(mid) = &self.mid {
            mid.before.parameters(&mut p);
            mid.attention.iter().for_each(|a| a.parameters(&mut p));
            mid.after.parameters(&mut p);
        }
        for block in &self.up {
            layers_parameters(&block.layers, block.upsampler.as_ref(), &mut p);
        }
        self.norm_out.parameters(&mut p);
        self.conv_out.parameters(&mut p);
        p
    }

    /// Number of weights, over all parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(Parameter::count).sum()
    }
}

/// The sinusoidal features of timesteps, (B, block_out_channels\[0\]) row-major, as diffusers'
/// `get_timestep_embedding` makes them.
///
/// The angles are rounded to f32 step by step as there, because at t ≈ 1000 the rounding shows; the sines
/// themselves are taken in f64, on the CPU, since WGSL leaves the accuracy of `sin` at such angles open.
pub fn time_features(config: &UNetConfig, timesteps: &[f32]) -> Vec<f32> {
    let dim = config.block_out_channels[0];
    let half = dim / 2;
    let minus_ln_period = -compact::ln(10_000.0) as f32;
    let mut features = vec![0.0; timesteps.len() * dim]; // an odd dim leaves its last entry 0
    for (row, &t) in features.chunks_exact_mut(dim).zip(timesteps) {
        for k in 0..half {
            let exponent = minus_ln_period * k as f32 / (half as f32 - config.freq_shift);
            let angle = f64::from(t * exponent.exp());
            let (sin, cos) = (compact::sin(angle) as f32, compact::cos(angle) as f32);
            let (first, second) = if config.flip_sin_to_cos { (cos, sin) } else { (sin, cos) };
            row[k] = first;
            row[half + k] = second;
        }
    }
    features
}

impl ResnetBlock {
    fn forward<O: Ops>(&self, ops: &mut O, x: &O::Map, temb: &O::Vector) -> O::Map {
        let h = ops.group_norm(x, &self.norm1);
        let mut h = ops.silu(&h);
        let mut skip = x.clone();
        match self.direction {
            Direction::Same => {}
            Direction::Down => {
                skip = ops.downsample(&skip);
                h = ops.downsample(&h);
            }
            Direction::Up => {
                skip = ops.upsample(&skip);
                h = ops.upsample(&h);
            }
        }
        let h = ops.conv2d(&h, &self.conv1);
        let time = ops.linear(temb, &self.time_emb_proj);
        let h = match self.time_scale_shift {
            TimeScaleShift::Default => {
                let h = ops.add_channels(&h, &time);
                ops.group_norm(&h, &self.norm2)
            }
            TimeScaleShift::ScaleShift => {
                let h = ops.group_norm(&h, &self.norm2);
                ops.scale_shift(&h, &time)
            }
        };
        let h = ops.silu(&h);
        let h = ops.conv2d(&h, &self.conv2);
        if let Some(shortcut) = &self.shortcut {
            skip = ops.conv2d(&skip, shortcut);
        }
        ops.add(&skip, &h)
    }

    fn parameters(&self, p: &mut Vec<Parameter>) {
        self.norm1.parameters(p);
        self.conv1.parameters(p);
        self.time_emb_proj.parameters(p);
        self.norm2.parameters(p);
        self.conv2.parameters(p);
        self.shortcut.iter().for_each(|c| c.parameters(p));
    }
}

impl AttentionBlock {
    fn forward<O: Ops>(&self, ops: &mut O, x: &O::Map) -> O::Map {
        let h = match &self.norm {
            Some(norm) => ops.group_norm(x, norm),
            None => x.clone(),
        };
        let h = ops.attention(&h, &self.attention);
        let h = ops.pointwise(&h, &self.out);
        ops.add(x, &h)
    }

    fn parameters(&self, p: &mut Vec<Parameter>) {
        self.norm.iter().for_each(|n| n.parameters(p));
        self.attention.query.parameters(p);
        self.attention.key.parameters(p);
        self.attention.value.parameters(p);
        self.out.parameters(p);
    }
}

impl Conv2d {
    fn parameters(&self, p: &mut Vec<Parameter>) {
        let shape = vec![self.output, self.input, self.kernel, self.kernel];
        p.push(Parameter { name: format!("{}.weight", self.name), shape });
        p.push(Parameter { name: format!("{}.bias", self.name), shape: vec![self.output] });
    }
}

impl Linear {
    fn parameters(&self, p: &mut Vec<Parameter>) {
        p.push(Parameter { name: format!("{}.weight", self.name), shape: vec![self.output, self.input] });
        p.push(Parameter { name: format!("{}.bias", self.name), shape: vec![self.output] });
    }
}

impl GroupNorm {
    fn parameters(&self, p: &mut Vec<Parameter>) {
        p.push(Parameter { name: format!("{}.weight", self.name), shape: vec![self.channels] });
        p.push(Parameter { name: format!("{}.bias", self.name), shape: vec![self.channels] });
    }
}

fn layers_parameters(
    layers: &[(ResnetBlock, Option<AttentionBlock>)],
    resampler: Option<&Resampler>,
    p: &mut Vec<Parameter>,
) {
    for (resnet, attention) in layers {
        resnet.parameters(p);
        attention.iter().for_each(|a| a.parameters(p));
    }
    match resampler {
        Some(Resampler::Conv(conv)) => conv.parameters(p),
        Some(Resampler::Resnet(resnet)) => resnet.parameters(p),
        None => {}
    }
}

fn conv(name: &str, input: usize, output: usize, kernel: usize) -> Conv2d {
    let padding = [kernel / 2; 2];
    Conv2d { name: name.into(), input, output, kernel, stride: 1, padding }
}

fn linear(name: &str, input: usize, output: usize) -> Linear {
    Linear { name: name.into(), input, output }
}

/// Builds blocks under their checkpoint names.
struct Builder<'a> {
    config: &'a UNetConfig,
}

impl Builder<'_> {
    fn down_block(&self, level: usize, input: usize) -> DownBlock {
        let name = format!("down_blocks.{level}");
        let BlockType { attention, resample } = self.config.down_blocks[level];
        let channels = self.config.block_out_channels[level];
        let layers = (0..self.config.layers_per_block)
            .map(|i| self.layer(&name, i, if i == 0 { input } else { channels }, channels, attention))
            .collect();
        let is_last = level + 1 == self.config.block_out_channels.len();
        let downsampler = (!is_last).then(|| match resample {
            Resample::Conv => Resampler::Conv(Conv2d {
                stride: 2,
                // Without padding diffusers adds a zero row and column at the far edges alone.
                padding: [self.config.downsample_padding, 1],
                ..conv(&format!("{name}.downsamplers.0.conv"), channels, channels, 3)
            }),
            Resample::Resnet => Resampler::Resnet(Box::new(self.resnet(
                &format!("{name}.downsamplers.0"),
                channels,
                channels,
                Direction::Down,
            ))),
        });
        DownBlock { layers, downsampler }
    }

    fn mid_block(&self, channels: usize) -> MidBlock {
        let resnet = |i| self.resnet(&format!("mid_block.resnets.{i}"), channels, channels, Direction::Same);
        MidBlock {
            before: resnet(0),
            attention: self
                .config
                .mid_attention
                .then(|| self.attention("mid_block.attentions.0", channels, self.config.mid_attention_groups)),
            after: resnet(1),
        }
    }

    fn up_block(&self, i: usize) -> UpBlock {
        let name = format!("up_blocks.{i}");
        let BlockType { attention, resample } = self.config.up_blocks[i];
        let channels = &self.config.block_out_channels;
        let level = channels.len() - 1 - i;
        let (output, finer, coarser) =
            (channels[level], channels[level.saturating_sub(1)], channels[(level + 1).min(channels.len() - 1)]);
        // Skips come in the encoder's reverse order; the last one of a level is that level's own input.
        let count = self.config.layers_per_block + 1;
        let layers = (0..count)
            .map(|j| {
                let input = if j == 0 { coarser } else { output };
                let skip = if j + 1 == count { finer } else { output };
                self.layer(&name, j, input + skip, output, attention)
            })
            .collect();
        let upsampler = (level > 0).then(|| match resample {
            Resample::Conv => Resampler::Conv(conv(&format!("{name}.upsamplers.0.conv"), output, output, 3)),
            Resample::Resnet => {
                Resampler::Resnet(Box::new(self.resnet(&format!("{name}.upsamplers.0"), output, output, Direction::Up)))
            }
        });
        UpBlock { layers, upsampler }
    }

    fn layer(
        &self,
        block: &str,
        i: usize,
        input: usize,
        output: usize,
        attention: bool,
    ) -> (ResnetBlock, Option<AttentionBlock>) {
        let resnet = self.resnet(&format!("{block}.resnets.{i}"), input, output, Direction::Same);
        let groups = Some(self.config.norm_num_groups);
        (resnet, attention.then(|| self.attention(&format!("{block}.attentions.{i}"), output, groups)))
    }

    fn resnet(&self, name: &str, input: usize, output: usize, direction: Direction) -> ResnetBlock {
        let time_scale_shift = self.config.time_scale_shift;
        let time_features = match time_scale_shift {
            TimeScaleShift::Default => output,
            TimeScaleShift::ScaleShift => 2 * output,
        };
        ResnetBlock {
            norm1: self.norm(&format!("{name}.norm1"), input),
            conv1: conv(&format!("{name}.conv1"), input, output, 3),
            time_emb_proj: linear(&format!("{name}.time_emb_proj"), self.config.time_embed_dim, time_features),
            time_scale_shift,
            norm2: self.norm(&format!("{name}.norm2"), output),
            conv2: conv(&format!("{name}.conv2"), output, output, 3),
            shortcut: (input != output).then(|| conv(&format!("{name}.conv_shortcut"), input, output, 1)),
            direction,
        }
    }

    fn attention(&self, name: &str, channels: usize, norm_groups: Option<usize>) -> AttentionBlock {
        // Channels that do not fill a whole head are left out of the inner width, as in diffusers.
        let head_dim = self.config.attention_head_dim.unwrap_or(channels);
        let heads = channels / head_dim;
        let inner = heads * head_dim;
        AttentionBlock {
            norm: norm_groups.map(|groups| GroupNorm { groups, ..self.norm(&format!("{name}.group_norm"), channels) }),
            attention: SelfAttention {
                query: linear(&format!("{name}.to_q"), channels, inner),
                key: linear(&format!("{name}.to_k"), channels, inner),
                value: linear(&format!("{name}.to_v"), channels, inner),
                heads,
                head_dim,
            },
            out: linear(&format!("{name}.to_out.0"), inner, channels),
        }
    }

    fn norm(&self, name: &str, channels: usize) -> GroupNorm {
        GroupNorm { name: name.into(), channels, groups: self.config.norm_num_groups, eps: self.config.norm_eps }
    }
}
