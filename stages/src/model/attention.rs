//! Causal self-attention: rotary or biased by distance, with grouped key and value heads.

use burn::tensor::{Device, Tensor, activation};

use super::block::Pass;
use super::config::Config;
use super::linear::{Fused, Linear};
use super::rope;
use crate::precision::Precision;

/// The modules that make queries, keys and values.
#[derive(Clone)]
pub(super) enum Projections {
    /// Three modules.
    Apart {
        /// `[heads·head_dim, hidden]`.
        query: Linear,
        /// `[kv_heads·head_dim, hidden]`.
        key: Linear,
        /// `[kv_heads·head_dim, hidden]`.
        value: Linear,
    },
    /// One module.
    Fused(Fused),
}

/// The attention part of a block.
#[derive(Clone)]
pub(super) struct Attention {
    pub(super) projections: Projections,
    /// Applied by the block, which may first drop rows that nobody reads.
    pub(super) output: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    turn: Tensor<2>,
}

impl Attention {
    pub(super) fn new(
        config: &Config,
        projections: Projections,
        output: Linear,
        device: &Device,
    ) -> Self {
        Self {
            projections,
            output,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            turn: rope::quarter_turn(config.head_dim, device),
        }
    }

    /// Adds `change`, `[out, in]`, to the weight of the module at `slot`, if it is one of attention's.
    pub(super) fn add(&mut self, slot: usize, change: &Tensor<2>) {
        match &mut self.projections {
            Projections::Apart { query, key, value } => {
                for module in [query, key, value] {
                    module.add(slot, change);
                }
            }
            Projections::Fused(module) => module.add(slot, change),
        }
        self.output.add(slot, change);
    }

    /// Rounds the weights of all modules to `precision`.
    pub(super) fn round(&mut self, precision: Precision) {
        match &mut self.projections {
            Projections::Apart { query, key, value } => {
                for module in [query, key, value] {
                    module.round(precision);
                }
            }
            Projections::Fused(module) => module.round(precision),
        }
        self.output.round(precision);
    }

    /// What the heads read, before the output projection: `x` is `[K·b·s, hidden]`, the result
    /// `[K·b·s, heads·head_dim]`.
    pub(super) fn heads(&self, x: &Tensor<2>, pass: &Pass<'_>) -> Tensor<2> {
        let (batch, positions) = (pass.batch, pass.positions);
        let (n, s) = (batch.clients() * batch.rows(), batch.width());
        let (kv, group, width) = (self.kv_heads, self.heads / self.kv_heads, self.head_dim);

        let [query, key, value] = match &self.projections {
            Projections::Apart { query, key, value } => {
                [query, key, value].map(|module| module.forward(x, pass))
            }
            Projections::Fused(module) => module.forward(x, pass),
        };
        let (query, key) = match &positions.turns {
            Some(turns) => (
                self.rotate(query, [n, s, self.heads], &turns.query_cos, &turns.query_sin),
                self.rotate(key, [n, s, kv], &turns.cos, &turns.sin),
            ),
            None => (
                (query * (width as f64).sqrt().recip()).reshape([n, s, self.heads, width]),
                key.reshape([n, s, kv, width]),
            ),
        };

        // A group of query heads shares one key head by broadcasting: nothing is repeated in memory.
        let query = query.reshape([n, s, kv, group, width]).permute([0, 2, 3, 1, 4]); // n kv group s width
        let key = key.reshape([n, s, kv, 1, width]).permute([0, 2, 3, 4, 1]); // n kv 1 width s
        let value = value.reshape([n, s, kv, 1, width]).permute([0, 2, 3, 1, 4]); // n kv 1 s width

        let scores = query.matmul(key) + positions.bias.clone(); // n kv group s s
        let read = weigh(scores, value); // n kv group s width
        read.permute([0, 3, 1, 2, 4]).reshape([n * s, self.heads * width])
    }

    /// Rotates the halves of each head by its position; `x` is `[n·s, heads·head_dim]`, the result
    /// `[n, s, heads, head_dim]`.
    fn rotate(
        &self,
        x: Tensor<2>,
        [n, s, heads]: [usize; 3],
        cos: &Tensor<4>,
        sin: &Tensor<4>,
    ) -> Tensor<4> {
        let width = self.head_dim;
        let rows: Tensor<2> = x.reshape([n * s * heads, width]);
        let turned = rows.clone().matmul(self.turn.clone()).reshape([n, s, heads, width]);
        rows.reshape([n, s, heads, width]) * cos.clone() + turned * sin.clone()
    }
}

/// The mean of `value` under the softmax of `scores`.
fn weigh(scores: Tensor<5>, value: Tensor<5>) -> Tensor<5> {
    if !scores.is_autodiff() {
        return activation::softmax(scores, 4).matmul(value);
    }
    // Composed by hand: the sums divide the narrow result instead of the wide weights, and as a factor, since a
    // quotient has a costly backward pass.
    let largest = scores.clone().detach().max_dim(4);
    let weights = (scores - largest).exp();
    let scale = weights.clone().sum_dim(4).recip();
    weights.matmul(value) * scale
}
