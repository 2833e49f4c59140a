//! How well an adapter classifies.

mod metrics;

use std::ops::ControlFlow;

use burn::tensor::{Tensor, activation};
use thiserror::Error;

pub use metrics::{ClassScore, Scores};

use crate::local_train::Progress;
use crate::model::{Base, Batch, Example, Factors, Layout, LoraConfig, LoraError};
use crate::peft::{AdapterError, AdapterTensors};
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
    /// The adapter has no classifier.
    #[error("the adapter has no classifier (`{}`)", crate::peft::SCORE)]
    NoClassifier,
    /// There is nothing to evaluate on.
    #[error("there are no examples to evaluate on")]
    Empty,
    /// A label is none of the classifier's classes.
    #[error("example {example} has label {label}, which is not one of 0 to {}", classes - 1)]
    Label {
        /// The example's place in the token set.
        example: usize,
        /// Its label.
        label: i32,
        /// The number of classes.
        classes: usize,
    },
    /// A token is not in the base's vocabulary.
    #[error("example {example} holds token {token}, but the base has only {vocab}")]
    Token {
        /// The example's place in the token set.
        example: usize,
        /// The token id.
        token: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
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

/// Scores `adapter` over all of `data`, in batches of `batch` examples.
///
/// Batches are made of examples of like length; which ones share a batch changes no logit beyond rounding.
pub fn evaluate(
    base: &Base,
    adapter: &AdapterTensors,
    lora: &LoraConfig,
    data: &TokenSet,
    batch: usize,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Scores, EvaluateError> {
    let log_probabilities = predict(base, adapter, lora, data, batch, progress)?;
    Ok(Scores::of(&log_probabilities, data.labels(), adapter.classes()))
}

/// The log probabilities of the classes for each example of `data`, example after example.
pub fn predict(
    base: &Base,
    adapter: &AdapterTensors,
    lora: &LoraConfig,
    data: &TokenSet,
    batch: usize,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<f32>, EvaluateError> {
    lora.check(base.config())?;
    let classes = adapter.classes();
    check(base, data, classes)?;
    let layout = Layout::new(base.config(), lora, lora.rank, classes);
    let flat = layout.stack(&[layout.pack(adapter, lora.rank)?], base.device());
    let factors = Factors::new(&layout, &layout.split(&flat), &[lora.scale()], base.device());
    let mut order: Vec<usize> = (0..data.len()).collect();
    order.sort_by_key(|&index| data.tokens(index).len());
    let mut results = vec![0.0; data.len() * classes];
    let steps = order.len().div_ceil(batch.max(1)) as u64;
    for (step, indices) in (1..).zip(order.chunks(batch.max(1))) {
        let example = |&index: &usize| Example { tokens: data.tokens(index), label: 0 };
        let rows = [indices.iter().map(example).collect()];
        let rows = Batch::new(&rows, base.config().pad, base.device());
        let rows = activation::log_softmax(base.classify(&rows, &factors, None), 1);
        for (&index, values) in indices.iter().zip(fetch(rows)?.chunks(classes)) {
            if !values.iter().all(|value| value.is_finite()) {
                return Err(EvaluateError::NotFinite { example: index });
            }
            results[index * classes..(index + 1) * classes].copy_from_slice(values);
        }
        if progress(Progress { step, steps, loss: None }).is_break() {
            return Err(EvaluateError::Stopped);
        }
    }
    Ok(results)
}

fn fetch(rows: Tensor<2>) -> Result<Vec<f32>, EvaluateError> {
    rows.try_into_vec_as::<f32>().map_err(|error| EvaluateError::Device(error.to_string()))
}

fn check(base: &Base, data: &TokenSet, classes: usize) -> Result<(), EvaluateError> {
    if classes == 0 {
        return Err(EvaluateError::NoClassifier);
    }
    if data.is_empty() {
        return Err(EvaluateError::Empty);
    }
    let vocab = base.config().vocab;
    for (example, &label) in data.labels().iter().enumerate() {
        if usize::try_from(label).map_or(true, |label| label >= classes) {
            return Err(EvaluateError::Label { example, label, classes });
        }
        if let Some(&token) = data.tokens(example).iter().find(|&&token| token as usize >= vocab) {
            return Err(EvaluateError::Token { example, token, vocab });
        }
    }
    Ok(())
}
