//! One pre-norm block: attention and MLP, each behind a norm and around a residual.

use burn::tensor::Tensor;

use super::attention::Attention;
use super::batch::Batch;
use super::dropout::Dropout;
use super::factors::Factors;
use super::mlp::Mlp;
use super::norm::Norm;
use super::positions::Positions;
use crate::precision::Precision;

/// Which rows of the residual stream go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Every token of every row of the batch: K·b·s of them.
    All,
    /// Only the tokens that a head reads: K·q of them.
    Read,
}

/// What one block needs to know of the pass that it is part of.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) batch: &'a Batch,
    pub(super) positions: &'a Positions,
    pub(super) factors: Option<&'a Factors>,
    pub(super) dropout: Option<&'a Dropout<'a>>,
    pub(super) layer: usize,
    /// The rows that stand in the tensor a linear module is given.
    pub(super) rows: Rows,
}

impl Pass<'_> {
    /// The dropout mask for the input, `width` wide, of the adapted module at `slot`.
    pub(super) fn mask(&self, slot: usize, width: usize) -> Option<Tensor<3>> {
        let dropout = self.dropout?;
        Some(dropout.mask(self.batch, self.rows, self.layer, slot, width))
    }
}

/// A decoder block.
#[derive(Clone)]
pub(super) struct Block {
    pub(super) attention_norm: Norm,
    pub(super) attention: Attention,
    pub(super) mlp_norm: Norm,
    pub(super) mlp: Mlp,
    /// Whether the residuals take what comes out of the norms, not what goes into them.
    pub(super) residual_after_norm: bool,
}

impl Block {
    /// Adds `change`, `[out, in]`, to the weight of the module at `slot`.
    pub(super) fn add(&mut self, slot: usize, change: &Tensor<2>) {
        self.attention.add(slot, change);
        self.mlp.add(slot, change);
    }

    /// Rounds the weights of all linear modules to `precision`.
    pub(super) fn round(&mut self, precision: Precision) {
        self.attention.round(precision);
        self.mlp.round(precision);
    }

    /// `x` is `[K·b·s, hidden]`; the result is that, or `[K·q, hidden]` for [`Rows::Read`].
    pub(super) fn forward(&self, x: Tensor<2>, pass: &Pass<'_>, keep: Rows) -> Tensor<2> {
        let mut pass = Pass { rows: Rows::All, ..*pass };
        let normed = self.attention_norm.forward(&x);
        let mut attended = self.attention.heads(&normed, &pass);
        let mut residual = if self.residual_after_norm { normed } else { x };
        if keep == Rows::Read {
            // Only attention mixes tokens: what no head reads can be left out from here on.
            attended = attended.select(0, pass.batch.read.clone());
            residual = residual.select(0, pass.batch.read.clone());
            pass.rows = Rows::Read;
        }
        let x = residual + self.attention.output.forward(&attended, &pass);
        let normed = self.mlp_norm.forward(&x);
        let added = self.mlp.forward(&normed, &pass);
        added + if self.residual_after_norm { normed } else { x }
    }
}
