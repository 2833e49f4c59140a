//! Products of f32 matrices on one thread.

use std::cell::RefCell;

use gemm::Parallelism;

/// A matrix that lies in a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows follow each other.
    pub(super) fn new(values: &'a [f32], shape: [usize; 2]) -> Self {
        Self::strided(values, shape, shape[1])
    }

    /// A matrix whose rows begin `step` values apart.
    pub(super) fn strided(values: &'a [f32], [rows, columns]: [usize; 2], step: usize) -> Self {
        check(values, [rows, columns], step);
        Self { values, rows, columns, row_step: step, column_step: 1 }
    }

    /// The same matrix with rows and columns exchanged.
    pub(super) fn t(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_step: self.column_step,
            column_step: self.row_step,
        }
    }
}

/// A matrix that is written to.
pub(super) struct MatrixMut<'a> {
    values: &'a mut [f32],
    rows: usize,
    columns: usize,
    step: usize,
}

impl<'a> MatrixMut<'a> {
    /// A matrix whose rows follow each other.
    pub(super) fn new(values: &'a mut [f32], shape: [usize; 2]) -> Self {
        Self::strided(values, shape, shape[1])
    }

    /// A matrix whose rows begin `step` values apart.
    pub(super) fn strided(values: &'a mut [f32], [rows, columns]: [usize; 2], step: usize) -> Self {
        check(values, [rows, columns], step);
        Self { values, rows, columns, step }
    }
}

/// Every element lies in the slice, and no two rows share one.
fn check(values: &[f32], [rows, columns]: [usize; 2], step: usize) {
    assert!(columns <= step || rows <= 1, "rows of {columns} values cannot begin {step} apart");
    let end = if rows == 0 || columns == 0 { 0 } else { (rows - 1) * step + columns };
    assert!(end <= values.len(), "a matrix ends at {end} in a slice of {}", values.len());
}

/// What becomes of the values that are there before a product is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// They are written over.
    Over,
    /// The product is added to them.
    Add,
}

/// Writes `scale · a · b` to `out`.
#[expect(unsafe_code, reason = "the crate's product takes pointers")]
pub(super) fn product(out: MatrixMut<'_>, write: Write, a: Matrix<'_>, b: Matrix<'_>, scale: f32) {
    let MatrixMut { values, rows, columns, step } = out;
    assert_eq!((rows, columns, a.columns), (a.rows, b.columns, b.rows), "the shapes fit");
    // SAFETY: all elements of the three matrices lie in their slices (`check`), `out` is borrowed exclusively, and
    // its elements are distinct.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            a.columns,
            values.as_mut_ptr(),
            1,
            step.cast_signed(),
            write == Write::Add,
            a.values.as_ptr(),
            a.column_step.cast_signed(),
            a.row_step.cast_signed(),
            b.values.as_ptr(),
            b.column_step.cast_signed(),
            b.row_step.cast_signed(),
            1.0,
            scale,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// [`product`] goes other ways, with sums in another order, for a single row and for up to so many results.
const FEW_RESULTS: usize = 256;

/// `out (+)= x·weight` of `x` `[rows, depth]` and `weight` `[depth, columns]`: what a row gives does not depend on the
/// rows beside it, to the bit.
pub(super) fn product_of_rows(
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
    let least = FEW_RESULTS / columns + 2;
    if rows >= least {
        let (x, out) = (Matrix::new(x, [rows, depth]), MatrixMut::new(out, [rows, columns]));
        return product(out, write, x, weight, 1.0);
    }
    HELD.with_borrow_mut(|[more, wide]| {
        more.clear();
        more.extend_from_slice(x);
        more.resize(least * depth, 0.0);
        wide.clear();
        wide.extend_from_slice(out);
        wide.resize(least * columns, 0.0);
        let x = Matrix::new(more, [least, depth]);
        product(MatrixMut::new(wide, [least, columns]), write, x, weight, 1.0);
        out.copy_from_slice(&wide[..rows * columns]);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(length: usize, seed: f32) -> Vec<f32> {
        (0..length).map(|i| (i as f32 * 0.37 + seed).sin()).collect()
    }

    #[test]
    fn strided_and_transposed_operands_are_multiplied() {
        let (rows, inner, columns) = (5, 7, 3);
        let (a, b) = (values(rows * 9, 0.1), values(inner * 4, 0.7));
        for turned in [false, true] {
            // Transposed, both operands are the same numbers read the other way.
            let a = if turned {
                Matrix::strided(&a, [inner, rows], 6).t()
            } else {
                Matrix::strided(&a, [rows, inner], 9)
            };
            let b = Matrix::strided(&b, [inner, columns], 4);
            let mut out = values(rows * 8, 0.3);
            let before = out.clone();
            product(MatrixMut::strided(&mut out, [rows, columns], 8), Write::Add, a, b, 0.5);
            for i in 0..rows {
                for j in 0..8 {
                    let at = |m: Matrix<'_>, r: usize, c: usize| {
                        f64::from(m.values[r * m.row_step + c * m.column_step])
                    };
                    let sum: f64 = (0..inner).map(|k| at(a, i, k) * at(b, k, j.min(2))).sum();
                    let added = if j < columns { 0.5 * sum } else { 0.0 };
                    let wanted = f64::from(before[i * 8 + j]) + added;
                    assert!((f64::from(out[i * 8 + j]) - wanted).abs() < 1e-6, "{i}, {j}");
                }
            }
        }
    }

    #[test]
    fn a_row_gives_the_same_alone_and_beside_others() {
        for [rows, depth, columns] in [[9, 64, 5], [40, 33, 12], [300, 70, 300]] {
            let (x, weight) = (values(rows * depth, 0.2), values(depth * columns, 0.9));
            for turned in [false, true] {
                let weight = if turned {
                    Matrix::new(&weight, [columns, depth]).t()
                } else {
                    Matrix::new(&weight, [depth, columns])
                };
                let run = |x: &[f32]| {
                    let rows = x.len() / depth;
                    let mut out = vec![0.0; rows * columns];
                    product_of_rows(x, weight, [rows, depth, columns], &mut out, Write::Over);
                    out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                };
                let all = run(&x);
                for count in [1, 2, 3, rows / 2] {
                    let some = run(&x[..count * depth]);
                    assert_eq!(some, all[..count * columns], "{count} of {rows} by {columns}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "a matrix ends at 12 in a slice of 11")]
    fn a_matrix_cannot_end_behind_its_slice() {
        let _ = Matrix::new(&[0.0; 11], [3, 4]);
    }
}
