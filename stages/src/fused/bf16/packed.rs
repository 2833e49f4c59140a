//! A matrix of bf16 as the instructions for it read it.

use std::fmt;

/// One cache line: sixteen pairs of bf16. A pair are two numbers that follow each other in the direction that is
/// summed over.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u16; 32]);

impl Line {
    /// Numbers in a line.
    pub(super) const NUMBERS: usize = 32;
    /// Pairs in a line.
    pub(super) const PAIRS: usize = 16;
    pub(super) const ZERO: Self = Self([0; Self::NUMBERS]);
}

/// Columns in a panel.
pub(super) const PANEL: usize = 2 * Line::PAIRS;

/// A matrix `[depth, columns]`, in panels of [`PANEL`] columns. A panel has two lines for each pair of its rows: the
/// pairs of its first 16 columns, and those of the others. Zeros fill it up to whole panels, and to a depth of whole
/// lines of the rows that it is multiplied with.
#[derive(Clone)]
pub(super) struct Packed {
    depth: usize,
    columns: usize,
    lines: Vec<Line>,
}

impl Packed {
    /// Packs the numbers that `at(row, column)` gives.
    pub(super) fn new(depth: usize, columns: usize, at: impl Fn(usize, usize) -> u16) -> Self {
        let pairs = pairs(depth);
        let mut lines = vec![Line::ZERO; columns.div_ceil(PANEL) * pairs * 2];
        for (place, line) in lines.iter_mut().enumerate() {
            let (half, pair, panel) = (place % 2, place / 2 % pairs, place / 2 / pairs);
            for (place, number) in line.0.iter_mut().enumerate() {
                let row = 2 * pair + place % 2;
                let column = panel * PANEL + half * Line::PAIRS + place / 2;
                if row < depth && column < columns {
                    *number = at(row, column);
                }
            }
        }
        Self { depth, columns, lines }
    }

    /// The number at `[row, column]`.
    pub(super) fn get(&self, row: usize, column: usize) -> u16 {
        let (panel, within) = (column / PANEL, column % PANEL);
        let line = (panel * self.pairs() + row / 2) * 2 + within / Line::PAIRS;
        self.lines[line].0[within % Line::PAIRS * 2 + row % 2]
    }

    /// Rows, without those of zeros.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Columns, without those of zeros.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    /// Pairs of rows, with those of zeros: a multiple of [`Line::PAIRS`].
    pub(super) fn pairs(&self) -> usize {
        pairs(self.depth)
    }

    /// The panels, each with the first of its columns: `2·pairs` lines.
    pub(super) fn panels(&self) -> impl Iterator<Item = (usize, &[Line])> {
        let panels = self.lines.chunks_exact((2 * self.pairs()).max(1));
        panels.enumerate().map(|(at, panel)| (at * PANEL, panel))
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { depth, columns, .. } = self;
        f.debug_struct("Packed")
            .field("depth", depth)
            .field("columns", columns)
            .finish_non_exhaustive()
    }
}

fn pairs(depth: usize) -> usize {
    depth.div_ceil(Line::NUMBERS) * Line::PAIRS
}
