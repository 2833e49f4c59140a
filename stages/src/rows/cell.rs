//! One value of a table.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

/// One value of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// No value.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other finite number.
    Float(f64),
    /// Text.
    Str(String),
}

impl Cell {
    /// The cell of a JSON value; `None` for a list or an object.
    pub(crate) fn from_json(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(flag) => Some(Self::Bool(flag)),
            Value::String(text) => Some(Self::Str(text)),
            Value::Number(number) => Some(
                number
                    .as_i64()
                    .map(Self::Int)
                    .or_else(|| number.as_f64().map(Self::Float))
                    .unwrap_or(Self::Null),
            ),
            Value::Array(_) | Value::Object(_) => None,
        }
    }
}

/// As text, with nothing for a null.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => Ok(()),
            Self::Bool(flag) => flag.fmt(f),
            Self::Int(number) => number.fmt(f),
            Self::Float(number) => number.fmt(f),
            Self::Str(text) => f.write_str(text),
        }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(flag) => serializer.serialize_bool(*flag),
            Self::Int(number) => serializer.serialize_i64(*number),
            Self::Float(number) => serializer.serialize_f64(*number),
            Self::Str(text) => serializer.serialize_str(text),
        }
    }
}
