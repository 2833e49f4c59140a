//! What every rule says of itself.

use super::{AggregateError, Checked, Outcome, RuleError};
pub(super) use crate::ledger::Broadcast;
use crate::parts::Parts;

/// One rule: its properties and its work. The settings are the fields of whoever implements it; [`super::Rule`] has
/// the same methods for all.
pub(super) trait Method {
    fn name(&self) -> &'static str;

    fn check(&self) -> Result<(), RuleError> {
        Ok(())
    }

    fn trains(&self, _round: u32) -> Parts {
        Parts::FACTORS | Parts::HEAD
    }

    fn personal(&self) -> Parts {
        Parts::NONE
    }

    fn broadcast(&self) -> Broadcast {
        Broadcast::None
    }

    fn copies(&self) -> u32 {
        1
    }

    fn is_exact(&self) -> bool {
        false
    }

    fn takes_ranks(&self) -> bool {
        false
    }

    fn least_clients(&self) -> usize {
        1
    }

    fn is_mean(&self) -> bool {
        false
    }

    fn weighs(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError>;
}
