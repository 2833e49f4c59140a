//! FFA-LoRA (Sun et al. 2024, 2403.12313).

use super::checked::Checked;
use super::method::Method;
use super::{AggregateError, Outcome};
use crate::parts::Parts;

/// A stays as it was drawn, the same for all; B is trained and averaged. So the mean of the factors is that of the
/// products, and what is shared is linear in what is trained.
pub(super) struct FFALoRA;

impl Method for FFALoRA {
    fn name(&self) -> &'static str {
        "FFALoRA"
    }

    fn trains(&self, _round: u32) -> Parts {
        Parts::B | Parts::HEAD
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn is_mean(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        Ok(round.outcome(round.averaged(Parts::ALL), None))
    }
}
