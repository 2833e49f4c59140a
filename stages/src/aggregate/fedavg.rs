//! Federated averaging (arXiv 1602.05629).

use super::{AggregateError, Update, flat, narrow};

/// `Σ p_k·w_k` with `p_k = n_k / Σn`, summed in f64 in the order of the clients.
pub(super) fn mean(updates: &[Update<'_>]) -> Result<Vec<f32>, AggregateError> {
    let total: u64 = updates.iter().map(|update| update.examples).sum();
    if total == 0 {
        return Err(AggregateError::NoWeight);
    }
    let all = flat(updates);
    let shares: Vec<f64> =
        updates.iter().map(|update| update.examples as f64 / total as f64).collect();
    let value = |at: usize| {
        let sum: f64 = shares.iter().zip(&all).map(|(p, values)| p * f64::from(values[at])).sum();
        narrow(sum)
    };
    Ok((0..all[0].len()).map(value).collect())
}
