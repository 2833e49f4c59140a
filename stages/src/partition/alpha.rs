//! The concentration of a Dirichlet distribution over the clients.

use std::fmt;

use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Below it the shares of all clients but one are zero in every draw.
pub(super) const LEAST_ALPHA: f64 = 1e-6;

/// One concentration for all clients, or one for each.
///
/// A client with twice the concentration of another gets twice as much on average.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Alpha {
    /// The same for all: 0.1 is very uneven, 100 nearly even.
    Same(f64),
    /// The first client's, the second's, and so on.
    Each(Vec<f64>),
}

impl Alpha {
    /// What is wrong with it, for so many clients.
    pub(super) fn check(&self, clients: usize) -> Result<()> {
        match self {
            Self::Same(alpha) => check_alpha("alpha", *alpha),
            Self::Each(alphas) if alphas.len() != clients => Err(Error::input(format!(
                "alpha is a list of {}, but there are {clients} clients",
                alphas.len()
            ))
            .with_hint("give one number for each client, or one number for all")),
            Self::Each(alphas) => alphas
                .iter()
                .enumerate()
                .try_for_each(|(client, alpha)| check_alpha(&format!("alpha[{client}]"), *alpha)),
        }
    }

    /// The concentration of each of `clients`.
    pub(super) fn of_clients(&self, clients: usize) -> Vec<f64> {
        match self {
            Self::Same(alpha) => vec![*alpha; clients],
            Self::Each(alphas) => alphas.clone(),
        }
    }
}

/// What is wrong with one concentration, called `name`.
pub(super) fn check_alpha(name: &str, alpha: f64) -> Result<()> {
    if alpha.is_finite() && alpha >= LEAST_ALPHA {
        return Ok(());
    }
    Err(Error::input(format!("{name} is {alpha}, and must be a number from {LEAST_ALPHA} up"))
        .with_hint("0.1 is very uneven, 100 nearly even; use Iid for even parts"))
}

/// As a graph writes it.
impl fmt::Display for Alpha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same(alpha) => alpha.fmt(f),
            Self::Each(alphas) => write!(f, "{alphas:?}"),
        }
    }
}

impl<'de> Deserialize<'de> for Alpha {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Alpha;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a list of one number for each client")
            }
            fn visit_f64<E>(self, alpha: f64) -> Result<Alpha, E> {
                Ok(Alpha::Same(alpha))
            }
            fn visit_u64<E>(self, alpha: u64) -> Result<Alpha, E> {
                Ok(Alpha::Same(alpha as f64))
            }
            fn visit_i64<E>(self, alpha: i64) -> Result<Alpha, E> {
                Ok(Alpha::Same(alpha as f64))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Alpha, A::Error> {
                let mut alphas = Vec::new();
                while let Some(alpha) = list.next_element()? {
                    alphas.push(alpha);
                }
                if alphas.is_empty() {
                    return Err(A::Error::invalid_length(0, &self));
                }
                Ok(Alpha::Each(alphas))
            }
        }
        from.deserialize_any(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_a_list() {
        for (text, alpha, back) in [
            ("0.5", Alpha::Same(0.5), "0.5"),
            ("2", Alpha::Same(2.0), "2.0"),
            ("[0.5, 2]", Alpha::Each(vec![0.5, 2.0]), "[0.5,2.0]"),
        ] {
            let read: Alpha = serde_json::from_str(text).unwrap();
            assert_eq!(read, alpha);
            assert_eq!(serde_json::to_string(&read).unwrap(), back);
        }
        for text in ["\"much\"", "[]", "{}", "[\"much\"]"] {
            assert!(serde_json::from_str::<Alpha>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn wrong_numbers_are_named() {
        let fault = |alpha: Alpha| alpha.check(2).unwrap_err().to_string();
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9] {
            assert!(fault(Alpha::Same(alpha)).starts_with("alpha is"));
        }
        assert!(fault(Alpha::Each(vec![1.0, -2.0])).starts_with("alpha[1] is -2"));
        assert!(fault(Alpha::Each(vec![1.0; 3])).contains("a list of 3, but there are 2 clients"));
        assert!(Alpha::Each(vec![1.0, 0.1]).check(2).is_ok());
    }
}
