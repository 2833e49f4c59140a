//! What a cohort's clients are trained to make small, for each thing that examples may be read for.

use burn::tensor::{Int, Tensor, TensorData, activation};

use super::TrainError;
use crate::model::{Base, Batch, likelihood, read_classes};
use crate::objective::{HeadKind, Objective};

/// By what hidden states are read while a cohort is trained.
pub(super) enum Head {
    /// The classifiers of the adapters, trained or frozen.
    Own,
    /// The rows of the causal head that belong to the labels, once for each client, `[K, labels, hidden]`.
    LabelRows(Tensor<3>),
    /// The whole causal head, `[vocab, hidden]`, for labels of so many tokens each.
    Labels(Tensor<2>, Vec<usize>),
    /// The whole causal head, for completions.
    Tokens(Tensor<2>),
}

impl Head {
    /// The head for `objective`.
    pub(super) fn new(base: &Base, objective: &Objective, clients: usize) -> Self {
        let lengths = || objective.labels().iter().map(Vec::len).collect();
        match objective.head() {
            HeadKind::Classifier => Self::Own,
            HeadKind::LabelRows => {
                let rows: Tensor<3> = base.label_rows(objective.labels()).unsqueeze();
                Self::LabelRows(rows.repeat_dim(0, clients))
            }
            HeadKind::LabelTokens => Self::Labels(base.causal_head().clone(), lengths()),
            HeadKind::Completion => Self::Tokens(base.causal_head().clone()),
        }
    }

    /// What the mean loss of a client is taken over: the examples of a batch, or its completions' tokens.
    pub(super) fn units(&self, batch: &Batch, client: usize) -> usize {
        match self {
            Self::Tokens(_) => batch.own_reads(client),
            _ => batch.examples(client),
        }
    }

    /// The head after only the clients at `indices` are left.
    pub(super) fn take(&mut self, indices: &Tensor<1, Int>) {
        if let Self::LabelRows(head) = self {
            *head = head.clone().select(0, indices.clone());
        }
    }

    /// The loss of this part: a number whose gradient is the sum of the clients' gradients, and the share `[K, 1]`
    /// of this part in each client's mean over `totals` units.
    pub(super) fn loss(
        &self,
        hidden: &Tensor<2>,
        score: Option<&Tensor<3>>,
        part: &Batch,
        totals: &[usize],
    ) -> Result<(Tensor<1>, Tensor<2>), TrainError> {
        match self {
            Self::Own => {
                let head = score.ok_or(TrainError::NoClassifier)?;
                Ok(of_classes(read_classes(hidden.clone(), head), part, totals))
            }
            Self::LabelRows(head) => {
                Ok(of_classes(read_classes(hidden.clone(), head), part, totals))
            }
            Self::Labels(head, lengths) => Ok(of_labels(hidden, head, lengths.len(), part, totals)),
            Self::Tokens(head) => Ok(of_tokens(hidden, head, part, totals)),
        }
    }
}

/// `[K·q, 1]`: what each read counts for in its client's mean over `totals` units.
fn weights(part: &Batch, totals: &[usize], like: &Tensor<2>) -> Tensor<2> {
    let reads = part.reads();
    let weight = |(at, &weight): (usize, &f32)| weight / totals[at / reads].max(1) as f32;
    let values: Vec<f32> = part.weights().iter().enumerate().map(weight).collect();
    Tensor::from_data(TensorData::new(values, [part.clients() * reads, 1]), &like.device())
}

/// Cross-entropy of logits `[K·q, classes]`.
fn of_classes(logits: Tensor<2>, part: &Batch, totals: &[usize]) -> (Tensor<1>, Tensor<2>) {
    let (clients, reads) = (part.clients(), part.reads());
    let weights = weights(part, totals, &logits);
    let targets: Vec<i32> = part.targets().iter().map(|target| target.cast_signed()).collect();
    let targets = TensorData::new(targets, [clients * reads, 1]);
    let targets: Tensor<2, Int> = Tensor::from_data(targets, &weights.device());
    let picked = activation::log_softmax(logits, 1).gather(1, targets); // K·q 1
    let losses = (picked * weights.neg()).reshape([clients, reads]).sum_dim(1);
    // No client's loss reaches another's adapter, so their sum has each client's own gradient.
    (losses.clone().sum(), losses.inner())
}

/// Cross-entropy of the tokens that are read.
fn of_tokens(
    hidden: &Tensor<2>,
    head: &Tensor<2>,
    part: &Batch,
    totals: &[usize],
) -> (Tensor<1>, Tensor<2>) {
    let plain = hidden.clone().inner();
    let found = likelihood(&plain, head, part.targets(), true, false);
    let weights = weights(part, totals, &plain);
    let (clients, reads) = (part.clients(), part.reads());
    let nll: Tensor<2> = found.nll.reshape([clients * reads, 1]);
    let losses = (nll * weights.clone()).reshape([clients, reads]).sum_dim(1);
    (surrogate(hidden, found.gradient, weights), losses)
}

/// Cross-entropy over the labels, of which each example has `labels`: a label's score is the mean log-likelihood of
/// its tokens.
fn of_labels(
    hidden: &Tensor<2>,
    head: &Tensor<2>,
    labels: usize,
    part: &Batch,
    totals: &[usize],
) -> (Tensor<1>, Tensor<2>) {
    let plain = hidden.clone().inner();
    let device = plain.device();
    let found = likelihood(&plain, head, part.targets(), true, false);
    let (clients, reads) = (part.clients(), part.reads());
    let examples = part.labels().len() / clients;
    let most = reads / (examples * labels);
    // Weights within a label: one over its length, and zero behind its end.
    let shares = TensorData::new(part.weights().to_vec(), [clients * examples * labels, most]);
    let shares: Tensor<2> = Tensor::from_data(shares, &device);
    let nll: Tensor<2> = found.nll.reshape([clients * examples * labels, most]);
    let scores = (nll * shares.clone()).sum_dim(1).neg();
    let log_p = activation::log_softmax(scores.reshape([clients * examples, labels]), 1);
    let (mut truth, mut counts) = (vec![0.0_f32; clients * examples * labels], Vec::new());
    for (at, &label) in part.labels().iter().enumerate() {
        let (client, example) = (at / examples, at % examples);
        truth[at * labels + label as usize] = 1.0;
        let is_own = example < part.examples(client);
        counts.push(if is_own { 1.0 / totals[client].max(1) as f32 } else { 0.0 });
    }
    let truth: Tensor<2> =
        Tensor::from_data(TensorData::new(truth, [clients * examples, labels]), &device);
    let counts: Tensor<2> =
        Tensor::from_data(TensorData::new(counts, [clients * examples, 1]), &device);
    let losses = (log_p.clone() * truth.clone()).sum_dim(1).neg() * counts.clone();
    let losses = losses.reshape([clients, examples]).sum_dim(1);
    // A score is the negative of its tokens' mean nll, so the sign turns round.
    let by_score = (truth - log_p.exp()) * counts;
    let by_token = by_score.reshape([clients * examples * labels, 1]) * shares;
    (surrogate(hidden, found.gradient, by_token.reshape([clients * reads, 1])), losses)
}

/// A number whose gradient by `hidden` is `gradient`, row by row times `weights`: the losses behind it were computed
/// without a graph.
fn surrogate(hidden: &Tensor<2>, gradient: Option<Tensor<2>>, weights: Tensor<2>) -> Tensor<1> {
    let gradient = gradient.expect("the gradient was asked for");
    (hidden.clone() * (gradient * weights)).sum()
}
