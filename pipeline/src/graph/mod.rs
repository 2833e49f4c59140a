//! The graph file: one RON text of named stages, composed of other files (`extends`), edits (`set`,
//! `--set`) and variants (`sweep`), all by editing the text, which is then read once, typed.
//!
//! ```text
//! a.ron ── extends ──┐
//! b.ron ── stages ───┼─> one effective Text ── sweep ──> a Text per variant ── parse ──> Graph<N>
//!          set ──────┤      (each piece knows where it was written)
//! --set ─────────────┘
//! ```
//!
//! What a stage is, this module does not know: it is generic over the type `N` of a node.

pub mod check;
mod compose;
mod diagnose;
mod edit;
mod locate;
mod probe;
mod ron_error;
mod scan;
mod setting;
mod sweep;
mod text;

pub use compose::{Loaded, load};
pub use diagnose::{complain, near};
pub use setting::Set;
pub use sweep::{Variant, variants};
pub use text::Text;

use crate::failure::Failure;
use indexmap::IndexMap;
use ron::extensions::Extensions;
use ron::value::RawValue;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// How RON is read here: `Some( … )` and the parentheses of newtypes may be left out.
pub fn options() -> ron::Options {
    ron::Options::default()
        .with_default_extension(Extensions::IMPLICIT_SOME)
        .with_default_extension(Extensions::UNWRAP_NEWTYPES)
        .with_default_extension(Extensions::UNWRAP_VARIANT_NEWTYPES)
}

/// A graph file as it is written: `Graph( … )`.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, bound(deserialize = "N: DeserializeOwned"))]
pub struct Graph<N> {
    /// What the experiment is for, in a sentence.
    #[serde(default)]
    pub about: String,
    /// The seed that all other seeds are derived from.
    #[serde(default)]
    pub seed: u64,
    /// Whether results made on one kind of device are kept apart from those of another.
    #[serde(default)]
    pub exact: bool,
    /// The graph that this one begins as, relative to its own folder.
    #[serde(default)]
    pub extends: Option<String>,
    /// Values to set, by path.
    #[serde(default)]
    pub set: IndexMap<String, Box<RawValue>>,
    /// Values to try, by path; every combination is a variant.
    #[serde(default)]
    pub sweep: IndexMap<String, Vec<Box<RawValue>>>,
    /// The stages, in the order in which they are written.
    #[serde(default)]
    pub stages: Stages<N>,
}

/// Named stages, each name once.
#[derive(Clone, Debug)]
pub struct Stages<N>(pub IndexMap<String, N>);

impl<N> Default for Stages<N> {
    fn default() -> Self {
        Self(IndexMap::new())
    }
}

impl<'de, N: DeserializeOwned> serde::Deserialize<'de> for Stages<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Named<N>(PhantomData<N>);

        impl<'de, N: DeserializeOwned> Visitor<'de> for Named<N> {
            type Value = Stages<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("named stages, `( name: Stage( … ), … )`")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut stages = IndexMap::new();
                // Names are judged before their stage is read, so that the error stands at the name.
                while let Some(name) = map.next_key::<String>()? {
                    check_name(&name).map_err(Error::custom)?;
                    if stages.contains_key(&name) {
                        return Err(Error::custom(format!("two stages are called `{name}`")));
                    }
                    let stage = map.next_value()?;
                    stages.insert(name, stage);
                }
                Ok(Stages(stages))
            }

            // Empty brackets are read as one of these two.
            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Stages::default())
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
                match seq.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(Stages::default()),
                    Some(_) => Err(Error::custom("a stage has no name")),
                }
            }
        }
        deserializer.deserialize_any(Named(PhantomData))
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if edit::OWN.contains(&name) {
        return Err(format!(
            "a stage cannot be called `{name}`, the graph's own field"
        ));
    }
    if edit::is_name(name) {
        return Ok(());
    }
    Err(format!(
        "a stage cannot be called `{name}`: letters, digits, `_` and `-` make a name"
    ))
}

/// Reads the effective text as a graph of nodes `N`. What is wrong is drawn where the user wrote it,
/// in a file or in a `--set`.
pub fn parse<N: DeserializeOwned>(text: &Text) -> Result<Graph<N>, Failure> {
    options()
        .from_str(&text.source)
        .map_err(|error| ron_error::explain::<N>(text, &error))
}

#[cfg(test)]
mod tests;
