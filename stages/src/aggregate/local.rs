//! No federation at all.

use super::checked::Checked;
use super::method::Method;
use super::{AggregateError, Outcome};
use crate::parts::Parts;

/// Every client goes on with its own adapter, and nothing is ever sent; the global adapter stays what it was.
pub(super) struct Local;

impl Method for Local {
    fn name(&self) -> &'static str {
        "Local"
    }

    fn personal(&self) -> Parts {
        Parts::ALL
    }

    fn takes_ranks(&self) -> bool {
        true
    }

    fn weighs(&self) -> bool {
        false
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        Ok(Outcome::of(round.round.from.clone(), round.round.lora.clone()))
    }
}
