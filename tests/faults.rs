//! Damaged model folders on disk: each fault is refused by a message that names the file and, where there is one, the
//! tensor. RELIABILITY.md lists the promises.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use consistency_sampler::checkpoint::folder::ModelFolder;
use consistency_sampler::consistency::rng::Generator;
use consistency_sampler::model::unet::UNet;
use consistency_sampler::{Error, Result};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use common::goldens;

const WEIGHTS: &str = "unet/diffusion_pytorch_model.safetensors";
const FILES: [&str; 4] = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS];

/// A copy of a small golden checkpoint, whose files a test may spoil.
struct Folder {
    path: PathBuf,
    weights: Vec<u8>,
}

impl Folder {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fault-{name}"));
        let _ = std::fs::remove_dir_all(&path);
        let source = goldens().join("no-mid");
        for file in FILES {
            std::fs::create_dir_all(path.join(file).parent().unwrap()).unwrap();
            std::fs::copy(source.join(file), path.join(file)).unwrap();
        }
        let weights = std::fs::read(path.join(WEIGHTS)).unwrap();
        Self { path, weights }
    }

    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path.join(file), bytes).unwrap();
    }

    /// Reads everything as the command line does; how many values came, or what is wrong.
    fn load(&self) -> Result<usize> {
        let folder = ModelFolder::open(&self.path)?;
        let mut values = 0;
        let parameters = UNet::new(&folder.unet).parameters();
        folder.read_weights(&parameters, |_, _| {}, &mut |_, tensor| {
            values += tensor.len();
            Ok(())
        })?;
        Ok(values)
    }

    /// The message of the folder with other weights, which must be about them and be one line.
    fn refuses(&self, weights: impl AsRef<[u8]>) -> String {
        self.write(WEIGHTS, weights);
        match self.load() {
            Err(e @ Error::Weights(_)) => {
                let message = e.to_string();
                assert!(message.contains(WEIGHTS) && !message.contains('\n'), "{message}");
                message
            }
            other => panic!("expected an error of the weights, found {other:?}"),
        }
    }

    /// The weights with another header.
    fn with_header(&self, change: impl FnOnce(&mut BTreeMap<String, Value>)) -> Vec<u8> {
        let (length, rest) = self.weights.split_first_chunk().unwrap();
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let mut entries = serde_json::from_slice(header).unwrap();
        change(&mut entries);
        let header = serde_json::to_vec(&entries).unwrap();
        [&(header.len() as u64).to_le_bytes(), header.as_slice(), data].concat()
    }

    /// Where a tensor's bytes are in the file.
    fn data_of(&self, tensor: &str) -> std::ops::Range<usize> {
        let (length, rest) = self.weights.split_first_chunk().unwrap();
        let length = u64::from_le_bytes(*length) as usize;
        let header: Value = serde_json::from_slice(&rest[..length]).unwrap();
        let offset = |i: usize| 8 + length + header[tensor]["data_offsets"][i].as_u64().unwrap() as usize;
        offset(0)..offset(1)
    }
}

fn sum(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

#[test]
fn a_file_cut_at_any_of_twenty_offsets_is_truncated() {
    let folder = Folder::new("truncated");
    assert!(folder.load().unwrap() > 10_000);
    let mut random = Generator::new(20);
    let len = folder.weights.len();
    for _ in 0..20 {
        let at = random.next_u32() as usize % len;
        let message = folder.refuses(&folder.weights[..at]);
        assert!(message.contains("truncated in") || message.contains("ends after"), "cut at {at}: {message}");
    }
}

#[test]
fn a_flipped_byte_is_found_by_the_sum_wherever_it_is() {
    let folder = Folder::new("flipped");
    let start = folder.data_of("conv_in.weight").start.min(folder.data_of("conv_out.weight").start);
    let expected = sum(&folder.weights);
    folder.write("SHA256SUMS", format!("{expected}  {WEIGHTS}\n"));
    folder.load().unwrap();
    let mut random = Generator::new(21);
    for _ in 0..20 {
        let at = start + random.next_u32() as usize % (folder.weights.len() - start);
        let mut other = folder.weights.clone();
        other[at] ^= 1; // the last bit of a byte: no number becomes infinite by it
        let message = folder.refuses(&other);
        assert!(
            message.ends_with(&format!("expected SHA-256 {expected} (SHA256SUMS), found {}", sum(&other))),
            "{message}"
        );
    }
}

#[test]
fn sums_are_hashes_of_files_and_no_list_of_them() {
    let folder = Folder::new("sums");
    let of = |file: &str| sum(&std::fs::read(folder.path.join(file)).unwrap());
    // Weights that are not listed are loaded; what is listed and not there matters only where it would be chosen.
    folder.write("SHA256SUMS", format!("{}  README.md\n{} *./unet\\config.json\r\n", sum(b"x"), of(FILES[1])));
    folder.load().unwrap();
    // Every configuration that is listed is verified.
    for file in &FILES[..3] {
        let text = std::fs::read(folder.path.join(file)).unwrap();
        for line in [format!("{}\t{file}\n", sum(&text)), format!("SHA256 ({file}) = {}\n", sum(&text).to_uppercase())]
        {
            folder.write("SHA256SUMS", line);
            folder.load().unwrap();
            folder.write(file, [&text[..], b" "].concat());
            let message = folder.load().unwrap_err().to_string();
            let expected = format!("{file}: expected SHA-256 {} (SHA256SUMS), found {}", sum(&text), of(file));
            assert!(message.ends_with(&expected), "{message}");
            folder.write(file, &text);
        }
    }
    for line in ["hello", "0123  unet/config.json", &sum(b"x")] {
        folder.write("SHA256SUMS", format!("{}  README.md\n{line}\n", sum(b"x")));
        let message = folder.load().unwrap_err().to_string();
        assert!(message.ends_with(&format!("expected lines of a SHA-256 and a name, found {line:?}")), "{message}");
    }
}

#[test]
fn headers_that_lie_are_refused() {
    let folder = Folder::new("headers");
    let with_length = |n: u64| [&n.to_le_bytes(), &folder.weights[8..]].concat();
    for n in [1 << 63, u64::MAX, (16 << 20) + 1, 1, 0] {
        assert!(folder.refuses(with_length(n)).ends_with(&format!("found a length of {n}")));
    }
    assert!(folder.refuses(with_length(100)).contains("not a JSON object"));

    let moved = |by: [i64; 2]| {
        folder.with_header(|entries| {
            let offsets = entries.get_mut("conv_out.bias").unwrap().get_mut("data_offsets").unwrap();
            let at = |i: usize| offsets[i].as_i64().unwrap() + by[i];
            *offsets = json!([at(0), at(1)]);
        })
    };
    for (what, by, expected) in [
        ("overlapping", [-4, -4], "at offset"),
        ("a hole", [4, 4], "at offset"),
        ("too long", [0, 4], "do not fit shape"),
        ("reversed", [8, -8], "do not fit shape"),
        ("out of the file", [1 << 40, 1 << 40], "at offset"),
    ] {
        let message = folder.refuses(moved(by));
        assert!(message.contains(expected), "{what}: {message}");
    }
    let negative = folder.with_header(|h| h.get_mut("conv_out.bias").unwrap()["data_offsets"] = json!([-4, 0]));
    assert!(folder.refuses(negative).contains("conv_out.bias: \"data_offsets\" is not a list of whole numbers"));
}

#[test]
fn tensors_that_do_not_belong_are_named() {
    let folder = Folder::new("tensors");
    let set = |key: &'static str, value: Value| folder.with_header(|h| h.get_mut("conv_in.bias").unwrap()[key] = value);
    assert!(folder.refuses(set("shape", json!([4, 2]))).contains("conv_in.bias: expected shape ["));
    assert!(
        folder
            .refuses(set("dtype", json!("I32")))
            .contains("conv_in.bias: expected dtype F32, F16, BF16 or I8 with scales, found I32")
    );
    assert!(folder.refuses(set("dtype", json!("F64"))).contains("conv_in.bias"));
    let missing = folder.with_header(|h| drop(h.remove("conv_in.bias")));
    assert!(folder.refuses(missing).contains("missing tensor conv_in.bias: expected shape"));
    let extra = folder.with_header(|h| {
        h.insert("a\nb.weight".into(), json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}));
    });
    assert!(folder.refuses(extra).contains("unexpected tensor a\u{fffd}b.weight"));
}

#[test]
fn values_that_are_no_numbers_name_their_tensor() {
    let folder = Folder::new("values");
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        for tensor in ["conv_in.weight", "conv_out.bias"] {
            let mut other = folder.weights.clone();
            let end = folder.data_of(tensor).end;
            other[end - 4..end].copy_from_slice(&value.to_le_bytes());
            let message = folder.refuses(&other);
            assert!(message.ends_with(&format!("{tensor}: expected finite numbers, found {shown}")), "{message}");
        }
    }
}

#[test]
fn configurations_that_are_none_name_their_file() {
    let faults = [
        (0, r#"{"_class_name": "DDPMPipeline"}"#, "\"_class_name\" is DDPMPipeline: expected ConsistencyModelPipeline"),
        (0, "[]", "expected a JSON object"),
        (1, r#"{"_class_name": "UNet2DConditionModel"}"#, "expected UNet2DModel"),
        (1, "<!doctype html>", "not JSON (it looks like HTML)"),
        (1, "{\"_class_name\": \"UNet2DModel\"", "not JSON"),
        (2, r#"{"_class_name": "EulerDiscreteScheduler"}"#, "expected CMStochasticIterativeScheduler"),
        (2, "\u{0}", "not JSON"),
    ];
    for (file, text, expected) in faults {
        let folder = Folder::new("configs");
        folder.write(FILES[file], text);
        let message = folder.load().unwrap_err().to_string();
        assert!(message.starts_with(FILES[file]) && message.contains(expected), "{message}");
    }
    // Absurd sizes are refused while nothing but the text has been read.
    let folder = Folder::new("sizes");
    let config = std::fs::read_to_string(folder.path.join(FILES[1])).unwrap();
    let mut config: BTreeMap<String, Value> = serde_json::from_str(&config).unwrap();
    for (key, value) in [
        ("layers_per_block", json!(65536)),
        ("sample_size", json!(65536)),
        ("sample_size", json!(1u64 << 40)),
        ("block_out_channels", json!([65536, 65536])),
        ("num_class_embeds", json!(-1)),
    ] {
        let before = config.insert(key.into(), value);
        folder.write(FILES[1], serde_json::to_string(&config).unwrap());
        let begin = std::time::Instant::now();
        assert!(matches!(folder.load(), Err(Error::Config(_))), "{key}");
        assert!(begin.elapsed().as_secs() < 5, "{key} took {:?}", begin.elapsed());
        match before {
            Some(before) => config.insert(key.into(), before),
            None => config.remove(key),
        };
    }
}
