//! Matrices of pairs of bf16, for the instructions that multiply and add two of them at once.

use std::cell::RefCell;
use std::sync::OnceLock;

use super::super::matmul::Write;
use super::packed::{Line, Packed};
use super::{amx, avx512, rounding};

/// What multiplies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Instructions {
    Amx,
    Avx512,
}

/// A matrix `[out, in]`.
#[derive(Clone, Debug)]
pub(super) struct Paired {
    by: Instructions,
    /// `[in, out]`.
    forward: Packed,
    /// `[out, in]`; packed when it is asked for, since no gradient goes below the first adapted module.
    backward: OnceLock<Packed>,
}

impl Paired {
    /// Rounds and packs `values`, `[out, in]` row by row.
    pub(super) fn new(values: &[f32], [outputs, inputs]: [usize; 2], by: Instructions) -> Self {
        let at = |row: usize, column: usize| rounding::nearest(values[column * inputs + row]);
        Self { by, forward: Packed::new(inputs, outputs, at), backward: OnceLock::new() }
    }

    /// `out (+)= x·Wᵀ`.
    pub(super) fn forward(&self, x: &[f32], out: &mut [f32], write: Write) {
        multiply(self.by, x, &self.forward, out, write);
    }

    /// `dx (+)= dy·W`.
    pub(super) fn backward(&self, dy: &[f32], dx: &mut [f32], write: Write) {
        let forward = &self.forward;
        let turned = || {
            let at = |row: usize, column: usize| forward.get(column, row);
            Packed::new(forward.columns(), forward.depth(), at)
        };
        multiply(self.by, dy, self.backward.get_or_init(turned), dx, write);
    }
}

/// Rows that are rounded at once: whole tiles of both kernels.
const ROWS: usize = 96;
/// The bytes that some times [`ROWS`] rounded rows may take: they are read again for each panel of columns, and are to
/// stay in the second cache beside it.
const ROUNDED_BYTES: usize = 256 * 1024;
const MOST_ROWS: usize = 4 * ROWS;

/// `out (+)= x·weight`, with `x` `[rows, depth]` and `out` `[rows, columns]`.
fn multiply(by: Instructions, x: &[f32], weight: &Packed, out: &mut [f32], write: Write) {
    thread_local! {
        static ROUNDED: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    let (lines, add) = (weight.depth().div_ceil(Line::NUMBERS), write == Write::Add);
    if lines == 0 || weight.columns() == 0 {
        // Sums of nothing.
        if !add {
            out.fill(0.0);
        }
        return;
    }
    let fitting = ROUNDED_BYTES / (lines * size_of::<Line>()) / ROWS * ROWS;
    let step = fitting.clamp(ROWS, MOST_ROWS);
    ROUNDED.with_borrow_mut(|rounded| {
        if rounded.len() < step * lines {
            rounded.resize(step * lines, Line::ZERO);
        }
        let blocks = x.chunks(step * weight.depth()).zip(out.chunks_mut(step * weight.columns()));
        for (x, out) in blocks {
            let rows = x.len() / weight.depth();
            rounding::round_rows(x, weight.depth(), rounded);
            match by {
                Instructions::Amx => amx::multiply(rounded, weight, rows, out, add),
                Instructions::Avx512 => avx512::multiply(rounded, weight, rows, out, add),
            }
        }
    });
}
