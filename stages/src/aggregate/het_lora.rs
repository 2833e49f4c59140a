//! `HetLoRA` (Cho et al. 2024, 2401.06432), and the weights of RBLA (2408.08699).

use serde::{Deserialize, Serialize};

use super::checked::Checked;
use super::method::Method;
use super::modules::Product;
use super::{AggregateError, Outcome, RuleError};
use crate::linear::{Matrix, norm_of_product};
use crate::local_train::Prune;
use crate::peft;

/// Factors of different ranks are padded with zeros to the rank of the global adapter and averaged, each row of A and
/// column of B by itself. Clients start from the first rows ([`super::for_rank`]).
///
/// Rows that no client of the round has stay as they are: the mean of padding alone would wipe them out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HetLoRA {
    /// What the clients' factors are weighted by; the classifier is always weighted by `p_k`.
    pub weights: Weights,
    /// Whether clients give up ranks by themselves, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prune: Option<Prune>,
}

/// The weights of the clients in a mean of padded factors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Weights {
    /// `‖ΔW_k‖ / Σ‖ΔW_j‖` (Frobenius) by module: the paper's, by sparsity. `p_k` where all are zero.
    #[default]
    Norm,
    /// `p_k`.
    Examples,
    /// `p_k` among the clients that have the row, so that padding does not dilute it (RBLA).
    Owners,
}

impl Method for HetLoRA {
    fn name(&self) -> &'static str {
        "HetLoRA"
    }

    fn check(&self) -> Result<(), RuleError> {
        let Some(Prune { gamma, lambda }) = self.prune else {
            return Ok(());
        };
        let holds = gamma > 0.0 && gamma < 1.0;
        RuleError::unless(holds, "prune.gamma", gamma, "it is above 0 and below 1")?;
        let holds = lambda.is_finite() && lambda >= 0.0;
        RuleError::unless(holds, "prune.lambda", lambda, "it is at least 0")
    }

    fn takes_ranks(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let factors = round.by_module(|module| {
            let [a, b] = peft::factor_names(&module.path).map(|name| {
                let (shape, values) = round.tensor(round.round.from, &name);
                Matrix::from_f32(shape, values)
            });
            // A client's own scale goes into its B, so that the factors mean the same in the global adapter.
            let clients: Vec<Product> = (round.products(module).into_iter())
                .map(|Product { scale, b, a }| Product {
                    scale: module.scale,
                    b: b.scaled(scale / module.scale),
                    a,
                })
                .collect();
            if let Some(larger) = clients.iter().find(|client| client.a.rows() > a.rows()) {
                let (path, own) = (module.path.clone(), larger.a.rows());
                return Err(AggregateError::Rank { path, own, global: a.rows() });
            }
            let weights = self.weights(&round.shares, &clients);
            let by_owners = self.weights == Weights::Owners;
            let (of_a, of_b): (Vec<Matrix>, Vec<Matrix>) =
                clients.into_iter().map(|client| (client.a, client.b.transposed())).unzip();
            let columns = padded_mean(&weights, &of_b, &b.transposed(), by_owners);
            Ok([padded_mean(&weights, &of_a, &a, by_owners), columns.transposed()])
        });
        let factors = factors.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(round.outcome(round.with_factors(factors), None))
    }
}

impl HetLoRA {
    /// The weight of each client in one module.
    pub(super) fn weights(&self, shares: &[f64], clients: &[Product]) -> Vec<f64> {
        if self.weights != Weights::Norm {
            return shares.to_vec();
        }
        let norms: Vec<f64> =
            clients.iter().map(|client| norm_of_product(&client.b, &client.a)).collect();
        let total: f64 = norms.iter().sum();
        if total > 0.0 { norms.iter().map(|norm| norm / total).collect() } else { shares.to_vec() }
    }
}

/// The mean of matrices of different heights, row by row, at the height of `before`: a client that lacks a row has
/// zeros there, or no part in it where it goes `by_owners`. A row that nobody has is that of `before`.
pub(super) fn padded_mean(
    weights: &[f64],
    clients: &[Matrix],
    before: &Matrix,
    by_owners: bool,
) -> Matrix {
    let mut mean = before.clone();
    for row in 0..before.rows() {
        let owners = || weights.iter().zip(clients).filter(|(_, client)| client.rows() > row);
        if owners().next().is_none() {
            continue;
        }
        let total = if by_owners { owners().map(|(weight, _)| weight).sum() } else { 1.0 };
        let sums = mean.row_mut(row);
        sums.fill(-0.0);
        for (weight, client) in owners() {
            for (sum, value) in sums.iter_mut().zip(client.row(row)) {
                *sum += weight / total * value;
            }
        }
    }
    mean
}
