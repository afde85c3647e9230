//! The networks that are timed; `pytorch.py` reads them here, too.

/// By the names that the benchmarks take.
pub const SHAPES: [(&str, &str); 3] = [("mnist", MNIST), ("rgb32", RGB32), ("imagenet64", IMAGENET64)];

/// The shape of weights/mnist.
const MNIST: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 28, "in_channels": 1, "out_channels": 1,
    "block_out_channels": [32, 48, 64], "layers_per_block": 1, "attention_head_dim": 16, "norm_num_groups": 16,
    "down_block_types": ["ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"],
    "downsample_type": "resnet", "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift"}"#;

/// 6.8 million parameters, 32×32.
const RGB32: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 32, "block_out_channels": [64, 128, 128],
    "layers_per_block": 2, "attention_head_dim": 32, "norm_num_groups": 32,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}"#;

/// The published ImageNet-64 consistency model's shape: 296 million parameters.
const IMAGENET64: &str = r#"{"_class_name": "UNet2DModel", "sample_size": 64, "block_out_channels": [192, 384, 576, 768],
    "layers_per_block": 3, "attention_head_dim": 64, "norm_num_groups": 32, "num_class_embeds": 1000,
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "downsample_type": "resnet", "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift"}"#;
