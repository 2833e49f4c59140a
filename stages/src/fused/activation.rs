//! What stands between the two halves of an MLP, and its gradient.

use super::math::{LANES, exp};
use super::simd::vectorized;

/// How the rows of an MLP's first module become those of its second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    /// `silu(gate) · up` of rows `[gate, up]`, twice as wide as the result.
    Gated,
    /// GELU in the tanh form, with the constant as BLOOM rounds it.
    Gelu,
}

impl Activation {
    /// The width of the rows that give rows of `inner` values.
    pub(super) fn input(self, inner: usize) -> usize {
        match self {
            Self::Gated => 2 * inner,
            Self::Gelu => inner,
        }
    }

    /// `y`, rows of `inner` values, from the rows of `x`.
    pub(super) fn forward(self, x: &[f32], inner: usize, y: &mut [f32]) {
        match self {
            Self::Gated => gated(x, inner, y),
            Self::Gelu => gelu(x, y),
        }
    }

    /// Puts in the place of `x` what `dy` is by it.
    pub(super) fn backward(self, x: &mut [f32], inner: usize, dy: &[f32]) {
        match self {
            Self::Gated => gated_backward(x, inner, dy),
            Self::Gelu => gelu_backward(x, dy),
        }
    }
}

/// `√(2/π)`, as BLOOM rounds it.
const ROOT: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// The hyperbolic tangent.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be vectorized with the loop around it")]
fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// The gradients of `silu(gate) · up` by both.
#[inline(always)]
#[expect(clippy::inline_always, reason = "it must be vectorized with the loop around it")]
fn gated_slopes(gate: f32, up: f32, dy: f32) -> (f32, f32) {
    let share = 1.0 / (1.0 + exp(-gate));
    (dy * up * share * (1.0 + gate * (1.0 - share)), dy * gate * share)
}

vectorized! {
    fn gated(x: &[f32], inner: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(2 * inner).zip(y.chunks_exact_mut(inner)) {
            let (gate, up) = x.split_at(inner);
            for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                *y = gate / (1.0 + exp(-gate)) * up;
            }
        }
    }

    fn gated_backward(x: &mut [f32], inner: usize, dy: &[f32]) {
        for (x, dy) in x.chunks_exact_mut(2 * inner).zip(dy.chunks_exact(inner)) {
            let (gate, up) = x.split_at_mut(inner);
            // Copies of a vector's length: in place, the two halves of a row would have to be told apart at run time,
            // and the loop is not vectorized.
            let (gates, last_gates) = gate.as_chunks_mut::<LANES>();
            let (ups, last_ups) = up.as_chunks_mut::<LANES>();
            let (slopes, last_slopes) = dy.as_chunks::<LANES>();
            for ((gate, up), dy) in gates.iter_mut().zip(ups).zip(slopes) {
                let (g, u, d) = (*gate, *up, *dy);
                for i in 0..LANES {
                    (gate[i], up[i]) = gated_slopes(g[i], u[i], d[i]);
                }
            }
            for ((gate, up), dy) in last_gates.iter_mut().zip(last_ups).zip(last_slopes) {
                (*gate, *up) = gated_slopes(*gate, *up, *dy);
            }
        }
    }

    fn gelu(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = 0.5 * x * (1.0 + tanh(ROOT * x * (1.0 + CUBIC * x * x)));
        }
    }

    fn gelu_backward(x: &mut [f32], dy: &[f32]) {
        for (x, dy) in x.iter_mut().zip(dy) {
            let v = *x;
            let t = tanh(ROOT * v * (1.0 + CUBIC * v * v));
            let slope = ROOT * (1.0 + 3.0 * CUBIC * v * v);
            *x = dy * 0.5 * (1.0 + t + v * (1.0 - t * t) * slope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::slopes::check_gradient;
    use super::*;

    #[test]
    fn gradients_of_both_activations_are_their_slopes() {
        for (activation, rows, inner) in [(Activation::Gated, 3, 19), (Activation::Gelu, 2, 37)] {
            let x: Vec<f32> =
                (0..rows * activation.input(inner)).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
            let weights: Vec<f32> = (0..rows * inner).map(|i| (i as f32 * 1.3).cos()).collect();
            let run = |x: &[f32]| {
                let mut y = vec![0.0; rows * inner];
                activation.forward(x, inner, &mut y);
                y
            };
            let mut dx = x.clone();
            activation.backward(&mut dx, inner, &weights);
            check_gradient(&x, &dx, &weights, run);
        }
    }

    #[test]
    fn both_are_what_they_are_called() {
        let mut y = [0.0; 3];
        Activation::Gated.forward(&[-1.0, 0.0, 2.0, 3.0, 3.0, 3.0], 3, &mut y);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        for (y, x) in y.iter().zip([-1.0, 0.0, 2.0]) {
            assert!((f64::from(*y) - 3.0 * silu(x)).abs() < 1e-6);
        }
        Activation::Gelu.forward(&[-1.0, 0.5, 30.0], 3, &mut y);
        let gelu =
            |x: f64| 0.5 * x * (1.0 + (0.797_884_560_8 * (x + 0.044_715 * x.powi(3))).tanh());
        for (y, x) in y.iter().zip([-1.0, 0.5, 30.0]) {
            assert!((f64::from(*y) - gelu(x)).abs() < 1e-6);
        }
    }
}
