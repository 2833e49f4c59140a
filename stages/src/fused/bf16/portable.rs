//! Products of rounded numbers by f32 arithmetic.

use std::cell::RefCell;
use std::fmt;

use super::super::matmul::{Matrix, Write, product_of_rows};
use super::rounding::in_f32;

/// A matrix `[out, in]`, row by row, of f32 that are a bf16.
#[derive(Clone)]
pub(super) struct Plain {
    values: Vec<f32>,
    shape: [usize; 2],
}

impl Plain {
    /// Rounds `values`, `[out, in]`.
    pub(super) fn new(values: &[f32], shape: [usize; 2]) -> Self {
        Self { values: values.iter().copied().map(in_f32).collect(), shape }
    }

    /// `out (+)= x·Wᵀ`.
    pub(super) fn forward(&self, x: &[f32], rows: usize, out: &mut [f32], write: Write) {
        let [outputs, inputs] = self.shape;
        let turned = Matrix::new(&self.values, self.shape).t();
        multiply(x, turned, [rows, inputs, outputs], out, write);
    }

    /// `dx (+)= dy·W`.
    pub(super) fn backward(&self, dy: &[f32], rows: usize, dx: &mut [f32], write: Write) {
        let [outputs, inputs] = self.shape;
        multiply(dy, Matrix::new(&self.values, self.shape), [rows, outputs, inputs], dx, write);
    }
}

impl fmt::Debug for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plain").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// `out (+)= x·weight` with `x` rounded; of `x` `[rows, depth]`, and `weight` `[depth, columns]`.
fn multiply(
    x: &[f32],
    weight: Matrix<'_>,
    [rows, depth, columns]: [usize; 3],
    out: &mut [f32],
    write: Write,
) {
    thread_local! {
        static ROUNDED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    ROUNDED.with_borrow_mut(|rounded| {
        rounded.clear();
        rounded.extend(x.iter().copied().map(in_f32));
        product_of_rows(rounded, weight, [rows, depth, columns], out, write);
    });
}
