//! How good samples are: Fréchet distance of features, and copies of training images.

use burn::tensor::{Device, Tensor, TensorData};
use faer::{Mat, MatRef, Side};

/// Mean and covariance of feature vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Mean (D).
    pub mean: Vec<f64>,
    /// Covariance (D, D), row-major, with N − 1 in its denominator.
    pub covariance: Vec<f64>,
}

impl Moments {
    /// The moments of `features` (N, D), N ≥ 2.
    pub fn new(features: &[f32], dim: usize) -> Self {
        let count = features.len() / dim;
        let mut mean = vec![0.0; dim];
        for row in features.chunks_exact(dim) {
            mean.iter_mut().zip(row).for_each(|(m, &v)| *m += f64::from(v) / count as f64);
        }
        let mut covariance = vec![0.0; dim * dim];
        let mut centred = vec![0.0; dim];
        for row in features.chunks_exact(dim) {
            centred.iter_mut().zip(row).zip(&mean).for_each(|((c, &v), m)| *c = f64::from(v) - m);
            for (i, &a) in centred.iter().enumerate() {
                covariance[i * dim..=i * dim + i].iter_mut().zip(&centred).for_each(|(c, &b)| *c += a * b);
            }
        }
        for i in 0..dim {
            for j in 0..=i {
                let value = covariance[i * dim + j] / (count - 1) as f64;
                covariance[i * dim + j] = value;
                covariance[j * dim + i] = value;
            }
        }
        Self { mean, covariance }
    }
}

/// ‖m_a − m_b‖² + tr(C_a + C_b − 2·(C_a·C_b)^½), the squared Fréchet distance of two Gaussians (Heusel et al. 2017).
pub fn frechet_distance(a: &Moments, b: &Moments) -> f64 {
    let dim = a.mean.len();
    let means: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y).powi(2)).sum();
    let [a, b] = [a, b].map(|moments| MatRef::from_row_major_slice(&moments.covariance, dim, dim));
    let trace = |m: MatRef<'_, f64>| (0..dim).map(|i| m[(i, i)]).sum::<f64>();
    // tr (C_a·C_b)^½ = tr (S·C_b·S)^½ with S = C_a^½, which is symmetric.
    let eigen = a.self_adjoint_eigen(Side::Lower).expect("a covariance is finite");
    let (vectors, values) = (eigen.U(), eigen.S().column_vector());
    let scaled = Mat::from_fn(dim, dim, |i, k| vectors[(i, k)] * values[k].max(0.0).sqrt());
    let root = &scaled * vectors.transpose();
    let product = &root * b * &root;
    let values = product.self_adjoint_eigenvalues(Side::Lower).expect("a covariance is finite");
    let cross: f64 = values.iter().map(|v| v.max(0.0).sqrt()).sum();
    means + trace(a) + trace(b) - 2.0 * cross
}

/// How many of `samples` (N, D) are copies of one of `training` (M, D), M ≥ 2: those whose distance to the nearest
/// training image is below a third of that to the second nearest (the criterion of Gu et al. 2023, "On Memorization
/// in Diffusion Models").
pub fn copies(samples: &[f32], training: &[f32], dim: usize) -> usize {
    nearest_two(samples, training, dim).iter().filter(|[a, b]| a.sqrt() < b.sqrt() / 3.0).count()
}

/// Squared distances of each of `samples` (N, D) to its two nearest rows of `training` (M, D).
fn nearest_two(samples: &[f32], training: &[f32], dim: usize) -> Vec<[f32; 2]> {
    /// Rows of samples and of training data in one product; their distances take 64 MB.
    const ROWS: usize = 1000;
    const COLUMNS: usize = 16_000;
    let norms =
        |rows: &[f32]| -> Vec<f32> { rows.chunks_exact(dim).map(|r| r.iter().map(|v| v * v).sum::<f32>()).collect() };
    let matrix =
        |rows: &[f32]| Tensor::<2>::from_data(TensorData::new(rows.to_vec(), [rows.len() / dim, dim]), &Device::flex());
    let mut best = vec![[f32::INFINITY; 2]; samples.len() / dim];
    for block in training.chunks(COLUMNS * dim) {
        let (block_norms, transposed) = (norms(block), matrix(block).transpose());
        for (rows, best) in samples.chunks(ROWS * dim).zip(best.chunks_mut(ROWS)) {
            let products = matrix(rows).matmul(transposed.clone()).into_data();
            let products = products.try_to_vec::<f32>().expect("f32 products");
            for ((row, best), norm) in products.chunks_exact(block_norms.len()).zip(best).zip(norms(rows)) {
                for (product, other) in row.iter().zip(&block_norms) {
                    let distance = (norm + other - 2.0 * product).max(0.0);
                    if distance < best[0] {
                        *best = [distance, best[0]];
                    } else if distance < best[1] {
                        best[1] = distance;
                    }
                }
            }
        }
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
        for (found, expected) in m.covariance.iter().zip([4.0 / 3.0, 0.0, 0.0, 16.0 / 3.0]) {
            assert!((found - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn the_distance_of_known_gaussians() {
        let gaussian =
            |mean: [f64; 2], covariance: [f64; 4]| Moments { mean: mean.to_vec(), covariance: covariance.to_vec() };
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
