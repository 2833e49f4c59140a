//! `AdamW` over the flat vectors of a cohort.

use burn::tensor::Tensor;

/// The constants of the rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdamW {
    pub(super) weight_decay: f64,
    pub(super) beta1: f64,
    pub(super) beta2: f64,
    pub(super) eps: f64,
}

/// The moments, `[K, P]` each.
#[derive(Clone, Debug)]
pub(super) struct Moments {
    pub(super) first: Tensor<2>,
    pub(super) second: Tensor<2>,
}

impl AdamW {
    /// One step, the `count`th (from 1), from `values` with `gradient`, both `[K, P]`; `lr` is `[K, 1]`.
    pub(super) fn step(
        &self,
        moments: &mut Option<Moments>,
        values: Tensor<2>,
        gradient: Tensor<2>,
        lr: Tensor<2>,
        count: u64,
    ) -> Tensor<2> {
        let (beta1, beta2) = (self.beta1, self.beta2);
        let square = gradient.clone().square() * (1.0 - beta2);
        let share = gradient * (1.0 - beta1);
        let (first, second) = match moments.take() {
            Some(old) => (old.first * beta1 + share, old.second * beta2 + square),
            None => (share, square),
        };
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        let (correct1, correct2) = (1.0 - beta1.powi(count), 1.0 - beta2.powi(count));
        let root = second.clone().sqrt() / correct2.sqrt() + self.eps;
        let change = first.clone() / root * (lr.clone() / correct1);
        *moments = Some(Moments { first, second });
        let kept =
            if self.weight_decay > 0.0 { values * (lr * -self.weight_decay + 1.0) } else { values };
        kept - change
    }
}
