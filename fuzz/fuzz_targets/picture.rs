//! PNGs for the command line: no panic; what is accepted has the model's size and lies in [−1, 1].
#![no_main]

use std::io::Cursor;
use std::sync::LazyLock;

use consistency_sampler::Error;
use consistency_sampler::image::png::decode;
use consistency_sampler::model::config::UNetConfig;
use libfuzzer_sys::fuzz_target;

fn config(channels: usize) -> UNetConfig {
    let json = format!(
        r#"{{"_class_name": "UNet2DModel", "in_channels": {channels}, "out_channels": {channels}, "sample_size": [3, 5],
        "block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"],
        "layers_per_block": 1, "norm_num_groups": 2}}"#
    );
    UNetConfig::parse(&json).expect("it is valid")
}

static CONFIGS: LazyLock<[UNetConfig; 2]> = LazyLock::new(|| [config(1), config(3)]);

fuzz_target!(|data: &[u8]| {
    for config in &*CONFIGS {
        match decode(Cursor::new(data), config) {
            Ok(picture) => {
                assert_eq!(picture.len(), config.in_channels * 15);
                assert!(picture.iter().all(|v| (-1.0..=1.0).contains(v)));
            }
            Err(e) => {
                assert!(matches!(e, Error::Input(_)));
                assert!(!e.to_string().contains(char::is_control));
            }
        }
    }
});
