//! `unet/config.json` and `model_index.json`: no panic, one line, and what is accepted is small enough to be laid out.
#![no_main]

use consistency_sampler::Error;
use consistency_sampler::model::config::UNetConfig;
use consistency_sampler::model::parse::check_model_index;
use consistency_sampler::model::unet::{UNet, time_features};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &str| {
    if let Err(e) = check_model_index(json) {
        assert!(matches!(e, Error::Config(_)));
        assert!(!e.to_string().contains(char::is_control));
    }
    match UNetConfig::parse(json) {
        Err(e) => {
            assert!(matches!(e, Error::Config(_)));
            assert!(!e.to_string().contains(char::is_control));
        }
        Ok(config) => {
            let network = UNet::new(&config);
            let count = network.parameter_count();
            assert!((1..=1 << 30).contains(&count), "{count} parameters");
            // Sizes fit 32 bits, in which a browser counts.
            for p in network.parameters() {
                assert!(p.shape.iter().map(|&d| d as u64).product::<u64>() <= u64::from(u32::MAX) / 4, "{p:?}");
            }
            assert!(time_features(&config, &[1095.5]).iter().all(|v| v.is_finite()));
        }
    }
});
