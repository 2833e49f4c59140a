//! Which tensors of an adapter are meant: what is trained, sent, or kept by a client.

use std::fmt;
use std::ops::{BitAnd, BitOr, Not};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::peft::SCORE;

/// A set of the kinds of tensor that an adapter has. Written as its members' names, `A+B+head`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Parts(u8);

/// The members by name, in the order in which they are written.
const NAMES: [(&str, Parts); 4] =
    [("A", Parts::A), ("B", Parts::B), ("R", Parts::CORE), ("head", Parts::HEAD)];

impl Parts {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// LoRA's factors A, `[rank, in]`.
    pub const A: Self = Self(1);
    /// LoRA's factors B, `[out, rank]`.
    pub const B: Self = Self(2);
    /// The cores R, `[rank, rank]`, between fixed factors (Fed-SB).
    pub const CORE: Self = Self(4);
    /// The classifier, `[classes, hidden]`.
    pub const HEAD: Self = Self(8);
    /// Both factors.
    pub const FACTORS: Self = Self(3);
    /// Everything.
    pub const ALL: Self = Self(15);

    /// The part that the tensor of this name belongs to.
    pub fn of(name: &str) -> Self {
        if name == SCORE {
            Self::HEAD
        } else if name.ends_with(".lora_A.weight") {
            Self::A
        } else if name.ends_with(".lora_B.weight") {
            Self::B
        } else if name.ends_with(".lora_R.weight") {
            Self::CORE
        } else {
            Self::NONE
        }
    }

    /// Whether all of `other` is in it.
    pub fn has(self, other: Self) -> bool {
        self & other == other
    }

    /// Whether there is nothing in it.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }
}

impl BitOr for Parts {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitAnd for Parts {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl Not for Parts {
    type Output = Self;
    fn not(self) -> Self {
        Self(!self.0 & Self::ALL.0)
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> =
            NAMES.iter().filter(|(_, part)| self.has(*part)).map(|(name, _)| *name).collect();
        f.write_str(&names.join("+"))
    }
}

impl Serialize for Parts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let mut parts = Self::NONE;
        for word in text.split('+').filter(|word| !word.is_empty()) {
            let known = NAMES.iter().find(|(name, _)| *name == word);
            parts = parts | known.ok_or_else(|| D::Error::custom(format!("no part `{word}`")))?.1;
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_written_by_name() {
        let parts = Parts::B | Parts::HEAD;
        assert_eq!(serde_json::to_string(&parts).unwrap(), r#""B+head""#);
        assert_eq!(serde_json::from_str::<Parts>(r#""B+head""#).unwrap(), parts);
        assert_eq!(serde_json::from_str::<Parts>(r#""""#).unwrap(), Parts::NONE);
        assert!(serde_json::from_str::<Parts>(r#""C""#).is_err());
        assert_eq!(!parts, Parts::A | Parts::CORE);
        assert!(parts.has(Parts::B) && !parts.has(Parts::FACTORS));
        assert_eq!(Parts::of("base_model.model.x.lora_A.weight"), Parts::A);
    }
}
