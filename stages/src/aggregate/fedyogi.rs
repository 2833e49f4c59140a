//! Yogi on the server (Reddi et al. 2020, 2003.00295).

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::adaptive::{Adaptive, Convention};
use super::checked::Checked;
use super::method::Method;
use super::{AggregateError, Outcome, RuleError};

/// `v ← v − (1 − β₂)·Δ²·sign(v − Δ²)`: v falls no faster than it can rise.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedYogi {
    /// η.
    pub lr: f64,
    /// β₁, of the mean of the updates.
    pub beta1: f64,
    /// β₂, of their squares.
    pub beta2: f64,
    /// τ, added to the root.
    pub tau: f64,
    /// How the moments begin; there is no correction in either.
    pub convention: Convention,
}

impl Default for FedYogi {
    fn default() -> Self {
        Self { lr: 0.01, beta1: 0.9, beta2: 0.99, tau: 1e-3, convention: Convention::Reddi }
    }
}

impl Method for FedYogi {
    fn name(&self) -> &'static str {
        "FedYogi"
    }

    fn check(&self) -> Result<(), RuleError> {
        RuleError::unless_positive("lr", self.lr)?;
        RuleError::unless_share("beta1", self.beta1)?;
        RuleError::unless_share("beta2", self.beta2)?;
        RuleError::unless_positive("tau", self.tau)
    }

    fn is_mean(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        self.optimizer().aggregate(round)
    }
}

impl FedYogi {
    pub(super) fn optimizer(&self) -> Adaptive<impl Fn(f64, f64) -> f64 + Sync> {
        let Self { lr, beta1, beta2, tau, convention } = *self;
        let second = move |v: f64, square: f64| match v.total_cmp(&square) {
            Ordering::Less => v + (1.0 - beta2) * square,
            Ordering::Equal => v,
            Ordering::Greater => v - (1.0 - beta2) * square,
        };
        Adaptive { lr, beta1: Some(beta1), tau, start: convention.start(tau), second }
    }
}
