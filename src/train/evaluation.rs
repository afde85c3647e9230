//! How good samples are: Fréchet distance of features, and copies of training images.

use faer::{Mat, MatRef, Side};

use crate::cpu::{Matrix, MatrixMut, Store, product, shared_out};

/// Mean and covariance of feature vectors.
#[derive(Debug, Clone)]
pub struct Moments {
    /// (D).
    mean: Vec<f64>,
    /// (D, D), with N − 1 in its denominator.
    covariance: Mat<f64>,
}

impl Moments {
    /// The moments of `features` (N, `dim`), N ≥ 2.
    pub fn new(features: &[f32], dim: usize) -> Self {
        let features = MatRef::from_row_major_slice(features, features.len() / dim, dim);
        let count = features.nrows();
        let mean: Vec<f64> =
            features.col_iter().map(|column| column.iter().map(|&v| f64::from(v) / count as f64).sum()).collect();
        let centred = Mat::from_fn(count, dim, |i, j| f64::from(features[(i, j)]) - mean[j]);
        let covariance = centred.transpose() * &centred / faer::Scale((count - 1) as f64);
        Self { mean, covariance }
    }
}

/// ‖m_a − m_b‖² + tr(C_a + C_b − 2·(C_a·C_b)^½), the squared Fréchet distance of two Gaussians (Heusel et al. 2017).
///
/// NaN when an eigendecomposition does not converge, as it cannot where a feature is NaN.
pub fn frechet_distance(a: &Moments, b: &Moments) -> f64 {
    let means: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y).powi(2)).sum();
    let trace = |m: &Mat<f64>| m.diagonal().column_vector().iter().sum::<f64>();
    // C_a = Rᵀ·R with R = Λ^½·Uᵀ, and C_a·C_b has the eigenvalues of R·C_b·Rᵀ, which is symmetric.
    let Ok(eigen) = a.covariance.self_adjoint_eigen(Side::Lower) else { return f64::NAN };
    let (values, vectors) = (eigen.S().column_vector(), eigen.U());
    let root = Mat::from_fn(vectors.ncols(), vectors.nrows(), |k, i| values[k].max(0.0).sqrt() * vectors[(i, k)]);
    let product = &root * &b.covariance * root.transpose();
    let Ok(values) = product.self_adjoint_eigenvalues(Side::Lower) else { return f64::NAN };
    let cross: f64 = values.iter().map(|v| v.max(0.0).sqrt()).sum();
    means + trace(&a.covariance) + trace(&b.covariance) - 2.0 * cross
}

/// How many of `samples` (N, D) are copies of one of `training` (M, D), M ≥ 2: those whose distance to the nearest
/// training image is below a third of that to the second nearest (the criterion of Gu et al. 2023, "On Memorization
/// in Diffusion Models").
pub fn copies(samples: &[f32], training: &[f32], dim: usize) -> usize {
    nearest_two(samples, training, dim).iter().filter(|[a, b]| a.sqrt() < b.sqrt() / 3.0).count()
}

/// Squared distances of each of `samples` (N, D) to its two nearest rows of `training` (M, D).
fn nearest_two(samples: &[f32], training: &[f32], dim: usize) -> Vec<[f32; 2]> {
    /// Rows of samples and of training data in one product; a thread's distances take 16 MB.
    const ROWS: usize = 250;
    const COLUMNS: usize = 16_000;
    let norms =
        |rows: &[f32]| -> Vec<f32> { rows.chunks_exact(dim).map(|r| r.iter().map(|v| v * v).sum::<f32>()).collect() };
    let mut best = vec![[f32::INFINITY; 2]; samples.len() / dim];
    for block in training.chunks(COLUMNS * dim) {
        let (block_norms, columns) = (norms(block), block.len() / dim);
        let work = samples.chunks(ROWS * dim).zip(best.chunks_mut(ROWS)).collect();
        shared_out(work, |(rows, best): (&[f32], &mut [[f32; 2]])| {
            let mut products = vec![0.0; best.len() * columns];
            let to = MatrixMut::new(&mut products, best.len(), columns);
            let (rows_matrix, block) = (Matrix::new(rows, best.len(), dim), Matrix::new(block, columns, dim));
            product(to, Store::Replace, rows_matrix, block.transposed(), 1.0);
            for ((row, best), norm) in products.chunks_exact(columns).zip(best).zip(norms(rows)) {
                for (product, other) in row.iter().zip(&block_norms) {
                    let distance = (norm + other - 2.0 * product).max(0.0);
                    if distance < best[0] {
                        *best = [distance, best[0]];
                    } else if distance < best[1] {
                        best[1] = distance;
                    }
                }
            }
        });
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consistency::rng::Generator;

    fn normals(seed: u64, count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count];
        Generator::new(seed).randn(&mut out);
        out
    }

    #[test]
    fn moments_of_four_points() {
        let m = Moments::new(&[0.0, 0.0, 2.0, 0.0, 0.0, 4.0, 2.0, 4.0], 2);
        assert_eq!(m.mean, [1.0, 2.0]);
        for (i, expected) in [4.0 / 3.0, 0.0, 0.0, 16.0 / 3.0].into_iter().enumerate() {
            assert!((m.covariance[(i / 2, i % 2)] - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn the_distance_of_known_gaussians() {
        let gaussian = |mean: [f64; 2], covariance: [f64; 4]| Moments {
            mean: mean.to_vec(),
            covariance: MatRef::from_row_major_slice(&covariance, 2, 2).to_owned(),
        };
        // Commuting covariances: Σ (√λ_a − √λ_b)², here (1 − 2)² + (3 − 1)², and the means' 9 + 16.
        let a = gaussian([0.0, 0.0], [1.0, 0.0, 0.0, 9.0]);
        let b = gaussian([3.0, 4.0], [4.0, 0.0, 0.0, 1.0]);
        assert!((frechet_distance(&a, &b) - 30.0).abs() < 1e-9);
        // Both turned by 45°: nothing changes.
        let turned = |x: f64, y: f64| [(x + y) / 2.0, (x - y) / 2.0, (x - y) / 2.0, (x + y) / 2.0];
        let (a, b) = (gaussian([0.0, 0.0], turned(1.0, 9.0)), gaussian([3.0, 4.0], turned(4.0, 1.0)));
        assert!((frechet_distance(&a, &b) - 30.0).abs() < 1e-9);
        // Not commuting, by hand: (C_a·C_b)^½ of a 2×2 matrix M has trace √(tr M + 2√det M).
        let (a, b) = (gaussian([0.0, 0.0], [2.0, 1.0, 1.0, 3.0]), gaussian([0.0, 0.0], [4.0, -1.0, -1.0, 1.0]));
        let (trace, det) = (2.0 * 4.0 - 1.0 - 1.0 + 3.0, 5.0 * 3.0);
        let expected = 10.0 - 2.0 * (trace + 2.0 * f64::sqrt(det)).sqrt();
        assert!((frechet_distance(&a, &b) - expected).abs() < 1e-9);
    }

    #[test]
    fn the_distance_of_features_with_nan_is_nan() {
        let moments = |first: f32| Moments::new(&[first, 0.0, 2.0, 0.0, 0.0, 4.0, 2.0, 4.0], 2);
        assert!(frechet_distance(&moments(f32::NAN), &moments(0.0)).is_nan());
        assert!(frechet_distance(&moments(0.0), &moments(f32::NAN)).is_nan());
    }

    #[test]
    fn copies_are_found() {
        let dim = 20;
        let training = normals(1, 50 * dim);
        let fresh = normals(2, 10 * dim);
        assert_eq!(copies(&fresh, &training, dim), 0);
        let noisy: Vec<f32> = training[..3 * dim].iter().zip(normals(3, 3 * dim)).map(|(v, z)| v + 0.1 * z).collect();
        assert_eq!(copies(&[fresh, noisy].concat(), &training, dim), 3);
    }

    #[test]
    fn the_nearest_two_are_those_of_a_search() {
        let dim = 3;
        let (samples, training) = (normals(1, 40 * dim), normals(2, 17_000 * dim));
        for (row, found) in samples.chunks(dim).zip(nearest_two(&samples, &training, dim)) {
            let distance = |t: &[f32]| row.iter().zip(t).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            let mut all: Vec<f32> = training.chunks(dim).map(distance).collect();
            all.sort_by(f32::total_cmp);
            // |a|² + |b|² − 2ab loses digits where a ≈ b.
            assert!((found[0] - all[0]).abs() < 1e-5 && (found[1] - all[1]).abs() < 1e-5, "{found:?} {:?}", &all[..2]);
        }
    }
}
