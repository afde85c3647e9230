//! A matrix product by tiles of 4×8 sums in registers, in loops that the compiler vectorises.
//!
//! Both factors are first packed into panels, in the order in which a tile reads them: 4 rows of a and 8 columns of b,
//! [`DEPTH`] terms each. One panel of each fit the L1 cache together; the panels of a, read for all columns, fit the L2
//! cache. Panels are padded with zeros beyond the matrix.

use super::{Matrix, MatrixMut, Store};

/// Rows of a tile.
const ROWS: usize = 4;
/// Columns of a tile: two vectors of four.
const COLUMNS: usize = 8;
/// Terms of a sum that are added up at a time: a panel of b is then 12 KB long.
const DEPTH: usize = 384;

/// to ← factor·a·b, or to + factor·a·b. The caller has checked the shapes.
pub(super) fn product(mut to: MatrixMut<'_>, mut store: Store, a: Matrix<'_>, b: Matrix<'_>, factor: f32) {
    let ((rows, depth), columns) = (a.shape(), to.columns);
    let mut a_panels = Vec::new();
    let mut b_panel = Vec::new();
    for start in (0..depth.max(1)).step_by(DEPTH) {
        let terms = DEPTH.min(depth - start);
        a_panels.clear();
        for row in (0..rows).step_by(ROWS) {
            pack::<ROWS>(a.transposed(), start, terms, row, factor, &mut a_panels);
        }
        for column in (0..columns).step_by(COLUMNS) {
            b_panel.clear();
            pack::<COLUMNS>(b, start, terms, column, 1.0, &mut b_panel);
            for row in (0..rows).step_by(ROWS) {
                let a_panel = &a_panels[row / ROWS * terms..][..terms];
                write(&tile(a_panel, &b_panel), &mut to, store, row, column);
            }
        }
        store = Store::Add;
    }
}

/// Appends `terms` rows of N columns of a matrix from (`start`, `column`) on, times a factor.
fn pack<const N: usize>(
    m: Matrix<'_>,
    start: usize,
    terms: usize,
    column: usize,
    factor: f32,
    panel: &mut Vec<[f32; N]>,
) {
    let width = N.min(m.shape().1 - column);
    if m.transposed {
        // A column of the transpose is stored as a row.
        let begin = panel.len();
        panel.resize(begin + terms, [0.0; N]);
        for i in 0..width {
            let stored = &m.values[(column + i) * m.stride + start..][..terms];
            panel[begin..].iter_mut().zip(stored).for_each(|(to, value)| to[i] = factor * value);
        }
        return;
    }
    for term in start..start + terms {
        let stored = &m.values[term * m.stride + column..][..width];
        let row = match stored.first_chunk::<N>() {
            Some(whole) => *whole,
            None => {
                let mut row = [0.0; N];
                row[..width].copy_from_slice(stored);
                row
            }
        };
        panel.push(row.map(|value| factor * value));
    }
}

/// Σ over the terms of a's column times b's row.
fn tile(a: &[[f32; ROWS]], b: &[[f32; COLUMNS]]) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0.0; COLUMNS]; ROWS];
    for (a, b) in a.iter().zip(b) {
        for (sums, a) in sums.iter_mut().zip(a) {
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
    }
    sums
}

/// Stores the part of a tile at (`row`, `column`) that lies inside the matrix.
fn write(sums: &[[f32; COLUMNS]; ROWS], to: &mut MatrixMut<'_>, store: Store, row: usize, column: usize) {
    let width = COLUMNS.min(to.columns - column);
    for (i, sums) in sums.iter().enumerate().take(to.rows - row) {
        let to = &mut to.values[(row + i) * to.stride + column..][..width];
        match store {
            Store::Add => to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum),
            Store::Replace => to.copy_from_slice(&sums[..width]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consistency::rng::Generator;

    fn random(len: usize, seed: u64) -> Vec<f32> {
        let mut values = vec![0.0; len];
        Generator::new(seed).randn(&mut values);
        values
    }

    #[test]
    fn products_of_shapes_that_tiles_do_not_divide_are_those_of_faer() {
        for (rows, depth, columns) in [
            (1, 1, 1),
            (4, 384, 8),
            (5, 385, 9),
            (3, 7, 17),
            (64, 576, 49),
            (1, 1000, 1),
            (33, 31, 1),
            (1, 2, 31),
            (7, 769, 23),
        ] {
            // Both factors and the result are parts of larger matrices.
            let (a, b) = (random((rows + 2) * (depth + 3), 1), random((depth + 1) * (columns + 5), 2));
            let at = random((depth + 2) * (rows + 3), 3);
            let bt = random((columns + 1) * (depth + 5), 4);
            let old = random((rows + 1) * (columns + 2), 5);
            let a = Matrix::new(&a, rows + 2, depth + 3).block(1, 2, rows, depth);
            let at = Matrix::new(&at, depth + 2, rows + 3).block(2, 1, depth, rows).transposed();
            let b = Matrix::new(&b, depth + 1, columns + 5).block(1, 3, depth, columns);
            let bt = Matrix::new(&bt, columns + 1, depth + 5).block(0, 4, columns, depth).transposed();
            for (a, b) in [(a, b), (at, b), (a, bt), (at, bt)] {
                for store in [Store::Add, Store::Replace] {
                    let (mut own, mut faer) = (old.clone(), old.clone());
                    let block = |values| MatrixMut::new(values, rows + 1, columns + 2).block(1, 2, rows, columns);
                    product(block(&mut own), store, a, b, 0.5);
                    super::super::of_faer(block(&mut faer), store, a, b, 0.5);
                    for (i, (own, faer)) in own.iter().zip(&faer).enumerate() {
                        let tolerance = 1e-6 * (depth as f32 + 10.0);
                        assert!((own - faer).abs() <= tolerance, "{rows}×{depth}×{columns} at {i}: {own}, faer {faer}");
                    }
                }
            }
        }
    }
}
