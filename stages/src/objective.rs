//! What the examples of a token set are read for, and how they are laid out for a pass over the base.

use burn::tensor::Device;

use crate::model::{Batch, Read, Row};
use crate::token_set::TokenSet;

/// What a model is asked of an example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Its class, by a classifier at its last token.
    Classify,
    /// Which of these labels, each some tokens, goes on best after it. A label's score is the mean log-likelihood
    /// of its tokens.
    Verbalize(Vec<Vec<u32>>),
    /// Its own tokens from a place on, one number for each example.
    Complete(Vec<u32>),
}

/// By which matrix hidden states become logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// The adapter's classifier, `[classes, hidden]`.
    Classifier,
    /// The rows of the causal head that belong to labels of one token.
    LabelRows,
    /// The whole causal head, for labels of several tokens.
    LabelTokens,
    /// The whole causal head, for completions.
    Completion,
}

impl Objective {
    /// By which matrix hidden states become logits.
    pub fn head(&self) -> HeadKind {
        match self {
            Self::Classify => HeadKind::Classifier,
            Self::Verbalize(labels) if labels.iter().all(|label| label.len() == 1) => {
                HeadKind::LabelRows
            }
            Self::Verbalize(_) => HeadKind::LabelTokens,
            Self::Complete(_) => HeadKind::Completion,
        }
    }

    /// Whether the causal head of the base is read.
    pub fn is_causal(&self) -> bool {
        *self != Self::Classify
    }

    /// The labels' tokens; none where labels are no words.
    pub fn labels(&self) -> &[Vec<u32>] {
        match self {
            Self::Verbalize(labels) => labels,
            Self::Classify | Self::Complete(_) => &[],
        }
    }
}

/// Lays out the examples `indices` of each client's set for one pass.
///
/// As in transformers, a classifier reads the last token of a row that is not `pad`.
pub fn batch(clients: &[(&TokenSet, &[usize])], pad: Option<u32>, device: &Device) -> Batch {
    let mut rows = Vec::with_capacity(clients.len());
    let mut labels = Vec::with_capacity(clients.len());
    for &(set, indices) in clients {
        rows.push(indices.iter().flat_map(|&index| rows_of(set, index, pad)).collect());
        labels.push(indices.iter().map(|&index| set.label(index).max(0).unsigned_abs()).collect());
    }
    Batch::new(&rows, &labels, device)
}

/// The number of rows of one example.
pub(crate) fn rows_of_each(objective: &Objective) -> usize {
    match objective.head() {
        HeadKind::LabelTokens => objective.labels().len(),
        HeadKind::Classifier | HeadKind::LabelRows | HeadKind::Completion => 1,
    }
}

/// The tokens of all rows of one example.
pub(crate) fn tokens_of(set: &TokenSet, index: usize) -> usize {
    let own = set.tokens(index).len();
    match set.objective() {
        Objective::Complete(_) => own - 1,
        objective if objective.head() == HeadKind::LabelTokens => {
            objective.labels().iter().map(|label| own + label.len() - 1).sum()
        }
        Objective::Classify | Objective::Verbalize(_) => own,
    }
}

/// The rows of one example: several where each label must be appended to it.
fn rows_of(set: &TokenSet, index: usize, pad: Option<u32>) -> Vec<Row> {
    let (tokens, class) = (set.tokens(index), set.label(index).max(0).unsigned_abs());
    let one = |at, target| Read { at, target, weight: 1.0 };
    match set.objective() {
        Objective::Classify => {
            let last = tokens.iter().rposition(|&id| Some(id) != pad).unwrap_or(0);
            vec![Row { tokens: tokens.to_vec(), reads: vec![one(last, class)] }]
        }
        objective @ Objective::Verbalize(_) if objective.head() == HeadKind::LabelRows => {
            vec![Row { tokens: tokens.to_vec(), reads: vec![one(tokens.len() - 1, class)] }]
        }
        Objective::Verbalize(labels) => {
            let most = labels.iter().map(Vec::len).max().unwrap_or(0);
            labels.iter().map(|label| labelled(tokens, label, most)).collect()
        }
        Objective::Complete(starts) => {
            // The last token is only ever a target.
            let reads = (starts[index] as usize..tokens.len()).map(|at| one(at - 1, tokens[at]));
            vec![Row { tokens: tokens[..tokens.len() - 1].to_vec(), reads: reads.collect() }]
        }
    }
}

/// A prompt with a label behind it, `most` reads long: those past the label's end weigh nothing.
fn labelled(prompt: &[u32], label: &[u32], most: usize) -> Row {
    let known = &label[..label.len() - 1];
    let weight = 1.0 / label.len() as f32;
    let reads = (0..most).map(|i| match label.get(i) {
        Some(&target) => Read { at: prompt.len() - 1 + i, target, weight },
        None => Read { at: 0, target: 0, weight: 0.0 },
    });
    Row { tokens: [prompt, known].concat(), reads: reads.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(objective: Objective) -> TokenSet {
        let examples = [(&[5, 6, 7, 0][..], 1), (&[9, 8][..], 0)];
        TokenSet::from_examples(examples).unwrap().with_objective(objective).unwrap()
    }

    fn of(objective: Objective) -> Batch {
        batch(&[(&set(objective), &[0, 1])], Some(0), &Device::flex())
    }

    #[test]
    fn a_classifier_reads_the_last_token_that_is_not_padding() {
        let batch = of(Objective::Classify);
        assert_eq!((batch.rows(), batch.width(), batch.reads()), (2, 8, 2));
        assert_eq!(batch.read_at(), [2, 9]);
        assert_eq!((batch.labels(), batch.targets()), (&[1, 0][..], &[1, 0][..]));
    }

    #[test]
    fn a_verbalizer_reads_behind_the_prompt() {
        let batch = of(Objective::Verbalize(vec![vec![3], vec![4]]));
        assert_eq!(batch.read_at(), [3, 9], "padding tokens of a prompt count");
        let batch = of(Objective::Verbalize(vec![vec![3], vec![4, 2]]));
        assert_eq!((batch.rows(), batch.reads(), batch.examples(0)), (4, 8, 2));
        assert_eq!(batch.read_at(), [3, 0, 11, 12, 17, 16, 25, 26]);
        assert_eq!(batch.targets(), [3, 0, 4, 2, 3, 0, 4, 2]);
        assert_eq!(batch.weights()[..4], [1.0, 0.0, 0.5, 0.5]);
        assert_eq!(batch.labels(), [1, 0]);
    }

    #[test]
    fn the_tokens_of_an_example_are_those_of_its_rows() {
        let label = |tokens: &[u32]| tokens.to_vec();
        for objective in [
            Objective::Classify,
            Objective::Verbalize(vec![label(&[3]), label(&[4])]),
            Objective::Verbalize(vec![label(&[3, 9, 8]), label(&[4, 2])]),
            Objective::Complete(vec![2, 1]),
        ] {
            let set = set(objective);
            for index in 0..set.len() {
                let rows = rows_of(&set, index, None);
                let tokens: usize = rows.iter().map(|row| row.tokens.len()).sum();
                assert_eq!(tokens_of(&set, index), tokens, "{:?}", set.objective());
            }
        }
    }

    #[test]
    fn a_completion_is_read_from_its_start() {
        let batch = of(Objective::Complete(vec![2, 1]));
        assert_eq!((batch.rows(), batch.reads()), (2, 3));
        assert_eq!(batch.read_at(), [1, 2, 8]);
        assert_eq!(batch.targets(), [7, 0, 8]);
        assert_eq!(batch.lengths(), [3, 1]);
    }
}
