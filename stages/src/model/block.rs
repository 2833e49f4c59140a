//! One pre-norm block: attention and MLP, each behind a norm and around a residual.

use burn::tensor::{Tensor, activation};

use super::attention::Attention;
use super::batch::Batch;
use super::dropout::Dropout;
use super::factors::Factors;
use super::rope::Positions;

/// Which rows of the residual stream go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Every token of every row of the batch: K·b·s of them.
    All,
    /// Only the token that a classifier reads, one for each row of the batch: K·b of them.
    Read,
}

/// What one block needs to know of the pass that it is part of.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) batch: &'a Batch,
    pub(super) positions: &'a Positions,
    pub(super) factors: Option<&'a Factors>,
    pub(super) dropout: Option<&'a Dropout>,
    pub(super) layer: usize,
    /// The rows that stand in the tensor a linear module is given.
    pub(super) rows: Rows,
}

/// A frozen linear module, with whatever the adapter adds to it.
pub(super) struct Linear {
    slot: usize,
    weight: Tensor<2>,
}

impl Linear {
    /// `weight` is `[out, in]`, as checkpoints store it; `slot` is its place among the family's targets.
    pub(super) fn new(slot: usize, weight: Tensor<2>) -> Self {
        // A view: a product packs its operands anyway.
        Self { slot, weight: weight.transpose() }
    }

    /// `x` is `[rows, in]`, the result `[rows, out]`.
    pub(super) fn forward(&self, x: &Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let frozen = x.clone().matmul(self.weight.clone());
        let Some(factors) = pass.factors.filter(|f| f.adapts(pass.layer, self.slot)) else {
            return frozen;
        };
        let mask = pass
            .dropout
            .map(|dropout| dropout.mask(pass.batch, pass.rows, pass.layer, self.slot, x.dims()[1]));
        frozen + factors.apply(x, pass.layer, self.slot, mask)
    }
}

/// Root-mean-square norm with gains, over rows `[rows, hidden]`.
pub(super) struct Norm {
    gains: Tensor<2>,
    eps: f64,
}

impl Norm {
    pub(super) fn new(gains: Tensor<1>, eps: f64) -> Self {
        Self { gains: gains.unsqueeze(), eps }
    }

    pub(super) fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        // A product with the reciprocal has a far cheaper backward pass than a quotient.
        let scale = (x.clone().square().mean_dim(1) + self.eps).sqrt().recip();
        x.clone() * scale * self.gains.clone()
    }
}

/// A gated MLP: `down(silu(gate(x)) * up(x))`.
pub(super) struct Mlp {
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl Mlp {
    fn forward(&self, x: &Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let gate = activation::silu(self.gate.forward(x, pass));
        self.down.forward(&(gate * self.up.forward(x, pass)), pass)
    }
}

/// A decoder block.
pub(super) struct Block {
    pub(super) attention_norm: Norm,
    pub(super) attention: Attention,
    pub(super) mlp_norm: Norm,
    pub(super) mlp: Mlp,
}

impl Block {
    /// `x` is `[K·b·s, hidden]`; the result is that, or `[K·b, hidden]` for [`Rows::Read`].
    pub(super) fn forward(&self, x: Tensor<2>, pass: &Pass<'_>, keep: Rows) -> Tensor<2> {
        let mut pass = Pass { rows: Rows::All, ..*pass };
        let mut x = x;
        let mut attended = self.attention.heads(&self.attention_norm.forward(&x), &pass);
        if keep == Rows::Read {
            // Only attention mixes tokens: what the head does not read can be left out from here on.
            attended = attended.select(0, pass.batch.read.clone());
            x = x.select(0, pass.batch.read.clone());
            pass.rows = Rows::Read;
        }
        let x = x + self.attention.output.forward(&attended, &pass);
        let normed = self.mlp_norm.forward(&x);
        x + self.mlp.forward(&normed, &pass)
    }
}
