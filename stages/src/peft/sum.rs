//! Sums of products of factors, in f64 and rounded once.

use rayon::prelude::*;

/// `scale·B·A` with A `[rank, in]` and B `[out, rank]`, row by row.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) a: &'a [f32],
    pub(super) b: &'a [f32],
    pub(super) rank: usize,
    pub(super) scale: f64,
}

/// Adds `products`, one after the other, and then `dense` to `values`, `[out, inputs]`.
///
/// Rows do not depend on one another, so the threads that they are spread over change no bit.
pub(super) fn add(
    values: &mut [f32],
    inputs: usize,
    products: &[Product<'_>],
    dense: Option<&[f32]>,
) {
    let scratch = || (vec![0.0; inputs], vec![0.0; inputs]);
    values.par_chunks_mut(inputs).enumerate().for_each_init(
        scratch,
        |(sum, product), (at, row)| {
            for (sum, value) in sum.iter_mut().zip(&*row) {
                *sum = f64::from(*value);
            }
            for &Product { a, b, rank, scale } in products {
                product.fill(0.0);
                // Row after row of A: its columns lie far apart.
                for (a, b) in a.chunks_exact(inputs).zip(&b[at * rank..(at + 1) * rank]) {
                    let b = f64::from(*b);
                    product.iter_mut().zip(a).for_each(|(sum, a)| *sum += b * f64::from(*a));
                }
                sum.iter_mut().zip(&*product).for_each(|(sum, product)| *sum += scale * product);
            }
            if let Some(dense) = dense {
                let own = &dense[at * inputs..(at + 1) * inputs];
                sum.iter_mut().zip(own).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            for (value, sum) in row.iter_mut().zip(&*sum) {
                *value = narrow(*sum);
            }
        },
    );
}

#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
pub(super) fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_a_matrix_are_added() {
        let mut values = vec![10.0, 20.0, 30.0, 40.0, 50.0, 60.0];
        let first = Product { a: &[1.0, 2.0, 3.0], b: &[1.0, -1.0], rank: 1, scale: 2.0 };
        let second = Product {
            a: &[1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            b: &[3.0, 5.0, 7.0, 9.0],
            rank: 2,
            scale: 1.0,
        };
        let dense = [0.5, 0.0, 0.0, 0.0, 0.0, 0.25];
        add(&mut values, 3, &[first, second], Some(&dense));
        assert_eq!(values, [15.5, 24.0, 41.0, 45.0, 46.0, 63.25]);
    }
}
