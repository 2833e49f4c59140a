//! The rules against values computed elsewhere, against the maths, and against each other.

mod flat;
mod golden;
mod golden_rules;
mod properties;
mod ranks;
mod server;
mod settings;
mod world;
