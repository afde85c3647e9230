//! RAdam, Muon and the exponential moving average, of flat weights.

use std::ops::Range;

use crate::cpu::{Matrix, MatrixMut, Store, product, shared_out};
use crate::model::unet::Parameter;

/// Decay of RAdam's first moment.
const BETA1: f64 = 0.9;
/// Decay of RAdam's second moment.
const BETA2: f64 = 0.999;
/// Added to the root of RAdam's second moment.
const EPS: f32 = 1e-8;

/// RAdam (Liu et al. 2020, algorithm 2) as PyTorch's `torch.optim.RAdam` computes it, with β₁ = 0.9, β₂ = 0.999, ε = 1e-8
/// and no weight decay.
pub struct RAdam {
    /// Number of steps taken.
    pub step: u64,
    /// First moments m, one per weight.
    pub first: Vec<f32>,
    /// Second moments v, one per weight.
    pub second: Vec<f32>,
}

impl RAdam {
    /// No step taken, moments zero.
    pub(super) fn new(weights: usize) -> Self {
        Self { step: 0, first: vec![0.0; weights], second: vec![0.0; weights] }
    }

    /// The factor on m, and whether m is divided by √v, at step t ≥ 1.
    ///
    /// ρ_t = ρ∞ − 2tβ₂ᵗ/(1 − β₂ᵗ); where ρ_t > 5 the variance of 1/√v is tractable and rectified, before that the
    /// step is plain momentum.
    fn rectified(t: u64) -> (f64, bool) {
        let power = t.min(i32::MAX as u64) as i32;
        let (bias1, bias2) = (1.0 - BETA1.powi(power), 1.0 - BETA2.powi(power));
        let rho_inf = 2.0 / (1.0 - BETA2) - 1.0;
        let rho = rho_inf - 2.0 * t as f64 * BETA2.powi(power) / bias2;
        if rho <= 5.0 {
            return (1.0 / bias1, false);
        }
        let rect = ((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho)).sqrt();
        (rect * bias2.sqrt() / bias1, true)
    }

    /// One update w ← w − lr·(rectified m/√v); the weights in `matrices` are updated by [`muon`] instead.
    ///
    /// # Panics
    /// When the slices differ in length.
    pub(super) fn update(&mut self, weights: &mut [f32], gradient: &[f32], lr: f64, matrices: &Matrices) {
        assert_eq!((gradient.len(), self.first.len()), (weights.len(), weights.len()), "one gradient per weight");
        self.step += 1;
        let (factor, divide) = Self::rectified(self.step);
        let mut work = Vec::new();
        let (mut w, mut m, mut v, mut g) = (weights, self.first.as_mut_slice(), self.second.as_mut_slice(), gradient);
        for (len, shape) in parts(matrices, g.len()) {
            let (own_w, own_m, own_v, own_g);
            (own_w, w) = w.split_at_mut(len);
            (own_m, m) = m.split_at_mut(len);
            (own_v, v) = v.split_at_mut(len);
            (own_g, g) = g.split_at(len);
            work.push((own_w, own_m, own_v, own_g, shape));
        }
        shared_out(work, |(w, m, v, g, shape)| match shape {
            None => radam(w, m, v, g, (lr * factor) as f32, divide),
            Some(shape) => {
                let change = muon(m, g, shape);
                w.iter_mut().zip(change).for_each(|(w, change)| *w -= lr as f32 * change);
            }
        });
    }
}

fn radam(w: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32], lr: f32, divide: bool) {
    let [keep1, add1, keep2, add2] = [BETA1, 1.0 - BETA1, BETA2, 1.0 - BETA2].map(|b| b as f32);
    for (((w, m), v), g) in w.iter_mut().zip(m).zip(v).zip(g) {
        *m = *m * keep1 + g * add1;
        *v = *v * keep2 + g * g * add2;
        *w -= lr * if divide { *m / (v.sqrt() + EPS) } else { *m };
    }
}

/// The lengths of parts of `total` weights that are updated apart, with the shape of those that are matrices.
fn parts(matrices: &Matrices, total: usize) -> Vec<(usize, Option<[usize; 2]>)> {
    const LONGEST: usize = 1 << 16;
    let mut parts = Vec::new();
    let mut done = 0;
    for (place, shape) in
        matrices.iter().map(|(place, shape)| (place.clone(), Some(*shape))).chain([(total..total, None)])
    {
        let between = (done..place.start).step_by(LONGEST);
        parts.extend(between.map(|start| (LONGEST.min(place.start - start), None)));
        parts.push((place.len(), shape));
        done = place.end;
    }
    parts
}

/// Where the weights that are updated as matrices lie, ascending, with their rows and columns.
pub(super) type Matrices = Vec<(Range<usize>, [usize; 2])>;

/// The weights that [`muon`] updates, as (out, in·k·k): those of all linear layers and convolutions but the first and the
/// last, and without the class embedding.
pub(super) fn hidden_matrices(parameters: &[Parameter]) -> Matrices {
    let is_edge = |name: &str| ["conv_in.", "conv_out.", "class_embedding."].iter().any(|edge| name.starts_with(edge));
    let mut start = 0;
    let mut matrices = Matrices::new();
    for p in parameters {
        if p.shape.len() > 1 && !is_edge(&p.name) {
            matrices.push((start..start + p.count(), [p.shape[0], p.shape[1..].iter().product()]));
        }
        start += p.count();
    }
    matrices
}

/// Momentum of Muon.
const MOMENTUM: f32 = 0.95;

/// Muon's step (Jordan et al. 2024): Nesterov momentum of the gradient with its singular values brought near 1, times
/// 0.2·√max(rows, columns). The factor gives the step the root mean square of an Adam step (Liu et al. 2025), so that
/// both take the same learning rate.
fn muon(momentum: &mut [f32], gradient: &[f32], shape: [usize; 2]) -> Vec<f32> {
    momentum.iter_mut().zip(gradient).for_each(|(m, g)| *m = *m * MOMENTUM + g * (1.0 - MOMENTUM));
    let ahead = momentum.iter().zip(gradient).map(|(m, g)| m * MOMENTUM + g * (1.0 - MOMENTUM)).collect();
    let [rows, columns] = shape;
    let scale = 0.2 * (rows.max(columns) as f32).sqrt();
    let mut step = orthogonalised(ahead, shape);
    step.iter_mut().for_each(|v| *v *= scale);
    step
}

/// U·S·Vᵀ of g = U·Σ·Vᵀ with S near the identity (0.7 to 1.2): five Newton–Schulz steps of the odd quintic whose
/// coefficients Jordan et al. chose for a steep slope at 0.
fn orthogonalised(g: Vec<f32>, [rows, columns]: [usize; 2]) -> Vec<f32> {
    const QUINTIC: [f32; 3] = [3.4445, -4.775, 2.0315];
    let norm = g.iter().map(|v| f64::from(v * v)).sum::<f64>().sqrt() as f32 + 1e-30;
    let mut x = g;
    x.iter_mut().for_each(|v| *v /= norm);
    // The products are squares of the smaller side: x·xᵀ, or xᵀ·x of a tall matrix.
    let is_tall = rows > columns;
    let side = rows.min(columns);
    let (mut square, mut b) = (vec![0.0; side * side], vec![0.0; side * side]);
    for _ in 0..5 {
        let of_x = Matrix::new(&x, rows, columns);
        let (left, right) = if is_tall { (of_x.transposed(), of_x) } else { (of_x, of_x.transposed()) };
        product(MatrixMut::new(&mut square, side, side), Store::Replace, left, right, 1.0);
        b.copy_from_slice(&square);
        b.iter_mut().for_each(|v| *v *= QUINTIC[1]);
        let of_square = Matrix::new(&square, side, side);
        product(MatrixMut::new(&mut b, side, side), Store::Add, of_square, of_square, QUINTIC[2]);
        let mut next: Vec<f32> = x.iter().map(|v| v * QUINTIC[0]).collect();
        let of_b = Matrix::new(&b, side, side);
        let (left, right) = if is_tall { (of_x, of_b) } else { (of_b, of_x) };
        product(MatrixMut::new(&mut next, rows, columns), Store::Add, left, right, 1.0);
        x = next;
    }
    x
}

/// average ← decay·average + (1 − decay)·weights.
pub(super) fn moving_average(average: &mut [f32], weights: &[f32], decay: f64) {
    let (keep, add) = (decay as f32, (1.0 - decay) as f32);
    average.iter_mut().zip(weights).for_each(|(a, w)| *a = *a * keep + w * add);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consistency::rng::Generator;

    #[test]
    fn radam_steps_are_those_of_pytorch() {
        // torch.optim.RAdam([w], lr=0.1) on w², from w = 1; rectified from step 6 on.
        let expected = [(1, 0.8), (2, 0.6210526), (5, 0.2016479), (6, 0.199518), (7, 0.1969662), (10, 0.1875347)];
        let mut w = [1.0f32];
        let mut radam = RAdam::new(1);
        for step in 1..=10 {
            let gradient = [2.0 * w[0]];
            radam.update(&mut w, &gradient, 0.1, &Matrices::new());
            if let Some((_, e)) = expected.iter().find(|(s, _)| *s == step) {
                assert!((w[0] - e).abs() < 1e-6, "step {step}: found {}, expected {e}", w[0]);
            }
        }
    }

    fn normal(count: usize) -> Vec<f32> {
        let mut values = vec![0.0; count];
        Generator::new(1).randn(&mut values);
        values
    }

    #[test]
    fn singular_values_are_brought_near_1() {
        for (rows, columns) in [(4, 9), (9, 4), (16, 16)] {
            let x = orthogonalised(normal(rows * columns).iter().map(|v| v * 1e-3).collect(), [rows, columns]);
            let of_x = Matrix::new(&x, rows, columns);
            let (left, right) = if rows < columns { (of_x, of_x.transposed()) } else { (of_x.transposed(), of_x) };
            let side = rows.min(columns);
            // The trace of x·xᵀ is the sum of the squared singular values; that of its square bounds each of them.
            let mut square = vec![0.0; side * side];
            product(MatrixMut::new(&mut square, side, side), Store::Replace, left, right, 1.0);
            let mean = (0..side).map(|i| square[i * side + i]).sum::<f32>() / side as f32;
            let mean_square = square.iter().map(|v| v * v).sum::<f32>() / side as f32;
            // Singular values of 0.7 to 1.2 have squares of 0.49 to 1.44; those of the random matrix vary by 0.44 to 1.
            let variance = mean_square - mean * mean;
            assert!((0.49..1.44).contains(&mean), "{rows}×{columns}: mean σ² = {mean}");
            assert!(variance < 0.475f32.powi(2), "{rows}×{columns}: σ² varies by {variance}");
        }
    }

    #[test]
    fn muon_has_the_step_size_of_adam_and_descends() {
        // ½·‖W − T‖², whose gradient is W − T.
        let goal = normal(144);
        let mut w = vec![0.0; 144];
        let mut optimizer = RAdam::new(144);
        let matrices = Matrices::from([(0..144, [8, 18])]);
        let root_mean_square =
            |a: &[f32], b: &[f32]| (a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / 144.0).sqrt();
        let before = root_mean_square(&w, &goal);
        for step in 0..40 {
            let old = w.clone();
            let gradient: Vec<f32> = w.iter().zip(&goal).map(|(w, t)| w - t).collect();
            optimizer.update(&mut w, &gradient, 0.1, &matrices);
            // 0.2·lr for singular values of 1.
            let moved = root_mean_square(&w, &old);
            assert!((0.012..0.026).contains(&moved), "step {step} moves by {moved}");
        }
        let after = root_mean_square(&w, &goal);
        assert!(after < 0.5 * before, "from {before} to {after}");
    }

    #[test]
    fn first_and_last_layers_and_embeddings_are_no_hidden_matrices() {
        let p = |name: &str, shape: &[usize]| Parameter { name: name.into(), shape: shape.to_vec() };
        let parameters = [
            p("conv_in.weight", &[8, 1, 3, 3]),
            p("class_embedding.weight", &[10, 8]),
            p("a.conv1.weight", &[8, 4, 3, 3]),
            p("a.conv1.bias", &[8]),
        ];
        assert_eq!(hidden_matrices(&parameters), [(152..440, [8, 36])]);
    }

    #[test]
    fn weights_beside_a_matrix_are_updated_by_radam() {
        let matrices = Matrices::from([(2..8, [2, 3])]);
        let gradient = normal(10);
        let (mut both, mut plain) = (vec![0.0; 10], vec![0.0; 10]);
        RAdam::new(10).update(&mut both, &gradient, 0.1, &matrices);
        RAdam::new(10).update(&mut plain, &gradient, 0.1, &Matrices::new());
        assert_eq!((&both[..2], &both[8..]), (&plain[..2], &plain[8..]));
        assert!(both[2..8].iter().zip(&plain[2..8]).all(|(a, b)| a != b));
    }

    #[test]
    fn the_moving_average_decays_geometrically() {
        let mut average = [1.0];
        for n in 1..=4 {
            moving_average(&mut average, &[3.0], 0.9);
            let expected = 3.0 - 2.0 * 0.9f32.powi(n);
            assert!((average[0] - expected).abs() < 1e-6, "after {n}: found {}, expected {expected}", average[0]);
        }
    }
}
