//! Krum (Blanchard et al. 2017, 1703.02757).

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::checked::Checked;
use super::distance::Distance;
use super::method::Method;
use super::{AggregateError, Outcome};
use crate::parts::Parts;

/// The update whose nearest neighbours are nearest, as it is; unweighted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Krum {
    /// f, the number of clients that may send anything.
    pub byzantine: usize,
    /// What neighbours are near by.
    pub distance: Distance,
}

impl Default for Krum {
    fn default() -> Self {
        Self { byzantine: 1, distance: Distance::Flat }
    }
}

impl Method for Krum {
    fn name(&self) -> &'static str {
        "Krum"
    }

    fn least_clients(&self) -> usize {
        least_clients(self.byzantine)
    }

    fn weighs(&self) -> bool {
        false
    }

    fn aggregate(&self, round: &Checked<'_>) -> Result<Outcome, AggregateError> {
        let squares = self.distance.squares(round);
        let all: Vec<usize> = (0..squares.len()).collect();
        let best = ranked(&squares, &all, self.byzantine)[0];
        let adapter = round.each(Parts::ALL, |tensor| tensor.clients[best].clone());
        Ok(Outcome { picked: Some(vec![best]), ..round.outcome(adapter, None) })
    }
}

/// 2f + 3.
pub(super) fn least_clients(byzantine: usize) -> usize {
    byzantine.saturating_mul(2).saturating_add(3)
}

/// The score of each of `among`, n in number: the sum of its max(1, n − f − 2) smallest squared distances to others.
pub(super) fn scores(squares: &[Vec<f64>], among: &[usize], byzantine: usize) -> Vec<f64> {
    let neighbours = among.len().saturating_sub(byzantine.saturating_add(2)).max(1);
    let score = |&client: &usize| nearest(squares, among, client).iter().take(neighbours).sum();
    among.iter().map(score).collect()
}

/// Those of `among` by rising score.
///
/// Two clients that are each other's nearest have the same score where only one neighbour counts. So ties go to the
/// one whose next neighbours are nearer, and only what is wholly alike keeps its order: the choice does not depend on
/// the order of the clients.
pub(super) fn ranked(squares: &[Vec<f64>], among: &[usize], byzantine: usize) -> Vec<usize> {
    let scores = scores(squares, among, byzantine);
    let near = among.iter().map(|&client| nearest(squares, among, client));
    let mut ranked: Vec<(f64, Vec<f64>, usize)> = (scores.into_iter().zip(near))
        .zip(among)
        .map(|((score, near), client)| (score, near, *client))
        .collect();
    ranked.sort_by(|one, other| {
        let next = || one.1.iter().zip(&other.1).map(|(x, y)| x.total_cmp(y));
        one.0.total_cmp(&other.0).then_with(|| next().fold(Ordering::Equal, Ordering::then))
    });
    ranked.into_iter().map(|(.., client)| client).collect()
}

/// The squared distances of a client to the others of `among`, rising.
fn nearest(squares: &[Vec<f64>], among: &[usize], client: usize) -> Vec<f64> {
    let others = among.iter().filter(|other| **other != client);
    let mut near: Vec<f64> = others.map(|&other| squares[client][other]).collect();
    near.sort_unstable_by(f64::total_cmp);
    near
}
