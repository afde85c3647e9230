//! How channels lie in GPU memory, and how a checkpoint's tensors are brought into the kernels' order.

/// The channels of a map as runs of real channels, each padded with dead ones.
///
/// The vec4s of a pixel must not straddle two maps that are read as one (a concatenation), nor two heads; so each of
/// those begins at a multiple of 4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Channels {
    /// (real, real + padding) of each run.
    runs: Vec<(usize, usize)>,
}

impl Channels {
    /// One run, padded to a multiple of 4.
    pub(super) fn dense(real: usize) -> Self {
        Self { runs: vec![(real, real.next_multiple_of(4))] }
    }

    /// `heads` runs of `head_dim`, each padded to a multiple of 4.
    pub(super) fn heads(heads: usize, head_dim: usize) -> Self {
        Self { runs: vec![(head_dim, head_dim.next_multiple_of(4)); heads] }
    }

    /// The runs of several maps, one after the other.
    pub(super) fn concat<'a>(parts: impl IntoIterator<Item = &'a Channels>) -> Self {
        Self { runs: parts.into_iter().flat_map(|c| c.runs.iter().copied()).collect() }
    }

    /// Number of real channels.
    pub(super) fn real(&self) -> usize {
        self.runs.iter().map(|r| r.0).sum()
    }

    /// Number of channels with their padding; a multiple of 4.
    pub(super) fn padded(&self) -> usize {
        self.runs.iter().map(|r| r.1).sum()
    }

    /// Where each real channel lies.
    pub(super) fn positions(&self) -> Vec<usize> {
        let mut positions = Vec::with_capacity(self.real());
        let mut start = 0;
        for &(real, padded) in &self.runs {
            positions.extend(start..start + real);
            start += padded;
        }
        positions
    }
}

/// Output channels per tile of conv.wgsl and gemm.wgsl.
pub(super) const TILE: usize = 8;

/// Where one tensor of a checkpoint goes: a range of one weight buffer, and in which order.
#[derive(Debug, Clone)]
pub(super) struct Placement {
    /// Index of the weight buffer.
    pub(super) buffer: usize,
    /// First float of the range.
    pub(super) offset: usize,
    /// The order of the range.
    pub(super) order: Order,
    /// Where the scales of the rows lie when a product's weights are stored as bytes, after its biases: buffer and first
    /// float. They have a bias' order.
    pub(super) scales: Option<(usize, usize)>,
}

#[derive(Debug, Clone)]
pub(super) enum Order {
    /// (out, in, side, side) to \[tile of 8 outputs\]\[row of taps\]\[input vec4\]\[column of taps\]\[4 inputs\]\[8\].
    Tiles { input: Channels, output: Channels, side: usize },
    /// A vector, padded as its map is.
    Vector(Channels),
    /// (rows, dim) with padded rows.
    Rows { rows: usize, row: Channels },
}

impl Order {
    /// Floats of the packed range.
    pub(super) fn len(&self) -> usize {
        match self {
            Order::Tiles { input, output, side } => {
                output.padded().next_multiple_of(TILE) * side * side * input.padded()
            }
            Order::Vector(channels) => channels.padded().next_multiple_of(TILE),
            Order::Rows { rows, row } => rows * row.padded(),
        }
    }

    /// Of how many rows of the checkpoint's tensor each piece but the last must be a multiple, so that the pieces' packed
    /// ranges do not overlap; `None`: it cannot be taken in pieces.
    pub(super) fn piece_granularity(&self) -> Option<usize> {
        match self {
            // Where heads are padded, a tile may hold rows of two pieces.
            Order::Tiles { output, .. } if output.runs.len() == 1 => Some(TILE),
            Order::Rows { .. } => Some(1),
            Order::Tiles { .. } | Order::Vector(_) => None,
        }
    }

    /// Rows `first ..` of the tensor in the kernels' order, and the float of the packed range at which they begin.
    pub(super) fn pack_piece<T: Copy + Default>(&self, first: usize, values: &[T]) -> (usize, Vec<T>) {
        match self {
            Order::Tiles { input, side, .. } if values.len() < self.real_len() => {
                let taps = side * side;
                let output = Channels::dense(values.len() / (input.real() * taps));
                let piece = Order::Tiles { input: input.clone(), output, side: *side };
                (first / TILE * taps * input.padded() * TILE, piece.pack(values))
            }
            Order::Rows { row, .. } => {
                let piece = Order::Rows { rows: values.len() / row.real(), row: row.clone() };
                (first * row.padded(), piece.pack(values))
            }
            _ => (0, self.pack(values)),
        }
    }

    /// Floats of the checkpoint's tensor.
    fn real_len(&self) -> usize {
        match self {
            Order::Tiles { input, output, side } => output.real() * side * side * input.real(),
            Order::Vector(channels) => channels.real(),
            Order::Rows { rows, row } => rows * row.real(),
        }
    }

    /// The values in the kernels' order; padding is 0.
    pub(super) fn pack<T: Copy + Default>(&self, values: &[T]) -> Vec<T> {
        let mut packed = vec![T::default(); self.len()];
        match self {
            Order::Tiles { input, output, side } => {
                let (inputs, vec4s) = (input.positions(), input.padded() / 4);
                for (row, o) in values.chunks_exact(inputs.len() * side * side).zip(output.positions()) {
                    for (taps, &i) in row.chunks_exact(side * side).zip(&inputs) {
                        for (tap, &v) in taps.iter().enumerate() {
                            let (ky, kx) = (tap / side, tap % side);
                            let vec4 = ((o / TILE * side + ky) * vec4s + i / 4) * side + kx;
                            packed[(vec4 * 4 + i % 4) * TILE + o % TILE] = v;
                        }
                    }
                }
            }
            Order::Vector(channels) => {
                for (&v, position) in values.iter().zip(channels.positions()) {
                    packed[position] = v;
                }
            }
            Order::Rows { row, .. } => {
                let positions = row.positions();
                for (from, to) in values.chunks_exact(row.real()).zip(packed.chunks_exact_mut(row.padded())) {
                    for (&v, &position) in from.iter().zip(&positions) {
                        to[position] = v;
                    }
                }
            }
        }
        packed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_hold_every_weight_once_and_zeros_elsewhere() {
        let order = Order::Tiles {
            input: Channels::concat([&Channels::dense(3), &Channels::dense(5)]),
            output: Channels::dense(9),
            side: 3,
        };
        let values: Vec<f32> = (1..=9 * 8 * 9).map(|v| v as f32).collect();
        let packed = order.pack(&values);
        assert_eq!(packed.len(), 16 * 9 * 12);
        let mut found: Vec<f32> = packed.iter().copied().filter(|&v| v != 0.0).collect();
        found.sort_by(f32::total_cmp);
        assert_eq!(found, values);
        // Output 8 (tile 1), input 3 (the first of the second map, at 4: vec4 1), tap 5 (row 1, column 2).
        assert_eq!(packed[(((3 + 1) * 3 + 1) * 3 + 2) * 4 * 8], values[(8 * 8 + 3) * 9 + 5]);
    }

    #[test]
    fn pieces_make_the_whole() {
        let input = Channels::concat([&Channels::dense(3), &Channels::dense(5)]);
        for order in [
            Order::Tiles { input: input.clone(), output: Channels::dense(29), side: 3 },
            Order::Rows { rows: 7, row: Channels::dense(6) },
        ] {
            let values: Vec<f32> = (1..=order.real_len()).map(|v| v as f32).collect();
            let (rows, granularity) = match &order {
                Order::Rows { rows, .. } => (*rows, 1),
                _ => (29, TILE),
            };
            assert_eq!(order.piece_granularity(), Some(granularity));
            for piece_rows in [granularity, 2 * granularity, 64] {
                let mut whole = vec![0.0; order.len()];
                let mut first = 0;
                for piece in values.chunks(piece_rows * (values.len() / rows)) {
                    let (offset, packed) = order.pack_piece(first, piece);
                    whole[offset..offset + packed.len()].copy_from_slice(&packed);
                    first += piece_rows;
                }
                assert_eq!(whole, order.pack(&values), "{order:?} by {piece_rows}");
            }
        }
        let heads = Order::Tiles { input, output: Channels::heads(2, 6), side: 1 };
        assert_eq!(heads.piece_granularity(), None, "the tiles of two heads overlap");
    }

    #[test]
    fn heads_begin_at_multiples_of_four() {
        assert_eq!(Channels::heads(2, 6).positions(), [0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13]);
    }
}
