//! What is counted of a classifier's answers.

use serde::{Deserialize, Serialize};

/// How one class fared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassScore {
    /// The share of right answers among those that name the class; 0 where none does.
    pub precision: f64,
    /// The share of the class that was recognised; 0 where the class does not occur.
    pub recall: f64,
    /// The harmonic mean of both; 0 where both are 0.
    pub f1: f64,
    /// The number of examples of the class.
    pub support: u64,
    /// Whether the class neither occurs nor was answered, so that its `f1` of 0 means nothing.
    pub absent: bool,
}

/// The scores of an adapter over some examples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// The number of examples.
    pub examples: u64,
    /// The mean cross-entropy, in nats.
    pub loss: f64,
    /// The share of right answers.
    pub accuracy: f64,
    /// The plain mean of the classes' `f1`.
    pub macro_f1: f64,
    /// The counts of answers: `confusion[truth][answer]`.
    pub confusion: Vec<Vec<u64>>,
    /// The classes in order.
    pub per_class: Vec<ClassScore>,
}

impl Scores {
    /// Counts: `log_probabilities` has `classes` values for each of `labels`, which are all in `0..classes`.
    pub(super) fn of(log_probabilities: &[f32], labels: &[i32], classes: usize) -> Self {
        let mut confusion = vec![vec![0_u64; classes]; classes];
        let mut loss = 0.0;
        for (row, &label) in log_probabilities.chunks(classes).zip(labels) {
            let truth = label.unsigned_abs() as usize;
            loss -= f64::from(row[truth]);
            confusion[truth][largest(row)] += 1;
        }
        let per_class: Vec<ClassScore> =
            (0..classes).map(|class| score(&confusion, class)).collect();
        let right: u64 = (0..classes).map(|class| confusion[class][class]).sum();
        let examples = labels.len() as u64;
        Self {
            examples,
            loss: loss / examples as f64,
            accuracy: right as f64 / examples as f64,
            macro_f1: per_class.iter().map(|class| class.f1).sum::<f64>() / classes as f64,
            confusion,
            per_class,
        }
    }
}

/// The place of the largest value; the first of equals.
fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (at, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = at;
        }
    }
    best
}

fn score(confusion: &[Vec<u64>], class: usize) -> ClassScore {
    let right = confusion[class][class];
    let support: u64 = confusion[class].iter().sum();
    let answered: u64 = confusion.iter().map(|row| row[class]).sum();
    let share = |of: u64| {
        if of == 0 { 0.0 } else { right as f64 / of as f64 }
    };
    let (precision, recall) = (share(answered), share(support));
    let f1 = if right == 0 { 0.0 } else { 2.0 * right as f64 / (support + answered) as f64 };
    ClassScore { precision, recall, f1, support, absent: support + answered == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_as_counted_by_hand() {
        // Truths 0 0 1 1, answers 0 1 1 1, in three classes of which the last does not occur.
        let sure = |class: usize| (0..3).map(move |c| if c == class { -0.5_f32 } else { -2.0 });
        let rows: Vec<f32> = [0, 1, 1, 1].into_iter().flat_map(sure).collect();
        let scores = Scores::of(&rows, &[0, 0, 1, 1], 3);
        assert_eq!(scores.confusion, [[1, 1, 0], [0, 2, 0], [0, 0, 0]]);
        assert!((scores.loss - (0.5 * 3.0 + 2.0) / 4.0).abs() < 1e-12);
        assert!((scores.accuracy - 0.75).abs() < 1e-12);
        let (first, second) = (2.0 / 3.0, 0.8);
        assert!((scores.per_class[0].f1 - first).abs() < 1e-12);
        assert!((scores.per_class[1].f1 - second).abs() < 1e-12);
        assert!((scores.macro_f1 - (first + second) / 3.0).abs() < 1e-12);
        assert!(scores.per_class[2].absent && !scores.per_class[0].absent);
        assert!((scores.per_class[1].precision - second / 1.2).abs() < 1e-12);
    }
}
