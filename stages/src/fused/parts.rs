//! What a decoder is made from: the weights of a base, block by block.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use rayon::ThreadPool;

use super::activation::Activation;
use super::attention::Heads;
use super::block::Block;
use super::linear::Linear;
use super::norm::Norm;
use super::weight::Weight;
use super::{Decoder, buffers::Buffers};
use crate::model::{Config, Position};

/// Modules that read the same rows, with their weights below each other.
pub(crate) struct Group {
    /// `[out, in]`, row by row.
    pub(crate) weight: Vec<f32>,
    /// `[out]`.
    pub(crate) bias: Option<Vec<f32>>,
    /// The slot of each module among the family's targets, and its rows of the weight.
    pub(crate) modules: Vec<(usize, Range<usize>)>,
}

impl Group {
    fn linear(self, inputs: usize) -> Linear {
        let shape = [self.weight.len() / inputs, inputs];
        Linear::new(Weight::f32(self.weight, shape), self.bias, self.modules)
    }
}

/// The gains of a norm, and its shift where it has one.
pub(crate) type NormParts = (Vec<f32>, Option<Vec<f32>>);

/// The parts of one block.
pub(crate) struct Parts {
    pub(crate) attention_norm: NormParts,
    pub(crate) projections: Group,
    pub(crate) output: Group,
    pub(crate) mlp_norm: NormParts,
    pub(crate) up: Group,
    pub(crate) down: Group,
}

impl Decoder {
    /// A decoder of a base of `config`, whose blocks `parts` gives one after the other. `slopes` are those of the
    /// heads of a base with biases by distance.
    pub(crate) fn new(
        config: &Config,
        slopes: Vec<f32>,
        embedding_norm: Option<NormParts>,
        final_norm: NormParts,
        parts: impl Iterator<Item = Parts>,
        threads: Arc<ThreadPool>,
    ) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
        let eps = config.norm_eps as f32;
        let norm = |(gains, shift): NormParts| Norm { gains, shift, eps };
        let frequencies = match &config.position {
            Position::Rotary(rope) => Some(rope.frequencies(config.head_dim)),
            Position::Alibi => None,
        };
        let interleaved = frequencies.is_none();
        let read = config.heads * config.head_dim;
        let block = |parts: Parts| {
            let gated = parts.up.modules.len() > 1;
            Block {
                attention_norm: norm(parts.attention_norm),
                projections: parts.projections.linear(config.hidden),
                output: parts.output.linear(read),
                mlp_norm: norm(parts.mlp_norm),
                up: parts.up.linear(config.hidden),
                activation: if gated { Activation::Gated } else { Activation::Gelu },
                down: parts.down.linear(config.inner),
                residual_after_norm: config.residual_after_norm,
            }
        };
        Self {
            embedding_norm: embedding_norm.map(norm),
            blocks: parts.map(block).collect(),
            final_norm: norm(final_norm),
            heads: Heads {
                count: config.heads,
                kv: config.kv_heads,
                width: config.head_dim,
                interleaved,
                slopes,
            },
            hidden: config.hidden,
            inner: config.inner,
            frequencies,
            turns: Arc::new(Mutex::default()),
            buffers: Arc::new(Buffers::default()),
            threads,
        }
    }
}
