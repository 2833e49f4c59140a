//! Adagrad on the server (Reddi et al. 2020, 2003.00295).

use serde::{Deserialize, Serialize};

use super::adaptive::{Adaptive, Convention};
use super::checked::Checked;
use super::method::Method;
use super::{AggregateError, Outcome, RuleError};

/// `v ← v + Δ²`, and m is Δ itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAdagrad {
    /// η.
    pub lr: f64,
    /// τ, added to the root.
    pub tau: f64,
    /// How v begins.
    pub convention: Convention,
}

impl Default for FedAdagrad {
    fn default() -> Self {
        Self { lr: 0.1, tau: 1e-3, convention: Convention::Reddi }
    }
}

impl Method for FedAdagrad {
    fn name(&self) -> &'static str {
        "FedAdagrad"
    }

    fn check(&self) -> Result<(), RuleError> {
        RuleError::unless_positive("lr", self.lr)?;
        RuleError::unless_positive("tau", self.tau)
    }

    fn is_mean(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        self.optimizer().aggregate(round)
    }
}

impl FedAdagrad {
    pub(super) fn optimizer(&self) -> Adaptive<impl Fn(f64, f64) -> f64 + Sync> {
        let Self { lr, tau, convention } = *self;
        let second = |v: f64, square: f64| v + square;
        Adaptive { lr, beta1: None, tau, start: convention.start(tau), second }
    }
}
