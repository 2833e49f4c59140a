//! Multi-Krum (Blanchard et al. 2017, 1703.02757).

use serde::{Deserialize, Serialize};

use super::checked::Checked;
use super::distance::Distance;
use super::fedavg::even_mean;
use super::krum::{least_clients, ranked};
use super::method::Method;
use super::{AggregateError, Outcome, RuleError};
use crate::parts::Parts;

/// The unweighted mean of the updates whose nearest neighbours are nearest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MultiKrum {
    /// f, the number of clients that may send anything.
    pub byzantine: usize,
    /// How many updates are averaged; n − f unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<usize>,
    /// What neighbours are near by.
    pub distance: Distance,
}

impl Default for MultiKrum {
    fn default() -> Self {
        Self { byzantine: 1, keep: None, distance: Distance::Flat }
    }
}

impl Method for MultiKrum {
    fn name(&self) -> &'static str {
        "MultiKrum"
    }

    fn check(&self) -> Result<(), RuleError> {
        RuleError::unless(self.keep != Some(0), "keep", 0.0, "it is at least 1")
    }

    fn least_clients(&self) -> usize {
        let kept = self.keep.unwrap_or(1).saturating_add(self.byzantine);
        least_clients(self.byzantine).max(kept)
    }

    fn weighs(&self) -> bool {
        false
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let squares = self.distance.squares(round);
        let all: Vec<usize> = (0..squares.len()).collect();
        let mut picked = ranked(&squares, &all, self.byzantine);
        picked.truncate(self.keep.unwrap_or(all.len() - self.byzantine));
        // In the order of the clients, as all sums are.
        picked.sort_unstable();
        let adapter = round.each(Parts::ALL, |tensor| {
            let picked: Vec<Vec<f64>> =
                picked.iter().map(|&client| tensor.clients[client].clone()).collect();
            even_mean(&picked)
        });
        Ok(Outcome { picked: Some(picked), ..round.outcome(adapter, None) })
    }
}
