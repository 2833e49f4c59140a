//! A frozen weight, and its products with rows of tokens.

use crate::precision::Precision;

use super::bf16::{Bf16Weight, Kernel};
use super::matmul::{Matrix, Write, product_of_rows};

/// A frozen matrix `[out, in]`.
#[derive(Clone, Debug)]
pub(super) enum Weight {
    /// In f32.
    F32 {
        /// Row by row, as checkpoints store them.
        values: Vec<f32>,
        /// `[out, in]`.
        shape: [usize; 2],
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
            Precision::F32 => Self::F32 { values, shape },
            Precision::Bf16 => Self::Bf16(Bf16Weight::new(&values, shape, Kernel::best())),
            Precision::F16 => unreachable!("`Precision::check` refuses it on the CPU"),
        }
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
            Self::F32 { values, shape } => {
                let rows = values[first * shape[1]..].iter_mut();
                rows.zip(change).for_each(|(value, change)| *value += change);
            }
            Self::Bf16(_) => unreachable!("a rounded block is replaced as a whole"),
        }
    }

    /// `y (+)= x·Wᵀ`, with `x` `[rows, in]` and `y` `[rows, out]`.
    pub(super) fn forward(&self, x: &[f32], y: &mut [f32], write: Write) {
        let [outputs, inputs] = self.shape();
        let rows = x.len() / inputs;
        match self {
            Self::F32 { values, shape } => {
                let weight = Matrix::new(values, *shape).t();
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
            Self::F32 { values, shape } => {
                let weight = Matrix::new(values, *shape);
                product_of_rows(dy, weight, [rows, outputs, inputs], dx, write);
            }
            Self::Bf16(weight) => weight.backward(dy, rows, dx, write),
        }
    }
}
