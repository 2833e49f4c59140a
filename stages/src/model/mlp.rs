//! The part of a block that looks at each token alone.

use burn::tensor::{Tensor, activation};

use super::block::Pass;
use super::linear::Linear;
use crate::precision::Precision;

/// The MLP of a block, `[rows, hidden]` to `[rows, hidden]`: with a gate `down(silu(gate(x)) · up(x))`, without one
/// `down(gelu(up(x)))`.
#[derive(Clone)]
pub(super) struct Mlp {
    /// `[inner, hidden]`.
    pub(super) gate: Option<Linear>,
    /// `[inner, hidden]`.
    pub(super) up: Linear,
    /// `[hidden, inner]`.
    pub(super) down: Linear,
}

impl Mlp {
    /// Adds `change`, `[out, in]`, to the weight of the module at `slot`, if it is one of the MLP's.
    pub(super) fn add(&mut self, slot: usize, change: &Tensor<2>) {
        for module in self.gate.iter_mut().chain([&mut self.up, &mut self.down]) {
            module.add(slot, change);
        }
    }

    /// Rounds the weights of all modules to `precision`.
    pub(super) fn round(&mut self, precision: Precision) {
        for module in self.gate.iter_mut().chain([&mut self.up, &mut self.down]) {
            module.round(precision);
        }
    }

    pub(super) fn forward(&self, x: &Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let up = self.up.forward(x, pass);
        let inner = match &self.gate {
            Some(gate) => activation::silu(gate.forward(x, pass)) * up,
            None => gelu(up),
        };
        self.down.forward(&inner, pass)
    }
}

/// `x/2 · (1 + tanh(√(2/π) · x · (1 + 0.044715·x²)))`, with the constant as BLOOM rounds it.
fn gelu(x: Tensor<2>) -> Tensor<2> {
    let inner = (x.clone().square() * 0.044_715 + 1.0) * x.clone() * 0.797_884_56;
    (inner.tanh() + 1.0) * x * 0.5
}
