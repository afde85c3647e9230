//! Safetensors files, read as their bytes arrive.
//!
//! A [`WeightStream`] never holds more than the header and one tensor. It checks everything that can be checked
//! before it hands a tensor on: the header's length and JSON, the offsets (contiguous, in file order, no overlap),
//! and each tensor's name, dtype and shape against what the network needs.

use std::collections::BTreeMap;

use half::{bf16, f16};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::unet::Parameter;

/// The longest header that is read, in bytes. The format's own limit is 100 MB; 600 tensors need about 80 KB.
const MAX_HEADER: u64 = 16 << 20;

/// How a checkpoint stores the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::F32),
            "F16" => Some(Self::F16),
            "BF16" => Some(Self::Bf16),
            _ => None,
        }
    }

    fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Self::Bf16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32()).collect(),
        }
    }
}

/// One tensor's entry in a header.
#[derive(Debug)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    /// Position in the data section, in bytes.
    start: usize,
    end: usize,
}

/// Reads one or more safetensors files chunk by chunk and hands on each tensor, as f32, when its last byte is in.
pub struct WeightStream {
    /// What has not been seen in a header yet.
    wanted: BTreeMap<String, Vec<usize>>,
    /// Whether one file must hold everything, so that a missing tensor shows in its header.
    single_file: bool,
    file: FileState,
}

enum FileState {
    /// Collecting the 8-byte length and then the header.
    Header(Vec<u8>),
    /// Collecting the bytes of the first of `entries`, reversed so that the next one is last.
    Data { entries: Vec<Entry>, buffer: Vec<u8>, total: usize },
}

impl WeightStream {
    /// Expects exactly `parameters`, all of them in one file if `single_file`, else spread over several.
    pub fn new(parameters: &[Parameter], single_file: bool) -> Self {
        Self {
            wanted: parameters.iter().map(|p| (p.name.clone(), p.shape.clone())).collect(),
            single_file,
            file: FileState::Header(Vec::new()),
        }
    }

    /// Takes the next bytes of the current file; calls `sink` with the name and values of each completed tensor.
    ///
    /// # Errors
    /// [`Error::Weights`] when the file is not what the network needs; the sink's own errors.
    pub fn push(&mut self, mut chunk: &[u8], sink: &mut dyn FnMut(&str, &[f32]) -> Result<()>) -> Result<()> {
        loop {
            match &mut self.file {
                FileState::Header(header) => {
                    let needed = header_length(header)?;
                    let taken = (needed - header.len()).min(chunk.len());
                    header.extend_from_slice(&chunk[..taken]);
                    chunk = &chunk[taken..];
                    if header.len() == 8 && needed == 8 {
                        header_length(header)?; // refuses an absurd length at once
                        continue;
                    }
                    if header.len() < needed {
                        return Ok(());
                    }
                    let header = std::mem::take(header);
                    let mut entries = self.check_header(&header[8..])?;
                    let total = entries.last().map_or(0, |e| e.end);
                    entries.reverse();
                    self.file = FileState::Data { entries, buffer: Vec::new(), total };
                }
                FileState::Data { entries, buffer, .. } => {
                    let Some(entry) = entries.last() else {
                        return match chunk.len() {
                            0 => Ok(()),
                            n => {
                                Err(Error::Weights(format!("{n} or more bytes follow the last tensor: expected none")))
                            }
                        };
                    };
                    let length = entry.end - entry.start;
                    let missing = length - buffer.len();
                    if buffer.is_empty() && chunk.len() >= length {
                        sink(&entry.name, &entry.dtype.decode(&chunk[..length]))?; // no copy when it came whole
                    } else {
                        buffer.reserve_exact(missing);
                        buffer.extend_from_slice(&chunk[..missing.min(chunk.len())]);
                        if buffer.len() < length {
                            return Ok(());
                        }
                        sink(&entry.name, &entry.dtype.decode(buffer))?;
                        buffer.clear();
                    }
                    chunk = &chunk[missing..];
                    entries.pop();
                }
            }
        }
    }

    /// Ends the current file; the next `push` begins another one.
    ///
    /// # Errors
    /// [`Error::Weights`] when the file ended too early.
    pub fn end_file(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.file, FileState::Header(Vec::new())) {
            FileState::Header(header) => Err(Error::Weights(format!(
                "the file ends after {} bytes, inside its header: expected a safetensors file",
                header.len()
            ))),
            FileState::Data { entries, buffer, total } => match entries.last() {
                None => Ok(()),
                Some(entry) => Err(Error::Weights(format!(
                    "the file is truncated in {}: expected {total} bytes of tensors, found {}",
                    entry.name,
                    entry.start + buffer.len()
                ))),
            },
        }
    }

    /// Checks that every tensor came.
    ///
    /// # Errors
    /// [`Error::Weights`] naming a missing tensor.
    pub fn finish(self) -> Result<()> {
        missing(&self.wanted)
    }

    /// Parses a header, crosses its tensors off the wanted ones and returns them in file order.
    fn check_header(&mut self, json: &[u8]) -> Result<Vec<Entry>> {
        let header: BTreeMap<String, Value> = serde_json::from_slice(json)
            .map_err(|e| Error::Weights(format!("the safetensors header is not a JSON object: {e}")))?;
        let mut entries = Vec::with_capacity(header.len());
        for (name, value) in &header {
            if name == "__metadata__" {
                continue;
            }
            let Some(expected) = self.wanted.remove(name) else {
                return Err(Error::Weights(format!("unexpected tensor {name}: the configuration has no such layer")));
            };
            let entry = Entry::parse(name, value)?;
            if entry.shape != expected {
                return Err(Error::Weights(format!("{name}: expected shape {expected:?}, found {:?}", entry.shape)));
            }
            entries.push(entry);
        }
        if self.single_file {
            missing(&self.wanted)?;
        }
        entries.sort_by_key(|e| e.start);
        let mut end = 0;
        for entry in &entries {
            if entry.start != end {
                let (name, start) = (&entry.name, entry.start);
                return Err(Error::Weights(format!("{name}: expected its data at offset {end}, found {start}")));
            }
            end = entry.end;
        }
        Ok(entries)
    }
}

impl Entry {
    fn parse(name: &str, value: &Value) -> Result<Self> {
        let bad = |what: &str| Error::Weights(format!("{name}: {what}"));
        let dtype_name = value["dtype"].as_str().ok_or_else(|| bad("its header entry has no dtype"))?;
        let dtype = Dtype::parse(dtype_name)
            .ok_or_else(|| bad(&format!("expected dtype F32, F16 or BF16, found {dtype_name}")))?;
        let numbers = |key: &str| -> Result<Vec<usize>> {
            value[key]
                .as_array()
                .and_then(|a| a.iter().map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok())).collect())
                .ok_or_else(|| bad(&format!("\"{key}\" is not a list of whole numbers")))
        };
        let (shape, offsets) = (numbers("shape")?, numbers("data_offsets")?);
        let &[start, end] = offsets.as_slice() else {
            return Err(bad("expected two data_offsets"));
        };
        let size = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d));
        if start > end || size != Some(end - start) {
            return Err(bad(&format!("data_offsets {start}..{end} do not fit shape {shape:?} of {dtype_name}")));
        }
        Ok(Self { name: name.to_owned(), shape, dtype, start, end })
    }
}

/// How many bytes the length field and the header take, as far as is known.
fn header_length(bytes: &[u8]) -> Result<usize> {
    let Some(length) = bytes.first_chunk() else {
        return Ok(8);
    };
    let n = u64::from_le_bytes(*length);
    if bytes.starts_with(b"<") || bytes.starts_with(b"\n<") {
        return Err(Error::Weights("expected a safetensors file, found text that looks like HTML".into()));
    }
    if bytes.starts_with(b"version ") {
        return Err(Error::Weights(
            "expected a safetensors file, found a Git LFS pointer: fetch the file itself".into(),
        ));
    }
    if !(2..=MAX_HEADER).contains(&n) {
        return Err(Error::Weights(format!(
            "expected a safetensors file with a header of 2 to {MAX_HEADER} bytes, found a length of {n}"
        )));
    }
    Ok(8 + n as usize)
}

fn missing(wanted: &BTreeMap<String, Vec<usize>>) -> Result<()> {
    match wanted.first_key_value() {
        None => Ok(()),
        Some((name, shape)) => {
            let others = match wanted.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            Err(Error::Weights(format!("missing tensor {name}: expected shape {shape:?}, found none{others}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Vec<Parameter> {
        vec![
            Parameter { name: "a".into(), shape: vec![2, 3] },
            Parameter { name: "b".into(), shape: vec![2] },
            Parameter { name: "c".into(), shape: vec![1] },
        ]
    }

    const HEADER: &str = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},
        "b":{"dtype":"F16","shape":[2],"data_offsets":[24,28]},"c":{"dtype":"BF16","shape":[1],"data_offsets":[28,30]}}"#;

    fn file(header: &str) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        (1..=6).for_each(|i| bytes.extend_from_slice(&(i as f32).to_le_bytes()));
        bytes.extend_from_slice(&f16::from_f32(0.5).to_le_bytes());
        bytes.extend_from_slice(&f16::from_f32(-7.0).to_le_bytes());
        bytes.extend_from_slice(&bf16::from_f32(3.0).to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8], chunk: usize) -> Result<Vec<(String, Vec<f32>)>> {
        let mut stream = WeightStream::new(&wanted(), true);
        let mut out = vec![];
        for part in bytes.chunks(chunk) {
            stream.push(part, &mut |name, values| {
                out.push((name.to_owned(), values.to_vec()));
                Ok(())
            })?;
        }
        stream.end_file()?;
        stream.finish()?;
        Ok(out)
    }

    fn error(header: &str) -> String {
        read(&file(header), 7).unwrap_err().to_string()
    }

    #[test]
    fn any_chunking_gives_the_same_tensors() {
        let bytes = file(HEADER);
        let whole = read(&bytes, bytes.len()).unwrap();
        assert_eq!(whole[0], ("a".into(), vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!(whole[1], ("b".into(), vec![0.5, -7.0]));
        assert_eq!(whole[2], ("c".into(), vec![3.0]));
        for chunk in [1, 2, 3, 7, 8, 9, 100] {
            assert_eq!(read(&bytes, chunk).unwrap(), whole, "in chunks of {chunk}");
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let bytes = file(HEADER);
        for length in 0..bytes.len() {
            let message = read(&bytes[..length], 16).unwrap_err().to_string();
            assert!(message.contains("truncated") || message.contains("ends after"), "{length}: {message}");
        }
        assert!(read(&[bytes, vec![0]].concat(), 16).unwrap_err().to_string().contains("follow the last tensor"));
    }

    #[test]
    fn bad_headers_name_the_tensor_and_both_sides() {
        let shape = error(&HEADER.replace("[2,3]", "[3,2]"));
        assert_eq!(shape, "a: expected shape [2, 3], found [3, 2]");
        assert_eq!(
            error(&HEADER.replace("\"b\"", "\"x\"")),
            "unexpected tensor x: the configuration has no such layer"
        );
        assert_eq!(
            error(r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#),
            "missing tensor b: expected shape [2], found none (and 1 more)"
        );
        assert!(error(&HEADER.replace("\"F16\"", "\"I8\"")).contains("found I8"));
        assert!(error(&HEADER.replace("[24,28]", "[22,26]")).contains("at offset 24, found 22"));
        assert!(error(&HEADER.replace("[24,28]", "[24,29]")).contains("do not fit"));
        assert!(error(&HEADER.replace("[2,3]", "[9223372036854775807,3]")).contains("do not fit"));
        assert!(error("[]").contains("not a JSON object"));
    }

    #[test]
    fn other_files_are_recognised() {
        assert!(read(b"<!doctype html><html>", 4).unwrap_err().to_string().contains("HTML"));
        assert!(read(b"version https://git-lfs", 4).unwrap_err().to_string().contains("LFS"));
        assert!(read(&(1u64 << 63).to_le_bytes(), 4).unwrap_err().to_string().contains("9223372036854775808"));
    }
}
