//! Safetensors files, read as their bytes arrive.
//!
//! A [`WeightStream`] never holds more than the header and one tensor, or one piece of a tensor for a reader that takes
//! pieces. Before it hands rows on it checks the header's length and JSON, the offsets (contiguous, in file order, no
//! overlap), and each tensor's name, dtype and shape against what the network needs.
//!
//! Besides F32, F16 and BF16 there are 8-bit weights, as `consistency-sampler convert` writes them: a tensor `NAME` of I8
//! and, before it in the same file, its scales `NAME_scale` of F32, one for each row, which is an output channel. A value
//! is integer · scale.

use std::borrow::Cow;

use half::{bf16, f16};

use super::tensor::{Arrival, Precision, Rows};
use crate::compact::sorted;
use crate::error::{Error, Result};
use crate::json::{self, Value, number};
use crate::model::unet::Parameter;

/// The longest header that is read, in bytes. The format's own limit is 100 MB; 600 tensors need about 80 KB.
const MAX_HEADER: u64 = 16 << 20;

/// About how many bytes of the file a piece of a tensor has; a piece is whole rows, so it may be longer.
const PIECE: usize = 1 << 20;

/// The suffix of a tensor's name in that of its scales.
pub const SCALE: &str = "_scale";

/// How a checkpoint stores the elements of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dtype {
    /// Handed on as they are.
    Plain(Precision),
    /// Handed on as f32.
    Bf16,
}

impl Dtype {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "F32" => Some(Self::Plain(Precision::F32)),
            "F16" => Some(Self::Plain(Precision::F16)),
            "BF16" => Some(Self::Bf16),
            "I8" => Some(Self::Plain(Precision::I8)),
            _ => None,
        }
    }

    /// How the elements are handed on.
    fn precision(self) -> Precision {
        match self {
            Self::Plain(precision) => precision,
            Self::Bf16 => Precision::F32,
        }
    }

    /// Bytes of an element in the file.
    fn size(self) -> usize {
        match self {
            Self::Plain(precision) => precision.size(),
            Self::Bf16 => 2,
        }
    }

    /// The first element that is no finite number, or for 8 bits none from −127 to 127.
    fn invalid(self, bytes: &[u8]) -> Option<f32> {
        fn first(mut values: impl Iterator<Item = f32>) -> Option<f32> {
            values.find(|v| !v.is_finite())
        }
        match self {
            Self::Plain(Precision::F32) => first(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            Self::Plain(Precision::F16) => first(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
            Self::Bf16 => first(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32())),
            Self::Plain(Precision::I8) => bytes.contains(&(i8::MIN as u8)).then_some(f32::from(i8::MIN)),
        }
    }
}

/// One tensor's entry in a header.
#[derive(Debug)]
struct Entry {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    /// As the header writes it.
    dtype_name: String,
    /// Position in the data section, in bytes.
    start: usize,
    end: usize,
    /// How many rows are handed on at a time.
    piece_rows: usize,
    /// The use of the values.
    role: Role,
}

#[derive(Debug, PartialEq)]
enum Role {
    /// They are the network's.
    Weights,
    /// They multiply the rows of the tensor of this name, which comes later in the file.
    ScalesOf(String),
}

impl Entry {
    /// Bytes of one row: an element of a vector, a slice along the first axis of anything else.
    fn row_bytes(&self) -> usize {
        self.shape.iter().skip(1).product::<usize>() * self.dtype.size()
    }

    /// Checks `bytes`, which are whole rows, and widens BF16 to F32. Without the check a NaN would spoil every picture.
    fn elements<'a>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>> {
        if let Some(found) = self.dtype.invalid(bytes) {
            let (name, found) = (&self.name, number(found.into()));
            let expected = if self.dtype.size() == 1 { "numbers from -127 to 127" } else { "finite numbers" };
            return Err(Error::Weights(format!("{name}: expected {expected}, found {found}")));
        }
        Ok(match self.dtype {
            // A bf16 is the upper half of an f32.
            Dtype::Bf16 => bytes.as_chunks().0.iter().flat_map(|&[low, high]| [0, 0, low, high]).collect(),
            Dtype::Plain(_) => bytes.into(),
        })
    }

    /// How many rows there are; a scalar is one.
    fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }
}

/// A tensor that has not been seen in a header yet.
struct Wanted {
    shape: Vec<usize>,
    /// The number of rows of every piece but a tensor's last is a multiple of this; `None`: the tensor is not split.
    granularity: Option<usize>,
}

/// Reads one or more safetensors files chunk by chunk and hands on the rows of their tensors.
pub struct WeightStream {
    wanted: Vec<(String, Wanted)>,
    /// The tensors that the header of the current (or, between files, the last) file has taken out of `wanted`.
    in_file: Vec<(String, Wanted)>,
    /// Whether one file must hold everything, so that a missing tensor shows in its header.
    single_file: bool,
    file: FileState,
}

enum FileState {
    /// Collecting the 8-byte length and then the header.
    Header(Vec<u8>),
    /// Collecting the next piece of the first of `entries`, reversed so that the next one is last; `row` is the first
    /// of that piece.
    /// `scales` has the rows' factors of the 8-bit tensors that are still to come.
    Data { entries: Vec<Entry>, row: usize, buffer: Vec<u8>, total: usize, scales: Vec<(String, Vec<f32>)> },
}

impl WeightStream {
    /// Expects exactly `parameters`, all of them in one file if `single_file`, else spread over several.
    ///
    /// Long tensors are handed on in pieces of about a megabyte. `granularity` says for a tensor's name of how many rows
    /// each piece but the last must be a multiple, or `None` if the tensor must come whole.
    pub fn new(parameters: &[Parameter], single_file: bool, granularity: impl Fn(&str) -> Option<usize>) -> Self {
        let wanted = |p: &Parameter| Wanted { shape: p.shape.clone(), granularity: granularity(&p.name) };
        Self {
            wanted: parameters.iter().map(|p| (p.name.clone(), wanted(p))).collect(),
            in_file: Vec::new(),
            single_file,
            file: FileState::Header(Vec::new()),
        }
    }

    /// Forgets the current file, or the one that was just ended; its bytes will come anew from the first one.
    pub fn restart_file(&mut self) {
        self.wanted.append(&mut self.in_file);
        self.file = FileState::Header(Vec::new());
    }

    /// Takes the next bytes of the current file; calls `sink` with the rows that they complete.
    ///
    /// # Errors
    /// [`Error::Weights`] when the file is not what the network needs; the sink's own errors.
    pub fn push(&mut self, mut chunk: &[u8], sink: &mut dyn FnMut(Arrival<'_>) -> Result<()>) -> Result<()> {
        loop {
            match &mut self.file {
                FileState::Header(header) => {
                    if header.is_empty() && !chunk.is_empty() {
                        self.in_file.clear();
                    }
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
                    for entry in entries.iter().filter(|e| e.role == Role::Weights) {
                        sink(Arrival::Announced { name: &entry.name, precision: entry.dtype.precision() })?;
                    }
                    let total = entries.last().map_or(0, |e| e.end);
                    entries.reverse();
                    self.file = FileState::Data { entries, row: 0, buffer: Vec::new(), total, scales: Vec::new() };
                }
                FileState::Data { entries, row, buffer, scales, .. } => {
                    let Some(entry) = entries.last() else {
                        return match chunk.len() {
                            0 => Ok(()),
                            n => {
                                Err(Error::Weights(format!("{n} or more bytes follow the last tensor: expected none")))
                            }
                        };
                    };
                    let rows = entry.piece_rows.min(entry.rows() - *row);
                    let length = rows * entry.row_bytes();
                    let missing = length - buffer.len();
                    let whole = if buffer.is_empty() && chunk.len() >= length {
                        &chunk[..length] // no copy when it came whole
                    } else {
                        buffer.reserve_exact(missing);
                        buffer.extend_from_slice(&chunk[..missing.min(chunk.len())]);
                        if buffer.len() < length {
                            return Ok(());
                        }
                        &buffer[..]
                    };
                    let bytes = entry.elements(whole)?;
                    let (name, precision, first) = (entry.name.as_str(), entry.dtype.precision(), *row);
                    let mut piece = Rows { name, first, precision, bytes: &bytes, scales: &[] };
                    match &entry.role {
                        Role::ScalesOf(name) => scales.push((name.clone(), piece.to_f32())),
                        Role::Weights => {
                            if precision == Precision::I8 {
                                let of_tensor = scales.iter().find(|(of, _)| of == name);
                                piece.scales = &of_tensor.expect("the header has been checked").1[first..first + rows];
                            }
                            sink(Arrival::Rows(piece))?;
                        }
                    }
                    buffer.clear();
                    chunk = &chunk[missing..];
                    *row += rows;
                    if *row == entry.rows() {
                        *row = 0;
                        entries.pop();
                    }
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
            FileState::Data { entries, row, buffer, total, .. } => match entries.last() {
                None => Ok(()),
                Some(entry) => Err(Error::Weights(format!(
                    "the file is truncated in {}: expected {total} bytes of tensors, found {}",
                    entry.name,
                    entry.start + row * entry.row_bytes() + buffer.len()
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
        let bad = |why: &str| Error::Weights(format!("the safetensors header is not a JSON object: {why}"));
        let header = match json::parse(json).map_err(|e| bad(&e))? {
            Value::Object(entries) => entries,
            _ => return Err(bad("it is another kind of value")),
        };
        let mut entries = Vec::with_capacity(header.len());
        for (name, value) in &header {
            if name == "__metadata__" {
                continue;
            }
            let Some(at) = self.wanted.iter().position(|(of, _)| of == name) else {
                if let Some(weights) = name.strip_suffix(SCALE) {
                    let role = Role::ScalesOf(weights.to_owned());
                    entries.push(Entry { role, ..Entry::parse(name, value)? });
                    continue;
                }
                return Err(Error::Weights(format!("unexpected tensor {name}: the configuration has no such layer")));
            };
            let wanted = self.wanted.remove(at); // in order, so that it is the first of the missing that is named
            let (expected, granularity) = (wanted.1.shape.clone(), wanted.1.granularity);
            self.in_file.push(wanted);
            let mut entry = Entry::parse(name, value)?;
            if entry.shape != expected {
                return Err(Error::Weights(format!("{name}: expected shape {expected:?}, found {:?}", entry.shape)));
            }
            entry.piece_rows = match granularity {
                None => entry.rows(),
                Some(granularity) => granularity * (PIECE / (granularity * entry.row_bytes()).max(1)).max(1),
            };
            entries.push(entry);
        }
        if self.single_file {
            missing(&self.wanted)?;
        }
        let by_start = sorted(entries.iter().enumerate().map(|(i, entry)| [entry.start, i]));
        let mut slots: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
        let entries: Vec<Entry> = by_start.into_iter().filter_map(|[_, i]| slots[i].take()).collect();
        let mut end = 0;
        for entry in &entries {
            if entry.start != end {
                let (name, start) = (&entry.name, entry.start);
                return Err(Error::Weights(format!("{name}: expected its data at offset {end}, found {start}")));
            }
            end = entry.end;
        }
        check_scales(&entries)?;
        Ok(entries)
    }
}

impl Entry {
    fn parse(name: &str, value: &Value) -> Result<Self> {
        let bad = |what: &str| Error::Weights(format!("{name}: {what}"));
        let dtype_name =
            value.get("dtype").and_then(Value::as_str).ok_or_else(|| bad("its header entry has no dtype"))?;
        let dtype = Dtype::parse(dtype_name)
            .ok_or_else(|| bad(&format!("expected dtype F32, F16, BF16 or I8 with scales, found {dtype_name}")))?;
        let numbers = |key: &str| -> Result<Vec<usize>> {
            value
                .get(key)
                .and_then(Value::as_array)
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
        let piece_rows = shape.first().copied().unwrap_or(1);
        let (name, dtype_name) = (name.to_owned(), dtype_name.to_owned());
        Ok(Self { name, shape, dtype, dtype_name, start, end, piece_rows, role: Role::Weights })
    }
}

/// Checks that every 8-bit tensor has its scales before it, and that there are no other scales; `entries` are in file
/// order.
fn check_scales(entries: &[Entry]) -> Result<()> {
    for (at, entry) in entries.iter().enumerate() {
        let (name, shape) = (&entry.name, &entry.shape);
        if let Role::ScalesOf(weights) = &entry.role {
            let owner = entries[at..].iter().find(|e| e.role == Role::Weights && e.name == *weights);
            let Some(owner) = owner.filter(|owner| owner.dtype == Dtype::Plain(Precision::I8)) else {
                let message = format!("unexpected tensor {name}: no 8-bit tensor {weights} follows it");
                return Err(Error::Weights(message));
            };
            if entry.dtype != Dtype::Plain(Precision::F32) || *shape != [owner.rows()] {
                let (rows, dtype) = (owner.rows(), &entry.dtype_name);
                let message = format!("{name}: expected {rows} scales of F32, found shape {shape:?} of {dtype}");
                return Err(Error::Weights(message));
            }
        } else if entry.dtype == Dtype::Plain(Precision::I8) {
            let scaled = |e: &Entry| matches!(&e.role, Role::ScalesOf(weights) if weights == name);
            if !entries[..at].iter().any(scaled) {
                let message = format!("{name}: expected its scales {name}{SCALE} before an 8-bit tensor, found none");
                return Err(Error::Weights(message));
            }
        }
    }
    Ok(())
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

fn missing(wanted: &[(String, Wanted)]) -> Result<()> {
    match wanted.first() {
        None => Ok(()),
        Some((name, Wanted { shape, .. })) => {
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

    /// Appends the values of a tensor that comes whole.
    fn collect(out: &mut Vec<(String, Vec<f32>)>, arrival: Arrival<'_>) -> Result<()> {
        if let Arrival::Rows(rows) = arrival {
            assert_eq!(rows.first, 0, "{} is not split", rows.name);
            out.push((rows.name.to_owned(), rows.to_f32()));
        }
        Ok(())
    }

    fn read(bytes: &[u8], chunk: usize) -> Result<Vec<(String, Vec<f32>)>> {
        let mut stream = WeightStream::new(&wanted(), true, |_| None);
        let mut out = vec![];
        for part in bytes.chunks(chunk) {
            stream.push(part, &mut |arrival| collect(&mut out, arrival))?;
        }
        stream.end_file()?;
        stream.finish()?;
        Ok(out)
    }

    /// A tensor of `rows` rows of 2¹⁸ halves, which is half a megabyte each, after a short one.
    fn long_file(rows: usize) -> (Vec<Parameter>, Vec<u8>) {
        let shapes = [vec![3], vec![rows, 1 << 18]];
        let ends = [6, 6 + (rows << 19)];
        let json = format!(
            r#"{{"a":{{"dtype":"F16","shape":[3],"data_offsets":[0,6]}},"b":{{"dtype":"F16","shape":[{rows},262144],"data_offsets":[6,{}]}}}}"#,
            ends[1]
        );
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        for i in 0..ends[1] / 2 {
            bytes.extend_from_slice(&f16::from_f32((i % 1000) as f32).to_le_bytes());
        }
        let names = ["a", "b"];
        let parameters = names.iter().zip(shapes).map(|(n, shape)| Parameter { name: (*n).into(), shape }).collect();
        (parameters, bytes)
    }

    #[test]
    fn long_tensors_come_in_pieces_of_whole_rows() {
        let (parameters, bytes) = long_file(7);
        for (granularity, expected) in [
            (Some(1), vec![(0, 2), (2, 2), (4, 2), (6, 1)]),
            (Some(3), vec![(0, 3), (3, 3), (6, 1)]), // longer than a megabyte, for rows are not taken apart
            (None, vec![(0, 7)]),
        ] {
            let mut stream = WeightStream::new(&parameters, true, |_| granularity);
            let (mut pieces, mut all) = (vec![], vec![]);
            for chunk in bytes.chunks(100_003) {
                stream
                    .push(chunk, &mut |arrival| {
                        if let Arrival::Rows(rows) = arrival {
                            let values = rows.to_f32();
                            if rows.name == "b" {
                                pieces.push((rows.first, values.len() >> 18));
                            }
                            all.extend(values);
                        }
                        Ok(())
                    })
                    .unwrap();
            }
            stream.end_file().unwrap();
            stream.finish().unwrap();
            assert_eq!(pieces, expected, "by {granularity:?}");
            assert!(all.iter().enumerate().all(|(i, &v)| v == (i % 1000) as f32));
        }
    }

    #[test]
    fn a_file_can_be_restarted_at_any_point() {
        let bytes = file(HEADER);
        let whole = read(&bytes, bytes.len()).unwrap();
        for cut in 0..=bytes.len() {
            let mut stream = WeightStream::new(&wanted(), true, |_| None);
            stream.push(&bytes[..cut], &mut |_| Ok(())).unwrap();
            if cut == bytes.len() {
                stream.end_file().unwrap(); // found wrong when it was complete
            }
            stream.restart_file();
            let mut out = vec![];
            stream.push(&bytes, &mut |arrival| collect(&mut out, arrival)).unwrap();
            stream.end_file().unwrap();
            stream.finish().unwrap();
            assert_eq!(out, whole, "restarted after {cut} bytes");
        }
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
        assert!(error(&HEADER.replace("\"F16\"", "\"I64\"")).contains("found I64"));
        assert!(error(&HEADER.replace("[24,28]", "[22,26]")).contains("at offset 24, found 22"));
        assert!(error(&HEADER.replace("[24,28]", "[24,29]")).contains("do not fit"));
        assert!(error(&HEADER.replace("[2,3]", "[9223372036854775807,3]")).contains("do not fit"));
        assert!(error("[]").contains("not a JSON object"));
    }

    #[test]
    fn invalid_numbers_are_refused_with_their_tensor() {
        let start = file(HEADER).len() - 30;
        let spoilt = |at: usize, bytes: &[u8]| {
            let mut file = file(HEADER);
            file[start + at..start + at + bytes.len()].copy_from_slice(bytes);
            read(&file, 7).unwrap_err().to_string()
        };
        assert_eq!(spoilt(8, &f32::NAN.to_le_bytes()), "a: expected finite numbers, found NaN");
        assert_eq!(spoilt(24, &f16::INFINITY.to_le_bytes()), "b: expected finite numbers, found inf");
        assert_eq!(spoilt(28, &bf16::NEG_INFINITY.to_le_bytes()), "c: expected finite numbers, found -inf");
        let mut bytes = eight_bit(EIGHT_BIT);
        let end = bytes.len();
        bytes[end - 7] = 0x80;
        assert_eq!(read(&bytes, 7).unwrap_err().to_string(), "a: expected numbers from -127 to 127, found -128");
    }

    const EIGHT_BIT: &str = r#"{"a_scale":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "a":{"dtype":"I8","shape":[2,3],"data_offsets":[8,14]},
        "b":{"dtype":"F16","shape":[2],"data_offsets":[14,18]},"c":{"dtype":"BF16","shape":[1],"data_offsets":[18,20]}}"#;

    /// A file with `a` in 8 bits behind its scales.
    fn eight_bit(header: &str) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend([0.5f32, 0.25].iter().flat_map(|s| s.to_le_bytes()));
        bytes.extend([-127i8, 0, 1, 127, -2, 3].iter().map(|&v| v as u8));
        bytes.extend([0; 6]);
        bytes
    }

    #[test]
    fn eight_bit_values_are_multiplied_by_the_scales_of_their_rows() {
        for chunk in [1, 3, 8, 1000] {
            let read = read(&eight_bit(EIGHT_BIT), chunk).unwrap();
            assert_eq!(read.len(), 3, "scales are not handed on");
            assert_eq!(read[0], ("a".into(), vec![-63.5, 0.0, 0.5, 31.75, -0.5, 0.75]), "in chunks of {chunk}");
        }
    }

    #[test]
    fn rows_keep_their_bytes_precision_and_scales() {
        let (bytes, mut found) = (eight_bit(EIGHT_BIT), vec![]);
        let mut stream = WeightStream::new(&wanted(), true, |name| (name == "a").then_some(1));
        let kept = |rows: Rows<'_>| (rows.name.to_owned(), rows.precision, rows.bytes.to_vec(), rows.scales.to_vec());
        let mut sink = |arrival: Arrival<'_>| {
            if let Arrival::Rows(rows) = arrival {
                found.push(kept(rows));
            }
            Ok(())
        };
        stream.push(&bytes, &mut sink).unwrap();
        let a = [-127i8, 0, 1, 127, -2, 3].map(|n| n as u8).to_vec();
        assert_eq!(found[0], ("a".into(), Precision::I8, a, vec![0.5, 0.25]));
        assert_eq!(found[1], ("b".into(), Precision::F16, vec![0; 4], vec![]));
        assert_eq!(found[2], ("c".into(), Precision::F32, vec![0; 4], vec![]));
    }

    #[test]
    fn scales_that_do_not_fit_are_refused() {
        let error = |changes: &[[&str; 2]]| {
            let header = changes.iter().fold(EIGHT_BIT.to_owned(), |header, [from, to]| header.replacen(from, to, 1));
            read(&eight_bit(&header), 7).unwrap_err().to_string()
        };
        let none = "unexpected tensor b_scale: no 8-bit tensor b follows it";
        assert_eq!(error(&[["a_scale", "b_scale"]]), none);
        assert_eq!(error(&[["a_scale", "x_scale"]]), "unexpected tensor x_scale: no 8-bit tensor x follows it");
        assert_eq!(
            error(&[["F32", "F16"], ["[2]", "[4]"]]),
            "a_scale: expected 2 scales of F32, found shape [4] of F16"
        );
        assert_eq!(
            error(&[["[8,14]", "[0,6]"], ["[0,8]", "[6,14]"]]),
            "a: expected its scales a_scale before an 8-bit tensor, found none"
        );
        assert_eq!(
            error(&[["a_scale", "__metadata__"], ["[8,14]", "[0,6]"]]),
            "b: expected its data at offset 6, found 14"
        );
        assert_eq!(
            error(&[["a_scale", "__metadata__"], ["[8,14]", "[0,6]"], ["[14,18]", "[6,10]"], ["[18,20]", "[10,12]"]]),
            "a: expected its scales a_scale before an 8-bit tensor, found none"
        );
    }

    #[test]
    fn other_files_are_recognised() {
        assert!(read(b"<!doctype html><html>", 4).unwrap_err().to_string().contains("HTML"));
        assert!(read(b"version https://git-lfs", 4).unwrap_err().to_string().contains("LFS"));
        assert!(read(&(1u64 << 63).to_le_bytes(), 4).unwrap_err().to_string().contains("9223372036854775808"));
    }
}
