//! Fed-SB (Singhal et al. 2025, 2502.15436).

use super::checked::Checked;
use super::method::Method;
use super::{AggregateError, Outcome};
use crate::parts::Parts;

/// A and B are fixed and the same for all; the core R `[rank, rank]` between them is trained and averaged. The
/// product `s·B·R·A` is linear in it, so the mean is exact, for rank² numbers a module.
pub(super) struct FedSB;

impl Method for FedSB {
    fn name(&self) -> &'static str {
        "FedSB"
    }

    fn trains(&self, _round: u32) -> Parts {
        Parts::CORE | Parts::HEAD
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
