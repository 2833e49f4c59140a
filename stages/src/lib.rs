//! What the steps of fedpipe do.

pub mod aggregate;
pub mod evaluate;
pub mod local_train;
pub mod model;
pub mod peft;
pub mod seed;
pub mod token_set;
