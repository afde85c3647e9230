//! All weights of a program, or their gradients, in one buffer.

use super::super::device::{Buffer, Slice};
use super::super::program::Program;
use crate::error::{Error, Result};
use crate::model::unet::Parameter;

/// Ranges begin at multiples of this many floats: bindings begin at multiples of 256 bytes.
const GRAIN: usize = 64;

/// Where the weight buffers of a program lie in one buffer, and the parameters in that.
pub(super) struct Flat {
    /// The first float and the floats of each weight buffer.
    ranges: Vec<[usize; 2]>,
    /// Floats of the whole.
    length: usize,
    /// For each value of the parameters, in their order, its float.
    pub(super) positions: Vec<u32>,
}

impl Flat {
    /// # Errors
    /// [`Error::Weights`] for a parameter that the program does not read.
    pub(super) fn new(program: &Program, parameters: &[Parameter]) -> Result<Self> {
        let mut length = 0;
        let mut ranges = Vec::with_capacity(program.weights.len());
        for &floats in &program.weights {
            ranges.push([length, floats]);
            length = (length + floats).next_multiple_of(GRAIN);
        }
        let mut positions = Vec::new();
        for parameter in parameters {
            let unknown = || Error::Weights(format!("unexpected tensor {}", parameter.name));
            let placement = program.placement(&parameter.name).ok_or_else(unknown)?;
            let first = ranges[placement.buffer][0] + placement.offset;
            // Where the order brings each number, counted from 1; 0 is padding.
            let count = parameter.count();
            let numbers: Vec<u32> = (1..=count as u32).collect();
            let mut of_parameter = vec![0; count];
            for (position, number) in placement.order.pack(&numbers).into_iter().enumerate().filter(|(_, n)| *n > 0) {
                of_parameter[number as usize - 1] = (first + position) as u32;
            }
            positions.extend(of_parameter);
        }
        Ok(Self { ranges, length, positions })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.length as u64 * 4
    }

    /// Values in the order of the parameters, brought to that of the buffer; padding is 0.
    pub(super) fn pack(&self, values: &[f32]) -> Vec<f32> {
        let mut packed = vec![0.0; self.length];
        values.iter().zip(&self.positions).for_each(|(&value, &position)| packed[position as usize] = value);
        packed
    }

    /// The inverse of [`Self::pack`].
    pub(super) fn unpack(&self, packed: &[f32]) -> Vec<f32> {
        self.positions.iter().map(|&position| packed[position as usize]).collect()
    }

    /// The part of a buffer in this order that belongs to weight buffer `i`.
    pub(super) fn slice<'a>(&self, buffer: &'a Buffer, i: usize) -> Slice<'a> {
        let [first, floats] = self.ranges[i];
        Slice { buffer, offset: first as u64 * 4, bytes: floats as u64 * 4 }
    }
}
