//! The part of a block that looks at each token alone.

use burn::tensor::{Tensor, activation};

use super::block::Pass;
use super::linear::Linear;

/// The MLP of a block, `[rows, hidden]` to `[rows, hidden]`.
pub(super) enum Mlp {
    /// `down(silu(gate(x)) · up(x))`.
    Gated {
        /// `[inner, hidden]`.
        gate: Linear,
        /// `[inner, hidden]`.
        up: Linear,
        /// `[hidden, inner]`.
        down: Linear,
    },
    /// `down(gelu(up(x)))`, with BLOOM's tanh form of GELU.
    Plain {
        /// `[inner, hidden]`.
        up: Linear,
        /// `[hidden, inner]`.
        down: Linear,
    },
}

impl Mlp {
    pub(super) fn forward(&self, x: &Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        match self {
            Self::Gated { gate, up, down } => {
                let gate = activation::silu(gate.forward(x, pass));
                down.forward(&(gate * up.forward(x, pass)), pass)
            }
            Self::Plain { up, down } => down.forward(&gelu(up.forward(x, pass)), pass),
        }
    }
}

/// `x/2 · (1 + tanh(√(2/π) · x · (1 + 0.044715·x²)))`, with the constant as BLOOM rounds it.
fn gelu(x: Tensor<2>) -> Tensor<2> {
    let inner = (x.clone().square() * 0.044_715 + 1.0) * x.clone() * 0.797_884_56;
    (inner.tanh() + 1.0) * x * 0.5
}
