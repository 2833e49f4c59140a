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
use crate::precision::Precision;

/// Modules that read the same rows, with their weights below each other.
pub(crate) struct Group {
    /// `[out, in]`, row by row.
    pub(crate) weight: Vec<f32>,
    /// `[out]`.
    pub(crate) bias: Option<Vec<f32>>,
    /// The slot of each module among the family's targets, and its rows of the weight.
    pub(crate) modules: Vec<(usize, Range<usize>)>,
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
    /// A decoder of a base of `config`, whose blocks `parts` gives one after the other, their weights rounded to
    /// `precision`. `slopes` are those of the heads of a base with biases by distance.
    pub(crate) fn new(
        config: &Config,
        precision: Precision,
        slopes: Vec<f32>,
        embedding_norm: Option<NormParts>,
        final_norm: NormParts,
        parts: impl Iterator<Item = Parts>,
        threads: Arc<ThreadPool>,
    ) -> Self {
        let frequencies = match &config.position {
            Position::Rotary(rope) => Some(rope.frequencies(config.head_dim)),
            Position::Alibi => None,
        };
        let interleaved = frequencies.is_none();
        let eps = config.norm_eps;
        Self {
            embedding_norm: embedding_norm.map(|parts| norm(parts, eps)),
            blocks: parts.map(|parts| block(config, precision, parts)).collect(),
            final_norm: norm(final_norm, eps),
            heads: Heads {
                count: config.heads,
                kv: config.kv_heads,
                width: config.head_dim,
                interleaved,
                slopes,
            },
            config: config.clone(),
            precision,
            frequencies,
            turns: Arc::new(Mutex::default()),
            buffers: Arc::new(Buffers::default()),
            threads,
        }
    }

    /// Puts a block in the place of block `layer`, for this decoder alone.
    pub(crate) fn replace(&mut self, layer: usize, parts: Parts) {
        self.blocks[layer] = block(&self.config, self.precision, parts);
    }
}

fn norm((gains, shift): NormParts, eps: f64) -> Norm {
    #[expect(clippy::cast_possible_truncation, reason = "tensors are f32")]
    let eps = eps as f32;
    Norm { gains, shift, eps }
}

fn block(config: &Config, precision: Precision, parts: Parts) -> Block {
    let linear = |group: Group, inputs: usize| {
        let shape = [group.weight.len() / inputs, inputs];
        Linear::new(Weight::new(group.weight, shape, precision), group.bias, group.modules)
    };
    let gated = parts.up.modules.len() > 1;
    Block {
        attention_norm: norm(parts.attention_norm, config.norm_eps),
        projections: linear(parts.projections, config.hidden),
        output: linear(parts.output, config.heads * config.head_dim),
        mlp_norm: norm(parts.mlp_norm, config.norm_eps),
        up: linear(parts.up, config.hidden),
        activation: if gated { Activation::Gated } else { Activation::Gelu },
        down: linear(parts.down, config.inner),
        residual_after_norm: config.residual_after_norm,
    }
}
