//! The QR decomposition by Householder's reflections.

use rayon::prelude::*;

use super::Matrix;
use super::matrix::{add_scaled, dot};

/// `A = Q·R` with k, the smaller side of A `[m, n]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Qr {
    /// `[m, k]`, its columns orthonormal.
    pub q: Matrix,
    /// `[k, n]`, zero below the diagonal, the diagonal not negative.
    pub r: Matrix,
}

/// The thin QR decomposition of `a`, of any shape and rank. The signs are fixed by the diagonal of R, so that it is
/// unique where the first k columns of `a` are independent.
pub fn qr(a: &Matrix) -> Qr {
    let (mut columns, reflections) = reflect(a);
    let size = reflections.len();
    // Row j is the column j of Q: the reflections from the last to the first, on a column of the identity.
    let mut q = Matrix::zeros(size, a.rows());
    let mut list: Vec<Vec<f64>> = (0..size).map(|row| q.row(row).to_vec()).collect();
    list.par_iter_mut().enumerate().for_each(|(at, column)| {
        column[at] = 1.0;
        // Those after `at` reflect what is still zero.
        for (k, reflection) in reflections[..=at].iter().enumerate().rev() {
            reflection.apply(&mut column[k..]);
        }
    });
    for (row, column) in list.iter().enumerate() {
        q.row_mut(row).copy_from_slice(column);
    }
    for k in 0..size {
        if columns.at(k, k) < 0.0 {
            for value in q.row_mut(k) {
                *value = -*value;
            }
            for column in k..a.columns() {
                columns.row_mut(column)[k] *= -1.0;
            }
        }
    }
    Qr { q: q.transposed(), r: columns.first_columns(size).transposed() }
}

/// R alone, `[k, n]`, up to the signs of its rows: `Rᵀ·R = Aᵀ·A`.
pub fn triangle(a: &Matrix) -> Matrix {
    let (columns, reflections) = reflect(a);
    columns.first_columns(reflections.len()).transposed()
}

/// `x − factor·v·(vᵀx)`.
struct Reflection {
    v: Vec<f64>,
    factor: f64,
}

impl Reflection {
    /// The reflection that puts all of `x` into its first place, and what then stands there.
    fn of(x: &[f64]) -> (Self, f64) {
        let norm = dot(x, x).sqrt();
        let mut v = x.to_vec();
        // Away from the first value, or the difference would lose its digits.
        let first = if x[0] > 0.0 { -norm } else { norm };
        v[0] -= first;
        let square = dot(&v, &v);
        let factor = if square > 0.0 { 2.0 / square } else { 0.0 };
        (Self { v, factor }, first)
    }

    fn apply(&self, x: &mut [f64]) {
        let along = self.factor * dot(&self.v, x);
        add_scaled(x, -along, &self.v);
    }
}

/// The reflections that make `a` upper triangular, and the columns that this gives, one a row.
fn reflect(a: &Matrix) -> (Matrix, Vec<Reflection>) {
    let size = a.rows().min(a.columns());
    let transposed = a.transposed();
    let mut columns: Vec<Vec<f64>> =
        (0..a.columns()).map(|column| transposed.row(column).to_vec()).collect();
    let mut reflections = Vec::with_capacity(size);
    for k in 0..size {
        let (done, rest) = columns.split_at_mut(k + 1);
        let own = &mut done[k];
        let (reflection, first) = Reflection::of(&own[k..]);
        own[k] = first;
        own[k + 1..].fill(0.0);
        rest.par_iter_mut().for_each(|column| reflection.apply(&mut column[k..]));
        reflections.push(reflection);
    }
    (Matrix::new(a.columns(), a.rows(), columns.concat()), reflections)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{apart, random, skewness};
    use super::*;

    #[test]
    fn a_small_one_by_hand() {
        let a = Matrix::new(3, 2, vec![3.0, 1.0, 4.0, 2.0, 0.0, 2.0]);
        let Qr { q, r } = qr(&a);
        // First column over 5; the second loses 2.2 times that, and (−0.32, 0.24, 2) has the norm √4.16.
        let length = 4.16_f64.sqrt();
        let wanted = [0.6, -0.32 / length, 0.8, 0.24 / length, 0.0, 2.0 / length];
        assert!(apart(&q, &Matrix::new(3, 2, wanted.to_vec())) < 1e-15);
        assert!(apart(&r, &Matrix::new(2, 2, vec![5.0, 2.2, 0.0, length])) < 1e-15);
    }

    #[test]
    fn factors_are_orthonormal_and_triangular_and_give_the_matrix_back() {
        for (rows, columns) in [(1, 1), (40, 7), (12, 12), (5, 30), (3, 1), (1, 3)] {
            let a = random(rows, columns, 3);
            let Qr { q, r } = qr(&a);
            assert!(apart(&q.times(&r), &a) < 1e-12);
            assert!(skewness(&q) < 1e-12);
            let size = rows.min(columns);
            assert_eq!((q.shape(), r.shape()), ([rows, size], [size, columns]));
            for row in 0..size {
                assert!(r.at(row, row) > 0.0 && r.row(row)[..row].iter().all(|x| *x == 0.0));
            }
            let gram = triangle(&a);
            assert!(apart(&gram.transposed_times(&gram), &a.transposed_times(&a)) < 1e-12);
        }
    }

    #[test]
    fn dependent_and_zero_columns_do_no_harm() {
        let (b, a) = (random(20, 3, 4), random(3, 8, 5));
        let product = Matrix::beside(&[Matrix::zeros(20, 1), b.times(&a)]);
        let Qr { q, r } = qr(&product);
        assert!(apart(&q.times(&r), &product) < 1e-12);
        assert!(skewness(&q) < 1e-12);
        let zero = qr(&Matrix::zeros(4, 2));
        assert!(skewness(&zero.q) < 1e-12);
        assert_eq!(zero.r, Matrix::zeros(2, 2));
    }
}
