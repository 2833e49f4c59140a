//! Differential privacy of clients: a bound on what one client can change, noise that hides it, and what that costs.
//!
//! **Central**, the server is trusted: each client's update is [clipped](clip()) to a norm of at most C, the server takes
//! the unweighted mean over a fixed denominator K and adds noise of deviation [`z·C/K`](central_sigma), and the
//! [`Accountant`] tells ε for the rounds. Weights by the number of examples would let one client change the mean by more
//! than C/K, so there are none.
//!
//! **Local**, the server is not trusted: each client adds noise of its own before it sends, see [`local_sigma`].
//!
//! Neighbours differ by one whole client, not by one example. Numbers are drawn in f64 and rounded to f32: what the low bits
//! of a float tell (Mironov 2012) is not guarded against.

mod accountant;
mod clip;
mod guard;
mod local;
mod noise;
mod sampling;

pub use accountant::{Accountant, Conversion, Spent};
pub use clip::clip;
pub use guard::{Guard, Privacy, Statement, Where};
pub use local::{local_epsilon, local_sigma};
pub use noise::{add_noise, central_sigma};
pub use sampling::Sampling;

use thiserror::Error;

/// A number of a mechanism that it cannot have.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
#[error("`{field}` is {value}; {expected}")]
pub struct PrivacyError {
    /// Which number.
    pub field: &'static str,
    /// Its value.
    pub value: f64,
    /// What it may be.
    pub expected: &'static str,
}

/// Refuses a number unless it is above 0 and finite.
fn positive(field: &'static str, value: f64) -> Result<(), PrivacyError> {
    let expected = "it must be a number above 0";
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(PrivacyError { field, value, expected })
    }
}

/// Refuses a number unless it lies strictly between 0 and 1.
fn probability(field: &'static str, value: f64) -> Result<(), PrivacyError> {
    let expected = "it must lie between 0 and 1";
    if value > 0.0 && value < 1.0 { Ok(()) } else { Err(PrivacyError { field, value, expected }) }
}
