//! Frozen linear modules that share an input, with whatever an adapter adds to them.

use std::ops::Range;
use std::sync::Arc;

use super::adapter::{Adapter, Places};
use super::buffers::{Buffer, Buffers};
use super::chunk::Chunk;
use super::lora::Kept;
use super::matmul::{Matrix, MatrixMut, Write};
use super::weight::Weight;
use crate::model::{Dropout, Rows};

/// One or several frozen modules that read the same rows; their outputs stand side by side.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    weight: Arc<Weight>,
    /// `[out]`.
    bias: Option<Arc<[f32]>>,
    /// Each module's slot among the family's targets, and its columns of the output.
    modules: Vec<(usize, Range<usize>)>,
}

/// What one block needs to know of the pass that it is part of.
#[derive(Clone, Copy)]
pub(super) struct Site<'a> {
    pub(super) layer: usize,
    pub(super) chunk: &'a Chunk,
    pub(super) adapter: Option<&'a Adapter>,
    pub(super) masks: Option<&'a Masks<'a>>,
    /// The tokens that go on behind attention, where not all do.
    pub(super) reads: Option<&'a [usize]>,
    pub(super) buffers: &'a Arc<Buffers>,
}

/// Where dropout masks come from.
pub(super) struct Masks<'a> {
    pub(super) dropout: &'a Dropout<'a>,
    pub(super) batch: &'a crate::model::Batch,
}

impl Site<'_> {
    /// The dropout mask, as long as `length`, for the input of the module at `slot`; `None` for no dropout.
    fn mask(&self, slot: usize, rows: Rows, width: usize, length: usize) -> Option<Buffer> {
        let masks = self.masks?;
        let (batch, client) = (masks.batch, self.chunk.client);
        let mut draws = masks.dropout.ragged(batch, client, rows, self.layer, slot, width)?;
        let mut mask = self.buffers.take(length);
        match rows {
            Rows::All => {
                let mut start = 0;
                for (&row, ends) in self.chunk.rows.iter().zip(self.chunk.ends.windows(2)) {
                    let length = (ends[1] - ends[0]) * width;
                    draws.of_row(row, width, &mut mask[start..start + length]);
                    start += length;
                }
            }
            Rows::Read => {
                for (read, values) in self.chunk.reads.iter().zip(mask.chunks_exact_mut(width)) {
                    draws.of_read(read.place, values);
                }
            }
        }
        Some(mask)
    }
}

/// What the adapter's factors of each module keep for their gradients.
pub(super) type Inners = Vec<Option<Kept>>;

impl Linear {
    /// Modules with `weight`, all their rows below each other, `[out, in]`.
    pub(super) fn new(
        weight: Weight,
        bias: Option<Vec<f32>>,
        modules: Vec<(usize, Range<usize>)>,
    ) -> Self {
        Self { weight: Arc::new(weight), bias: bias.map(Into::into), modules }
    }

    /// Whether an adapter adds to one of the modules.
    pub(super) fn is_adapted(&self, site: &Site<'_>) -> bool {
        let adapts = |slot| site.adapter.and_then(|adapter| adapter.module(site.layer, slot));
        self.modules.iter().any(|(slot, _)| adapts(*slot).is_some())
    }

    /// Adds `change`, `[out, in]` of the module at `slot`, to the weight, if the module is one of these. Other bases
    /// may share the weight, and it stays as it is for them.
    pub(super) fn add(&mut self, slot: usize, change: &[f32]) {
        if let Some((_, columns)) = self.modules.iter().find(|(own, _)| *own == slot) {
            Arc::make_mut(&mut self.weight).add(columns.start, change);
        }
    }

    /// `y (+)= x·Wᵀ + bias`, and what the adapter adds; `x` is `[rows, in]`, `y` `[rows, out]`.
    pub(super) fn forward(
        &self,
        x: &[f32],
        y: &mut [f32],
        write: Write,
        site: &Site<'_>,
        rows: Rows,
    ) -> Inners {
        let [outputs, inputs] = self.weight.shape();
        let mut write = write;
        if let Some(bias) = &self.bias {
            for row in y.chunks_exact_mut(outputs) {
                match write {
                    Write::Over => row.copy_from_slice(bias),
                    Write::Add => row.iter_mut().zip(bias.iter()).for_each(|(y, b)| *y += b),
                }
            }
            write = Write::Add;
        }
        self.weight.forward(x, y, write);
        let count = x.len() / inputs;
        let inner = |(slot, columns): &(usize, Range<usize>)| {
            let pair = site.adapter?.module(site.layer, *slot)?.pair();
            let mask = site.mask(*slot, rows, inputs, x.len());
            let masked = mask.map(|mask| dropped(x, mask));
            let y = &mut y[columns.start..];
            let y = MatrixMut::strided(y, [count, columns.len()], outputs);
            Some(pair.forward(masked.as_deref().unwrap_or(x), y, site.buffers))
        };
        self.modules.iter().map(inner).collect()
    }

    /// Writes the gradients of the adapter to their places in `flat`, and that by the input to `dx`, if it is there.
    /// `x` may be empty where no module is adapted.
    pub(super) fn backward(
        &self,
        (x, inners): (&[f32], &Inners),
        dy: &[f32],
        dx: Option<(&mut [f32], Write)>,
        site: &Site<'_>,
        rows: Rows,
        (places, flat): (&Places, &mut [f32]),
    ) {
        let [outputs, inputs] = self.weight.shape();
        let count = dy.len() / outputs;
        let mut dx = dx.map(|(dx, write)| {
            self.weight.backward(dy, dx, write);
            dx
        });
        for ((slot, columns), kept) in self.modules.iter().zip(inners) {
            let module = site.adapter.and_then(|adapter| adapter.module(site.layer, *slot));
            let (Some(module), Some(kept)) = (module, kept) else { continue };
            let pair = module.pair();
            let gradients = places.of(site.layer, *slot, &pair, flat);
            let dy = Matrix::strided(&dy[columns.start..], [count, columns.len()], outputs);
            let Some(mask) = site.mask(*slot, rows, inputs, x.len()) else {
                pair.backward(x, kept, dy, gradients, dx.as_deref_mut(), site.buffers);
                continue;
            };
            let masked = dropped(x, site.buffers.copy(&mask));
            let mut by_masked = dx.as_ref().map(|dx| site.buffers.zeros(dx.len()));
            let out = by_masked.as_deref_mut();
            pair.backward(&masked, kept, dy, gradients, out, site.buffers);
            if let (Some(dx), Some(by_masked)) = (dx.as_deref_mut(), by_masked) {
                for ((dx, by_masked), mask) in dx.iter_mut().zip(&*by_masked).zip(&*mask) {
                    *dx += by_masked * mask;
                }
            }
        }
    }
}

/// `x` times the mask, in the mask's place.
fn dropped(x: &[f32], mut mask: Buffer) -> Buffer {
    mask.iter_mut().zip(x).for_each(|(mask, x)| *mask *= x);
    mask
}
