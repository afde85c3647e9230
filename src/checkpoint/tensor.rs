//! Tensors of a checkpoint on their way into a network: rows of raw bytes with the precision of their elements.

use half::f16;

/// How the elements of a tensor are stored; the narrowest comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Precision {
    /// Whole numbers n of 8 bits from −127 to 127. A value is n·scale, with one scale for each row (output channel).
    I8,
    /// 16-bit floats.
    F16,
    /// 32-bit floats.
    #[default]
    F32,
}

impl Precision {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::I8 => 1,
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Consecutive rows of one tensor. A row is a slice along the tensor's first axis.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The tensor's name in the checkpoint.
    pub name: &'a str,
    /// The index of the first of these rows.
    pub first: usize,
    /// How the elements in `bytes` are stored.
    pub precision: Precision,
    /// The elements, row-major, little-endian.
    pub bytes: &'a [u8],
    /// The scale of each of these rows for [`Precision::I8`], else empty.
    pub scales: &'a [f32],
}

impl<'a> Rows<'a> {
    /// A whole tensor of f32 values in little-endian bytes.
    pub fn whole_f32(name: &'a str, bytes: &'a [u8]) -> Self {
        Self { name, first: 0, precision: Precision::F32, bytes, scales: &[] }
    }

    /// The values.
    pub fn to_f32(&self) -> Vec<f32> {
        match self.precision {
            Precision::F32 => self.bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Precision::F16 => self.bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Precision::I8 => {
                let row = (self.bytes.len() / self.scales.len().max(1)).max(1);
                let values = |(row, scale): (&'a [u8], &'a f32)| row.iter().map(move |&n| f32::from(n as i8) * scale);
                self.bytes.chunks_exact(row).zip(self.scales).flat_map(values).collect()
            }
        }
    }
}

/// An event of reading a file of weights.
#[derive(Debug, Clone, Copy)]
pub enum Arrival<'a> {
    /// The file's header lists the tensor. This comes for all tensors of a file before the first row of any.
    Announced {
        /// The tensor's name in the checkpoint.
        name: &'a str,
        /// How its rows will be stored.
        precision: Precision,
    },
    /// Rows of the tensor. They come in order and each of them once, unless the file is restarted.
    Rows(Rows<'a>),
}

/// Values as little-endian bytes.
pub fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded_at_each_precision() {
        let rows =
            |precision, bytes: &[u8], scales: &[f32]| Rows { name: "a", first: 0, precision, bytes, scales }.to_f32();
        assert_eq!(rows(Precision::F32, &f32_bytes(&[1.5, -2.0]), &[]), [1.5, -2.0]);
        let halves: Vec<u8> = [0.5f32, -7.0].iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        assert_eq!(rows(Precision::F16, &halves, &[]), [0.5, -7.0]);
        let bytes = [-127i8, 1, 2, -3].map(|n| n as u8);
        assert_eq!(rows(Precision::I8, &bytes, &[0.5, 2.0]), [-63.5, 0.5, 4.0, -6.0]);
        assert_eq!(rows(Precision::I8, &[], &[]), [0.0; 0]);
    }
}
