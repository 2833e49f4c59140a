//! Federated averaging with momentum on the server (Hsu et al. 2019, 1909.06335).

use serde::{Deserialize, Serialize};

use super::checked::Checked;
use super::fedavg::mean;
use super::method::Method;
use super::state::{keep, kept};
use super::{AggregateError, Outcome, RuleError};
use crate::parts::Parts;

/// `v ← β·v + (x − mean)`, `x ← x − η·v`, with v zero at first.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAvgM {
    /// η.
    pub lr: f64,
    /// β.
    pub momentum: f64,
}

impl Default for FedAvgM {
    fn default() -> Self {
        Self { lr: 1.0, momentum: 0.9 }
    }
}

impl Method for FedAvgM {
    fn name(&self) -> &'static str {
        "FedAvgM"
    }

    fn check(&self) -> Result<(), RuleError> {
        RuleError::unless_positive("lr", self.lr)?;
        RuleError::unless_share("momentum", self.momentum)
    }

    fn is_mean(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let stepped = round.map(Parts::ALL, |tensor| {
            let momentum = kept(round, "momentum", tensor.name, 0.0)?;
            let mean = mean(&round.shares, &tensor.clients);
            Ok::<_, AggregateError>(self.step(&tensor.from, &mean, &momentum))
        });
        let (mut values, mut state) = (Vec::new(), Vec::new());
        for (name, shape, result) in stepped {
            let [x, momentum] = result?;
            values.push((name, shape, x));
            state.push(("momentum", name, shape, momentum));
        }
        let outcome = round.outcome(round.replaced(values), None);
        Ok(Outcome { state: Some(keep(round, state)), ..outcome })
    }
}

impl FedAvgM {
    /// The next `x` and `v`.
    pub(super) fn step(&self, x: &[f64], mean: &[f64], momentum: &[f64]) -> [Vec<f64>; 2] {
        let moved = x.iter().zip(mean).zip(momentum);
        let momentum: Vec<f64> =
            moved.map(|((x, mean), v)| self.momentum * v + (x - mean)).collect();
        let x = x.iter().zip(&momentum).map(|(x, v)| x - self.lr * v).collect();
        [x, momentum]
    }
}
