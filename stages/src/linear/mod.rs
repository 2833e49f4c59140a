//! Dense linear algebra in f64, as far as low-rank factors need it.
//!
//! Everything here gives the same bits on every machine and for any number of threads: each number is a sum in a fixed
//! order, and only rows that do not depend on one another are worked on at once.

mod cholesky;
mod leading;
mod matrix;
mod product;
mod qr;
mod svd;

pub use cholesky::solve_positive;
pub use leading::leading;
pub use matrix::Matrix;
pub use product::{norm_of_product, svd_of_product};
pub use qr::{Qr, qr, triangle};
pub use svd::{Svd, svd};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Draws;

    /// A matrix of standard normal numbers.
    pub(super) fn random(rows: usize, columns: usize, seed: u64) -> Matrix {
        let mut draws = Draws::named(seed, "test", &["matrix"]);
        Matrix::new(rows, columns, (0..rows * columns).map(|_| draws.normal()).collect())
    }

    /// `‖a − b‖ / ‖b‖`.
    pub(super) fn apart(a: &Matrix, b: &Matrix) -> f64 {
        a.minus(b).norm() / b.norm()
    }

    /// How far the columns are from being orthonormal.
    pub(super) fn skewness(q: &Matrix) -> f64 {
        q.transposed_times(q).minus(&Matrix::identity(q.columns())).norm()
    }

    #[test]
    fn nothing_depends_on_the_number_of_threads() {
        let (b, a) = (random(70, 9, 1), random(9, 50, 2));
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (b.times(&a), qr(&b), svd(&b.times(&a)), svd_of_product(&b, &a)))
        };
        let one = on(1);
        assert!([2, 5].map(on).iter().all(|other| *other == one));
    }
}
