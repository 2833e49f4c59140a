//! The coordinate-wise median (Yin et al. 2018, 1803.01498).

use super::checked::Checked;
use super::method::Method;
use super::{AggregateError, Outcome};
use crate::parts::Parts;

/// The middle value of each coordinate, unweighted.
pub(super) struct Median;

impl Method for Median {
    fn name(&self) -> &'static str {
        "Median"
    }

    fn weighs(&self) -> bool {
        false
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let adapter = round.each(Parts::ALL, |tensor| by_coordinate(&tensor.clients, middle));
        Ok(round.outcome(adapter, None))
    }
}

/// What `pick` makes of the values of each coordinate, which it is given rising.
pub(super) fn by_coordinate(clients: &[Vec<f64>], pick: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut column = vec![0.0; clients.len()];
    let value = |at: usize| {
        for (place, values) in column.iter_mut().zip(clients) {
            *place = values[at];
        }
        column.sort_unstable_by(f64::total_cmp);
        pick(&column)
    };
    (0..clients.first().map_or(0, Vec::len)).map(value).collect()
}

/// The middle of rising values; the mean of the two middle ones where their number is even.
pub(super) fn middle(rising: &[f64]) -> f64 {
    let half = rising.len() / 2;
    if rising.len() % 2 == 1 { rising[half] } else { f64::midpoint(rising[half - 1], rising[half]) }
}
