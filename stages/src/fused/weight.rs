//! A frozen weight, and its products with rows of tokens.

use crate::precision::Precision;

use super::bf16::{Bf16Weight, Kernel};
use super::matmul::{Matrix, Write, product_of_rows};

/// Rows that are a multiple of so many values long begin at the same places of a cache's sets.
const SET: usize = 256;
/// The values of a cache line.
const LINE: usize = 16;

/// A frozen matrix `[out, in]`.
#[derive(Clone, Debug)]
pub(super) enum Weight {
    /// In f32.
    F32 {
        /// Row by row, each `step` values behind the one before.
        values: Vec<f32>,
        /// `[out, in]`.
        shape: [usize; 2],
        step: usize,
    },
    /// Rounded, and packed for the best kernel of this machine.
    Bf16(Bf16Weight),
}

impl Weight {
    /// A weight `[out, in]`, row by row, whose values were rounded to `precision`.
    ///
    /// # Panics
    /// For f16, which the CPU does not have.
    pub(super) fn new(values: Vec<f32>, shape: [usize; 2], precision: Precision) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1]);
        match precision {
            Precision::F32 => Self::spaced(values, shape),
            Precision::Bf16 => Self::Bf16(Bf16Weight::new(&values, shape, Kernel::best())),
            Precision::F16 => unreachable!("`Precision::check` refuses it on the CPU"),
        }
    }

    /// A weight in f32 whose rows do not begin at the same place of a cache's sets: a product that reads down a column
    /// would else throw out what it is about to read.
    fn spaced(values: Vec<f32>, shape: [usize; 2]) -> Self {
        let [outputs, inputs] = shape;
        if !inputs.is_multiple_of(SET) {
            return Self::F32 { values, shape, step: inputs };
        }
        let step = inputs + LINE;
        let mut spaced = vec![0.0; outputs * step];
        for (to, from) in spaced.chunks_exact_mut(step).zip(values.chunks_exact(inputs)) {
            to[..inputs].copy_from_slice(from);
        }
        Self::F32 { values: spaced, shape, step }
    }

    /// `[out, in]`.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Self::F32 { shape, .. } => *shape,
            Self::Bf16(weight) => weight.shape(),
        }
    }

    /// Adds `change`, `[n, in]`, to the rows from `first` on.
    ///
    /// # Panics
    /// Where the weight is rounded: the sum would be rounded a second time.
    pub(super) fn add(&mut self, first: usize, change: &[f32]) {
        match self {
            Self::F32 { values, shape, step } => {
                let rows = values.chunks_exact_mut(*step).skip(first);
                for (row, change) in rows.zip(change.chunks_exact(shape[1])) {
                    row.iter_mut().zip(change).for_each(|(value, change)| *value += change);
                }
            }
            Self::Bf16(_) => unreachable!("a rounded block is replaced as a whole"),
        }
    }

    /// `y (+)= x·Wᵀ`, with `x` `[rows, in]` and `y` `[rows, out]`.
    pub(super) fn forward(&self, x: &[f32], y: &mut [f32], write: Write) {
        let [outputs, inputs] = self.shape();
        let rows = x.len() / inputs;
        match self {
            Self::F32 { values, shape, step } => {
                let weight = Matrix::strided(values, *shape, *step).t();
                product_of_rows(x, weight, [rows, inputs, outputs], y, write);
            }
            Self::Bf16(weight) => weight.forward(x, rows, y, write),
        }
    }

    /// `dx (+)= dy·W`, with `dy` `[rows, out]` and `dx` `[rows, in]`.
    pub(super) fn backward(&self, dy: &[f32], dx: &mut [f32], write: Write) {
        let [outputs, inputs] = self.shape();
        let rows = dy.len() / outputs;
        match self {
            Self::F32 { values, shape, step } => {
                let weight = Matrix::strided(values, *shape, *step);
                product_of_rows(dy, weight, [rows, outputs, inputs], dx, write);
            }
            Self::Bf16(weight) => weight.backward(dy, rows, dx, write),
        }
    }
}
