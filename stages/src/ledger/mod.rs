//! How many bytes a federation sends: foreseen by formula, and counted.
//!
//! [`Shapes`] says how many values an adapter has, [`Exchange`] what a rule sends in a round, and [`Ledger`] what was sent.

mod exchange;
mod sent;
mod shapes;

pub use exchange::{Broadcast, Exchange, Traffic, merged};
pub use sent::{Ledger, Sent};
pub use shapes::{ModuleShape, Shapes};

#[cfg(test)]
mod tests;
