//! RAdam and the exponential moving average, over parameters by name.

use burn::tensor::Tensor;

use crate::reference::Weights;

/// RAdam (Liu et al. 2020, algorithm 2) as PyTorch's `torch.optim.RAdam` computes it, without weight decay.
pub struct RAdam {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Number of steps taken.
    pub step: u64,
    /// First moments m.
    pub first: Weights,
    /// Second moments v.
    pub second: Weights,
}

impl RAdam {
    /// β₁ = 0.9, β₂ = 0.999, ε = 1e-8; moments zero.
    pub fn new(weights: &Weights) -> Self {
        let zeros = || weights.iter().map(|(n, w)| (n.clone(), w.clone().without_autodiff().zeros_like())).collect();
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, step: 0, first: zeros(), second: zeros() }
    }

    /// The factor on m, and whether m is divided by √v, at step t ≥ 1.
    ///
    /// ρ_t = ρ∞ − 2tβ₂ᵗ/(1 − β₂ᵗ); where ρ_t > 5 the variance of 1/√v is tractable and rectified, before that the
    /// step is plain momentum.
    fn rectified(&self, t: u64) -> (f64, bool) {
        let power = t.min(i32::MAX as u64) as i32;
        let (bias1, bias2) = (1.0 - self.beta1.powi(power), 1.0 - self.beta2.powi(power));
        let rho_inf = 2.0 / (1.0 - self.beta2) - 1.0;
        let rho = rho_inf - 2.0 * t as f64 * self.beta2.powi(power) / bias2;
        if rho <= 5.0 {
            return (1.0 / bias1, false);
        }
        let rect = ((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho)).sqrt();
        (rect * bias2.sqrt() / bias1, true)
    }

    /// One update w ← w − lr·(rectified m/√v) of every weight that has a gradient.
    ///
    /// The new weights are tracked leaves again.
    pub fn update(&mut self, weights: &mut Weights, gradients: &Weights, lr: f64) {
        self.step += 1;
        let (factor, divide) = self.rectified(self.step);
        for (name, weight) in weights.iter_mut() {
            let Some(g) = gradients.get(name).cloned() else { continue };
            let (m, v) = (self.first.get_mut(name), self.second.get_mut(name));
            let (m, v) = (m.expect("a moment per weight"), v.expect("a moment per weight"));
            *m = m.clone() * self.beta1 + g.clone() * (1.0 - self.beta1);
            *v = v.clone() * self.beta2 + g.clone() * g * (1.0 - self.beta2);
            let change = if divide { m.clone() / (v.clone().sqrt() + self.eps) } else { m.clone() };
            *weight = track(weight.clone().without_autodiff() - change * (lr * factor));
        }
    }
}

/// ∂loss/∂w by burn's autodiff, for each tracked weight that the loss depends on.
pub fn gradients(loss: &Tensor<1>, weights: &Weights) -> Weights {
    let mut gradients = loss.backward();
    weights.iter().filter_map(|(n, w)| Some((n.clone(), w.grad_remove(&mut gradients)?))).collect()
}

/// A weight as a leaf whose gradient is kept.
pub fn track(weight: Tensor<1>) -> Tensor<1> {
    weight.without_autodiff().autodiff().require_grad()
}

/// average ← decay·average + (1 − decay)·weights.
pub fn moving_average(average: &mut Weights, weights: &Weights, decay: f64) {
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
    fn steps_are_those_of_pytorch() {
        // torch.optim.RAdam([w], lr=0.1) on w², from w = 1; rectified from step 6 on.
        let expected = [(1, 0.8), (2, 0.6210526), (5, 0.2016479), (6, 0.199518), (7, 0.1969662), (10, 0.1875347)];
        let mut w = Weights::from([("w".into(), track(Tensor::from_floats([1.0], &Device::flex())))]);
        let mut radam = RAdam::new(&w);
        for step in 1..=10 {
            let g = gradients(&w["w"].clone().powi_scalar(2).sum(), &w);
            radam.update(&mut w, &g, 0.1);
            if let Some((_, e)) = expected.iter().find(|(s, _)| *s == step) {
                assert!((scalar(&w) - e).abs() < 1e-6, "step {step}: found {}, expected {e}", scalar(&w));
            }
        }
    }

    #[test]
    fn the_average_decays_geometrically() {
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
