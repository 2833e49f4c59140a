//! Typed edges between stages, and the kinds of artifact that they carry.

use std::{fmt, marker::PhantomData};

use artifacts::{Blob, BlobRef, Store, Tree};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor, ser::SerializeMap};
use serde_json::Value;

use crate::error::{Error, Result};

/// What a step makes: a tree of one kind, or one entry of such a tree.
pub trait Artifact: 'static {
    /// The kind as people read it: `tokens`, `adapter`.
    const KIND: &'static str;
}

/// An artifact that is read as a whole into memory.
pub trait Open: Artifact + Sized {
    /// Reads it from the tree, or from the entry, that an edge leads to.
    fn open(from: Opened<'_>) -> Result<Self>;
}

/// What an edge leads to, found in the store.
pub enum Opened<'a> {
    /// A whole tree.
    Tree(TreeView<'a>),
    /// One entry of a tree.
    Entry(Blob),
}

impl<'a> Opened<'a> {
    /// The whole tree.
    ///
    /// # Errors
    /// The edge leads to one entry.
    pub fn tree(self) -> Result<TreeView<'a>> {
        match self {
            Self::Tree(view) => Ok(view),
            Self::Entry(_) => {
                Err(Error::failed("an entry was given where a whole artifact is needed"))
            }
        }
    }

    /// The entry's bytes.
    ///
    /// # Errors
    /// The edge leads to a whole tree.
    pub fn entry(self) -> Result<Blob> {
        match self {
            Self::Entry(blob) => Ok(blob),
            Self::Tree(_) => {
                Err(Error::failed("a whole artifact was given where an entry is needed"))
            }
        }
    }
}

/// A tree together with the store that holds its bytes.
#[derive(Clone)]
pub struct TreeView<'a> {
    /// Names and digests.
    pub tree: Tree,
    /// The digest of the tree itself.
    pub at: BlobRef,
    pub(crate) store: &'a Store,
}

impl TreeView<'_> {
    /// The bytes of one entry.
    ///
    /// # Errors
    /// There is no such entry, or its bytes are not in the store.
    pub fn blob(&self, name: &str) -> Result<Blob> {
        let at = self.tree.get(name).ok_or_else(|| self.no_entry(name))?;
        Ok(self.store.blob(&at)?)
    }

    /// The bytes of one entry, if the tree has it.
    pub fn blob_if_there(&self, name: &str) -> Result<Option<Blob>> {
        Ok(match self.tree.get(name) {
            Some(at) => Some(self.store.blob(&at)?),
            None => None,
        })
    }

    /// One entry read as JSON.
    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        serde_json::from_slice(&self.blob(name)?).map_err(|e| {
            Error::failed(format!("`{name}` of a stored artifact cannot be read: {e}"))
        })
    }

    fn no_entry(&self, name: &str) -> Error {
        let names: Vec<_> = self.tree.iter().map(|(n, _)| format!("`{n}`")).collect();
        Error::input(format!("there is no `{name}` here, only {}", names.join(", ")))
    }
}

/// A typed edge: the name of a stage (`tokens`), or of one part of what it makes
/// (`shards#client-003`). In a graph file it is written as a bare name.
pub struct In<T> {
    name: String,
    kind: PhantomData<fn() -> T>,
}

impl<T> In<T> {
    /// An edge to what `name` makes.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), kind: PhantomData }
    }

    /// An edge to one entry of what this edge leads to.
    pub fn part<P>(&self, entry: &str) -> In<P> {
        In::named(format!("{}#{entry}", self.name))
    }

    /// The name with its part: `shards#client-003`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<T> Clone for In<T> {
    fn clone(&self) -> Self {
        Self::named(&self.name)
    }
}

impl<T> fmt::Debug for In<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl<'de, T> Deserialize<'de> for In<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Name<T>(PhantomData<T>);
        impl<T> Visitor<'_> for Name<T> {
            type Value = In<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a stage")
            }
            fn visit_str<E>(self, name: &str) -> Result<In<T>, E> {
                Ok(In::named(name))
            }
        }
        from.deserialize_identifier(Name(PhantomData))
    }
}

const IN: &str = "$in";
const KIND: &str = "$kind";

impl<T: Artifact> Serialize for In<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(2))?;
        map.serialize_entry(IN, &self.name)?;
        map.serialize_entry(KIND, T::KIND)?;
        map.end()
    }
}

/// The name and the kind of an edge, if `value` is a serialised [`In`].
pub fn as_edge(value: &Value) -> Option<(&str, &str)> {
    let map = value.as_object().filter(|map| map.len() == 2)?;
    Some((map.get(IN)?.as_str()?, map.get(KIND)?.as_str()?))
}

/// Calls `found` with the name of every edge inside `value`. It makes no paths, as a plan of ten
/// thousand steps has a quarter of a second.
pub fn names<'a>(value: &'a Value, found: &mut dyn FnMut(&'a str)) {
    if let Some((name, _)) = as_edge(value) {
        return found(name);
    }
    match value {
        Value::Object(map) => map.values().for_each(|inner| names(inner, found)),
        Value::Array(list) => list.iter().for_each(|inner| names(inner, found)),
        _ => {}
    }
}

/// Calls `found` with the dotted path, the name and the kind of every edge inside `value`.
pub fn edges(value: &Value, path: &str, found: &mut dyn FnMut(&str, &str, &str)) {
    if let Some((name, kind)) = as_edge(value) {
        return found(path, name, kind);
    }
    let dotted = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, v)| edges(v, &dotted(key), found)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| edges(v, &dotted(&i.to_string()), found));
        }
        _ => {}
    }
}
