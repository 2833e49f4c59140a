//! The coordinate-wise trimmed mean (Yin et al. 2018, 1803.01498).

use serde::{Deserialize, Serialize};

use super::checked::Checked;
use super::median::by_coordinate;
use super::method::Method;
use super::{AggregateError, Outcome, RuleError};
use crate::parts::Parts;

/// The unweighted mean of each coordinate without its largest and its smallest values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrimmedMean {
    /// The share of the clients that is cut on each side, rounded down to whole clients.
    pub cut: f64,
}

impl Default for TrimmedMean {
    fn default() -> Self {
        Self { cut: 0.2 }
    }
}

impl Method for TrimmedMean {
    fn name(&self) -> &'static str {
        "TrimmedMean"
    }

    fn check(&self) -> Result<(), RuleError> {
        let holds = (0.0..0.5).contains(&self.cut);
        RuleError::unless(holds, "cut", self.cut, "it is at least 0 and below 0.5")
    }

    fn weighs(&self) -> bool {
        false
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let adapter = round.each(Parts::ALL, |tensor| self.of(&tensor.clients));
        Ok(round.outcome(adapter, None))
    }
}

impl TrimmedMean {
    /// The trimmed mean of vectors.
    pub(super) fn of(self, clients: &[Vec<f64>]) -> Vec<f64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a number of clients"
        )]
        let cut = (self.cut * clients.len() as f64) as usize;
        by_coordinate(clients, |rising| {
            let kept = &rising[cut..rising.len() - cut];
            kept.iter().sum::<f64>() / kept.len() as f64
        })
    }
}
