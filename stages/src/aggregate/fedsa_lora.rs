//! FedSA-LoRA (Guo et al. 2024, 2410.01463).

use super::checked::Checked;
use super::errors::errors;
use super::method::Method;
use super::{AggregateError, Outcome};
use crate::parts::Parts;

/// Both factors are trained; A is averaged, and each client keeps its own B for ever: `ΔW_k = s·B_k·Ā`.
///
/// The global adapter has the mean of A and the B that all began with, from which a client that joins late starts.
/// There is no global model: the stand-in has the mean of the clients' B as well, which is the mean of the personal
/// products, and it is its error that is told. For it the updates need the clients' own B, which no client sends in a
/// round: without them it has the B that all began with.
pub(super) struct FedSALoRA;

impl Method for FedSALoRA {
    fn name(&self) -> &'static str {
        "FedSALoRA"
    }

    fn personal(&self) -> Parts {
        Parts::B
    }

    fn is_mean(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let stand_in = round.averaged(Parts::ALL);
        let (errors, error) = errors(round, &stand_in, None);
        let shared = round.averaged(!Parts::B);
        let outcome = Outcome::of(shared, round.round.lora.clone());
        Ok(Outcome { stand_in: Some(stand_in), errors, error, ..outcome })
    }
}
