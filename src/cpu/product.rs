//! Matrix products: faer's natively; in WebAssembly, where faer's are scalar, by [`tiles`].

#[cfg(any(target_arch = "wasm32", test))]
mod tiles;

/// A row-major matrix, or a block of one, or its transpose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    /// From the block's first element on; rows begin `stride` elements apart.
    values: &'a [f32],
    rows: usize,
    columns: usize,
    stride: usize,
    /// Whether this is the transpose of what the other fields describe.
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// The whole of a slice, row after row.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "one value per element");
        Self { values, rows, columns, stride: columns, transposed: false }
    }

    /// The block from (`row`, `column`) on, of a matrix that is not transposed.
    pub fn block(self, row: usize, column: usize, rows: usize, columns: usize) -> Self {
        debug_assert!(!self.transposed && row + rows <= self.rows && column + columns <= self.columns);
        Self { values: &self.values[row * self.stride + column..], rows, columns, ..self }
    }

    /// The transpose; no value is moved.
    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    /// Number of columns, as the matrix is stored.
    pub fn columns(self) -> usize {
        self.columns
    }

    /// (rows, columns), of the transpose where this is one.
    fn shape(self) -> (usize, usize) {
        if self.transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }
}

/// A row-major matrix, or a block of one, to write to.
#[derive(Debug)]
pub(crate) struct MatrixMut<'a> {
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

    /// The block from (`row`, `column`) on.
    pub fn block(self, row: usize, column: usize, rows: usize, columns: usize) -> Self {
        debug_assert!(row + rows <= self.rows && column + columns <= self.columns);
        Self { values: &mut self.values[row * self.stride + column..], rows, columns, stride: self.stride }
    }
}

/// How a product is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    /// Added to the old values.
    Add,
    /// In place of the old values.
    Replace,
}

/// to ← factor·a·b, or to + factor·a·b.
pub(crate) fn product(to: MatrixMut<'_>, store: Store, a: Matrix<'_>, b: Matrix<'_>, factor: f32) {
    let ((rows, depth), (b_rows, columns)) = (a.shape(), b.shape());
    assert_eq!((to.rows, to.columns, depth), (rows, columns, b_rows), "shapes of a product");
    #[cfg(target_arch = "wasm32")]
    tiles::product(to, store, a, b, factor);
    #[cfg(not(target_arch = "wasm32"))]
    of_faer(to, store, a, b, factor);
}

#[cfg(not(target_arch = "wasm32"))]
fn of_faer(to: MatrixMut<'_>, store: Store, a: Matrix<'_>, b: Matrix<'_>, factor: f32) {
    use faer::linalg::matmul::matmul;
    use faer::{Accum, MatMut, MatRef, Par};

    let [a, b] = [a, b].map(|m| {
        let stored = MatRef::from_row_major_slice_with_stride(m.values, m.rows, m.columns, m.stride);
        if m.transposed { stored.transpose() } else { stored }
    });
    // As the transpose of a column-major matrix: faer 0.24.4 takes the stride of `from_row_major_slice_with_stride_mut`
    // for that of columns, and writes beyond the slice.
    let MatrixMut { values, rows, columns, stride } = to;
    let to = MatMut::from_column_major_slice_with_stride_mut(values, columns, rows, stride).transpose_mut();
    let accum = if store == Store::Add { Accum::Add } else { Accum::Replace };
    matmul(to, accum, a, b, factor, Par::Seq);
}
