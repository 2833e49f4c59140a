//! Linear equations with a symmetric positive definite matrix.

use super::Matrix;
use super::matrix::dot;

/// X with `G·X = B`, for G `[r, r]` symmetric and positive definite and B `[r, n]`, by Cholesky's `G = L·Lᵀ`. Only the
/// lower triangle of G is read. `None` where G is not positive definite.
///
/// # Panics
/// Where G is not square, or the numbers of rows differ.
pub fn solve_positive(g: &Matrix, b: &Matrix) -> Option<Matrix> {
    assert_eq!(g.shape(), [b.rows(); 2], "there is an equation for each row");
    let lower = factor(g)?;
    let transposed = lower.transposed();
    let size = g.rows();
    // Row after row of Bᵀ: one right side each.
    let mut solved = b.transposed();
    for at in 0..solved.rows() {
        let x = solved.row_mut(at);
        for k in 0..size {
            x[k] = (x[k] - dot(&lower.row(k)[..k], &x[..k])) / lower.at(k, k);
        }
        for k in (0..size).rev() {
            x[k] = (x[k] - dot(&transposed.row(k)[k + 1..], &x[k + 1..])) / lower.at(k, k);
        }
    }
    Some(solved.transposed())
}

/// L, lower triangular.
fn factor(g: &Matrix) -> Option<Matrix> {
    let size = g.rows();
    let mut lower = Matrix::zeros(size, size);
    for row in 0..size {
        for column in 0..=row {
            let rest =
                g.at(row, column) - dot(&lower.row(row)[..column], &lower.row(column)[..column]);
            let value = if row == column { rest.sqrt() } else { rest / lower.at(column, column) };
            // A root of what is not positive is zero or no number.
            if row == column && (value.is_nan() || value <= 0.0) {
                return None;
            }
            lower.row_mut(row)[column] = value;
        }
    }
    Some(lower)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{apart, random};
    use super::*;

    #[test]
    fn a_small_one_by_hand() {
        let g = Matrix::new(2, 2, vec![4.0, 2.0, 2.0, 3.0]);
        let x = solve_positive(&g, &Matrix::new(2, 1, vec![8.0, 8.0])).unwrap();
        assert!(apart(&x, &Matrix::new(2, 1, vec![1.0, 2.0])) < 1e-15);
    }

    #[test]
    fn the_solution_gives_the_right_side_back() {
        for size in [1, 5, 24] {
            let root = random(size, size + 3, 1);
            let g = root.times_transposed(&root);
            let b = random(size, 7, 2);
            let x = solve_positive(&g, &b).unwrap();
            assert!(apart(&g.times(&x), &b) < 1e-12);
        }
    }

    #[test]
    fn what_is_not_positive_definite_is_refused() {
        let b = Matrix::new(2, 1, vec![1.0, 1.0]);
        assert_eq!(solve_positive(&Matrix::new(2, 2, vec![1.0, 2.0, 2.0, 1.0]), &b), None);
        assert_eq!(solve_positive(&Matrix::zeros(2, 2), &b), None);
        assert_eq!(solve_positive(&Matrix::new(2, 2, vec![f64::NAN; 4]), &b), None);
    }
}
