//! The decoder on the CPU, by kernels of its own: forward, and the gradients of the adapters.
//!
//! It computes what `model` computes with Burn's operations, which stays as the path of every other device and as the
//! oracle of this one. What makes it faster: rows are ragged, so no padding is ever computed; buffers are used
//! again; frozen weights cost no gradient; below the first trained module there is no backward pass at all;
//! attention weights are made again instead of kept.
//!
//! A batch is cut into chunks of whole rows, which go through all blocks independently of each other, on as many
//! threads as there are. Sums over chunks are in the order of the chunks: the result is the same to the bit for any
//! number of threads.

mod activation;
mod adapter;
mod attention;
mod bf16;
mod block;
mod buffers;
mod chunk;
mod linear;
mod lora;
mod math;
mod matmul;
mod norm;
#[cfg(test)]
mod parity_tests;
mod parts;
mod rotary;
mod simd;
#[cfg(test)]
mod slopes;
mod tape;
mod weight;

use std::sync::{Arc, Mutex, PoisonError};

use rayon::ThreadPool;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

pub(crate) use adapter::{Adapter, Module};
pub use buffers::OutOfMemory;
pub(crate) use parts::{Group, Parts};
pub(crate) use tape::Tape;

use attention::Heads;
use block::{Block, Shape};
use buffers::{Buffer, Buffers};
use chunk::Chunk;
use linear::{Masks, Site};
use norm::Norm;
use rotary::Turns;
use tape::Kept;

use crate::model::{Batch, Config, Dropout, Rows};
use crate::precision::Precision;

/// What a forward pass keeps for the gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Nothing: there will be no backward pass.
    Nothing,
    /// What went into each block; the blocks are run again, one at a time, in the backward pass.
    Inputs,
    /// All that the backward pass reads.
    All,
}

/// All blocks of a base and the norms around them. Cheap to clone: weights are shared.
#[derive(Clone, Debug)]
pub(crate) struct Decoder {
    embedding_norm: Option<Norm>,
    blocks: Vec<Block>,
    final_norm: Norm,
    heads: Heads,
    config: Config,
    precision: Precision,
    /// The angular frequencies of rotary positions.
    frequencies: Option<Vec<f32>>,
    /// Rotations of the positions met so far.
    turns: Arc<Mutex<Arc<Turns>>>,
    buffers: Arc<Buffers>,
    threads: Arc<ThreadPool>,
}

/// One pass over a batch.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// What is read.
    pub(crate) batch: &'a Batch,
    /// The adapter of each client; none for the base alone.
    pub(crate) adapters: &'a [Adapter],
    /// The masks for what goes into adapters.
    pub(crate) dropout: Option<&'a Dropout<'a>>,
}

impl Pass<'_> {
    fn masks(&self) -> Option<Masks<'_>> {
        self.dropout.map(|dropout| Masks { dropout, batch: self.batch })
    }
}

impl Decoder {
    /// Adds `change`, `[out, in]`, to the weight of the module at `slot` of block `layer`, for this decoder alone.
    pub(crate) fn add(&mut self, layer: usize, slot: usize, change: &[f32]) {
        self.blocks[layer].add(slot, change);
    }

    /// The hidden states `[K·q, hidden]` after the last norm, of the tokens that a head reads; zeros for reads that
    /// only fill up. `entering` is what the pass begins with, row after row without padding: embeddings, or what the
    /// batch starts with. The tape begins at block `lowest`, the first with something to train.
    pub(crate) fn forward(
        &self,
        pass: Pass<'_>,
        entering: &[f32],
        keep: Keep,
        lowest: usize,
    ) -> (Vec<f32>, Tape) {
        let chunks = chunk::cut(pass.batch, Rows::Read);
        let starts = pass.batch.starts();
        let turns = self.turns(&chunks);
        let found: Vec<(Buffer, Kept)> = self.threads.install(|| {
            let run = |chunk: &Chunk| {
                let x = self.enter(pass.batch, chunk, &starts, entering);
                self.chunk_forward(chunk, pass, x, turns.as_deref(), keep, lowest)
            };
            chunks.par_iter().map(run).collect()
        });
        let mut hidden = vec![0.0; pass.batch.clients() * pass.batch.reads() * self.config.hidden];
        let mut kept = Vec::with_capacity(chunks.len());
        for (chunk, (read, of_chunk)) in chunks.iter().zip(found) {
            for (read, row) in chunk.reads.iter().zip(read.chunks_exact(self.config.hidden)) {
                hidden[read.place * self.config.hidden..][..self.config.hidden]
                    .copy_from_slice(row);
            }
            kept.push(of_chunk);
        }
        (hidden, Tape { chunks, kept, turns, lowest, keep })
    }

    /// The rotations of at least all positions of `chunks`; `None` where the base does not rotate.
    fn turns(&self, chunks: &[Chunk]) -> Option<Arc<Turns>> {
        let frequencies = self.frequencies.as_deref()?;
        let longest = chunks.iter().flat_map(|chunk| &chunk.positions).max();
        let count = longest.map_or(0, |at| at + 1);
        let mut known = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if known.count(2 * frequencies.len()) < count {
            *known = Arc::new(Turns::new(frequencies, count.next_multiple_of(64)));
        }
        Some(Arc::clone(&known))
    }

    fn shape<'a>(&'a self, turns: Option<&'a Turns>) -> Shape<'a> {
        Shape { heads: &self.heads, turns, hidden: self.config.hidden, inner: self.config.inner }
    }

    /// What goes into block `end`, `[Σ lengths, hidden]`, where no block before it is adapted; the arguments are those
    /// of [`Decoder::forward`].
    pub(crate) fn below(&self, batch: &Batch, entering: &[f32], end: usize) -> Vec<f32> {
        let chunks = chunk::cut(batch, Rows::All);
        let starts = batch.starts();
        let turns = self.turns(&chunks);
        let pass = Pass { batch, adapters: &[], dropout: None };
        let found: Vec<Buffer> = self.threads.install(|| {
            let run = |chunk: &Chunk| {
                let mut x = self.enter(batch, chunk, &starts, entering);
                for (layer, block) in self.blocks.iter().enumerate().take(end).skip(first(batch)) {
                    let site = Site { reads: None, ..self.site(layer, chunk, pass, None, &[]) };
                    (x, _) = block.forward(x, self.shape(turns.as_deref()), &site, false);
                }
                x
            };
            chunks.par_iter().map(run).collect()
        });
        found.iter().flat_map(|states| states.iter()).copied().collect()
    }

    /// What goes into the first block of a pass.
    fn enter(&self, batch: &Batch, chunk: &Chunk, starts: &[usize], entering: &[f32]) -> Buffer {
        let mut x = self.buffers.take(chunk.tokens() * self.config.hidden);
        for (&row, ends) in chunk.rows.iter().zip(chunk.ends.windows(2)) {
            let length = (ends[1] - ends[0]) * self.config.hidden;
            let to = &mut x[ends[0] * self.config.hidden..][..length];
            to.copy_from_slice(&entering[starts[row] * self.config.hidden..][..length]);
        }
        let Some(norm) = self.embedding_norm.as_ref().filter(|_| batch.start().is_none()) else {
            return x;
        };
        let mut normed = self.buffers.take(x.len());
        norm.forward(&x, &mut normed, &mut self.buffers.take(Norm::kept(chunk.tokens())));
        normed
    }

    fn chunk_forward(
        &self,
        chunk: &Chunk,
        pass: Pass<'_>,
        mut x: Buffer,
        turns: Option<&Turns>,
        keep: Keep,
        lowest: usize,
    ) -> (Buffer, Kept) {
        let reads = chunk.read_tokens();
        let (masks, mut kept) = (pass.masks(), Kept::default());
        for (layer, block) in self.blocks.iter().enumerate().skip(first(pass.batch)) {
            let site = self.site(layer, chunk, pass, masks.as_ref(), &reads);
            let keeps = layer >= lowest;
            if keeps && keep == Keep::Inputs {
                kept.inputs.push(self.buffers.copy(&x));
            }
            let saved;
            (x, saved) = block.forward(x, self.shape(turns), &site, keeps && keep == Keep::All);
            kept.saved.extend(saved);
        }
        let mut hidden = self.buffers.take(x.len());
        let mut of_norm = self.buffers.take(Norm::kept(reads.len()));
        self.final_norm.forward(&x, &mut hidden, &mut of_norm);
        kept.last = (keep != Keep::Nothing).then_some((x, of_norm));
        (hidden, kept)
    }

    fn site<'a>(
        &'a self,
        layer: usize,
        chunk: &'a Chunk,
        pass: Pass<'a>,
        masks: Option<&'a Masks<'a>>,
        reads: &'a [usize],
    ) -> Site<'a> {
        let adapter = pass.adapters.get(chunk.client);
        let reads = (layer + 1 == self.blocks.len()).then_some(reads);
        Site { layer, chunk, adapter, masks, reads, buffers: &self.buffers }
    }
}

/// The first block that a pass over the batch runs.
fn first(batch: &Batch) -> usize {
    batch.start().map_or(0, |start| start.layer)
}
