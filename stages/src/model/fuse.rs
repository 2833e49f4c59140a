//! A base whose blocks are run by the CPU's own kernels.

use std::borrow::Cow;
use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::ThreadPool;

use super::attention::Projections;
use super::block::Block;
use super::config::Position;
use super::linear::{Affine, Linear, on_host};
use super::rope::narrow;
use super::{Base, Batch, Blocks, alibi};
use crate::fused::{Decoder, Group, Parts};
use crate::memory::Path;
use crate::precision::Precision;

impl Base {
    /// The same base with blocks that are run by the CPU's own kernels (`crate::fused`), on `threads`; its weights
    /// are moved, block by block.
    ///
    /// # Panics
    /// Where the base does not lie on the CPU.
    #[must_use]
    pub fn fused(self, threads: Arc<ThreadPool>) -> Self {
        if self.precision == Precision::F16 {
            return self;
        }
        let Blocks::Stock(blocks) = self.blocks else { return self };
        let slopes = match self.config.position {
            Position::Alibi => alibi::slopes(self.config.heads).into_iter().map(narrow).collect(),
            Position::Rotary(_) => Vec::new(),
        };
        let embedding_norm = self.embedding_norm.as_ref().map(super::norm::Norm::values);
        let decoder = Decoder::new(
            &self.config,
            self.precision,
            slopes,
            embedding_norm,
            self.final_norm.values(),
            blocks.into_iter().map(|block| parts(&block)),
            threads,
        );
        Self { blocks: Blocks::Fused(Box::new(decoder)), ..self }
    }

    /// Which code computes its passes.
    pub fn path(&self) -> Path {
        match self.blocks {
            Blocks::Fused(_) => Path::Fused,
            Blocks::Stock(_) if self.device == Device::flex() => Path::Stock,
            Blocks::Stock(_) => Path::Gpu,
        }
    }

    /// What a pass of the CPU's kernels begins with, row after row without padding: the embeddings of all tokens, or
    /// the hidden states that the batch has with it.
    pub(super) fn entering<'a>(&self, batch: &'a Batch) -> Cow<'a, [f32]> {
        if let Some(start) = batch.start() {
            return Cow::Borrowed(&start.states);
        }
        let ids: Vec<i32> = batch.tokens_of_rows().iter().map(|id| id.cast_signed()).collect();
        let count = ids.len();
        let ids = Tensor::from_data(TensorData::new(ids, [count]), &self.device);
        Cow::Owned(on_host(self.embeddings.clone().select(0, ids)))
    }
}

/// What the CPU's kernels take of a block.
pub(super) fn parts(block: &Block) -> Parts {
    let projections = match &block.attention.projections {
        Projections::Apart { query, key, value } => below(&[query, key, value]),
        Projections::Fused(module) => {
            let (slot, heads, parts) = module.parts();
            interleaved(slot, heads, parts)
        }
    };
    let up = match &block.mlp.gate {
        Some(gate) => below(&[gate, &block.mlp.up]),
        None => below(&[&block.mlp.up]),
    };
    Parts {
        attention_norm: block.attention_norm.values(),
        projections,
        output: below(&[&block.attention.output]),
        mlp_norm: block.mlp_norm.values(),
        up,
        down: below(&[&block.mlp.down]),
    }
}

/// Modules with the same input, their weights below each other.
fn below(modules: &[&Linear]) -> Group {
    let mut group = Group { weight: Vec::new(), bias: None, modules: Vec::new() };
    let mut end = 0;
    for module in modules {
        let (slot, affine) = module.parts();
        let start = end;
        end += affine.outputs();
        let (weight, bias) = affine.values();
        // A module alone is moved, not copied.
        if group.weight.is_empty() {
            group.weight = weight;
        } else {
            group.weight.extend(weight);
        }
        group.modules.push((slot, start..end));
        if let Some(bias) = bias {
            group.bias.get_or_insert_default().extend(bias);
        }
    }
    group
}

/// Queries, keys and values in the order of the checkpoint, `[head][q, k, v][head_dim]`, which is that of an
/// adapter's B.
fn interleaved(slot: usize, heads: usize, parts: &[Affine; 3]) -> Group {
    let values = parts.each_ref().map(Affine::values);
    let outputs = parts[0].outputs();
    let mix = |of: [&[f32]; 3]| -> Vec<f32> {
        let length = of[0].len() / heads;
        (0..heads)
            .flat_map(|head| of.map(|part| &part[head * length..(head + 1) * length]))
            .flatten()
            .copied()
            .collect()
    };
    let bias = values.iter().map(|(_, bias)| bias.as_deref()).collect::<Option<Vec<_>>>();
    Group {
        weight: mix(values.each_ref().map(|(weight, _)| weight.as_slice())),
        bias: bias.map(|of| mix([of[0], of[1], of[2]])),
        modules: vec![(slot, 0..3 * outputs)],
    }
}
