//! How the adapters of a round's clients become one.

mod fedavg;
mod median;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::peft::AdapterTensors;

/// Why adapters cannot be aggregated.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AggregateError {
    /// There is no adapter.
    #[error("there is no client to aggregate")]
    Empty,
    /// An adapter has other names or shapes than the first.
    #[error("the adapter of client {client} has other tensors or shapes than that of client 0")]
    Unlike {
        /// Its place in the list.
        client: usize,
    },
    /// No client has an example.
    #[error("no client has an example, so none has a weight")]
    NoWeight,
}

/// One client's part in an aggregation.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// The number of examples that it was trained on.
    pub examples: u64,
    /// Its adapter.
    pub adapter: &'a AdapterTensors,
}

/// An aggregation rule. A new one is a file, a variant and a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// The mean of each factor, weighted by the number of examples (`FedIT` on LoRA).
    #[default]
    FedAvg,
    /// The coordinate-wise median, unweighted.
    Median,
}

impl Rule {
    /// The aggregate of `updates`, which are in the order of the clients.
    pub fn aggregate(self, updates: &[Update<'_>]) -> Result<AdapterTensors, AggregateError> {
        let first = updates.first().ok_or(AggregateError::Empty)?;
        let unlike = |update: &Update<'_>| !update.adapter.same_shapes(first.adapter);
        if let Some(client) = updates.iter().position(unlike) {
            return Err(AggregateError::Unlike { client });
        }
        let flat = match self {
            Self::FedAvg => fedavg::mean(updates)?,
            Self::Median => median::median(updates),
        };
        Ok(first.adapter.with_values(&flat))
    }
}

/// The values of each update, flat.
fn flat(updates: &[Update<'_>]) -> Vec<Vec<f32>> {
    updates.iter().map(|update| update.adapter.flatten()).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(values: &[f32]) -> AdapterTensors {
        AdapterTensors::new([("a".to_owned(), [1, values.len()], values.to_vec())])
    }

    fn values(rule: Rule, updates: &[(u64, &AdapterTensors)]) -> Result<Vec<f32>, AggregateError> {
        let updates = updates.iter().map(|&(examples, adapter)| Update { examples, adapter });
        rule.aggregate(&updates.collect::<Vec<_>>()).map(|adapter| adapter.flatten())
    }

    #[test]
    fn fedavg_weighs_by_examples() {
        let (a, b) = (adapter(&[1.0, 10.0]), adapter(&[5.0, -10.0]));
        let mean = values(Rule::FedAvg, &[(1, &a), (3, &b)]).unwrap();
        assert_eq!(mean, [4.0, -5.0]);
        assert_eq!(values(Rule::FedAvg, &[(10, &a), (30, &b)]).unwrap(), mean);
        assert_eq!(values(Rule::FedAvg, &[(0, &a), (3, &b)]).unwrap(), [5.0, -10.0]);
        assert_eq!(values(Rule::FedAvg, &[(7, &a)]).unwrap(), [1.0, 10.0]);
    }

    #[test]
    fn median_is_the_middle_of_each_coordinate() {
        let all = [adapter(&[1.0, 9.0]), adapter(&[5.0, -2.0]), adapter(&[100.0, 0.0])];
        let updates: Vec<_> = all.iter().map(|adapter| (1, adapter)).collect();
        assert_eq!(values(Rule::Median, &updates).unwrap(), [5.0, 0.0]);
        assert_eq!(values(Rule::Median, &updates[..2]).unwrap(), [3.0, 3.5]);
    }

    #[test]
    fn what_cannot_be_aggregated_is_refused() {
        let (a, b) = (adapter(&[1.0, 10.0]), adapter(&[5.0]));
        assert_eq!(values(Rule::FedAvg, &[]), Err(AggregateError::Empty));
        assert_eq!(
            values(Rule::Median, &[(1, &a), (1, &b)]),
            Err(AggregateError::Unlike { client: 1 })
        );
        assert_eq!(values(Rule::FedAvg, &[(0, &a), (0, &a)]), Err(AggregateError::NoWeight));
    }
}
