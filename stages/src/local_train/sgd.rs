//! Plain gradient descent over the flat vectors of a cohort.

use burn::tensor::Tensor;

/// One step from `values` with `gradient`, both `[K, P]`; `lr` is `[K, 1]`.
pub(super) fn step(values: Tensor<2>, gradient: Tensor<2>, lr: Tensor<2>) -> Tensor<2> {
    values - gradient * lr
}
