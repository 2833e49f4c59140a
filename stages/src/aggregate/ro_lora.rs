//! `RoLoRA` (Chen et al. 2024, 2409.02346 and 2502.01755).

use super::checked::Checked;
use super::method::Method;
use super::{AggregateError, Outcome};
use crate::parts::Parts;

/// The factors take turns: B is trained and averaged in odd rounds, A in even ones, while the other is the same for
/// all. B comes first, because it is zero at first, and A would then have no gradient.
pub(super) struct RoLoRA;

impl Method for RoLoRA {
    fn name(&self) -> &'static str {
        "RoLoRA"
    }

    fn trains(&self, round: u32) -> Parts {
        let factor = if round % 2 == 1 { Parts::B } else { Parts::A };
        factor | Parts::HEAD
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
