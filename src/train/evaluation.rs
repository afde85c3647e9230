//! How good samples are: Fréchet distance of features, and copies of training images.

use burn::tensor::{Device, Tensor, TensorData};

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
    let trace = |m: &[f64]| (0..dim).map(|i| m[i * dim + i]).sum::<f64>();
    let means: f64 = a.mean.iter().zip(&b.mean).map(|(x, y)| (x - y).powi(2)).sum();
    // tr (C_a·C_b)^½ = tr (S·C_b·S)^½ with S = C_a^½, which is symmetric.
    let (values, vectors) = symmetric_eigen(&a.covariance, dim);
    let mut root = vec![0.0; dim * dim];
    for (k, value) in values.iter().enumerate() {
        let s = value.max(0.0).sqrt();
        for i in 0..dim {
            for j in 0..dim {
                root[i * dim + j] += s * vectors[i * dim + k] * vectors[j * dim + k];
            }
        }
    }
    let product = multiply(&multiply(&root, &b.covariance, dim), &root, dim);
    let (values, _) = symmetric_eigen(&product, dim);
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

fn multiply(a: &[f64], b: &[f64], dim: usize) -> Vec<f64> {
    let mut out = vec![0.0; dim * dim];
    for i in 0..dim {
        for k in 0..dim {
            let f = a[i * dim + k];
            for j in 0..dim {
                out[i * dim + j] += f * b[k * dim + j];
            }
        }
    }
    out
}

/// Eigenvalues and eigenvectors (as columns) of a symmetric matrix, by cyclic Jacobi rotations.
fn symmetric_eigen(matrix: &[f64], dim: usize) -> (Vec<f64>, Vec<f64>) {
    let mut a = matrix.to_vec();
    let mut v = vec![0.0; dim * dim];
    (0..dim).for_each(|i| v[i * dim + i] = 1.0);
    let norm: f64 = a.iter().map(|x| x * x).sum();
    // Convergence is quadratic; ten sweeps are the usual need.
    for _ in 0..50 {
        let off: f64 = (0..dim).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * dim + j].powi(2)).sum();
        if off <= 1e-24 * norm {
            break;
        }
        for p in 0..dim {
            for q in p + 1..dim {
                rotate(&mut a, &mut v, dim, p, q);
            }
        }
    }
    ((0..dim).map(|i| a[i * dim + i]).collect(), v)
}

/// Makes a[p][q] zero by a rotation of rows and columns p and q, and records it in `v`.
fn rotate(a: &mut [f64], v: &mut [f64], dim: usize, p: usize, q: usize) {
    let off = a[p * dim + q];
    if off == 0.0 {
        return;
    }
    let theta = (a[q * dim + q] - a[p * dim + p]) / (2.0 * off);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = 1.0 / t.hypot(1.0);
    let s = t * c;
    let turn = |x: usize, y: usize, m: &mut [f64]| {
        let (f, g) = (m[x], m[y]);
        m[x] = c * f - s * g;
        m[y] = s * f + c * g;
    };
    for k in 0..dim {
        turn(k * dim + p, k * dim + q, a);
    }
    for k in 0..dim {
        turn(p * dim + k, q * dim + k, a);
        turn(k * dim + p, k * dim + q, v);
    }
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
    fn eigenvectors_rebuild_the_matrix() {
        let dim = 12;
        let half: Vec<f64> = normals(1, dim * dim).into_iter().map(f64::from).collect();
        let matrix: Vec<f64> = (0..dim * dim).map(|i| half[i] + half[i % dim * dim + i / dim]).collect();
        let (values, v) = symmetric_eigen(&matrix, dim);
        for i in 0..dim {
            for j in 0..dim {
                let found: f64 = (0..dim).map(|k| values[k] * v[i * dim + k] * v[j * dim + k]).sum();
                assert!((found - matrix[i * dim + j]).abs() < 1e-10);
                let unit: f64 = (0..dim).map(|k| v[k * dim + i] * v[k * dim + j]).sum();
                assert!((unit - f64::from(i == j)).abs() < 1e-10);
            }
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
