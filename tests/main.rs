//! The project's tests of the whole program: one binary, one module a topic. Each runs the real
//! `fedpipe` in a folder of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod cli;
mod cohorts;
mod devices;
mod errors;
mod export;
mod exported;
mod federated;
mod gc;
mod graphs;
mod harness;
mod hub;
mod hub_refusals;
mod hub_server;
mod memory;
mod partition;
mod precision;
mod prefix;
mod resume;
mod reuse;
mod stopping;
mod table;
mod tasks;
