//! How the numbers of an adapter are put into a message.
//!
//! Both sides know the names and the shapes, and what the client had received before; so a message is numbers alone, and its
//! length follows from how many there are. `F32` sends the values themselves. The others send what differs from the values
//! received, as that is what is small (so that few bits do) and sparse (so that few entries do); the receiver adds it up.
//!
//! All numbers are little-endian. Training refuses values that are not finite, so a message that holds one is damaged.

mod bf16;
mod int8;
mod top_k;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The form of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Codec {
    /// The values, four bytes each, without loss.
    #[default]
    F32,
    /// Differences with eight bits of precision, two bytes each.
    BF16,
    /// Differences as whole multiples of a scale for each block of values, one byte each and four for a scale.
    Int8 {
        /// How many values share a scale.
        #[serde(default = "block")]
        block: usize,
    },
    /// The largest differences alone, eight bytes each.
    TopK {
        /// The share of them that is sent, above 0 and at most 1.
        #[serde(default = "share")]
        share: f64,
    },
}

fn block() -> usize {
    64
}

fn share() -> f64 {
    0.1
}

/// The most values of a block: more have no use, as the scale is then that of the largest of them all.
const MOST_BLOCK: usize = 1 << 20;

/// Why a codec cannot be used, or a message cannot be read.
#[derive(Clone, Copy, Debug, Error, PartialEq)]
pub enum CodecError {
    /// Blocks of no values.
    #[error("a block holds from 1 to {MOST_BLOCK} values")]
    Block,
    /// A share outside its range.
    #[error("the share of differences that are sent is {0}; it must be above 0 and at most 1")]
    Share(f64),
    /// Another length than a message of so many values has.
    #[error("the message has {found} bytes; one of {values} values has {expected}")]
    Length {
        /// The bytes of the message.
        found: usize,
        /// The bytes that it should have.
        expected: usize,
        /// How many values it is of.
        values: usize,
    },
    /// What no encoder writes.
    #[error("the message is damaged: {0}")]
    Damaged(&'static str),
}

impl Codec {
    /// Whether this is the default, which is not written.
    pub fn is_f32(&self) -> bool {
        *self == Self::F32
    }

    /// What is wrong with its numbers.
    ///
    /// # Errors
    /// [`CodecError::Block`] and [`CodecError::Share`].
    pub fn check(&self) -> Result<(), CodecError> {
        match *self {
            Self::Int8 { block } if !(1..=MOST_BLOCK).contains(&block) => Err(CodecError::Block),
            Self::TopK { share } if !(share > 0.0 && share <= 1.0) => Err(CodecError::Share(share)),
            _ => Ok(()),
        }
    }

    /// The bytes of a message of `values` values.
    pub fn length(&self, values: usize) -> usize {
        match *self {
            Self::F32 => 4 * values,
            Self::BF16 => 2 * values,
            Self::Int8 { block } => int8::length(values, block),
            Self::TopK { share } => top_k::length(values, share),
        }
    }

    /// The message that tells `values` to one who knows that the sender had `received`, one value for each.
    ///
    /// # Panics
    /// Where there are not as many of both, or more than 2³² for [`Codec::TopK`].
    pub fn encode(&self, values: &[f32], received: &[f32]) -> Vec<u8> {
        assert_eq!(values.len(), received.len(), "each value has one that was received");
        let differences = || values.iter().zip(received).map(|(value, before)| value - before);
        match *self {
            Self::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Self::BF16 => bf16::encode(differences()),
            Self::Int8 { block } => int8::encode(&differences().collect::<Vec<f32>>(), block),
            Self::TopK { share } => top_k::encode(&differences().collect::<Vec<f32>>(), share),
        }
    }

    /// The values that a message tells, given what its sender had `received`.
    ///
    /// # Errors
    /// The bytes are not such a message.
    pub fn decode(&self, bytes: &[u8], received: &[f32]) -> Result<Vec<f32>, CodecError> {
        let (found, values) = (bytes.len(), received.len());
        let expected = self.length(values);
        if found != expected {
            return Err(CodecError::Length { found, expected, values });
        }
        let told = match *self {
            Self::F32 => floats(bytes).collect(),
            Self::BF16 => added(received, &bf16::decode(bytes)),
            Self::Int8 { block } => added(received, &int8::decode(bytes, block)?),
            Self::TopK { .. } => added(received, &top_k::decode(bytes, values)?),
        };
        if told.iter().all(|value| value.is_finite()) {
            Ok(told)
        } else {
            Err(CodecError::Damaged("a value is not finite"))
        }
    }
}

fn added(received: &[f32], differences: &[f32]) -> Vec<f32> {
    received.iter().zip(differences).map(|(before, difference)| before + difference).collect()
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four))
}

#[cfg(test)]
mod tests;
