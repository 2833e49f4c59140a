//! Why settings are refused, and why adapters cannot be aggregated.

use thiserror::Error;

use crate::model::LoraError;

/// A setting of a rule that lies outside its range.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
#[error("`{field}` is {value}; {expected}")]
pub struct RuleError {
    /// The field of the rule.
    pub field: &'static str,
    /// Its value.
    pub value: f64,
    /// What it may be.
    pub expected: &'static str,
}

impl RuleError {
    /// Refuses `value` unless it `holds`.
    pub(super) fn unless(
        holds: bool,
        field: &'static str,
        value: f64,
        expected: &'static str,
    ) -> Result<(), Self> {
        if holds { Ok(()) } else { Err(Self { field, value, expected }) }
    }

    /// Refuses what is not a finite number above 0.
    pub(super) fn unless_positive(field: &'static str, value: f64) -> Result<(), Self> {
        Self::unless(value.is_finite() && value > 0.0, field, value, "it is above 0")
    }

    /// Refuses what is not at least 0 and below 1.
    pub(super) fn unless_share(field: &'static str, value: f64) -> Result<(), Self> {
        Self::unless((0.0..1.0).contains(&value), field, value, "it is at least 0 and below 1")
    }
}

/// Why adapters cannot be aggregated.
#[derive(Debug, Error, PartialEq)]
pub enum AggregateError {
    /// An adapter has other names or shapes than that of the first client or the one they started from.
    #[error(
        "the adapter of client {client} has other tensors or shapes than that of client 0, or than the one they started from"
    )]
    Unlike {
        /// Its place in the list.
        client: usize,
    },
    /// No client has an example.
    #[error("no client has an example, so none has a weight")]
    NoWeight,
    /// A weight is no number of examples.
    #[error("the weight of client {client} is {weight}; it is a finite number and at least 0")]
    Weight {
        /// Its place in the list.
        client: usize,
        /// What was given.
        weight: f64,
    },
    /// Too few clients for the rule.
    #[error("{rule} needs at least {needed} clients a round, and {found} came back")]
    TooFew {
        /// The rule.
        rule: &'static str,
        /// How many it needs.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// The loss that a rule rests on is not there.
    #[error("client {client} has not told a finite loss, at least 0, of the adapter it received")]
    NoLoss {
        /// Its place in the list.
        client: usize,
    },
    /// The control variate that a rule rests on is not there.
    #[error("client {client} has sent no change of its control variate that fits its adapter")]
    NoControl {
        /// Its place in the list.
        client: usize,
    },
    /// What the server kept does not belong to the adapter.
    #[error("the server's state `{name}` does not fit the adapter")]
    State {
        /// The tensor of the state.
        name: String,
    },
    /// A rank that the global adapter does not have.
    #[error("the rank of `{path}` is {own} for a client, and {global} in the global adapter")]
    Rank {
        /// The module.
        path: String,
        /// The client's rank.
        own: usize,
        /// That of the global adapter.
        global: usize,
    },
    /// Equations that have no answer in f64.
    #[error("the least squares of `{path}` cannot be solved; a larger `lambda` would help")]
    Singular {
        /// The module.
        path: String,
    },
    /// Settings whose patterns do not fit the adapter.
    #[error(transparent)]
    Settings(#[from] LoraError),
}
