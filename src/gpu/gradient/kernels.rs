//! The kernels of the reverse pass, one file each under `kernels/`. The first buffer of each is written, the others are read.

/// Which file a pipeline of the reverse pass is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reverse {
    Outer,
    Turn,
    Weights,
    Reduce,
    PixelSums,
    SampleSums,
    NormSums,
    NormInput,
    NormTime,
    Gather,
    Silu,
    Spread,
    Class,
    ClassTable,
    AttentionRows,
    AttentionQueries,
    AttentionKeys,
}

impl Reverse {
    /// The files that make it up, after `params.wgsl`.
    pub(crate) fn source(self) -> [&'static str; 2] {
        const NORM_OUTER: &str = include_str!("kernels/norm_outer.wgsl");
        match self {
            Reverse::Outer => ["", include_str!("kernels/outer.wgsl")],
            Reverse::Turn => ["", include_str!("kernels/turn.wgsl")],
            Reverse::Weights => ["", include_str!("kernels/weights.wgsl")],
            Reverse::Reduce => ["", include_str!("kernels/reduce.wgsl")],
            Reverse::PixelSums => ["", include_str!("kernels/pixel_sums.wgsl")],
            Reverse::SampleSums => ["", include_str!("kernels/sample_sums.wgsl")],
            Reverse::NormSums => [NORM_OUTER, include_str!("kernels/norm_sums.wgsl")],
            Reverse::NormInput => [NORM_OUTER, include_str!("kernels/norm_input.wgsl")],
            Reverse::NormTime => ["", include_str!("kernels/norm_time.wgsl")],
            Reverse::Gather => ["", include_str!("kernels/gather.wgsl")],
            Reverse::Silu => ["", include_str!("kernels/silu.wgsl")],
            Reverse::Spread => ["", include_str!("kernels/spread.wgsl")],
            Reverse::Class => ["", include_str!("kernels/class.wgsl")],
            Reverse::ClassTable => ["", include_str!("kernels/class_table.wgsl")],
            Reverse::AttentionRows => ["", include_str!("kernels/attention_rows.wgsl")],
            Reverse::AttentionQueries => ["", include_str!("kernels/attention_queries.wgsl")],
            Reverse::AttentionKeys => ["", include_str!("kernels/attention_keys.wgsl")],
        }
    }

    /// How many buffers it reads.
    pub(crate) fn inputs(self) -> usize {
        match self {
            Reverse::Outer | Reverse::Turn | Reverse::Reduce | Reverse::PixelSums | Reverse::Spread => 1,
            Reverse::Weights | Reverse::SampleSums | Reverse::Silu | Reverse::Class | Reverse::ClassTable => 2,
            Reverse::NormTime | Reverse::AttentionRows | Reverse::AttentionQueries | Reverse::AttentionKeys => 3,
            Reverse::Gather => 4,
            Reverse::NormInput => 5,
            Reverse::NormSums => 6,
        }
    }

    /// A name for the device's error messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reverse::Outer => "outer",
            Reverse::Turn => "turn",
            Reverse::Weights => "weights",
            Reverse::Reduce => "reduce",
            Reverse::PixelSums => "pixel_sums",
            Reverse::SampleSums => "sample_sums",
            Reverse::NormSums => "norm_sums",
            Reverse::NormInput => "norm_input",
            Reverse::NormTime => "norm_time",
            Reverse::Gather => "gather",
            Reverse::Silu => "silu",
            Reverse::Spread => "spread",
            Reverse::Class => "class",
            Reverse::ClassTable => "class_table",
            Reverse::AttentionRows => "attention_rows",
            Reverse::AttentionQueries => "attention_queries",
            Reverse::AttentionKeys => "attention_keys",
        }
    }
}
