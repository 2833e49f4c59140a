//! Bulyan (El Mhamdi et al. 2018, 1802.07927).

use serde::{Deserialize, Serialize};

use super::checked::Checked;
use super::distance::Distance;
use super::krum::ranked;
use super::median::{by_coordinate, middle};
use super::method::Method;
use super::{AggregateError, Outcome};
use crate::parts::Parts;

/// Krum picks θ = n − 2f updates, one after the other; of them each coordinate is the mean of the θ − 2f values
/// around the median. Unweighted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bulyan {
    /// f, the number of clients that may send anything.
    pub byzantine: usize,
    /// What neighbours are near by.
    pub distance: Distance,
}

impl Default for Bulyan {
    fn default() -> Self {
        Self { byzantine: 1, distance: Distance::Flat }
    }
}

impl Method for Bulyan {
    fn name(&self) -> &'static str {
        "Bulyan"
    }

    fn least_clients(&self) -> usize {
        self.byzantine.saturating_mul(4).saturating_add(3)
    }

    fn weighs(&self) -> bool {
        false
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let picked = self.pick(&self.distance.squares(round));
        let adapter = round.each(Parts::ALL, |tensor| self.around_median(&tensor.clients, &picked));
        Ok(Outcome { picked: Some(picked), ..round.outcome(adapter, None) })
    }
}

impl Bulyan {
    /// The θ clients that Krum picks, each from those that are left.
    pub(super) fn pick(&self, squares: &[Vec<f64>]) -> Vec<usize> {
        let mut left: Vec<usize> = (0..squares.len()).collect();
        let mut picked = Vec::new();
        while picked.len() + 2 * self.byzantine < squares.len() {
            let best = ranked(squares, &left, self.byzantine)[0];
            left.retain(|client| *client != best);
            picked.push(best);
        }
        picked
    }

    /// The mean of the values of the clients `picked` that are nearest to their median, by coordinate.
    pub(super) fn around_median(&self, clients: &[Vec<f64>], picked: &[usize]) -> Vec<f64> {
        let picked: Vec<Vec<f64>> = picked.iter().map(|&client| clients[client].clone()).collect();
        by_coordinate(&picked, |rising| {
            let median = middle(rising);
            let mut near = rising.to_vec();
            // Stable: of two values as far away on either side the smaller comes first.
            near.sort_by(|x, y| (x - median).abs().total_cmp(&(y - median).abs()));
            near.truncate(rising.len() - 2 * self.byzantine);
            near.iter().sum::<f64>() / near.len() as f64
        })
    }
}
