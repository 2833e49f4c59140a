//! `FLoRA` (Wang et al. 2024, 2409.05976).

use super::checked::Checked;
use super::method::{Broadcast, Method};
use super::{AggregateError, Outcome};
use crate::linear::Matrix;
use crate::peft::{self, Delta, first_a};
use crate::seed::Draws;

/// The clients' factors are stacked, `B = [B_1 … B_K]` and `A = [p_1·s_1·A_1; …; p_K·s_K·A_K]`, whose product is ΔW*
/// for any ranks. It goes into the base, and the next round begins with a fresh adapter: A drawn anew, B zero.
pub(super) struct FLoRA;

impl Method for FLoRA {
    fn name(&self) -> &'static str {
        "FLoRA"
    }

    fn broadcast(&self) -> Broadcast {
        Broadcast::Stack
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn takes_ranks(&self) -> bool {
        true
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let stacks = round.by_module(|module| round.target(module));
        let mut delta = Delta::new();
        for (module, [b, a]) in round.modules.iter().zip(&stacks) {
            delta.add(&module.path, (a.shape(), a.to_f32()), (b.shape(), b.to_f32()));
        }
        let fresh = round.by_module(|module| {
            let [a, b] = peft::factor_names(&module.path);
            [a, b].map(|name| fresh(round, &name))
        });
        Ok(round.outcome(round.with_factors(fresh), Some(delta)))
    }
}

/// First values for a factor of the global adapter: A drawn by seed, round and name, row after row, so that smaller
/// ranks have the first rows; B zero.
pub(super) fn fresh(round: &Checked<'_>, name: &str) -> Matrix {
    let shape = round.round.from.get(name).map_or([0, 0], |(shape, _)| shape);
    if peft::path_of_a(name).is_none() {
        return Matrix::zeros(shape[0], shape[1]);
    }
    let number = round.round.number.to_string();
    let mut draws = Draws::named(round.round.seed, "fresh", &[&number, name]);
    Matrix::from_f32(shape, &first_a(round.round.lora.init, shape, &mut draws))
}
