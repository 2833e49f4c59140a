//! How well a base does, with an adapter or without one.

mod clients;
mod metrics;
mod predictions;

use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData};
use thiserror::Error;

pub use clients::{ClientScore, Spread, expected_accuracy};
pub use metrics::{ClassScore, Scores, TokenScores};
pub use predictions::{ClassLogits, TokenLogProbs};

use crate::fit::{self, DataError};
use crate::local_train::Progress;
use crate::model::{Base, Batch, Factors, Layout, LoraConfig, LoraError, likelihood, read_classes};
use crate::objective::{self, HeadKind, Objective};
use crate::peft::{AdapterError, AdapterTensors, SCORE};
use crate::prefix::{self, Prefix, PrefixError};
use crate::token_set::TokenSet;

/// Why an evaluation ended without a result.
#[derive(Debug, Error)]
pub enum EvaluateError {
    /// The base cannot take the adapter.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The adapter does not fit.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// There is no classifier.
    #[error("there is no classifier (`{SCORE}`) to tell classes by")]
    NoClassifier,
    /// There is nothing to evaluate on.
    #[error("there are no examples to evaluate on")]
    Empty,
    /// The examples cannot be taken through the base.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The stored hidden states cannot be used.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// The logits are not finite.
    #[error("the logits of example {example} are not finite")]
    NotFinite {
        /// The example's place in the token set.
        example: usize,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The caller asked to stop.
    #[error("the evaluation was stopped")]
    Stopped,
}

/// An adapter and the settings that it was made with.
#[derive(Clone, Copy)]
pub struct Adapted<'a> {
    /// Its tensors.
    pub adapter: &'a AdapterTensors,
    /// Its settings.
    pub lora: &'a LoraConfig,
}

/// What a base is evaluated on.
#[derive(Clone, Copy)]
pub struct Examples<'a> {
    /// The examples.
    pub set: &'a TokenSet,
    /// Their hidden states that go into the lowest adapted block, where they are kept.
    pub prefix: Option<&'a Prefix>,
}

impl<'a> From<&'a TokenSet> for Examples<'a> {
    fn from(set: &'a TokenSet) -> Self {
        Self { set, prefix: None }
    }
}

/// A classifier: its shape `[classes, hidden]` and its values.
pub type Classifier<'a> = ([usize; 2], &'a [f32]);

/// The logits of the classes (or the scores of the labels) of every example of `data`, for each of `classifiers` in
/// their order; where there is none, by the adapter's own.
///
/// Batches are made of examples of like length; which ones share a batch changes no logit beyond rounding.
pub fn classes<'d>(
    base: &Base,
    adapted: Option<Adapted<'_>>,
    classifiers: &[Classifier<'_>],
    data: impl Into<Examples<'d>>,
    batch: usize,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<ClassLogits>, EvaluateError> {
    let examples = data.into();
    let data = examples.set;
    let own = adapted.map_or(0, |adapted| adapted.adapter.classes());
    let classes = match data.objective() {
        Objective::Classify => classifiers.first().map_or(own, |([classes, _], _)| *classes),
        objective => objective.labels().len(),
    };
    if classes == 0 {
        return Err(EvaluateError::NoClassifier);
    }
    check(base, data, Some(classes))?;
    let heads = heads(base, adapted, classifiers, data);
    let mut results = vec![vec![0.0; data.len() * classes]; heads.len().max(1)];
    sweep(base, adapted, examples, batch, progress, &mut |indices, batch, hidden| {
        let keep = |result: &mut Vec<f32>, logits: Tensor<2>| {
            for (&index, values) in indices.iter().zip(fetch(logits)?.chunks(classes)) {
                if !values.iter().all(|value| value.is_finite()) {
                    return Err(EvaluateError::NotFinite { example: index });
                }
                result[index * classes..(index + 1) * classes].copy_from_slice(values);
            }
            Ok(())
        };
        if heads.is_empty() {
            return keep(&mut results[0], label_scores(base, &batch, &hidden, classes));
        }
        for (head, result) in heads.iter().zip(&mut results) {
            keep(result, read_classes(hidden.clone(), head))?;
        }
        Ok(())
    })?;
    Ok(results.into_iter().map(|values| ClassLogits { classes, values }).collect())
}

/// The mean cross-entropy over `data`, in nats: by example, or by token where they are completions.
///
/// # Panics
/// Where a causal head is needed and was not loaded.
pub fn mean_loss<'d>(
    base: &Base,
    adapted: Option<Adapted<'_>>,
    data: impl Into<Examples<'d>>,
    batch: usize,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<f64, EvaluateError> {
    let data = data.into();
    if matches!(data.set.objective(), Objective::Complete(_)) {
        return Ok(TokenScores::of(&tokens(base, adapted, data, batch, progress)?).loss);
    }
    let found = classes(base, adapted, &[], data, batch, progress)?;
    let loss = found.first().map(|logits| Scores::of(logits, data.set.labels()).loss);
    loss.ok_or(EvaluateError::Empty)
}

/// The log probability of every token of the completions of `data`.
///
/// # Panics
/// Where the base's causal head was not loaded.
pub fn tokens<'d>(
    base: &Base,
    adapted: Option<Adapted<'_>>,
    data: impl Into<Examples<'d>>,
    batch: usize,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<TokenLogProbs, EvaluateError> {
    let examples = data.into();
    let data = examples.set;
    check(base, data, None)?;
    let mut rows: Vec<Vec<(f32, bool)>> = vec![Vec::new(); data.len()];
    sweep(base, adapted, examples, batch, progress, &mut |indices, batch, hidden| {
        let found = likelihood(&hidden, base.causal_head(), batch.targets(), false, true);
        let nll = fetch(found.nll.unsqueeze())?;
        let right = found.right.expect("it was asked for").try_into_vec_as::<i32>();
        let right = right.map_err(|error| EvaluateError::Device(error.to_string()))?;
        let mut reads = nll.into_iter().zip(right);
        for &index in indices {
            // The first token of an example is never read.
            let count = data.tokens(index).len() - data.start_of_completion(index);
            let own = reads.by_ref().take(count).map(|(nll, right)| (-nll, right == 1));
            rows[index] = own.collect();
            if !rows[index].iter().all(|(log_p, _)| log_p.is_finite()) {
                return Err(EvaluateError::NotFinite { example: index });
            }
        }
        Ok(())
    })?;
    Ok(TokenLogProbs::of(&rows))
}

/// What is done with a batch: its examples, its layout, and the hidden states that are read.
type Each<'a> = &'a mut dyn FnMut(&[usize], Batch, Tensor<2>) -> Result<(), EvaluateError>;

/// Takes all of `data` through the base, in batches of `batch` examples of like length.
fn sweep(
    base: &Base,
    adapted: Option<Adapted<'_>>,
    Examples { set: data, prefix }: Examples<'_>,
    batch: usize,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    each: Each<'_>,
) -> Result<(), EvaluateError> {
    if let Some((prefix, adapted)) = prefix.zip(adapted) {
        prefix.check(base.config(), adapted.lora, data)?;
    }
    let factors = adapted.map(|adapted| factors(base, adapted)).transpose()?;
    let mut order: Vec<usize> = (0..data.len()).collect();
    order.sort_by_key(|&index| data.tokens(index).len());
    let steps = order.len().div_ceil(batch.max(1)) as u64;
    for (step, indices) in (1..).zip(order.chunks(batch.max(1))) {
        let rows = objective::batch(&[(data, indices)], base.config().pad, base.device());
        let rows = prefix::begin(rows, &[(prefix, indices)]);
        let hidden = base.read(&rows, factors.as_ref(), None);
        each(indices, rows, hidden)?;
        if progress(Progress { step, steps, loss: None }).is_break() {
            return Err(EvaluateError::Stopped);
        }
    }
    Ok(())
}

fn factors(base: &Base, adapted: Adapted<'_>) -> Result<Factors, EvaluateError> {
    let Adapted { adapter, lora } = adapted;
    let layout = Layout::of(base.config(), lora, adapter)?;
    let flat = layout.stack(&[layout.pack(adapter, &layout)?], base.device());
    Ok(Factors::new(&[(&layout, &layout.split(&flat))], &[&layout], base.device()))
}

/// The heads `[1, classes, hidden]` that hidden states are read by; none where labels have several tokens.
fn heads(
    base: &Base,
    adapted: Option<Adapted<'_>>,
    classifiers: &[Classifier<'_>],
    data: &TokenSet,
) -> Vec<Tensor<3>> {
    match data.objective().head() {
        HeadKind::Classifier => {
            let own = adapted.and_then(|adapted| adapted.adapter.get(SCORE));
            let own: Vec<Classifier<'_>> = own.into_iter().collect();
            let all = if classifiers.is_empty() { own.as_slice() } else { classifiers };
            let head = |&([classes, width], values): &Classifier<'_>| {
                let data = TensorData::new(values.to_vec(), [1, classes, width]);
                Tensor::from_data(data, base.device())
            };
            all.iter().map(head).collect()
        }
        HeadKind::LabelRows => vec![base.label_rows(data.objective().labels()).unsqueeze()],
        HeadKind::LabelTokens | HeadKind::Completion => Vec::new(),
    }
}

/// The mean log-likelihood of the tokens of each label, `[examples, labels]`.
fn label_scores(base: &Base, batch: &Batch, hidden: &Tensor<2>, labels: usize) -> Tensor<2> {
    let found = likelihood(hidden, base.causal_head(), batch.targets(), false, false);
    let most = batch.reads() / batch.rows();
    let shape = [batch.rows(), most];
    let weights = TensorData::new(batch.weights().to_vec(), shape);
    let weights: Tensor<2> = Tensor::from_data(weights, base.device());
    let scores = (found.nll.reshape(shape) * weights).sum_dim(1).neg();
    scores.reshape([batch.rows() / labels, labels])
}

fn fetch(rows: Tensor<2>) -> Result<Vec<f32>, EvaluateError> {
    rows.try_into_vec_as::<f32>().map_err(|error| EvaluateError::Device(error.to_string()))
}

fn check(base: &Base, data: &TokenSet, classes: Option<usize>) -> Result<(), EvaluateError> {
    if data.is_empty() {
        return Err(EvaluateError::Empty);
    }
    Ok(fit::check(base.config(), data, classes)?)
}
