//! What is known of a product `B·A` of thin factors without making it.

use super::{Matrix, Qr, Svd, qr, svd, triangle};

/// The Frobenius norm of `b·a`, with b `[m, r]` and a `[r, n]`: that of `R·a` where `b = Q·R`.
///
/// The traces of the factors' Gram matrices would give it as well, but a difference of products that is nearly zero
/// would then be lost in the rounding of its squares.
///
/// # Panics
/// Where the inner sizes differ.
pub fn norm_of_product(b: &Matrix, a: &Matrix) -> f64 {
    triangle(b).times(a).norm()
}

/// The singular value decomposition of `b·a`, with b `[m, r]` and a `[r, n]`; it has min(m, n, r) values.
///
/// Where r is below m and n, the factors are orthonormalised and only their small core is decomposed, in
/// `O((m + n)·r² + r³)`; else the product is made.
///
/// # Panics
/// Where the inner sizes differ.
pub fn svd_of_product(b: &Matrix, a: &Matrix) -> Svd {
    if a.rows() >= b.rows().min(a.columns()) {
        return svd(&b.times(a));
    }
    let Qr { q: left, r } = qr(b);
    let Qr { q: right, r: other } = qr(&a.transposed());
    let Svd { u, values, vt } = svd(&r.times_transposed(&other));
    Svd { u: left.times(&u), values, vt: vt.times_transposed(&right) }.with_fixed_signs()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{apart, random, skewness};
    use super::*;

    #[test]
    fn a_product_is_taken_apart_as_if_it_were_made() {
        for (rows, inner, columns) in [(30, 5, 20), (6, 6, 9), (9, 12, 6), (4, 1, 4)] {
            let (b, a) = (random(rows, inner, 1), random(inner, columns, 2));
            let (compact, dense) = (svd_of_product(&b, &a), svd(&b.times(&a)));
            let size = inner.min(rows).min(columns);
            assert_eq!(compact.values.len(), size);
            for (one, other) in compact.values.iter().zip(&dense.values) {
                assert!((one - other).abs() < 1e-12 * dense.values[0]);
            }
            assert!(apart(&compact.u, &dense.u.first_columns(size)) < 1e-10);
            assert!(apart(&compact.vt, &dense.vt.first_rows(size)) < 1e-10);
            assert!(skewness(&compact.u) < 1e-12 && skewness(&compact.vt.transposed()) < 1e-12);
            assert!((norm_of_product(&b, &a) / b.times(&a).norm() - 1.0).abs() < 1e-13);
        }
    }

    #[test]
    fn the_norm_of_what_cancels_is_seen() {
        let (b, a) = (random(30, 5, 3), random(5, 20, 4));
        let twice = Matrix::beside(&[b.clone(), b.clone()]);
        let nearly = Matrix::below(&[a.clone(), a.clone().scaled(-1.0 - 1e-10)]);
        let found = norm_of_product(&twice, &nearly) / norm_of_product(&b, &a);
        assert!((found - 1e-10).abs() < 1e-14, "{found}");
    }
}
