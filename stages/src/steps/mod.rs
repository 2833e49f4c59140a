//! The stages: for each, the struct that is its syntax, its key and its work. The work itself is
//! done by the modules named after it; here it meets the store.

mod aggregate;
mod combination;
mod dataset;
#[cfg(test)]
mod delta_tests;
pub(crate) mod demand;
mod evaluate;
mod exchange;
mod federate;
mod init;
mod local_training;
mod model;
mod origin;
mod partition;
mod prefix;
mod shard_loss;
mod start;
mod tokenize;
mod train;

pub use aggregate::Aggregate;
pub use dataset::Dataset;
pub use evaluate::Evaluate;
pub use federate::{Federate, Seeds};
pub use init::Init;
pub use local_training::{Local, LocalTraining, Schedule};
pub use model::Model;
pub use partition::Partition;
pub use start::From;
pub use tokenize::Tokenize;
pub use train::Train;
