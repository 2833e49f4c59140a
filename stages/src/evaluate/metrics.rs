//! What is counted of a model's answers.

use serde::{Deserialize, Serialize};

use super::{ClassLogits, TokenLogProbs};

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
    /// Counts over `labels`, which are all among the classes.
    pub fn of(logits: &ClassLogits, labels: &[i32]) -> Self {
        let classes = logits.classes;
        let mut confusion = vec![vec![0_u64; classes]; classes];
        let mut loss = 0.0;
        for (row, &label) in logits.values.chunks(classes).zip(labels) {
            let truth = label.unsigned_abs() as usize;
            loss += cross_entropy(row, truth);
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

/// How well completions are foreseen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenScores {
    /// The number of examples.
    pub examples: u64,
    /// The number of tokens of their completions.
    pub tokens: u64,
    /// The mean over these tokens of `-ln p`, in nats.
    pub loss: f64,
    /// e to the loss.
    pub perplexity: f64,
    /// The share of tokens that the model holds for the likeliest.
    pub token_accuracy: f64,
}

impl TokenScores {
    /// Counts over all tokens, each as much as any other.
    pub fn of(found: &TokenLogProbs) -> Self {
        let tokens = found.log_probs.len();
        let sum: f64 = found.log_probs.iter().map(|&log_p| f64::from(log_p)).sum();
        let loss = -sum / tokens as f64;
        let right = found.right.iter().filter(|&&right| right).count();
        Self {
            examples: found.offsets.len() as u64 - 1,
            tokens: tokens as u64,
            loss,
            perplexity: loss.exp(),
            token_accuracy: right as f64 / tokens as f64,
        }
    }
}

/// `-ln softmax(row)[truth]`.
fn cross_entropy(row: &[f32], truth: usize) -> f64 {
    let row = row.iter().map(|&logit| f64::from(logit));
    let most = row.clone().fold(f64::NEG_INFINITY, f64::max);
    let wanted = row.clone().nth(truth).unwrap_or(f64::NEG_INFINITY);
    row.map(|logit| (logit - most).exp()).sum::<f64>().ln() + most - wanted
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
        let sure = |class: usize| (0..3).map(move |c| if c == class { 2.0_f32 } else { 0.0 });
        let values = [0, 1, 1, 1].into_iter().flat_map(sure).collect();
        let scores = Scores::of(&ClassLogits { classes: 3, values }, &[0, 0, 1, 1]);
        assert_eq!(scores.confusion, [[1, 1, 0], [0, 2, 0], [0, 0, 0]]);
        let other = (2_f64.exp() + 2.0).ln();
        assert!((scores.loss - (other - 1.5)).abs() < 1e-12);
        assert!((scores.accuracy - 0.75).abs() < 1e-12);
        let (first, second) = (2.0 / 3.0, 0.8);
        assert!((scores.per_class[0].f1 - first).abs() < 1e-12);
        assert!((scores.per_class[1].f1 - second).abs() < 1e-12);
        assert!((scores.macro_f1 - (first + second) / 3.0).abs() < 1e-12);
        assert!(scores.per_class[2].absent && !scores.per_class[0].absent);
        assert!((scores.per_class[1].precision - second / 1.2).abs() < 1e-12);
    }

    #[test]
    fn every_token_counts_alike() {
        let rows = [vec![(-1.0, true), (-2.0, false)], vec![(-3.0, true)]];
        let scores = TokenScores::of(&TokenLogProbs::of(&rows));
        assert_eq!((scores.examples, scores.tokens), (2, 3));
        assert!((scores.loss - 2.0).abs() < 1e-12);
        assert!((scores.perplexity - 2_f64.exp()).abs() < 1e-12);
        assert!((scores.token_accuracy - 2.0 / 3.0).abs() < 1e-12);
    }
}
