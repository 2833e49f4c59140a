//! What the adaptive optimisers of the server share (Reddi et al. 2020, 2003.00295).

use serde::{Deserialize, Serialize};

use super::checked::Checked;
use super::fedavg::mean;
use super::state::{keep, kept};
use super::{AggregateError, Outcome};
use crate::parts::Parts;

/// How the second moment begins, and whether a beginning at zero is corrected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Convention {
    /// As in the paper: v begins at τ², nothing is corrected.
    #[default]
    Reddi,
    /// As in Flower: v begins at 0, and Adam alone has Kingma's correction, with the exponent round + 1.
    Flower,
}

impl Convention {
    /// What v is before the first round.
    pub(super) fn start(self, tau: f64) -> f64 {
        match self {
            Self::Reddi => tau * tau,
            Self::Flower => 0.0,
        }
    }
}

/// `Δ = mean − x`, `m ← β₁·m + (1 − β₁)·Δ`, `v ← second(v, Δ²)`, `x ← x + η·m / (√v + τ)`.
pub(super) struct Adaptive<F> {
    /// η, corrected already where it is.
    pub(super) lr: f64,
    /// β₁; none for m = Δ.
    pub(super) beta1: Option<f64>,
    /// τ.
    pub(super) tau: f64,
    /// What v begins at.
    pub(super) start: f64,
    /// The next v of v and Δ².
    pub(super) second: F,
}

impl<F: Fn(f64, f64) -> f64 + Sync> Adaptive<F> {
    /// One step on every trained tensor; the moments are the state `momentum/…` and `second/…`.
    pub(super) fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let stepped = round.map(Parts::ALL, |tensor| {
            let first = kept(round, "momentum", tensor.name, 0.0)?;
            let second = kept(round, "second", tensor.name, self.start)?;
            let mean = mean(&round.shares, &tensor.clients);
            Ok::<_, AggregateError>(self.step(&tensor.from, &mean, [&first, &second]))
        });
        let (mut values, mut state) = (Vec::new(), Vec::new());
        for (name, shape, result) in stepped {
            let [x, first, second] = result?;
            values.push((name, shape, x));
            if self.beta1.is_some() {
                state.push(("momentum", name, shape, first));
            }
            state.push(("second", name, shape, second));
        }
        let outcome = round.outcome(round.replaced(values), None);
        Ok(Outcome { state: Some(keep(round, state)), ..outcome })
    }

    /// The next `x`, `m` and `v`.
    pub(super) fn step(&self, x: &[f64], mean: &[f64], moments: [&[f64]; 2]) -> [Vec<f64>; 3] {
        let [first, second] = moments;
        let gains: Vec<f64> = x.iter().zip(mean).map(|(x, mean)| mean - x).collect();
        let first: Vec<f64> = match self.beta1 {
            Some(beta) => {
                let blend = |(m, gain): (&f64, &f64)| beta * m + (1.0 - beta) * gain;
                first.iter().zip(&gains).map(blend).collect()
            }
            None => gains.clone(),
        };
        let square = |(v, gain): (&f64, &f64)| (self.second)(*v, gain * gain);
        let second: Vec<f64> = second.iter().zip(&gains).map(square).collect();
        let moments = first.iter().zip(&second);
        let step = |(x, (m, v)): (&f64, (&f64, &f64))| x + self.lr * m / (v.sqrt() + self.tau);
        let x = x.iter().zip(moments).map(step).collect();
        [x, first, second]
    }
}
