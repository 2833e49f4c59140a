//! The accuracy to be told at the end of a run: the last and the best of each evaluation.

use indexmap::IndexMap;

/// An accuracy and the step that measured it.
#[derive(Clone)]
struct Score {
    step: String,
    round: Option<u32>,
    value: f64,
}

/// The last round's and the best accuracy, by evaluation and variant, in the order of their first score.
#[derive(Default)]
pub(super) struct Scores(IndexMap<String, (Score, Score)>);

impl Scores {
    /// Takes in the accuracy that `step` measured.
    pub(super) fn add(&mut self, step: &str, round: Option<u32>, value: f64) {
        let evaluation = step
            .rsplit_once("/round-")
            .map_or(step, |(evaluation, _)| evaluation);
        let score = Score {
            step: step.to_owned(),
            round,
            value,
        };
        match self.0.get_mut(evaluation) {
            Some((last, best)) => {
                if score.round >= last.round {
                    *last = score.clone();
                }
                if score.value > best.value {
                    *best = score;
                }
            }
            None => {
                self.0.insert(evaluation.to_owned(), (score.clone(), score));
            }
        }
    }

    /// The rows of the table: a number, and what it is.
    pub(super) fn rows(&self) -> Vec<(String, String)> {
        let row = |score: &Score, what: &str| {
            (
                format!("{:.3}", score.value),
                format!("{what} accuracy, {}", score.step),
            )
        };
        let rows = self.0.values().flat_map(|(last, best)| {
            let better = best.value > last.value;
            [Some(row(last, "last")), better.then(|| row(best, "best"))]
        });
        rows.flatten().collect()
    }
}
