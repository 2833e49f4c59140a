//! q-fair federated averaging (Li et al. 2019, 1905.10497).

use serde::{Deserialize, Serialize};

use super::checked::Checked;
use super::distance::flat;
use super::method::Method;
use super::{AggregateError, Outcome, RuleError};
use crate::parts::Parts;

/// Added to each loss, so that none is zero; Flower's.
const LEAST_LOSS: f64 = 1e-10;

/// The larger a client's loss, the more it counts: `w ← w − ΣΔ_k / Σh_k` with `L = 1/lr`, `g_k = L·(w − w_k)`,
/// `Δ_k = F_k^q·g_k` and `h_k = q·F_k^(q−1)·‖g_k‖² + L·F_k^q`. Unweighted; with q = 0 it is the unweighted mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QFedAvg {
    /// q, how much fairness.
    pub q: f64,
    /// 1/L, the paper's estimate of the step: the clients' learning rate.
    pub lr: f64,
}

impl Default for QFedAvg {
    fn default() -> Self {
        Self { q: 0.1, lr: 0.1 }
    }
}

impl Method for QFedAvg {
    fn name(&self) -> &'static str {
        "QFedAvg"
    }

    fn check(&self) -> Result<(), RuleError> {
        let holds = self.q.is_finite() && self.q >= 0.0;
        RuleError::unless(holds, "q", self.q, "it is at least 0")?;
        RuleError::unless_positive("lr", self.lr)
    }

    fn weighs(&self) -> bool {
        false
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let mut losses = Vec::with_capacity(round.clients.len());
        for (client, update) in round.clients.iter().enumerate() {
            let loss = update.loss.filter(|loss| loss.is_finite() && *loss >= 0.0);
            losses.push(loss.ok_or(AggregateError::NoLoss { client })?);
        }
        let squares = round.map(Parts::ALL, |tensor| -> Vec<f64> {
            tensor.clients.iter().map(|values| flat(&tensor.from, values)).collect()
        });
        let square = |client: usize| squares.iter().map(|(.., squares)| squares[client]).sum();
        let squares: Vec<f64> = (0..losses.len()).map(square).collect();
        let steps = self.steps(&losses, &squares);
        let adapter = round.each(Parts::ALL, |tensor| moved(&tensor.from, &tensor.clients, &steps));
        Ok(round.outcome(adapter, None))
    }
}

impl QFedAvg {
    /// How far the server goes towards each client, from their losses and from `‖w − w_k‖²`:
    /// `L·F_k^q / Σh`.
    pub(super) fn steps(&self, losses: &[f64], squares: &[f64]) -> Vec<f64> {
        let (q, steepness) = (self.q, self.lr.recip());
        let powers: Vec<f64> = losses.iter().map(|loss| (loss + LEAST_LOSS).powf(q)).collect();
        let bound = |((loss, power), square): ((&f64, &f64), &f64)| {
            let gradient = steepness * steepness * square;
            q * (loss + LEAST_LOSS).powf(q - 1.0) * gradient + steepness * power
        };
        let bounds: f64 = losses.iter().zip(&powers).zip(squares).map(bound).sum();
        powers.iter().map(|power| steepness * power / bounds).collect()
    }
}

/// `from + Σ steps_k·(w_k − from)`.
pub(super) fn moved(from: &[f64], clients: &[Vec<f64>], steps: &[f64]) -> Vec<f64> {
    let mut moved = from.to_vec();
    for (step, values) in steps.iter().zip(clients) {
        for ((sum, value), from) in moved.iter_mut().zip(values).zip(from) {
            *sum += step * (value - from);
        }
    }
    moved
}
