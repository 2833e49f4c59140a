//! SCAFFOLD's server (Karimireddy et al. 2019, 1910.06378).

use serde::{Deserialize, Serialize};

use super::checked::{Checked, widen};
use super::fedavg::even_mean;
use super::method::Method;
use super::state::{keep, kept};
use super::{AggregateError, Outcome, RuleError};
use crate::parts::Parts;
use crate::peft::AdapterTensors;

/// The name of the state.
const CONTROL: &str = "control";

/// `x ← x + η·mean(y_k − x)` and `c ← c + (1/N)·Σ(c_k⁺ − c_k)`, unweighted, with c zero at first. With all clients
/// in every round c is the mean of theirs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scaffold {
    /// η, of the server.
    pub lr: f64,
}

impl Default for Scaffold {
    fn default() -> Self {
        Self { lr: 1.0 }
    }
}

impl Method for Scaffold {
    fn name(&self) -> &'static str {
        "Scaffold"
    }

    fn check(&self) -> Result<(), RuleError> {
        RuleError::unless_positive("lr", self.lr)
    }

    fn copies(&self) -> u32 {
        2
    }

    fn weighs(&self) -> bool {
        false
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let stepped = round.map(Parts::ALL, |tensor| {
            let x = self.moved(&tensor.from, &tensor.clients);
            let changes = round.clients.iter().enumerate().map(|(client, update)| {
                let found = update.control.and_then(|control| control.get(tensor.name));
                let fits = found.filter(|(_, values)| values.len() == x.len());
                fits.map(|(_, values)| widen(values)).ok_or(AggregateError::NoControl { client })
            });
            let changes = changes.collect::<Result<Vec<_>, _>>()?;
            let before = kept(round, CONTROL, tensor.name, 0.0)?;
            let control = control(&before, &changes, round.round.population);
            Ok::<_, AggregateError>([x, control])
        });
        let (mut values, mut state) = (Vec::new(), Vec::new());
        for (name, shape, result) in stepped {
            let [x, control] = result?;
            values.push((name, shape, x));
            state.push((CONTROL, name, shape, control));
        }
        let outcome = round.outcome(round.replaced(values), None);
        Ok(Outcome { state: Some(keep(round, state)), ..outcome })
    }
}

impl Scaffold {
    /// The next x. With η = 1 it is the mean itself.
    pub(super) fn moved(self, x: &[f64], clients: &[Vec<f64>]) -> Vec<f64> {
        let blend = |(x, mean): (&f64, f64)| (1.0 - self.lr) * x + self.lr * mean;
        x.iter().zip(even_mean(clients)).map(blend).collect()
    }
}

/// The next c of one tensor, where there are `population` clients.
pub(super) fn control(before: &[f64], changes: &[Vec<f64>], population: usize) -> Vec<f64> {
    let mut control = before.to_vec();
    for change in changes {
        for (sum, change) in control.iter_mut().zip(change) {
            *sum += change / population as f64;
        }
    }
    control
}

/// The server's control variate in a state, by the names of the adapter's tensors; none before the first round, when
/// it is zero.
pub fn server_control(state: &AdapterTensors) -> AdapterTensors {
    let prefix = format!("{CONTROL}/");
    let controls = state.iter().filter_map(|(name, shape, values)| {
        Some((name.strip_prefix(&prefix)?.to_owned(), shape, values.to_vec()))
    });
    AdapterTensors::new(controls)
}
