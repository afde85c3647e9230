//! The configuration files of a diffusers folder: `model_index.json`, `unet/config.json`,
//! `scheduler/scheduler_config.json`.
//!
//! Parsing is strict: a key or value that this crate does not honour is an error that names it,
//! because a picture made with an option silently ignored looks plausible and is wrong.

use super::config::{BlockType, Resample, SchedulerConfig, TimeScaleShift, UNetConfig};
use super::unet::UNet;
use crate::error::{Error, Result};
use crate::json::{self, Value, number};

/// Reads `model_index.json` and checks that the folder holds a consistency model.
pub fn check_model_index(json: &str) -> Result<()> {
    let fields = Fields::parse("model_index.json", json)?;
    fields.class("ConsistencyModelPipeline")
}

impl UNetConfig {
    /// Parses `unet/config.json`. Absent keys take `UNet2DModel`'s defaults.
    pub fn parse(json: &str) -> Result<Self> {
        let mut f = Fields::parse("unet/config.json", json)?;
        f.class("UNet2DModel")?;
        f.take("num_train_timesteps"); // sizes a learned time embedding, which is refused below
        for key in AVERAGING {
            f.take(key);
        }

        // One value each is supported; anything else would change the forward.
        f.only("center_input_sample", &Value::Bool(false))?;
        f.only("time_embedding_type", &Value::String("positional".into()))?;
        f.only("mid_block_scale_factor", &Value::Number(1.0))?;
        f.only("class_embed_type", &Value::Null)?;
        let act = f.string("act_fn", "silu")?;
        if act != "silu" && act != "swish" {
            return Err(f.unsupported("act_fn", &act, "\"silu\""));
        }
        f.number("dropout", 0.0)?; // acts in training alone

        let in_channels = f.size("in_channels", Some(3))?;
        let out_channels = f.size("out_channels", Some(3))?;
        let block_out_channels = f.sizes("block_out_channels", &[224, 448, 672, 896])?;
        let layers_per_block = f.size("layers_per_block", Some(2))?;
        if layers_per_block > MAX_LAYERS {
            let found = layers_per_block.to_string();
            return Err(f.unsupported("layers_per_block", &found, &format!("at most {MAX_LAYERS}")));
        }
        let downsample = f.resample("downsample_type")?;
        let upsample = f.resample("upsample_type")?;
        let down_blocks =
            f.strings("down_block_types", &["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"])?;
        let down_blocks = down_blocks
            .iter()
            .map(|name| match name.as_str() {
                "DownBlock2D" => Ok(BlockType { attention: false, resample: Resample::Conv }),
                "ResnetDownsampleBlock2D" => Ok(BlockType { attention: false, resample: Resample::Resnet }),
                "AttnDownBlock2D" => Ok(BlockType { attention: true, resample: downsample }),
                other => Err(f.unsupported(
                    "down_block_types",
                    other,
                    "DownBlock2D, AttnDownBlock2D or ResnetDownsampleBlock2D",
                )),
            })
            .collect::<Result<Vec<_>>>()?;
        let up_blocks =
            f.strings("up_block_types", &["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"])?;
        let up_blocks = up_blocks
            .iter()
            .map(|name| match name.as_str() {
                "UpBlock2D" => Ok(BlockType { attention: false, resample: Resample::Conv }),
                "ResnetUpsampleBlock2D" => Ok(BlockType { attention: false, resample: Resample::Resnet }),
                "AttnUpBlock2D" => Ok(BlockType { attention: true, resample: upsample }),
                other => {
                    Err(f.unsupported("up_block_types", other, "UpBlock2D, AttnUpBlock2D or ResnetUpsampleBlock2D"))
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let mid_block = match f.take("mid_block_type") {
            None => true,
            Some(Value::Null) => false,
            Some(Value::String(s)) if s == "UNetMidBlock2D" => true,
            Some(v) => return Err(f.unsupported("mid_block_type", &v.to_string(), "\"UNetMidBlock2D\" or null")),
        };
        let mid_attention = f.boolean("add_attention", true)?;
        let time_scale_shift = match f.string("resnet_time_scale_shift", "default")?.as_str() {
            "default" => TimeScaleShift::Default,
            "scale_shift" => TimeScaleShift::ScaleShift,
            other => return Err(f.unsupported("resnet_time_scale_shift", other, "\"default\" or \"scale_shift\"")),
        };
        let norm_num_groups = f.size("norm_num_groups", Some(32))?;
        // diffusers: without `attn_norm_num_groups` the middle attention has a norm only under `default`.
        let mid_attention_groups = f
            .optional_size("attn_norm_num_groups", None)?
            .or((time_scale_shift == TimeScaleShift::Default).then_some(norm_num_groups));
        let norm_eps = f.number("norm_eps", 1e-5)? as f32;
        if !(norm_eps > 0.0 && norm_eps <= 1.0) {
            return Err(
                f.error(&format!("\"norm_eps\" must be above 0 and at most 1, found {}", number(norm_eps.into())))
            );
        }
        let attention_head_dim = f.optional_size("attention_head_dim", Some(8))?;
        let downsample_padding = match f.take("downsample_padding") {
            None => 1,
            Some(v) => match v.as_u64() {
                Some(p @ (0 | 1)) => p as usize,
                _ => return Err(f.unsupported("downsample_padding", &v.to_string(), "0 or 1")),
            },
        };
        let sample_size = match f.take("sample_size") {
            Some(Value::Array(a)) if a.len() == 2 => {
                [f.as_size("sample_size", &a[0])?, f.as_size("sample_size", &a[1])?]
            }
            Some(v) if v != Value::Null => [f.as_size("sample_size", &v)?; 2],
            _ => return Err(f.error("\"sample_size\" is missing: expected the image size in pixels")),
        };
        let time_embed_dim = f
            .optional_size("time_embedding_dim", None)?
            .unwrap_or(4 * block_out_channels.first().copied().unwrap_or_default());
        let flip_sin_to_cos = f.boolean("flip_sin_to_cos", true)?;
        let freq_shift = f.number("freq_shift", 0.0)? as f32;
        let num_class_embeds = f.optional_size("num_class_embeds", None)?;
        f.nothing_left()?;

        let config = Self {
            sample_size,
            in_channels,
            out_channels,
            block_out_channels,
            layers_per_block,
            down_blocks,
            up_blocks,
            mid_block,
            mid_attention,
            mid_attention_groups,
            attention_head_dim,
            norm_num_groups,
            norm_eps,
            time_scale_shift,
            downsample_padding,
            time_embed_dim,
            flip_sin_to_cos,
            freq_shift,
            num_class_embeds,
        };
        config.check().map_err(|m| f.error(&m))?;
        Ok(config)
    }

    /// The same network for images of another size.
    ///
    /// # Errors
    /// [`Error::Input`] when the levels cannot halve that size.
    pub fn with_sample_size(&self, sample_size: [usize; 2]) -> Result<Self> {
        let config = Self { sample_size, ..self.clone() };
        config.check().map_err(Error::Input)?;
        Ok(config)
    }

    /// Checks that the values agree with one another.
    fn check(&self) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        if self.down_blocks.len() != levels || self.up_blocks.len() != levels {
            return Err(format!(
                "block_out_channels, down_block_types and up_block_types must be of one length, found {levels}, {} and {}",
                self.down_blocks.len(),
                self.up_blocks.len()
            ));
        }
        if !matches!(self.in_channels, 1 | 3) || self.in_channels != self.out_channels {
            return Err(format!(
                "in_channels and out_channels must both be 1 or both be 3, found {} and {}",
                self.in_channels, self.out_channels
            ));
        }
        for (level, &c) in self.block_out_channels.iter().enumerate() {
            let last = level + 1 == levels;
            let mid_groups = self.mid_attention_groups.filter(|_| last && self.mid_block && self.mid_attention);
            for groups in [Some(self.norm_num_groups), mid_groups].into_iter().flatten() {
                if c % groups != 0 {
                    return Err(format!("block_out_channels: {c} channels cannot be split into {groups} norm groups"));
                }
            }
            let attends = self.down_blocks[level].attention
                || self.up_blocks[levels - 1 - level].attention
                || (last && self.mid_block && self.mid_attention);
            if let Some(d) = self.attention_head_dim.filter(|&d| attends && d > c) {
                return Err(format!("attention_head_dim {d} is larger than an attending block of {c} channels"));
            }
        }
        let half = self.block_out_channels[0] / 2;
        if half as f32 <= self.freq_shift {
            return Err(format!("freq_shift must be less than {half}, found {}", number(self.freq_shift.into())));
        }
        let [h, w] = self.sample_size;
        let factor = 1 << (levels - 1);
        if h == 0 || w == 0 || h % factor != 0 || w % factor != 0 {
            return Err(format!("sample_size {h}×{w} must be divisible by {factor} for {levels} levels"));
        }
        self.check_extent()
    }

    /// Refuses networks that no device could hold, before anything is allocated for them.
    fn check_extent(&self) -> Result<(), String> {
        let [h, w] = self.sample_size.map(|n| n as u64);
        let channels = &self.block_out_channels;
        for level in 0..channels.len() {
            // The decoder concatenates the map of a coarser level with one of the encoder.
            let neighbours = level.saturating_sub(1)..=(level + 1).min(channels.len() - 1);
            let widest = channels[neighbours].iter().max().map_or(0, |&c| c as u64);
            let values = (h >> level) * (w >> level) * 2 * widest;
            if values > MAX_MAP {
                return Err(format!(
                    "sample_size {h}×{w} with {widest} channels makes feature maps of {values} values: expected at most {MAX_MAP}"
                ));
            }
        }
        let parameters = UNet::new(self).parameters();
        let sizes = parameters.iter().map(|p| p.shape.iter().map(|&d| d as u64).product::<u64>());
        let count = sizes.fold(0, u64::saturating_add);
        if count > MAX_PARAMETERS {
            return Err(format!("the network has {count} parameters: expected at most {MAX_PARAMETERS}"));
        }
        Ok(())
    }
}

impl SchedulerConfig {
    /// Parses `scheduler/scheduler_config.json`. Absent keys take the defaults of
    /// `CMStochasticIterativeScheduler` (N = 40, σ from 0.002 to 80, σ_data = 0.5, ρ = 7).
    pub fn parse(json: &str) -> Result<Self> {
        let mut f = Fields::parse("scheduler/scheduler_config.json", json)?;
        f.class("CMStochasticIterativeScheduler")?;
        let config = Self {
            num_train_timesteps: f.size("num_train_timesteps", Some(40))?,
            sigma_min: f.number("sigma_min", 0.002)?,
            sigma_max: f.number("sigma_max", 80.0)?,
            sigma_data: f.number("sigma_data", 0.5)?,
            s_noise: f.number("s_noise", 1.0)?,
            rho: f.number("rho", 7.0)?,
            clip_denoised: f.boolean("clip_denoised", true)?,
        };
        f.nothing_left()?;
        if config.num_train_timesteps < 2 {
            return Err(f.error("\"num_train_timesteps\" must be at least 2"));
        }
        if !(0.0 < config.sigma_min && config.sigma_min < config.sigma_max && config.sigma_max.is_finite()) {
            return Err(f.error(&format!(
                "expected 0 < sigma_min < sigma_max, found {} and {}",
                number(config.sigma_min),
                number(config.sigma_max)
            )));
        }
        // Beyond these, f32 images or the powers of the schedule leave the range of numbers.
        let bounds = [
            ("sigma_min", config.sigma_min, 1e-9, 1e6),
            ("sigma_max", config.sigma_max, 1e-9, 1e6),
            ("sigma_data", config.sigma_data, 1e-6, 1e6),
            ("rho", config.rho, 0.1, 1e3),
            ("s_noise", config.s_noise, 0.0, 1e3),
        ];
        if let Some((key, value, low, high)) = bounds.iter().find(|(_, v, low, high)| !(low..=high).contains(&v)) {
            return Err(f.error(&format!(
                "\"{key}\" must be from {} to {}, found {}",
                number(*low),
                number(*high),
                number(*value)
            )));
        }
        Ok(config)
    }
}

/// The keys of one JSON object. They are taken out one by one; a key that is left over is an error.
struct Fields {
    file: &'static str,
    entries: Vec<(String, Value)>,
}

/// What `EMAModel.save_pretrained` of diffusers adds: how the weights were averaged.
const AVERAGING: [&str; 7] =
    ["decay", "min_decay", "inv_gamma", "power", "update_after_step", "use_ema_warmup", "optimization_step"];

/// The largest size that any key may name; above it products of sizes could overflow.
const MAX_SIZE: u64 = 1 << 16;

/// The most residual blocks of an encoder level; published models have 2 or 3.
const MAX_LAYERS: usize = 64;

/// The most values of one feature map of one sample, and the most parameters of a network: twice the largest published
/// consistency model, and what 32 bits can still address.
const MAX_MAP: u64 = 1 << 30;
const MAX_PARAMETERS: u64 = 1 << 30;

impl Fields {
    fn parse(file: &'static str, json: &str) -> Result<Self> {
        match json::parse(json.as_bytes()) {
            Ok(Value::Object(entries)) => Ok(Self { file, entries }),
            Ok(_) => Err(Error::Config(format!("{file}: expected a JSON object"))),
            Err(e) => {
                let html = if json.trim_start().starts_with('<') { " (it looks like HTML)" } else { "" };
                Err(Error::Config(format!("{file}: not JSON{html}: {e}")))
            }
        }
    }

    fn error(&self, message: &str) -> Error {
        Error::Config(format!("{}: {message}", self.file))
    }

    fn unsupported(&self, key: &str, found: &str, expected: &str) -> Error {
        self.error(&format!("\"{key}\" is {found}: expected {expected}"))
    }

    fn class(&self, expected: &str) -> Result<()> {
        match self.get("_class_name").and_then(Value::as_str) {
            Some(found) if found == expected => Ok(()),
            Some(found) => Err(self.unsupported("_class_name", found, expected)),
            None => Err(self.error(&format!("\"_class_name\" is missing: expected {expected}"))),
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        let at = self.entries.iter().position(|(k, _)| k == key)?;
        Some(self.entries.swap_remove(at).1)
    }

    fn only(&mut self, key: &str, expected: &Value) -> Result<()> {
        match self.take(key) {
            Some(v) if v != *expected => Err(self.error(&format!("\"{key}\" is {v}: only {expected} is supported"))),
            _ => Ok(()),
        }
    }

    fn number(&mut self, key: &str, default: f64) -> Result<f64> {
        match self.take(key) {
            None => Ok(default),
            Some(v) => v.as_f64().ok_or_else(|| self.unsupported(key, &v.to_string(), "a number")),
        }
    }

    fn boolean(&mut self, key: &str, default: bool) -> Result<bool> {
        match self.take(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.unsupported(key, &v.to_string(), "true or false")),
        }
    }

    fn string(&mut self, key: &str, default: &str) -> Result<String> {
        match self.take(key) {
            None => Ok(default.to_owned()),
            Some(Value::String(s)) => Ok(s),
            Some(v) => Err(self.unsupported(key, &v.to_string(), "a string")),
        }
    }

    fn as_size(&self, key: &str, v: &Value) -> Result<usize> {
        match v.as_u64() {
            Some(n @ 1..=MAX_SIZE) => Ok(n as usize),
            _ => Err(self.unsupported(key, &v.to_string(), &format!("a whole number from 1 to {MAX_SIZE}"))),
        }
    }

    fn optional_size(&mut self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        match self.take(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(v) => self.as_size(key, &v).map(Some),
        }
    }

    fn size(&mut self, key: &str, default: Option<usize>) -> Result<usize> {
        let found = self.get(key).cloned();
        self.optional_size(key, default)?.ok_or_else(|| {
            let found = found.map_or("missing".to_owned(), |v| v.to_string());
            self.unsupported(key, &found, &format!("a whole number from 1 to {MAX_SIZE}"))
        })
    }

    fn array(&mut self, key: &str) -> Result<Option<Vec<Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(a)) if (1..=16).contains(&a.len()) => Ok(Some(a)),
            Some(v) => Err(self.unsupported(key, &v.to_string(), "a list of 1 to 16 entries")),
        }
    }

    fn sizes(&mut self, key: &str, default: &[usize]) -> Result<Vec<usize>> {
        match self.array(key)? {
            None => Ok(default.to_vec()),
            Some(a) => a.iter().map(|v| self.as_size(key, v)).collect(),
        }
    }

    fn strings(&mut self, key: &str, default: &[&str]) -> Result<Vec<String>> {
        match self.array(key)? {
            None => Ok(default.iter().map(|s| (*s).to_owned()).collect()),
            Some(a) => a
                .iter()
                .map(|v| {
                    v.as_str()
                        .map(str::to_owned)
                        .ok_or_else(|| self.unsupported(key, &v.to_string(), "a list of names"))
                })
                .collect(),
        }
    }

    fn resample(&mut self, key: &str) -> Result<Resample> {
        match self.string(key, "conv")?.as_str() {
            "conv" => Ok(Resample::Conv),
            "resnet" => Ok(Resample::Resnet),
            other => Err(self.unsupported(key, other, "\"conv\" or \"resnet\"")),
        }
    }

    /// Fails when a key is left. Keys that begin with an underscore are diffusers' own metadata.
    fn nothing_left(&self) -> Result<()> {
        match self.entries.iter().map(|(key, _)| key).find(|k| !k.starts_with('_')) {
            None => Ok(()),
            Some(key) => Err(self.error(&format!("unknown option \"{key}\""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: &str = r#"{
        "_class_name": "UNet2DModel", "in_channels": 1, "out_channels": 1, "sample_size": 28,
        "block_out_channels": [32, 48, 64], "layers_per_block": 1, "attention_head_dim": 16,
        "down_block_types": ["ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"],
        "norm_num_groups": 16, "resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet",
        "upsample_type": "resnet", "num_class_embeds": 10, "mid_block_scale_factor": 1.0"#;

    fn error_of(extra: &str) -> String {
        UNetConfig::parse(&format!("{PROBE}{extra}}}")).unwrap_err().to_string()
    }

    #[test]
    fn a_real_configuration_parses() {
        let c = UNetConfig::parse(&format!("{PROBE}}}")).unwrap();
        assert_eq!(c.sample_size, [28, 28]);
        assert_eq!(c.time_embed_dim, 128);
        assert_eq!(c.mid_attention_groups, None, "scale_shift without attn_norm_num_groups has no middle norm");
        assert_eq!(c.down_blocks[2], BlockType { attention: true, resample: Resample::Resnet });
    }

    #[test]
    fn what_does_not_change_the_forward_is_taken() {
        let averaged = r#", "_name_or_path": "x", "decay": 0.9999, "inv_gamma": 1.0, "min_decay": 0.0, "power": 0.75,
            "optimization_step": 500, "update_after_step": 0, "use_ema_warmup": true}"#;
        let plain = UNetConfig::parse(&format!("{PROBE}}}")).unwrap();
        assert_eq!(UNetConfig::parse(&format!("{PROBE}{averaged}")).unwrap(), plain);
    }

    #[test]
    fn unsupported_options_are_refused_by_name() {
        assert_eq!(error_of(r#", "conv_in_kernel": 5"#), "unet/config.json: unknown option \"conv_in_kernel\"");
        assert_eq!(error_of(r#", "act_fn": "mish""#), "unet/config.json: \"act_fn\" is mish: expected \"silu\"");
        assert_eq!(
            error_of(r#", "time_embedding_type": "fourier""#),
            "unet/config.json: \"time_embedding_type\" is \"fourier\": only \"positional\" is supported"
        );
        assert!(error_of(r#", "class_embed_type": "timestep""#).contains("class_embed_type"));
        assert!(error_of(r#", "mid_block_scale_factor": 1.4"#).contains("mid_block_scale_factor"));
        assert!(error_of(r#", "sample_size": 30"#).contains("divisible by 4"));
        assert!(error_of(r#", "norm_num_groups": 7"#).contains("7 norm groups"));
        assert!(error_of(r#", "block_out_channels": [32, 99999999999, 64]"#).contains("block_out_channels"));
        assert!(UNetConfig::parse("<html>").unwrap_err().to_string().contains("looks like HTML"));
        assert!(
            UNetConfig::parse(r#"{"_class_name": "UNet2DConditionModel"}"#)
                .unwrap_err()
                .to_string()
                .contains("UNet2DModel")
        );
    }

    #[test]
    fn absurd_sizes_are_refused_before_anything_is_laid_out() {
        assert!(
            error_of(r#", "layers_per_block": 65536"#).contains("\"layers_per_block\" is 65536: expected at most 64")
        );
        let wide = r#", "block_out_channels": [65536, 65536, 65536], "sample_size": 4"#;
        assert!(error_of(wide).contains("parameters: expected at most 1073741824"), "{}", error_of(wide));
        let large = r#", "sample_size": 65536"#;
        assert!(error_of(large).contains("makes feature maps of"), "{}", error_of(large));
        assert!(error_of(r#", "num_class_embeds": 65536, "time_embedding_dim": 65536"#).contains("parameters"));
        for eps in ["0", "-1e-5", "1e300"] {
            assert!(error_of(&format!(r#", "norm_eps": {eps}"#)).contains("norm_eps"), "{eps}");
        }
    }

    #[test]
    fn noise_levels_stay_in_the_range_of_numbers() {
        for (key, value) in [
            ("sigma_max", "1e300"),
            ("sigma_min", "1e-300"),
            ("sigma_data", "1e-300"),
            ("rho", "1e-300"),
            ("rho", "-7"),
            ("s_noise", "-1"),
            ("s_noise", "1e300"),
        ] {
            let json = format!(r#"{{"_class_name": "CMStochasticIterativeScheduler", "{key}": {value}}}"#);
            let message = SchedulerConfig::parse(&json).unwrap_err().to_string();
            assert!(message.contains(&format!("\"{key}\" must be from ")), "{message}");
        }
    }

    #[test]
    fn the_scheduler_is_read_and_checked() {
        let json = r#"{"_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 18, "sigma_max": 50.0}"#;
        let c = SchedulerConfig::parse(json).unwrap();
        assert_eq!(c, SchedulerConfig { num_train_timesteps: 18, sigma_max: 50.0, ..Default::default() });
        let bad = r#"{"_class_name": "CMStochasticIterativeScheduler", "sigma_min": 90}"#;
        assert!(SchedulerConfig::parse(bad).unwrap_err().to_string().contains("sigma_min < sigma_max"));
        let other = r#"{"_class_name": "EulerDiscreteScheduler"}"#;
        assert!(SchedulerConfig::parse(other).unwrap_err().to_string().contains("EulerDiscreteScheduler"));
    }
}
