//! `consistency-sampler train` without a recipe: a network, a denoiser and its distillation, planned from the data and the time.
//!
//! It knows no file and no option; `train.rs` runs it.

/// The share of the time that the denoiser has; the rest distils it.
pub const DENOISER_SHARE: f64 = 0.6;

/// Side from which on pictures need a network of four levels.
const LARGE: usize = 40;

/// `unet/config.json` of a network for pictures of (C, H, W) = `shape` and as many classes; a run of less than a quarter of an
/// hour gets a narrower one.
pub fn network(shape: [usize; 3], classes: usize, minutes: f64) -> String {
    let [channels, side, _] = shape;
    let is_short = minutes < 15.0;
    let (widths, attention) = match (side >= LARGE, is_short) {
        (true, false) => (vec![24, 48, 96, 128], 2),
        (true, true) => (vec![16, 32, 64, 96], 2),
        (false, false) => (vec![32, 48, 64], 1),
        (false, true) => (vec![16, 32, 48], 1),
    };
    // A side that cannot be halved so often is halved once.
    let levels = if side.is_multiple_of(1 << (widths.len() - 1)) { widths.len() } else { 2 };
    let widths = &widths[..levels];
    let block = |i: usize, kind: &str| {
        let has_attention = i + attention >= widths.len();
        format!("{}{kind}Block2D", if has_attention { "Attn" } else { "" })
    };
    let down: Vec<String> = (0..widths.len()).map(|i| block(i, "Down")).collect();
    let up: Vec<String> = (0..widths.len()).rev().map(|i| block(i, "Up")).collect();
    let config = serde_json::json!({
        "_class_name": "UNet2DModel",
        "sample_size": side,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": widths,
        "down_block_types": down,
        "up_block_types": up,
        "layers_per_block": 1,
        "attention_head_dim": 16,
        "norm_num_groups": 8,
        "resnet_time_scale_shift": "scale_shift",
        "num_class_embeds": (classes > 1).then_some(classes),
    });
    format!("{config:#}\n")
}

#[cfg(test)]
mod tests {
    use consistency_sampler::UNetConfig;

    use super::*;

    #[test]
    fn networks_fit_their_pictures() {
        for side in [8, 12, 28, 32, 36, 48, 64, 100, 128] {
            for (classes, minutes) in [(1, 5.0), (3, 60.0)] {
                let config = UNetConfig::parse(&network([3, side, side], classes, minutes)).unwrap();
                assert_eq!((config.sample_size, config.in_channels), ([side, side], 3));
                assert_eq!(config.num_class_embeds, (classes > 1).then_some(classes));
            }
        }
    }
}
