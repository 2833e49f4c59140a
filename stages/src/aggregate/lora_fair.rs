//! After LoRA-FAIR (Bian et al. 2024, 2411.14961), in closed form.

use serde::{Deserialize, Serialize};

use super::checked::Checked;
use super::method::Method;
use super::modules::Product;
use super::{AggregateError, Outcome, RuleError};
use crate::linear::{Matrix, solve_positive};

/// The means of the factors, with B corrected so that the product comes nearer to ΔW*: ΔB is the least of
/// `‖ΔW*/s − (B̄ + ΔB)·Ā‖² + λ·‖ΔB‖²`, which is `(ΔW*/s − B̄·Ā)·Āᵀ·(Ā·Āᵀ + λ·I)⁻¹`.
///
/// This is not the paper's solver: that goes down the gradient of the *cosine* distance by SGD for 1000 steps. Least
/// squares have an answer that is exact, fast and the same every time, hence the other name.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoRAFairLS {
    /// λ, what a correction costs.
    pub lambda: f64,
}

impl Default for LoRAFairLS {
    fn default() -> Self {
        Self { lambda: 0.01 }
    }
}

impl Method for LoRAFairLS {
    fn name(&self) -> &'static str {
        "LoRAFairLS"
    }

    fn check(&self) -> Result<(), RuleError> {
        RuleError::unless_positive("lambda", self.lambda)
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let factors = round.by_module(|module| {
            let clients = round.products(module);
            let mean = mean(&round.shares, &clients, module.scale);
            let correction = self.correction(&round.shares, &clients, &mean);
            let corrected = correction.map(|correction| [mean.a, mean.b.plus(&correction)]);
            corrected.ok_or_else(|| AggregateError::Singular { path: module.path.clone() })
        });
        let factors = factors.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(round.outcome(round.with_factors(factors), None))
    }
}

impl LoRAFairLS {
    /// ΔB; none where the equations cannot be solved in f64.
    pub(super) fn correction(
        self,
        shares: &[f64],
        clients: &[Product],
        mean: &Product,
    ) -> Option<Matrix> {
        // (ΔW*/s − B̄·Ā)·Āᵀ without the product of any B with any A.
        let gram = mean.a.times_transposed(&mean.a);
        let mut missed = mean.b.times(&gram).scaled(-1.0);
        for (share, client) in shares.iter().zip(clients) {
            let inner =
                client.a.times_transposed(&mean.a).scaled(share * client.scale / mean.scale);
            missed = missed.plus(&client.b.times(&inner));
        }
        let size = gram.rows();
        let gram = gram.plus(&Matrix::identity(size).scaled(self.lambda));
        Some(solve_positive(&gram, &missed.transposed())?.transposed())
    }
}

/// The means of the factors, summed in the order of the clients.
pub(super) fn mean(shares: &[f64], clients: &[Product], scale: f64) -> Product {
    let sum = |factor: fn(&Product) -> &Matrix| {
        let mut scaled =
            clients.iter().zip(shares).map(|(client, share)| factor(client).clone().scaled(*share));
        let first = scaled.next().expect("there is a client");
        scaled.fold(first, |sum, more| sum.plus(&more))
    };
    Product { scale, b: sum(|client| &client.b), a: sum(|client| &client.a) }
}
