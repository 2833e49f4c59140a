//! Why local training is refused or fails.

use thiserror::Error;

use super::{ControlError, NumbersError, PruneError};
use crate::fit::DataError;
use crate::model::LoraError;
use crate::peft::AdapterError;
use crate::prefix::PrefixError;

/// Why local training ended without a result.
#[derive(Debug, Error)]
pub enum TrainError {
    /// The numbers cannot be used.
    #[error(transparent)]
    Numbers(#[from] NumbersError),
    /// The base cannot take the adapter.
    #[error(transparent)]
    Lora(#[from] LoraError),
    /// The adapter that training starts from does not fit.
    #[error(transparent)]
    Adapter(#[from] AdapterError),
    /// A client has no examples.
    #[error("client {client} has no examples to train on")]
    Empty {
        /// Its place in the cohort.
        client: usize,
    },
    /// The adapter has no classifier.
    #[error(
        "the adapter has no classifier (`{}`), so there is nothing to train it by",
        crate::peft::SCORE
    )]
    NoClassifier,
    /// The adapter has a classifier, which a causal task has no use for.
    #[error(
        "the adapter has a classifier (`{}`), but its examples are read by the causal head",
        crate::peft::SCORE
    )]
    Classifier,
    /// Every part of the adapter is frozen.
    #[error("nothing of the adapter is trained: all of its parts are frozen")]
    NothingTrained,
    /// SCAFFOLD's correction cannot be made.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The client's rank cannot be pruned.
    #[error(transparent)]
    Prune(#[from] PruneError),
    /// The clients of a cohort adapt different modules, freeze different parts or have classifiers of different
    /// heights.
    #[error("client {client} adapts other modules, blocks, parts or classes than client 0")]
    Unlike {
        /// Its place in the cohort.
        client: usize,
    },
    /// The examples cannot be taken through the base.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The stored hidden states cannot be used.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// The loss or the adapter is no longer finite.
    #[error(
        "{what} of client {client} is not finite after step {step}; a smaller learning rate or `clip` may help"
    )]
    NotFinite {
        /// What is not finite.
        what: &'static str,
        /// The client's place in the cohort.
        client: usize,
        /// The step, counted from 1.
        step: u64,
    },
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// The caller asked to stop.
    #[error("local training was stopped")]
    Stopped,
}
