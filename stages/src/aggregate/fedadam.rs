//! Adam on the server (Reddi et al. 2020, 2003.00295).

use serde::{Deserialize, Serialize};

use super::adaptive::{Adaptive, Convention};
use super::checked::Checked;
use super::method::Method;
use super::{AggregateError, Outcome, RuleError};

/// `v ← β₂·v + (1 − β₂)·Δ²`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FedAdam {
    /// η.
    pub lr: f64,
    /// β₁, of the mean of the updates.
    pub beta1: f64,
    /// β₂, of the mean of their squares.
    pub beta2: f64,
    /// τ, added to the root: the smaller, the more even are the steps of all coordinates.
    pub tau: f64,
    /// How the moments begin.
    pub convention: Convention,
}

impl Default for FedAdam {
    fn default() -> Self {
        Self { lr: 0.1, beta1: 0.9, beta2: 0.99, tau: 1e-3, convention: Convention::Reddi }
    }
}

impl Method for FedAdam {
    fn name(&self) -> &'static str {
        "FedAdam"
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
        self.optimizer(round.round.number).aggregate(round)
    }
}

impl FedAdam {
    /// The step of the round of this number.
    pub(super) fn optimizer(&self, round: u32) -> Adaptive<impl Fn(f64, f64) -> f64 + Sync> {
        let Self { lr, beta1, beta2, tau, convention } = *self;
        let lr = match convention {
            Convention::Reddi => lr,
            Convention::Flower => {
                // Kingma and Ba would have the number of the round itself.
                let power = f64::from(round) + 1.0;
                lr * (1.0 - beta2.powf(power)).sqrt() / (1.0 - beta1.powf(power))
            }
        };
        let second = move |v: f64, square: f64| beta2 * v + (1.0 - beta2) * square;
        Adaptive { lr, beta1: Some(beta1), tau, start: convention.start(tau), second }
    }
}
