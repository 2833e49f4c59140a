//! The way back: from the gradient by hidden states to those of the adapters.

use std::sync::Arc;

use rayon::iter::{IntoParallelIterator, ParallelIterator};

use super::adapter::Places;
use super::block::Saved;
use super::buffers::Buffer;
use super::chunk::Chunk;
use super::rotary::Turns;
use super::{Decoder, Keep, Pass};
use crate::model::Layout;

/// What a forward pass kept.
pub(crate) struct Tape {
    pub(super) chunks: Vec<Chunk>,
    pub(super) kept: Vec<Kept>,
    pub(super) turns: Option<Arc<Turns>>,
    /// The first block of which anything was kept.
    pub(super) lowest: usize,
    pub(super) keep: Keep,
}

/// What is kept of one chunk.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Of each block from the lowest on, for [`Keep::All`].
    pub(super) saved: Vec<Saved>,
    /// What went into each block from the lowest on, for [`Keep::Inputs`].
    pub(super) inputs: Vec<Buffer>,
    /// What went into the last norm, and what that kept.
    pub(super) last: Option<(Buffer, Buffer)>,
}

impl Tape {
    /// The gradients `[K, P]` of what is `trained` of each client's adapter (0 for a classifier), where `d_hidden`,
    /// `[K·q, hidden]`, is the one by the hidden states. `pass` is the one that was taped.
    pub(crate) fn backward(
        self,
        decoder: &Decoder,
        pass: Pass<'_>,
        trained: &Layout,
        d_hidden: &[f32],
    ) -> Vec<f32> {
        let places = Places::new(trained);
        let mut sums = vec![0.0; pass.batch.clients() * places.length];
        if places.lowest().is_none() {
            return sums;
        }
        let Self { chunks, kept, turns, lowest, keep } = self;
        let found: Vec<Buffer> = decoder.threads.install(|| {
            let each: Vec<(&Chunk, Kept)> = chunks.iter().zip(kept).collect();
            let run = |(chunk, kept): (&Chunk, Kept)| {
                let back = Back { decoder, pass, chunk, turns: turns.as_deref(), lowest, keep };
                back.run(kept, d_hidden, &places)
            };
            each.into_par_iter().map(run).collect()
        });
        for (chunk, found) in chunks.iter().zip(found) {
            let own = &mut sums[chunk.client * places.length..][..places.length];
            own.iter_mut().zip(&*found).for_each(|(sum, value)| *sum += value);
        }
        sums
    }
}

/// The backward pass of one chunk.
struct Back<'a> {
    decoder: &'a Decoder,
    pass: Pass<'a>,
    chunk: &'a Chunk,
    turns: Option<&'a Turns>,
    lowest: usize,
    keep: Keep,
}

impl Back<'_> {
    fn run(&self, mut kept: Kept, d_hidden: &[f32], places: &Places) -> Buffer {
        let (decoder, buffers) = (self.decoder, &self.decoder.buffers);
        let mut flat = buffers.zeros(places.length);
        let Some((x, of_norm)) = kept.last.take() else { return flat };
        let mut by_read = buffers.take(x.len());
        let width = decoder.config.hidden;
        for (read, row) in self.chunk.reads.iter().zip(by_read.chunks_exact_mut(width)) {
            row.copy_from_slice(&d_hidden[read.place * width..][..width]);
        }
        let mut dy = buffers.zeros(x.len());
        decoder.final_norm.backward(&x, &of_norm, &by_read, &mut dy);
        drop((x, of_norm, by_read));

        let masks = self.pass.masks();
        let reads = self.chunk.read_tokens();
        for (layer, block) in decoder.blocks.iter().enumerate().skip(self.lowest).rev() {
            let site = decoder.site(layer, self.chunk, self.pass, masks.as_ref(), &reads);
            let shape = decoder.shape(self.turns);
            let saved = match self.keep {
                Keep::All => kept.saved.pop(),
                _ => kept.inputs.pop().and_then(|x| block.forward(x, shape, &site, true).1),
            };
            let saved = saved.expect("each block from the lowest on was taped");
            let wanted = layer > self.lowest;
            let target = (places, &mut *flat);
            match block.backward(saved, dy, shape, &site, wanted, target) {
                Some(dx) => dy = dx,
                None => break,
            }
        }
        flat
    }
}
