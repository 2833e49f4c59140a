//! What the steps of fedpipe do: data, models, local training, aggregation, evaluation.
//!
//! [`node::Node`] lists the stages; [`steps`] has one file for each. A stage is one struct: read from
//! RON it is the graph's syntax, serialised it is the cache key, run it is the work
//! ([`stage::Stage`]). [`unroll::Unroll`] turns the stages of a graph into steps.
//!
//! This crate knows nothing of graph files, of the terminal, of the environment or of the clock.

pub mod aggregate;
pub mod check;
pub mod codec;
pub mod cohort;
pub mod corpus;
pub mod device;
pub mod device_failure;
pub mod download;
pub mod edge;
pub mod error;
pub mod evaluate;
pub mod export;
pub mod federate;
pub mod fit;
mod fused;
pub mod kernel_cache;
pub mod kernels;
pub mod kinds;
pub mod ledger;
pub mod linear;
pub mod local_train;
pub mod memory;
pub mod metric;
pub mod model;
pub mod node;
pub mod objective;
pub mod partition;
pub mod parts;
pub mod peft;
pub mod precision;
pub mod prefix;
pub mod privacy;
pub mod rows;
#[cfg(test)]
mod scratch;
pub mod seed;
pub mod session;
pub mod shuffle;
pub mod stage;
pub mod steps;
pub mod stop;
pub mod token_set;
pub mod tokenize;
pub mod unroll;

pub use error::{Error, Result};
