//! A pre-norm decoder block, forward and backward, over the ragged rows of one chunk.

use super::activation::Activation;
use super::adapter::Places;
use super::attention::{self, Heads};
use super::buffers::{Buffer, Buffers};
use super::linear::{Inners, Linear, Site};
use super::matmul::Write;
use super::norm::Norm;
use super::rotary::{self, Turns};
use crate::model::Rows;
use std::sync::Arc;

/// A block. Queries, keys and values are made by one product, and so are gate and up.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) attention_norm: Norm,
    pub(super) projections: Linear,
    pub(super) output: Linear,
    pub(super) mlp_norm: Norm,
    pub(super) up: Linear,
    pub(super) activation: Activation,
    pub(super) down: Linear,
    /// Whether the residuals take what comes out of the norms, not what goes into them.
    pub(super) residual_after_norm: bool,
}

/// What all blocks of a pass share.
#[derive(Clone, Copy)]
pub(super) struct Shape<'a> {
    pub(super) heads: &'a Heads,
    pub(super) turns: Option<&'a Turns>,
    pub(super) hidden: usize,
    pub(super) inner: usize,
}

/// What a block keeps of its forward pass. Inputs of modules that no adapter adds to are not kept: they stay empty.
#[derive(Debug)]
pub(super) struct Saved {
    /// What went in, `[tokens, hidden]`.
    x: Buffer,
    attention_norm: Buffer,
    /// What the attention norm gave, `[tokens, hidden]`.
    normed: Option<Buffer>,
    of_projections: Inners,
    /// Queries, keys and values after their rotation, `[tokens, row]`.
    rows: Buffer,
    softmax: Buffer,
    /// What the heads read, of the tokens that go on.
    read: Option<Buffer>,
    of_output: Inners,
    /// The residual stream between attention and MLP.
    middle: Buffer,
    mlp_norm: Buffer,
    normed_middle: Option<Buffer>,
    of_up: Inners,
    /// What goes into the activation.
    wide: Buffer,
    /// What comes out of it.
    active: Option<Buffer>,
    of_down: Inners,
}

impl Block {
    /// Adds `change`, `[out, in]`, to the weight of the module at `slot`.
    pub(super) fn add(&mut self, slot: usize, change: &[f32]) {
        for linear in [&mut self.projections, &mut self.output, &mut self.up, &mut self.down] {
            linear.add(slot, change);
        }
    }

    /// From `x`, `[tokens, hidden]`, to the same, or to `[reads, hidden]` where only the tokens of [`Site::reads`] go on: only
    /// attention mixes tokens, so that what no head reads can be left out behind it.
    pub(super) fn forward(
        &self,
        x: Buffer,
        shape: Shape<'_>,
        site: &Site<'_>,
        keep: bool,
    ) -> (Buffer, Option<Saved>) {
        let (buffers, heads, hidden) = (site.buffers, shape.heads, shape.hidden);
        let tokens = x.len() / hidden;
        let reads = site.reads;
        let goes_on = if reads.is_some() { Rows::Read } else { Rows::All };

        let mut normed = buffers.take(tokens * hidden);
        let mut attention_norm = buffers.take(Norm::kept(tokens));
        self.attention_norm.forward(&x, &mut normed, &mut attention_norm);
        let mut rows = buffers.take(tokens * heads.row());
        let of_projections =
            self.projections.forward(&normed, &mut rows, Write::Over, site, Rows::All);
        if let Some(turns) = shape.turns {
            turns.forward(&mut rows, rotated(heads), &site.chunk.positions);
        }
        let mut read = buffers.take(tokens * heads.read());
        let mut softmax = buffers.take(tokens * heads.count);
        attention::forward(heads, &rows, &site.chunk.ends, &mut read, &mut softmax, buffers);

        let residual = if self.residual_after_norm { &normed } else { &x };
        let (mut middle, read) = match reads {
            None => (buffers.copy(residual), read),
            Some(reads) => {
                let gathered = gather(&read, reads, heads.read(), buffers);
                (gather(residual, reads, hidden, buffers), gathered)
            }
        };
        let of_output = self.output.forward(&read, &mut middle, Write::Add, site, goes_on);

        let count = middle.len() / hidden;
        let mut normed_middle = buffers.take(middle.len());
        let mut mlp_norm = buffers.take(Norm::kept(count));
        self.mlp_norm.forward(&middle, &mut normed_middle, &mut mlp_norm);
        let mut wide = buffers.take(count * self.activation.input(shape.inner));
        let of_up = self.up.forward(&normed_middle, &mut wide, Write::Over, site, goes_on);
        let mut active = buffers.take(count * shape.inner);
        self.activation.forward(&wide, shape.inner, &mut active);
        let mut y = buffers.copy(if self.residual_after_norm { &normed_middle } else { &middle });
        let of_down = self.down.forward(&active, &mut y, Write::Add, site, goes_on);

        let saved = keep.then(|| Saved {
            attention_norm,
            normed: self.projections.is_adapted(site).then_some(normed),
            of_projections,
            rows,
            softmax,
            read: self.output.is_adapted(site).then_some(read),
            of_output,
            middle,
            mlp_norm,
            normed_middle: self.up.is_adapted(site).then_some(normed_middle),
            of_up,
            wide,
            active: self.down.is_adapted(site).then_some(active),
            of_down,
            x,
        });
        (y, saved)
    }

    /// From the gradient by what [`Block::forward`] gave to the one by what went in, if that is `wanted`. The
    /// adapter's gradients go to their places in `flat`.
    pub(super) fn backward(
        &self,
        saved: Saved,
        dy: Buffer,
        shape: Shape<'_>,
        site: &Site<'_>,
        wanted: bool,
        (places, flat): (&Places, &mut [f32]),
    ) -> Option<Buffer> {
        let (buffers, heads, hidden) = (site.buffers, shape.heads, shape.hidden);
        let reads = site.reads;
        let goes_on = if reads.is_some() { Rows::Read } else { Rows::All };
        let tokens = saved.x.len() / hidden;
        let empty: &[f32] = &[];
        // What lies below each module decides whether the gradient by its input is needed.
        let below_output = wanted || self.projections.is_adapted(site);
        let below_up = below_output || self.output.is_adapted(site);
        let below_down = below_up || self.up.is_adapted(site);

        let mut wide = saved.wide;
        let mut d_active = buffers.take(dy.len() / hidden * shape.inner);
        let dx = below_down.then_some((&mut *d_active, Write::Over));
        let x = saved.active.as_deref().unwrap_or(empty);
        self.down.backward((x, &saved.of_down), &dy, dx, site, goes_on, (places, flat));
        if !below_down {
            return None;
        }
        self.activation.backward(&mut wide, shape.inner, &d_active);
        drop(d_active);
        let (mut d_normed, write) = if self.residual_after_norm {
            (buffers.copy(&dy), Write::Add)
        } else {
            (buffers.take(dy.len()), Write::Over)
        };
        let dx = below_up.then_some((&mut *d_normed, write));
        let x = saved.normed_middle.as_deref().unwrap_or(empty);
        self.up.backward((x, &saved.of_up), &wide, dx, site, goes_on, (places, flat));
        drop(wide);
        if !below_up {
            return None;
        }
        let mut d_middle = if self.residual_after_norm { buffers.zeros(dy.len()) } else { dy };
        self.mlp_norm.backward(&saved.middle, &saved.mlp_norm, &d_normed, &mut d_middle);
        drop(d_normed);

        let mut d_read = buffers.take(d_middle.len() / hidden * heads.read());
        let dx = below_output.then_some((&mut *d_read, Write::Over));
        let x = saved.read.as_deref().unwrap_or(empty);
        self.output.backward((x, &saved.of_output), &d_middle, dx, site, goes_on, (places, flat));
        if !below_output {
            return None;
        }
        let (d_read, residual) = match reads {
            None => (d_read, d_middle),
            Some(reads) => {
                let d_read = scatter(&d_read, reads, heads.read(), tokens, buffers);
                (d_read, scatter(&d_middle, reads, hidden, tokens, buffers))
            }
        };
        let mut d_rows = buffers.take(tokens * heads.row());
        let (rows, softmax) = (&saved.rows, &saved.softmax);
        let ends = &site.chunk.ends;
        attention::backward(heads, rows, ends, softmax, &d_read, &mut d_rows, buffers);
        if let Some(turns) = shape.turns {
            turns.backward(&mut d_rows, rotated(heads), &site.chunk.positions);
        }
        let (mut d_normed, mut dx, write) = if self.residual_after_norm {
            (residual, buffers.zeros(tokens * hidden), Write::Add)
        } else {
            (buffers.take(tokens * hidden), residual, Write::Over)
        };
        let by_input = wanted.then_some((&mut *d_normed, write));
        let x = saved.normed.as_deref().unwrap_or(empty);
        let (inners, places) = (&saved.of_projections, (places, flat));
        self.projections.backward((x, inners), &d_rows, by_input, site, Rows::All, places);
        if !wanted {
            return None;
        }
        self.attention_norm.backward(&saved.x, &saved.attention_norm, &d_normed, &mut dx);
        Some(dx)
    }
}

/// Queries and keys, which stand before the values.
fn rotated(heads: &Heads) -> rotary::Heads {
    rotary::Heads { count: heads.count + heads.kv, width: heads.width, step: heads.row() }
}

/// The rows `places` of `from`, each `width` wide.
fn gather(from: &[f32], places: &[usize], width: usize, buffers: &Arc<Buffers>) -> Buffer {
    let mut to = buffers.take(places.len() * width);
    for (&at, row) in places.iter().zip(to.chunks_exact_mut(width)) {
        row.copy_from_slice(&from[at * width..(at + 1) * width]);
    }
    to
}

/// The reverse: a row that was taken several times gets the sum.
fn scatter(
    from: &[f32],
    places: &[usize],
    width: usize,
    rows: usize,
    buffers: &Arc<Buffers>,
) -> Buffer {
    let mut to = buffers.zeros(rows * width);
    for (&at, row) in places.iter().zip(from.chunks_exact(width)) {
        let to = &mut to[at * width..(at + 1) * width];
        to.iter_mut().zip(row).for_each(|(to, from)| *to += from);
    }
    to
}
