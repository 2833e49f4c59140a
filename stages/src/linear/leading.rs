//! The leading singular vectors of a large matrix, by iterating a block of vectors.

use super::{Matrix, Svd, qr, svd};
use crate::seed::Draws;

/// Vectors beside those asked for; they take up most of what is left of the other directions.
const BESIDE: usize = 10;

/// Times that the block is sent through the matrix and back.
const PASSES: usize = 10;

/// The first `rank` parts of the singular value decomposition of `a`, or all where there are fewer.
///
/// A block of `rank + 10` random vectors goes through `aᵀ` and `a` ten times, and is made orthonormal by a QR
/// decomposition on each way (Halko, Martinsson and Tropp 2011, 0909.4061, algorithm 4.4); then `a` is decomposed within
/// it. Each pass shrinks what is wrong with a direction by the square of the quotient of the first singular value
/// outside the block and its own. It costs `O(m·n·rank)` and holds a transposed copy of `a`. A block as wide as the
/// matrix is the whole space: then the matrix itself is decomposed.
pub fn leading(a: &Matrix, rank: usize, draws: &mut Draws) -> Svd {
    let width = rank + BESIDE;
    let all = if width >= a.rows().min(a.columns()) {
        svd(a)
    } else {
        let back = a.transposed();
        // Uniform, since the logarithm of a normal draw has other bits from one machine to the next.
        let start = (0..a.columns() * width).map(|_| 2.0 * draws.unit() - 1.0).collect();
        let mut left = qr(&a.times(&Matrix::new(a.columns(), width, start))).q;
        for _ in 0..PASSES {
            let right = qr(&back.times(&left)).q;
            left = qr(&a.times(&right)).q;
        }
        let Svd { u, values, vt } = svd(&left.transposed_times(a));
        Svd { u: left.times(&u), values, vt }
    };
    Svd {
        u: all.u.first_columns(rank),
        values: all.values.into_iter().take(rank).collect(),
        vt: all.vt.first_rows(rank),
    }
    .with_fixed_signs()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{apart, random, skewness};
    use super::*;

    fn draws() -> Draws {
        Draws::named(1, "test", &["leading"])
    }

    /// A matrix `[rows, columns]` whose singular values fall by `quotient` from 1.
    fn falling(rows: usize, columns: usize, quotient: f64) -> Matrix {
        let size = rows.min(columns);
        let (left, right) = (qr(&random(rows, size, 2)).q, qr(&random(columns, size, 3)).q);
        let power = |at: usize| quotient.powi(i32::try_from(at).unwrap());
        Matrix::from_fn(rows, size, |row, at| left.at(row, at) * power(at)).times_transposed(&right)
    }

    #[test]
    fn they_are_the_first_of_the_whole_decomposition() {
        for (rows, columns) in [(70, 50), (50, 70)] {
            let a = falling(rows, columns, 0.8);
            let (found, whole) = (leading(&a, 6, &mut draws()), svd(&a));
            assert_eq!((found.u.shape(), found.vt.shape()), ([rows, 6], [6, columns]));
            for (one, other) in found.values.iter().zip(&whole.values) {
                assert!((one - other).abs() < 1e-12, "{one} {other}");
            }
            assert!(apart(&found.u, &whole.u.first_columns(6)) < 1e-9);
            assert!(apart(&found.vt, &whole.vt.first_rows(6)) < 1e-9);
            assert!(skewness(&found.u) < 1e-12);
        }
    }

    #[test]
    fn they_hold_nearly_all_that_can_be_held_of_a_matrix_that_hardly_falls() {
        // Random numbers have no leading directions: the hardest case.
        let a = random(120, 90, 4);
        let (found, whole) = (leading(&a, 8, &mut draws()), svd(&a));
        let energy = |values: &[f64]| values.iter().take(8).map(|x| x * x).sum::<f64>();
        assert!(energy(&found.values) > 0.999 * energy(&whole.values));
        assert!(apart(&found.truncated(8), &a) < 1.001 * apart(&whole.truncated(8), &a));
    }

    #[test]
    fn low_ranks_small_matrices_and_threads_do_no_harm() {
        let low = random(60, 3, 5).times(&random(3, 40, 6));
        let found = leading(&low, 5, &mut draws());
        assert!(apart(&found.truncated(5), &low) < 1e-12);
        assert!(skewness(&found.u) < 1e-10 && skewness(&found.vt.transposed()) < 1e-10);
        let small = random(7, 9, 7);
        assert!(apart(&leading(&small, 7, &mut draws()).truncated(7), &small) < 1e-12);
        let a = random(90, 64, 8);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| leading(&a, 9, &mut draws()))
        };
        let one = on(1);
        assert!([2, 5].map(on).iter().all(|other| *other == one));
    }
}
