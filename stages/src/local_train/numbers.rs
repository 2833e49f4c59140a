//! The numbers of one local training, resolved for its round.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::precision::Precision;

/// A number that cannot be used.
#[derive(Debug, Error, PartialEq)]
#[error("`{field}` is {value}; {expected}")]
pub struct NumbersError {
    /// The field's name.
    pub field: &'static str,
    /// Its value.
    pub value: f64,
    /// What it may be.
    pub expected: &'static str,
}

/// The rule that turns gradients into steps; the defaults are torch's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Optimizer {
    /// Adam with weight decay that does not pass through the moments; every trained tensor decays.
    AdamW {
        /// The learning rate.
        lr: f64,
        /// The decay of the weights, as a share of `lr`.
        #[serde(default = "weight_decay")]
        weight_decay: f64,
        /// The memory of the first moment.
        #[serde(default = "beta1")]
        beta1: f64,
        /// The memory of the second moment.
        #[serde(default = "beta2")]
        beta2: f64,
        /// What keeps the quotient finite.
        #[serde(default = "eps")]
        eps: f64,
    },
    /// Plain gradient descent.
    Sgd {
        /// The learning rate.
        lr: f64,
    },
}

fn weight_decay() -> f64 {
    0.01
}

fn beta1() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.999
}

fn eps() -> f64 {
    1e-8
}

impl Optimizer {
    /// `AdamW` with torch's defaults.
    pub fn adamw(lr: f64) -> Self {
        let (weight_decay, beta1, beta2, eps) = (weight_decay(), beta1(), beta2(), eps());
        Self::AdamW { lr, weight_decay, beta1, beta2, eps }
    }

    /// The learning rate before any schedule.
    pub fn lr(&self) -> f64 {
        match *self {
            Self::AdamW { lr, .. } | Self::Sgd { lr } => lr,
        }
    }

    /// The same optimizer with another learning rate.
    #[must_use]
    pub fn with_lr(self, lr: f64) -> Self {
        match self {
            Self::AdamW { weight_decay, beta1, beta2, eps, .. } => {
                Self::AdamW { lr, weight_decay, beta1, beta2, eps }
            }
            Self::Sgd { .. } => Self::Sgd { lr },
        }
    }

    /// Whether every number lies in its range.
    pub fn check(&self) -> Result<(), NumbersError> {
        positive("lr", self.lr())?;
        if let Self::AdamW { weight_decay, beta1, beta2, eps, .. } = *self {
            not_negative("weight_decay", weight_decay)?;
            for (field, value) in [("beta1", beta1), ("beta2", beta2)] {
                if !(0.0..1.0).contains(&value) {
                    return Err(NumbersError {
                        field,
                        value,
                        expected: "it is at least 0 and below 1",
                    });
                }
            }
            positive("eps", eps)?;
        }
        Ok(())
    }
}

/// What of a forward pass is kept for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Checkpoint {
    /// Everything.
    #[default]
    None,
    /// The input of each block; what lies inside a block is computed again when its gradient is due (Chen et al.
    /// 2016, 1604.06174). One more forward pass, for a fraction of the memory.
    Block,
}

impl Checkpoint {
    /// Whether this is the default, which is not written.
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// The most examples of a batch, and batches of a step: more than any device takes.
pub const MOST_BATCH: usize = 1 << 20;

/// How one client is trained in one round. Round r does not know how many rounds there are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LocalNumbers {
    /// Passes over the examples; 1 where neither this nor `steps` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// Optimizer steps; goes before `epochs`, and begins a new pass whenever one ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Examples in one pass over the base.
    pub batch: usize,
    /// Batches whose gradients make one step.
    pub accumulate: usize,
    /// The optimizer; its state begins anew in every local training.
    pub optimizer: Optimizer,
    /// The multiplier of the learning rate at the first step.
    pub lr_from: f64,
    /// The multiplier that the first step of the next round would have; between, it is linear.
    pub lr_to: f64,
    /// Steps over which the learning rate rises from 0, in this local training.
    pub warmup_steps: u32,
    /// The largest norm of a client's whole gradient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// μ of the proximal term `μ/2·|w - w₀|²` over what is trained.
    pub prox: f64,
    /// In what numbers the frozen base multiplies: those that it was loaded in.
    #[serde(skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// What of a forward pass is kept. It cannot change a result by more than rounding, so it is in no key.
    #[serde(skip_serializing)]
    pub checkpoint: Checkpoint,
}

impl LocalNumbers {
    /// One epoch in batches of `batch`, at a constant learning rate.
    pub fn new(batch: usize, optimizer: Optimizer) -> Self {
        Self {
            epochs: None,
            steps: None,
            batch,
            accumulate: 1,
            optimizer,
            lr_from: 1.0,
            lr_to: 1.0,
            warmup_steps: 0,
            clip: None,
            prox: 0.0,
            precision: Precision::F32,
            checkpoint: Checkpoint::None,
        }
    }

    /// Whether every number lies in its range.
    pub fn check(&self) -> Result<(), NumbersError> {
        let counts = [
            ("batch", Some(self.batch)),
            ("accumulate", Some(self.accumulate)),
            ("epochs", self.epochs.map(|n| n as usize)),
            ("steps", self.steps.map(|n| n as usize)),
        ];
        if let Some((field, _)) = counts.into_iter().find(|(_, count)| *count == Some(0)) {
            return Err(NumbersError { field, value: 0.0, expected: "it is at least 1" });
        }
        self.optimizer.check()?;
        not_negative("lr_from", self.lr_from)?;
        not_negative("lr_to", self.lr_to)?;
        if let Some(clip) = self.clip {
            positive("clip", clip)?;
        }
        not_negative("prox", self.prox)
    }

    /// The optimizer steps of a client with `per_epoch` of them in one pass over its examples.
    pub fn steps_for(&self, per_epoch: u64) -> u64 {
        match (self.steps, self.epochs) {
            (Some(steps), _) => u64::from(steps),
            (None, epochs) => per_epoch * u64::from(epochs.unwrap_or(1)),
        }
    }
}

fn positive(field: &'static str, value: f64) -> Result<(), NumbersError> {
    let fine = value.is_finite() && value > 0.0;
    if fine { Ok(()) } else { Err(NumbersError { field, value, expected: "it is above 0" }) }
}

fn not_negative(field: &'static str, value: f64) -> Result<(), NumbersError> {
    let fine = value.is_finite() && value >= 0.0;
    if fine { Ok(()) } else { Err(NumbersError { field, value, expected: "it is not negative" }) }
}
