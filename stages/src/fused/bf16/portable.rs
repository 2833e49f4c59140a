//! Products of rounded numbers by f32 arithmetic.

use std::cell::RefCell;
use std::fmt;

use super::super::matmul::{Matrix, MatrixMut, Write, product};
use super::rounding::in_f32;

/// A matrix `[out, in]`, row by row, of f32 that are a bf16.
#[derive(Clone)]
pub(super) struct Plain {
    values: Vec<f32>,
    shape: [usize; 2],
}

/// The product of f32 goes other ways, with sums in another order, for a single row and for up to so many results.
const FEW_RESULTS: usize = 256;

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
        static HELD: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    }
    if rows == 0 || columns == 0 {
        return;
    }
    // Rows of zeros beside few rows, so that these are summed as they would be beside many.
    let most = rows.max(FEW_RESULTS / columns + 2);
    HELD.with_borrow_mut(|[rounded, wide]| {
        rounded.clear();
        rounded.extend(x.iter().copied().map(in_f32));
        rounded.resize(most * depth, 0.0);
        let left = Matrix::new(rounded, [most, depth]);
        if most == rows {
            return product(MatrixMut::new(out, [rows, columns]), write, left, weight, 1.0);
        }
        wide.clear();
        wide.extend_from_slice(out);
        wide.resize(most * columns, 0.0);
        product(MatrixMut::new(wide, [most, columns]), write, left, weight, 1.0);
        out.copy_from_slice(&wide[..rows * columns]);
    });
}
