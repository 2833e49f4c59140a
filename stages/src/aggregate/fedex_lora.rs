//! FedEx-LoRA (Singhal et al. 2024, 2410.09432).

use super::checked::Checked;
use super::method::{Broadcast, Method};
use super::modules::Product;
use super::{AggregateError, Outcome};
use crate::linear::Matrix;
use crate::parts::Parts;
use crate::peft::Delta;

/// `FedAvg` of the factors, and what their product misses, `ΔW* − s·B̄·Ā`, goes into the base: as the factors
/// `[B_1 … B_K, B̄]` and `[p_1·s_1·A_1; …; −s·Ā]`. The paper's means are unweighted; these are weighted by `p_k`.
pub(super) struct FedExLoRA;

impl Method for FedExLoRA {
    fn name(&self) -> &'static str {
        "FedExLoRA"
    }

    fn broadcast(&self) -> Broadcast {
        Broadcast::Residual
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let adapter = round.averaged(Parts::ALL);
        let residuals = round.by_module(|module| {
            // Of the means as they were narrowed: the residual has what that lost as well.
            let mean = round.product(&adapter, &module.path, module.scale);
            residual(round.target(module), mean)
        });
        let mut delta = Delta::new();
        for (module, [b, a]) in round.modules.iter().zip(&residuals) {
            delta.add(&module.path, (a.shape(), a.to_f32()), (b.shape(), b.to_f32()));
        }
        Ok(round.outcome(adapter, Some(delta)))
    }
}

/// `target − mean` as factors B and A.
pub(super) fn residual([b, a]: [Matrix; 2], mean: Product) -> [Matrix; 2] {
    let a = Matrix::below(&[a, mean.a.scaled(-mean.scale)]);
    [Matrix::beside(&[b, mean.b]), a]
}
