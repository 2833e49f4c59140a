//! What the server keeps from one round to the next.

use super::AggregateError;
use super::checked::{Checked, widen};
use crate::peft::AdapterTensors;

/// The tensor `<kind>/<name>` of the state in f64; `start` everywhere where there is none yet.
///
/// # Errors
/// It has another shape than the tensor `name` of the adapter.
pub(super) fn kept(
    round: &Checked<'_>,
    kind: &str,
    name: &str,
    start: f64,
) -> Result<Vec<f64>, AggregateError> {
    let key = format!("{kind}/{name}");
    let shape = round.round.from.get(name).map(|(shape, _)| shape);
    match round.round.state.and_then(|state| state.get(&key)) {
        None => Ok(vec![start; shape.map_or(0, |shape| shape[0] * shape[1])]),
        Some((found, values)) if Some(found) == shape => Ok(widen(values)),
        Some(_) => Err(AggregateError::State { name: key }),
    }
}

/// The state of the round before with these tensors: kind, name, shape and values of each.
pub(super) fn keep<'n>(
    round: &Checked<'_>,
    tensors: impl IntoIterator<Item = (&'static str, &'n str, [usize; 2], Vec<f64>)>,
) -> AdapterTensors {
    let before = round.round.state.cloned().unwrap_or_default();
    tensors.into_iter().fold(before, |state, (kind, name, shape, values)| {
        let values = values.into_iter().map(super::checked::narrow).collect();
        state.with(&format!("{kind}/{name}"), shape, values)
    })
}
