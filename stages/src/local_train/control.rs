//! SCAFFOLD's control variates: what keeps a client from drifting towards its own optimum (Karimireddy et al. 2019,
//! 1910.06378, option II).
//!
//! A client steps by `y ← y − η·(g − cᵢ + c)` from the server's `x`, and afterwards takes
//! `cᵢ ← cᵢ − c + (x − y)/Ση`, the mean of its gradients along the way; the sum is over the learning rates of the
//! steps taken, `K·η` where the rate is constant.

use thiserror::Error;

use super::TrainError;
use super::member::Client;
use super::numbers::{LocalNumbers, Optimizer};
use super::schedule;
use crate::model::Layout;
use crate::peft::{AdapterError, AdapterTensors};

/// The control variates that a client trains with, by the names and shapes of the tensors that are trained.
#[derive(Clone, Copy, Debug)]
pub struct Control<'a> {
    /// The server's, c, fitted to the client's ranks as its adapter is.
    pub server: &'a AdapterTensors,
    /// The client's own, cᵢ; zeros where it has none yet.
    pub own: Option<&'a AdapterTensors>,
}

/// Why SCAFFOLD's correction cannot be made.
#[derive(Debug, Error, PartialEq)]
pub enum ControlError {
    /// The optimizer is another than SGD.
    #[error("SCAFFOLD's correction is for plain SGD; the optimizer is AdamW")]
    Optimizer,
    /// Gradients are clipped.
    #[error(
        "`clip` cannot be used with SCAFFOLD: the control variates are means of gradients that were not clipped"
    )]
    Clip,
    /// Every learning rate is 0.
    #[error("SCAFFOLD divides by the sum of the learning rates, which is 0 in this round")]
    Rates,
    /// The adapter's rank may change.
    #[error(
        "a client that prunes its rank cannot keep control variates: their shapes would change"
    )]
    Prune,
    /// A control variate has other tensors than those that are trained.
    #[error("{whose} control variate does not fit what is trained: {source}")]
    Shape {
        /// Whose it is.
        whose: &'static str,
        /// What differs.
        source: AdapterError,
    },
}

impl Control<'_> {
    /// Whether clients may be trained with control variates by `numbers`, in whatever number of steps.
    ///
    /// # Errors
    /// The optimizer is not SGD, or gradients are clipped.
    pub fn check_numbers(numbers: &LocalNumbers) -> Result<(), ControlError> {
        if !matches!(numbers.optimizer, Optimizer::Sgd { .. }) {
            return Err(ControlError::Optimizer);
        }
        if numbers.clip.is_some() {
            return Err(ControlError::Clip);
        }
        Ok(())
    }

    /// The client's next control variate, `cᵢ − c + (x − y)/Ση`, after it went from `before`, x, to `after`, y, in
    /// steps whose learning rates sum up to `rates`; it has the tensors of the server's.
    pub(super) fn renewed(
        &self,
        before: &AdapterTensors,
        after: &AdapterTensors,
        rates: f64,
    ) -> AdapterTensors {
        let value_at = |adapter: &AdapterTensors, name: &str, at: usize| {
            adapter.get(name).map_or(0.0, |(_, values)| f64::from(values[at]))
        };
        let tensors = self.server.iter().map(|(name, shape, server)| {
            let next = server.iter().enumerate().map(|(at, &server)| {
                let own = self.own.map_or(0.0, |own| value_at(own, name, at));
                let way = value_at(before, name, at) - value_at(after, name, at);
                #[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
                let next = (own - f64::from(server) + way / rates) as f32;
                next
            });
            (name.to_owned(), shape, next.collect())
        });
        AdapterTensors::new(tensors)
    }
}

/// What is added to each gradient of `client`, `c − cᵢ`, as a row of `layout`; `own` is the layout of what it trains.
/// Zeros where it has no control variates.
pub(super) fn correction(
    client: &Client<'_>,
    numbers: &LocalNumbers,
    layout: &Layout,
    own: &Layout,
) -> Result<Vec<f32>, TrainError> {
    let Some(control) = client.control else {
        return Ok(vec![0.0; layout.length()]);
    };
    Control::check_numbers(numbers)?;
    if client.prune.is_some() {
        return Err(ControlError::Prune.into());
    }
    if schedule::sum(numbers, client.steps) <= 0.0 {
        return Err(ControlError::Rates.into());
    }
    let pack = |whose, adapter| {
        layout.pack(adapter, own).map_err(|source| ControlError::Shape { whose, source })
    };
    let mut row = pack("the server's", control.server)?;
    if let Some(client) = control.own {
        let client = pack("the client's", client)?;
        row.iter_mut().zip(client).for_each(|(server, own)| *server -= own);
    }
    Ok(row)
}
