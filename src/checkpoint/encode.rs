//! Tensors at another precision, and where each lies in a safetensors file: what `convert` and the page write.
//!
//! Half precision stores every tensor as F16. With 8 bits, kernels and matrices are I8 with scales of F32
//! ([`super::stream`] has the format) and vectors stay F32.

use half::f16;
use sha2::{Digest, Sha256};

use super::stream::SCALE;
use super::tensor::{Precision, f32_bytes};
use crate::error::{Error, Result};
use crate::json::number;
use crate::model::unet::Parameter;

/// The effect of a conversion on the weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Length of the new file of weights.
    pub bytes: u64,
    /// √(Σ error² / Σ weight²) over all weights.
    pub relative_error: f64,
    /// The tensor with the largest such error, and that error.
    pub worst: (String, f64),
}

/// The entry of a file's metadata with the hash of the weights that it was made of.
pub const SOURCE: &str = "converted_from";

/// Makes the bytes of a file from values that come tensor by tensor, in any order of the tensors.
pub struct Encoder {
    layout: Layout,
    parameters: Vec<Parameter>,
    precision: Precision,
    source: Sha256,
    errors: Errors,
}

/// What is known at the end.
pub struct Encoded {
    /// The file's first bytes.
    pub header: Vec<u8>,
    /// The effect on the weights.
    pub report: Report,
    /// The hash of names and values in the order in which they came.
    pub source: String,
}

impl Encoder {
    /// Encodes a network with these parameters.
    pub fn new(parameters: Vec<Parameter>, precision: Precision) -> Self {
        // The header's length is that with any other hash.
        let layout = Layout::new(&parameters, precision, &format!("{:x}", Sha256::digest([])));
        Self { layout, parameters, precision, source: Sha256::new(), errors: Errors::default() }
    }

    /// Length of the file.
    pub fn length(&self) -> u64 {
        (self.layout.header.len() + self.layout.data) as u64
    }

    /// Encodes consecutive rows of a tensor, from row `first` on; `put` gets bytes and their position in the file. Rows of a
    /// tensor come in order, and no others between them.
    ///
    /// # Errors
    /// [`Error::Weights`] for a value that half precision cannot hold; those of `put`.
    pub fn rows(
        &mut self,
        name: &str,
        first: usize,
        values: &[f32],
        put: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        if first == 0 {
            self.source.update(name);
        }
        self.source.update(f32_bytes(values));
        let tensor = self.layout.tensor(name);
        let length: usize = tensor.shape.iter().skip(1).product();
        let position = |tensor: &Stored, element: usize| {
            (self.layout.header.len() + tensor.start + element * size_of(tensor.dtype)) as u64
        };
        let at = position(tensor, first * length);
        match tensor.dtype {
            "F16" => {
                let halves: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
                if let Some((&v, _)) = values.iter().zip(&halves).find(|(_, half)| !half.is_finite()) {
                    let v = number(v.into());
                    return Err(Error::Weights(format!("{name}: {v} is too large for half precision, at most 65504")));
                }
                self.errors.add(name, values, halves.iter().map(|h| h.to_f32()));
                let bytes: Vec<u8> = halves.iter().flat_map(|h| h.to_le_bytes()).collect();
                put(at, &bytes)
            }
            "I8" => {
                let (scales, integers) = quantised(values, length);
                let of = |i: usize| scales[i / length];
                self.errors.add(name, values, integers.iter().enumerate().map(|(i, &q)| f32::from(q) * of(i)));
                put(position(self.layout.tensor(&format!("{name}{SCALE}")), first), &f32_bytes(&scales))?;
                let integers: Vec<u8> = integers.iter().map(|&q| q as u8).collect();
                put(at, &integers)
            }
            _ => {
                self.errors.add(name, values, values.iter().copied());
                put(at, &f32_bytes(values))
            }
        }
    }

    /// The header, which belongs at the file's beginning, once all tensors came.
    pub fn finish(mut self) -> Encoded {
        let bytes = self.length();
        let source = format!("{:x}", self.source.finalize());
        self.errors.end_tensor();
        let Errors { error, weight, worst, .. } = self.errors;
        let relative_error = if weight > 0.0 { (error / weight).sqrt() } else { 0.0 };
        let header = Layout::new(&self.parameters, self.precision, &source).header;
        Encoded { header, report: Report { bytes, relative_error, worst }, source }
    }
}

/// Scale and integers of each row of so many values: the scale is the largest magnitude / 127, the integers are the row in
/// units of it, rounded.
fn quantised(values: &[f32], length: usize) -> (Vec<f32>, Vec<i8>) {
    let scales: Vec<f32> = values
        .chunks_exact(length)
        .map(|row| row.iter().fold(0.0, |largest: f32, v| largest.max(v.abs())) / 127.0)
        .collect();
    let integers = values.chunks_exact(length).zip(&scales).flat_map(|(row, scale)| {
        // A row of zeros has no scale to divide by; so small a one rounds to nothing.
        let inverse = if *scale > f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        row.iter().map(move |v| (v * inverse).round() as i8)
    });
    let integers = integers.collect();
    (scales, integers)
}

/// Bytes of an element.
fn size_of(dtype: &str) -> usize {
    match dtype {
        "F32" => 4,
        "F16" => 2,
        _ => 1,
    }
}

/// Where everything lies in a safetensors file.
struct Layout {
    /// Length and JSON, padded to a multiple of 8.
    header: Vec<u8>,
    /// Bytes behind it.
    data: usize,
    tensors: Vec<Stored>,
}

struct Stored {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    start: usize,
}

impl Layout {
    /// Scales first, for a reader of a stream needs them; F32 before bytes, so that everything is aligned.
    fn new(parameters: &[Parameter], precision: Precision, source: &str) -> Self {
        let is_vector = |p: &&Parameter| p.shape.len() < 2;
        let mut tensors: Vec<Stored> = Vec::new();
        let mut add = |name: String, dtype, shape: &[usize]| {
            tensors.push(Stored { name, dtype, shape: shape.to_vec(), start: 0 });
        };
        match precision {
            Precision::F32 => parameters.iter().for_each(|p| add(p.name.clone(), "F32", &p.shape)),
            Precision::F16 => parameters.iter().for_each(|p| add(p.name.clone(), "F16", &p.shape)),
            Precision::I8 => {
                let matrices = || parameters.iter().filter(|p| !is_vector(p));
                matrices().for_each(|p| add(format!("{}{SCALE}", p.name), "F32", &p.shape[..1]));
                parameters.iter().filter(is_vector).for_each(|p| add(p.name.clone(), "F32", &p.shape));
                matrices().for_each(|p| add(p.name.clone(), "I8", &p.shape));
            }
        }
        let mut data = 0;
        // Sorted by their names, as serde_json writes them; a sort of the standard library would make the module larger.
        let mut entries = vec![format!(r#""__metadata__":{{"{SOURCE}":"{source}","format":"pt"}}"#)];
        for tensor in &mut tensors {
            tensor.start = data;
            data += tensor.shape.iter().product::<usize>() * size_of(tensor.dtype);
            let Stored { name, dtype, shape, start } = tensor;
            let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
            // A parameter's name has no character that JSON escapes.
            let offsets = format!("[{start},{data}]");
            let entry = format!(r#""{name}":{{"data_offsets":{offsets},"dtype":"{dtype}","shape":[{shape}]}}"#);
            entries.insert(entries.partition_point(|other| *other < entry), entry);
        }
        let mut text = format!("{{{}}}", entries.join(","));
        text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.extend_from_slice(text.as_bytes());
        Self { header, data, tensors }
    }

    fn tensor(&self, name: &str) -> &Stored {
        self.tensors.iter().find(|t| t.name == name).expect("the weights are the parameters")
    }
}

/// Sums over the weights so far.
#[derive(Default)]
struct Errors {
    error: f64,
    weight: f64,
    /// The tensor that is under way, and its part of the sums.
    tensor: (String, f64, f64),
    worst: (String, f64),
}

impl Errors {
    fn add(&mut self, name: &str, exact: &[f32], stored: impl Iterator<Item = f32>) {
        if self.tensor.0 != name {
            self.end_tensor();
            self.tensor.0 = name.to_owned();
        }
        let square = |v: f32| f64::from(v) * f64::from(v);
        self.tensor.1 += exact.iter().zip(stored).map(|(a, b)| square(a - b)).sum::<f64>();
        self.tensor.2 += exact.iter().map(|&v| square(v)).sum::<f64>();
    }

    fn end_tensor(&mut self) {
        let (name, error, weight) = std::mem::take(&mut self.tensor);
        self.error += error;
        self.weight += weight;
        let relative = if weight > 0.0 { (error / weight).sqrt() } else { 0.0 };
        if relative > self.worst.1 {
            self.worst = (name, relative);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters() -> Vec<Parameter> {
        let shapes = [("a.weight", vec![2, 3]), ("a.bias", vec![2])];
        shapes.map(|(name, shape)| Parameter { name: name.into(), shape }).into()
    }

    #[test]
    fn a_row_is_off_by_half_its_scale_at_most_and_keeps_its_largest_value() {
        let values = [1.0, -127.0, 0.4, 0.0, 0.0, 0.0, 1e-3, 2e-3, -0.5e-3];
        let (scales, integers) = quantised(&values, 3);
        assert_eq!(scales, [1.0, 0.0, 2e-3 / 127.0]);
        assert_eq!(integers, [1, -127, 0, 0, 0, 0, 64, 127, -32]);
        for (i, v) in values.iter().enumerate() {
            assert!((v - f32::from(integers[i]) * scales[i / 3]).abs() <= 0.5001 * scales[i / 3]);
        }
    }

    #[test]
    fn scales_come_first_and_offsets_are_contiguous() {
        let layout = Layout::new(&parameters(), Precision::I8, "");
        let found: Vec<_> = layout.tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.start)).collect();
        assert_eq!(found, [("a.weight_scale", "F32", 0), ("a.bias", "F32", 8), ("a.weight", "I8", 16)]);
        assert_eq!((layout.header.len() % 8, layout.data), (0, 22));
        let json: serde_json::Value = serde_json::from_slice(&layout.header[8..]).unwrap();
        assert_eq!(json["a.weight"], serde_json::json!({ "dtype": "I8", "shape": [2, 3], "data_offsets": [16, 22] }));
    }

    #[test]
    fn rows_in_pieces_give_the_bytes_of_whole_tensors() {
        let (weight, bias) = ([0.5, -3.0, 1e-3, 7.0, 0.25, -0.125], [1.0, -2.0]);
        for precision in [Precision::F16, Precision::I8, Precision::F32] {
            let file = |rows: usize| {
                let mut encoder = Encoder::new(parameters(), precision);
                let mut file = vec![0; encoder.length() as usize];
                let mut put = |at: u64, bytes: &[u8]| {
                    file[at as usize..][..bytes.len()].copy_from_slice(bytes);
                    Ok(())
                };
                encoder.rows("a.bias", 0, &bias, &mut put).unwrap();
                for (i, piece) in weight.chunks(3 * rows).enumerate() {
                    encoder.rows("a.weight", i * rows, piece, &mut put).unwrap();
                }
                let Encoded { header, report, .. } = encoder.finish();
                file[..header.len()].copy_from_slice(&header);
                (file, report)
            };
            assert_eq!(file(1), file(2), "{precision:?}");
        }
    }
}
