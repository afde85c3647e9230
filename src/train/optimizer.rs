//! RAdam, Muon and the exponential moving average, of weights by name.

use std::collections::HashMap;

use burn::tensor::Tensor;

use crate::burn::Weights;
use crate::model::unet::Parameter;

/// Decay of RAdam's first moment.
const BETA1: f64 = 0.9;
/// Decay of RAdam's second moment.
const BETA2: f64 = 0.999;
/// Added to the root of RAdam's second moment.
const EPS: f64 = 1e-8;

/// RAdam (Liu et al. 2020, algorithm 2) as PyTorch's `torch.optim.RAdam` computes it, with β₁ = 0.9, β₂ = 0.999, ε = 1e-8
/// and no weight decay.
pub struct RAdam {
    /// Number of steps taken.
    pub step: u64,
    /// First moments m.
    pub first: Weights,
    /// Second moments v.
    pub second: Weights,
}

impl RAdam {
    /// No step taken, moments zero.
    pub(super) fn new(weights: &Weights) -> Self {
        let zeros = || weights.iter().map(|(n, w)| (n.clone(), w.clone().without_autodiff().zeros_like())).collect();
        Self { step: 0, first: zeros(), second: zeros() }
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

    /// One update w ← w − lr·(rectified m/√v) of every weight that has a gradient.
    ///
    /// Those in `matrices` are updated by [`muon`] instead. The new weights are tracked leaves again.
    pub(super) fn update(&mut self, weights: &mut Weights, gradients: &Weights, lr: f64, matrices: &Matrices) {
        self.step += 1;
        let (factor, divide) = Self::rectified(self.step);
        for (name, weight) in weights.iter_mut() {
            let Some(g) = gradients.get(name).cloned() else { continue };
            let (m, v) = (self.first.get_mut(name), self.second.get_mut(name));
            let (m, v) = (m.expect("a moment per weight"), v.expect("a moment per weight"));
            if let Some(&shape) = matrices.get(name) {
                *weight = track(weight.clone().without_autodiff() - muon(m, g, shape) * lr);
                continue;
            }
            *m = m.clone() * BETA1 + g.clone() * (1.0 - BETA1);
            *v = v.clone() * BETA2 + g.clone() * g * (1.0 - BETA2);
            let change = if divide { m.clone() / (v.clone().sqrt() + EPS) } else { m.clone() };
            *weight = track(weight.clone().without_autodiff() - change * (lr * factor));
        }
    }
}

/// Rows and columns of the weights that are updated as matrices.
pub(super) type Matrices = HashMap<String, [usize; 2]>;

/// The weights that [`muon`] updates, as (out, in·k·k): those of all linear layers and convolutions but the first and the
/// last, and without the class embedding.
pub(super) fn hidden_matrices(parameters: &[Parameter]) -> Matrices {
    let is_edge = |name: &str| ["conv_in.", "conv_out.", "class_embedding."].iter().any(|edge| name.starts_with(edge));
    let hidden = parameters.iter().filter(|p| p.shape.len() > 1 && !is_edge(&p.name));
    hidden.map(|p| (p.name.clone(), [p.shape[0], p.shape[1..].iter().product()])).collect()
}

/// Momentum of Muon.
const MOMENTUM: f64 = 0.95;

/// Muon's step (Jordan et al. 2024): Nesterov momentum of the gradient with its singular values brought near 1, times
/// 0.2·√max(rows, columns). The factor gives the step the root mean square of an Adam step (Liu et al. 2025), so that
/// both take the same learning rate.
fn muon(momentum: &mut Tensor<1>, gradient: Tensor<1>, shape: [usize; 2]) -> Tensor<1> {
    *momentum = momentum.clone() * MOMENTUM + gradient.clone() * (1.0 - MOMENTUM);
    let ahead = momentum.clone() * MOMENTUM + gradient * (1.0 - MOMENTUM);
    let [rows, columns] = shape;
    let scale = 0.2 * (rows.max(columns) as f64).sqrt();
    orthogonalised(ahead.reshape([rows, columns])).reshape([rows * columns]) * scale
}

/// U·S·Vᵀ of g = U·Σ·Vᵀ with S near the identity (0.7 to 1.2): five Newton–Schulz steps of the odd quintic whose
/// coefficients Jordan et al. chose for a steep slope at 0.
fn orthogonalised(g: Tensor<2>) -> Tensor<2> {
    const QUINTIC: [f64; 3] = [3.4445, -4.775, 2.0315];
    let [rows, columns] = g.dims();
    // The products are squares of the smaller side.
    let is_tall = rows > columns;
    let g = if is_tall { g.transpose() } else { g };
    let norm = g.clone().powi_scalar(2).sum().sqrt() + 1e-30;
    let mut x = g / norm.reshape([1, 1]);
    for _ in 0..5 {
        let square = x.clone().matmul(x.clone().transpose());
        let b = square.clone() * QUINTIC[1] + square.clone().matmul(square) * QUINTIC[2];
        x = x.clone() * QUINTIC[0] + b.matmul(x);
    }
    if is_tall { x.transpose() } else { x }
}

/// ∂loss/∂w by burn's autodiff, for each tracked weight that the loss depends on.
pub fn gradients(loss: &Tensor<1>, weights: &Weights) -> Weights {
    let mut gradients = loss.backward();
    weights.iter().filter_map(|(n, w)| Some((n.clone(), w.grad_remove(&mut gradients)?))).collect()
}

/// The weight as a leaf of the autodiff graph that requires a gradient.
pub fn track(weight: Tensor<1>) -> Tensor<1> {
    weight.without_autodiff().autodiff().require_grad()
}

/// All of `weights` as [`track`]ed leaves.
pub(super) fn track_all(weights: Weights) -> Weights {
    weights.into_iter().map(|(name, w)| (name, track(w))).collect()
}

/// All of `weights` outside of the autodiff graph.
pub(super) fn detach_all(weights: &Weights) -> Weights {
    weights.iter().map(|(name, w)| (name.clone(), w.clone().without_autodiff())).collect()
}

/// average ← decay·average + (1 − decay)·weights.
pub(super) fn moving_average(average: &mut Weights, weights: &Weights, decay: f64) {
    for (name, a) in average.iter_mut() {
        *a = a.clone() * decay + weights[name].clone().without_autodiff() * (1.0 - decay);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn scalar(w: &Weights) -> f32 {
        w["w"].clone().without_autodiff().into_scalar::<f32>()
    }

    #[test]
    fn radam_steps_are_those_of_pytorch() {
        // torch.optim.RAdam([w], lr=0.1) on w², from w = 1; rectified from step 6 on.
        let expected = [(1, 0.8), (2, 0.6210526), (5, 0.2016479), (6, 0.199518), (7, 0.1969662), (10, 0.1875347)];
        let mut w = Weights::from([("w".into(), track(Tensor::from_floats([1.0], &Device::flex())))]);
        let mut radam = RAdam::new(&w);
        for step in 1..=10 {
            let g = gradients(&w["w"].clone().powi_scalar(2).sum(), &w);
            radam.update(&mut w, &g, 0.1, &Matrices::new());
            if let Some((_, e)) = expected.iter().find(|(s, _)| *s == step) {
                assert!((scalar(&w) - e).abs() < 1e-6, "step {step}: found {}, expected {e}", scalar(&w));
            }
        }
    }

    /// A matrix of independent normal numbers.
    fn normal(rows: usize, columns: usize) -> Tensor<2> {
        let mut values = vec![0.0; rows * columns];
        crate::consistency::rng::Generator::new(1).randn(&mut values);
        Tensor::from_data(burn::tensor::TensorData::new(values, [rows, columns]), &Device::flex())
    }

    #[test]
    fn singular_values_are_brought_near_1() {
        for (rows, columns) in [(4, 9), (9, 4), (16, 16)] {
            let x = orthogonalised(normal(rows, columns) * 1e-3);
            // The trace of x·xᵀ is the sum of the squared singular values; that of its square bounds each of them.
            let square = if rows < columns { x.clone().matmul(x.transpose()) } else { x.clone().transpose().matmul(x) };
            let size = rows.min(columns) as f32;
            let trace = |m: Tensor<2>| {
                (0..rows.min(columns)).map(|i| m.clone().slice([i..i + 1, i..i + 1]).into_scalar::<f32>()).sum::<f32>()
            };
            let (mean, mean_square) = (trace(square.clone()) / size, trace(square.clone().matmul(square)) / size);
            // Singular values of 0.7 to 1.2 have squares of 0.49 to 1.44; those of the random matrix vary by 0.44 to 1.
            let variance = mean_square - mean * mean;
            assert!((0.49..1.44).contains(&mean), "{rows}×{columns}: mean σ² = {mean}");
            assert!(variance < 0.475f32.powi(2), "{rows}×{columns}: σ² varies by {variance}");
        }
    }

    #[test]
    fn muon_has_the_step_size_of_adam_and_descends() {
        // ½·‖W − T‖², whose gradient is W − T.
        let goal = normal(8, 18).reshape([144]);
        let w = track(goal.clone().zeros_like());
        let mut w = Weights::from([("w".into(), w)]);
        let mut optimizer = RAdam::new(&w);
        let matrices = Matrices::from([("w".into(), [8, 18])]);
        let distance = |w: &Weights| -> f32 {
            (w["w"].clone().without_autodiff() - goal.clone()).powi_scalar(2).mean().sqrt().into_scalar()
        };
        let before = distance(&w);
        for step in 0..40 {
            let old = w["w"].clone().without_autodiff();
            let g = Weights::from([("w".into(), old.clone() - goal.clone())]);
            optimizer.update(&mut w, &g, 0.1, &matrices);
            let moved: f32 = (w["w"].clone().without_autodiff() - old).powi_scalar(2).mean().sqrt().into_scalar();
            // 0.2·lr for singular values of 1.
            assert!((0.012..0.026).contains(&moved), "step {step} moves by {moved}");
        }
        assert!(distance(&w) < 0.5 * before, "from {before} to {}", distance(&w));
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
        assert_eq!(hidden_matrices(&parameters), Matrices::from([("a.conv1.weight".into(), [8, 36])]));
    }

    #[test]
    fn the_moving_average_decays_geometrically() {
        let device = Device::flex();
        let mut a = Weights::from([("w".into(), Tensor::from_floats([1.0], &device))]);
        let w = Weights::from([("w".into(), Tensor::from_floats([3.0], &device))]);
        for n in 1..=4 {
            moving_average(&mut a, &w, 0.9);
            let expected = 3.0 - 2.0 * 0.9f32.powi(n);
            assert!((scalar(&a) - expected).abs() < 1e-6, "after {n}: found {}, expected {expected}", scalar(&a));
        }
    }
}
