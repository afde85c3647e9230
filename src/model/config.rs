//! The configurations of a U-Net and of a scheduler as plain values.

/// How a block changes resolution (`downsample_type`, `upsample_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// One 3×3 convolution (of stride 2, or after nearest-neighbour upsampling).
    Conv,
    /// A residual block that resamples inside.
    Resnet,
}

/// How a residual block takes in the time embedding (`resnet_time_scale_shift`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeScaleShift {
    /// Added to the feature map before the second norm.
    Default,
    /// Scale and shift of the second norm's output: `norm(h)·(1 + scale) + shift`.
    ScaleShift,
}

/// One level of the encoder or decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockType {
    /// An attention layer follows each residual block.
    pub attention: bool,
    /// How the level's resampler is built, on every level that has one.
    pub resample: Resample,
}

/// `UNet2DModel`'s configuration, as far as consistency checkpoints use it.
#[derive(Debug, Clone, PartialEq)]
pub struct UNetConfig {
    /// Height and width of the images, in pixels.
    pub sample_size: [usize; 2],
    /// Channels of the input: 1 for grey, 3 for RGB.
    pub in_channels: usize,
    /// Channels of the output; equal to `in_channels`.
    pub out_channels: usize,
    /// Feature channels of each level, finest first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per encoder level; a decoder level has one more.
    pub layers_per_block: usize,
    /// Encoder levels, finest first.
    pub down_blocks: Vec<BlockType>,
    /// Decoder levels, coarsest first.
    pub up_blocks: Vec<BlockType>,
    /// Whether there is a middle block at all.
    pub mid_block: bool,
    /// Whether the middle block attends.
    pub mid_attention: bool,
    /// Groups of the middle attention's norm; `None`: no norm there.
    pub mid_attention_groups: Option<usize>,
    /// Channels of one attention head; `None`: one head over all channels.
    pub attention_head_dim: Option<usize>,
    /// Groups of every other GroupNorm.
    pub norm_num_groups: usize,
    /// ε inside the norms' square root.
    pub norm_eps: f32,
    /// How time enters a residual block.
    pub time_scale_shift: TimeScaleShift,
    /// Zero padding of stride-2 convolutions; 0 means one row and column at the far edges only.
    pub downsample_padding: usize,
    /// Length of the time embedding.
    pub time_embed_dim: usize,
    /// Whether the sinusoidal features are `[cos, sin]` instead of `[sin, cos]`.
    pub flip_sin_to_cos: bool,
    /// δ in the frequencies `10000^(−k / (half − δ))`.
    pub freq_shift: f32,
    /// Number of classes; `None`: unconditional.
    pub num_class_embeds: Option<usize>,
}

/// `CMStochasticIterativeScheduler`'s configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// N of the Karras schedule: timesteps are indices 0 (most noise) … N−1.
    pub num_train_timesteps: usize,
    /// ε, the least noise level: f(x, ε) = x.
    pub sigma_min: f64,
    /// The greatest noise level.
    pub sigma_max: f64,
    /// Standard deviation of the data.
    pub sigma_data: f64,
    /// Factor on the noise that is added between steps.
    pub s_noise: f64,
    /// Exponent of the Karras schedule.
    pub rho: f64,
    /// Whether each denoised image is clamped to ±1.
    pub clip_denoised: bool,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            num_train_timesteps: 40,
            sigma_min: 0.002,
            sigma_max: 80.0,
            sigma_data: 0.5,
            s_noise: 1.0,
            rho: 7.0,
            clip_denoised: true,
        }
    }
}
