//! One `--set PATH=RON` of the command line.

use super::diagnose::{Drawing, draw};
use super::ron_error::about_lone_value;
use super::text::{Place, Text};
use crate::failure::Failure;
use ron::value::RawValue;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// A value for a path, given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The dotted path, `fed.lora.rank`.
    pub path: String,
    /// The value as it was typed: valid RON.
    pub value: String,
}

impl fmt::Display for Set {
    /// The argument as it was typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.path, self.value)
    }
}

impl FromStr for Set {
    type Err = Failure;

    /// Takes `PATH=RON` apart; the path is looked up later, in a graph.
    fn from_str(argument: &str) -> Result<Self, Failure> {
        let Some((path, value)) = argument.split_once('=') else {
            return Err(Failure::usage(format!("`--set {argument}` gives no value"))
                .hint(format!("write `--set {argument}=VALUE`")));
        };
        let path = path.trim();
        if path.is_empty() {
            return Err(
                Failure::usage(format!("`--set {argument}` names no value to set"))
                    .hint("write `--set fed.rounds=10`"),
            );
        }
        let value = value.trim();
        match RawValue::from_ron(value) {
            Ok(_) => Ok(Self {
                path: path.to_owned(),
                value: value.to_owned(),
            }),
            Err(error) => {
                let set = Self {
                    path: path.to_owned(),
                    value: value.to_owned(),
                };
                Err(not_ron(&set, &error))
            }
        }
    }
}

fn not_ron(set: &Set, error: &ron::error::SpannedError) -> Failure {
    let Set { path, value } = set;
    if value.is_empty() {
        return Failure::usage(format!("`--set {path}=` gives no value"));
    }
    let mut text = Text::new(Path::new(""), String::new());
    let argument = text.write("--set".to_owned(), set.to_string());
    let (why, label, range) = about_lone_value(value, error);
    let from = path.len() + 1;
    let range = from + range.start..from + range.end;
    let plain = value.starts_with(|c: char| c.is_alphabetic() || "./~".contains(c))
        && !value.contains(['(', '[', '{', '"']);
    let help = plain.then(|| format!("a text stands in quotes: --set '{path}=\"{value}\"'"));
    let title = format!("the value of `{path}` is not RON: {why}");
    let place = Place {
        written: argument.written,
        range,
    };
    draw(
        &text,
        &[Drawing {
            title,
            place,
            label,
            help,
        }],
    )
}
