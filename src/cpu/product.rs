//! Products of matrices: faer's kernels natively, one of our own in WebAssembly, for which faer has only scalar ones.

#[cfg(any(target_arch = "wasm32", test))]
mod tiles;

/// A matrix in a slice, perhaps a part of a larger one, perhaps read across.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    /// From the first element of the matrix on; rows begin `stride` apart.
    values: &'a [f32],
    rows: usize,
    columns: usize,
    stride: usize,
    /// Whether rows and columns change places, after all the above.
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// The whole of a slice, row after row.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "one value per element");
        Self { values, rows, columns, stride: columns, transposed: false }
    }

    /// Rows and columns from (`row`, `column`) on, of a matrix that is not transposed.
    pub fn block(self, row: usize, column: usize, rows: usize, columns: usize) -> Self {
        debug_assert!(!self.transposed && row + rows <= self.rows && column + columns <= self.columns);
        Self { values: &self.values[row * self.stride + column..], rows, columns, ..self }
    }

    /// The matrix with rows and columns exchanged; nothing moves.
    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Number of columns, as the matrix is stored.
    pub fn columns(self) -> usize {
        self.columns
    }

    /// (rows, columns) as they are read.
    fn shape(self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }
}

/// A matrix to write to.
#[derive(Debug)]
pub(super) struct MatrixMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// The whole of a slice, row after row.
    pub fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "one value per element");
        Self { values, rows, columns, stride: columns }
    }

    /// Rows and columns from (`row`, `column`) on.
    pub fn block(self, row: usize, column: usize, rows: usize, columns: usize) -> Self {
        debug_assert!(row + rows <= self.rows && column + columns <= self.columns);
        Self { values: &mut self.values[row * self.stride + column..], rows, columns, stride: self.stride }
    }
}

/// Whether a product replaces the values of its output or is added to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Onto {
    /// They are added to.
    Sum,
    /// They are lost.
    Nothing,
}

/// to ← factor·a·b, or to + factor·a·b.
pub(super) fn product(to: MatrixMut<'_>, onto: Onto, a: Matrix<'_>, b: Matrix<'_>, factor: f32) {
    let ((rows, depth), (b_rows, columns)) = (a.shape(), b.shape());
    assert_eq!((to.rows, to.columns, depth), (rows, columns, b_rows), "shapes of a product");
    #[cfg(target_arch = "wasm32")]
    tiles::product(to, onto, a, b, factor);
    #[cfg(not(target_arch = "wasm32"))]
    of_faer(to, onto, a, b, factor);
}

#[cfg(not(target_arch = "wasm32"))]
fn of_faer(to: MatrixMut<'_>, onto: Onto, a: Matrix<'_>, b: Matrix<'_>, factor: f32) {
    use faer::linalg::matmul::matmul;
    use faer::{Accum, MatMut, MatRef, Par};

    let [a, b] = [a, b].map(|m| {
        let stored = MatRef::from_row_major_slice_with_stride(m.values, m.rows, m.columns, m.stride);
        if m.transposed { stored.transpose() } else { stored }
    });
    // By columns and across: faer 0.24.4 takes the strides of `from_row_major_slice_with_stride_mut` for those of columns,
    // and writes beyond the slice.
    let MatrixMut { values, rows, columns, stride } = to;
    let to = MatMut::from_column_major_slice_with_stride_mut(values, columns, rows, stride).transpose_mut();
    let accum = if onto == Onto::Sum { Accum::Add } else { Accum::Replace };
    matmul(to, accum, a, b, factor, Par::Seq);
}
