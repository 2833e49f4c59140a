//! `FlexLoRA` (Bai et al. 2024, 2402.11505), in the compact form of `HLoRA` (2503.00813).

use super::checked::Checked;
use super::flora::fresh;
use super::method::Method;
use super::{AggregateError, Outcome};
use crate::linear::{Matrix, Svd, svd_of_product};
use crate::peft;

/// The adapter becomes the best approximation of ΔW* at its rank: `s·B·A = U·Σ·Vᵀ`, cut, with `√Σ` on either side.
///
/// Clients of smaller ranks get the first rows, which are the best approximation at their rank
/// ([`super::for_rank`]). Where ΔW* has a smaller rank than the adapter, the rest of B is zero, and the rest of A is
/// drawn anew: where both are zero, both gradients would be zero for ever.
pub(super) struct FlexLoRA;

impl Method for FlexLoRA {
    fn name(&self) -> &'static str {
        "FlexLoRA"
    }

    fn takes_ranks(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let factors = round.by_module(|module| {
            let [a, b] = peft::factor_names(&module.path).map(|name| fresh(round, &name));
            let [target_b, target_a] = round.target(module);
            best(&svd_of_product(&target_b, &target_a), module.scale, a, b)
        });
        Ok(round.outcome(round.with_factors(factors), None))
    }
}

/// A and B with the largest parts of `svd` in their first rows and columns, `scale` taken out; what there is no part
/// for stays as it is.
pub(super) fn best(svd: &Svd, scale: f64, mut a: Matrix, mut b: Matrix) -> [Matrix; 2] {
    let filled = svd.rank().min(a.rows());
    for (at, sigma) in svd.values.iter().take(filled).enumerate() {
        let root = (sigma / scale).sqrt();
        for (value, right) in a.row_mut(at).iter_mut().zip(svd.vt.row(at)) {
            *value = root * right;
        }
        for row in 0..b.rows() {
            b.row_mut(row)[at] = root * svd.u.at(row, at);
        }
    }
    [a, b]
}
