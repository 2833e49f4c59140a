//! Federated LoRA fine-tuning as a pipeline that never does the same work twice.
//!
//! A graph file ([`graph`]) is read, checked and laid out as steps ([`project`], [`plan`]); each step's
//! result is named by what went into it ([`key`]); what no earlier run has made is run ([`execute`]), and
//! everything that happens is an event ([`event`]) that screens and files show in their own way ([`ui`],
//! [`journal`]). [`cli`] has one file for each command.

pub mod cause;
pub mod chosen;
pub mod cli;
pub mod clock;
pub mod env;
pub mod event;
pub mod execute;
pub mod failure;
pub mod graph;
pub mod history;
pub mod journal;
pub mod key;
pub mod lineage;
pub mod memory;
pub mod plan;
pub mod project;
pub mod revisions;
pub mod stopping;
pub mod table;
#[cfg(test)]
mod toy;
pub mod ui;
pub mod world;
