//! Federated averaging (1602.05629); on LoRA's factors it is `FedIT` (Zhang et al. 2023, 2305.05644).

use super::checked::Checked;
use super::method::Method;
use super::{AggregateError, Outcome};
use crate::parts::Parts;

/// `Σ p_k·w_k` for every tensor.
pub(super) struct FedAvg;

impl Method for FedAvg {
    fn name(&self) -> &'static str {
        "FedAvg"
    }

    fn is_mean(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        Ok(round.outcome(round.averaged(Parts::ALL), None))
    }
}

/// `Σ shares_k·w_k`, summed in the order of the clients.
pub(super) fn mean(shares: &[f64], clients: &[Vec<f64>]) -> Vec<f64> {
    // Minus zero is what leaves every number as it is, the sign of a zero too.
    let mut sums = vec![-0.0; clients.first().map_or(0, Vec::len)];
    for (share, values) in shares.iter().zip(clients) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += share * value;
        }
    }
    sums
}

/// The unweighted mean.
pub(super) fn even_mean(clients: &[Vec<f64>]) -> Vec<f64> {
    mean(&vec![(clients.len() as f64).recip(); clients.len()], clients)
}
