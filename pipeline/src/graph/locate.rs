//! Finds the text of the value at a dotted path, so that an override can be an edit of the source.

use super::options;
use super::scan::whole_value;
use ron::value::RawValue;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// What is written directly inside one value.
pub(super) enum Contents<'a> {
    /// `( name: value, … )`, `Name( name: value, … )`, `{ "name": value, … }`, or empty brackets.
    Fields(Vec<Field<'a>>),
    /// `[ value, … ]` or `( value, … )`.
    Entries(Vec<Range<usize>>),
    /// A number, a text, a bare name: nothing to go into.
    Leaf,
}

/// One `name: value`; both ranges are byte offsets into the whole source.
pub(super) struct Field<'a> {
    pub(super) name: Cow<'a, str>,
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
}

/// A value in the source, with the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Located {
    /// The names and indices from the root to the value.
    pub(super) path: Vec<String>,
    /// The range of its name; the value's own range for the root and for an entry of a list.
    pub(super) key: Range<usize>,
    /// The range of the value, without the white space and comments around it.
    pub(super) value: Range<usize>,
}

impl Located {
    /// The value that the whole of `source` is.
    pub(super) fn root(source: &str) -> Self {
        let value = whole_value(source);
        Self {
            path: Vec::new(),
            key: value.clone(),
            value,
        }
    }

    /// The values directly inside, in the order in which they are written.
    pub(super) fn children(&self, source: &str) -> Vec<Self> {
        let child = |name: String, key, value| {
            let mut path = self.path.clone();
            path.push(name);
            Self { path, key, value }
        };
        match contents(source, &self.value) {
            Contents::Fields(fields) => fields
                .into_iter()
                .map(|f| child(f.name.into_owned(), f.key, f.value))
                .collect(),
            Contents::Entries(entries) => entries
                .into_iter()
                .enumerate()
                .map(|(i, value)| child(i.to_string(), value.clone(), value))
                .collect(),
            Contents::Leaf => Vec::new(),
        }
    }

    /// What a caret points at: all of a value on one line, else its head.
    pub(super) fn shown(&self, source: &str) -> Range<usize> {
        if source[self.value.clone()].contains('\n') {
            self.head(source)
        } else {
            self.value.clone()
        }
    }

    /// What stands for the value: the name that the value starts with (`Dirichlet` of `Dirichlet( … )`),
    /// else the name that it is given to, else its first character.
    pub(super) fn head(&self, source: &str) -> Range<usize> {
        let value = &source[self.value.clone()];
        let name = value
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(value.len());
        if name > 0 && value.starts_with(char::is_alphabetic) {
            self.value.start..self.value.start + name
        } else if self.key != self.value {
            self.key.clone()
        } else {
            self.value.start..self.value.start + value.chars().next().map_or(0, char::len_utf8)
        }
    }
}

/// The value at `path`, or else the nearest value on the way to it that is written.
pub(super) fn locate(source: &str, path: &[&str]) -> (Located, bool) {
    let mut here = Located::root(source);
    for name in path {
        match here
            .children(source)
            .into_iter()
            .rfind(|c| c.path.last().is_some_and(|n| n == name))
        {
            Some(child) => here = child,
            None => return (here, false),
        }
    }
    (here, true)
}

/// The innermost value that holds the byte at `offset`; with `to_end`, the end of a value counts as inside it.
pub(super) fn innermost(source: &str, offset: usize, to_end: bool) -> Located {
    let mut here = Located::root(source);
    let holds = |range: &Range<usize>| {
        range.start <= offset && (offset < range.end || to_end && offset == range.end)
    };
    while let Some(child) = here.children(source).into_iter().find(|c| holds(&c.value)) {
        here = child;
    }
    here
}

/// What is written directly inside the value at `range`. The source has been read as RON before, so
/// a value that refuses the visitor is one that has no contents.
pub(super) fn contents<'a>(source: &'a str, range: &Range<usize>) -> Contents<'a> {
    let value = &source[range.clone()];
    let read = ron::Deserializer::from_str_with_options(value, &options())
        .map_err(|error| error.code)
        .and_then(|mut ron| ron.deserialize_any(Inside { source }));
    match read {
        Ok(Contents::Entries(entries)) if entries.is_empty() && value.ends_with(')') => {
            Contents::Fields(Vec::new())
        }
        Ok(Contents::Leaf) if value.ends_with(')') => Contents::Fields(Vec::new()),
        Ok(contents) => contents,
        Err(_) => Contents::Leaf,
    }
}

/// Reads one level of a value and keeps the raw text of what lies below.
struct Inside<'a> {
    source: &'a str,
}

impl<'a> Inside<'a> {
    /// The range of `part`, which is borrowed from the source.
    fn range(&self, part: &str) -> Range<usize> {
        let start = part
            .as_ptr()
            .addr()
            .saturating_sub(self.source.as_ptr().addr());
        start..start + part.len()
    }

    fn value(&self, raw: &'a RawValue) -> Range<usize> {
        self.range(raw.trim().get_ron())
    }
}

impl<'a> Visitor<'a> for Inside<'a> {
    type Value = Contents<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("fields or entries")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut fields = Vec::new();
        while let Some(Key(name)) = map.next_key()? {
            let value = self.value(map.next_value::<&RawValue>()?);
            let key = match &name {
                Cow::Borrowed(written) => self.range(written),
                Cow::Owned(_) => value.clone(),
            };
            fields.push(Field { name, key, value });
        }
        Ok(Contents::Fields(fields))
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
        let mut entries = Vec::new();
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            entries.push(self.value(raw));
        }
        Ok(Contents::Entries(entries))
    }

    fn visit_some<D: Deserializer<'a>>(self, inner: D) -> Result<Self::Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Contents::Leaf)
    }
}

/// A field's name, borrowed wherever it has no escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl<'de> Visitor<'de> for Name {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAPH: &str = "// a graph, with « ünïcode »\r\nGraph(\r\n    about: \"é(\", /* , */\r\n    \
        stages: (\r\n        shards: Partition(by: /* why */ Dirichlet(alpha: 0.5, on_fail: Retry(100)), clients: 10),\r\n\
        \x20       sst2: Dataset(files: {\"train\": \"a.tsv\", \"dev.\": \"b.tsv\"}),\r\n        \
        fed: Federate(lora: (rank: Some(64), targets: [\"q\", \"v\"]), opt: AdamW( ), by: Iid),\r\n    ),\r\n)\r\n";

    fn at(path: &str) -> Option<&'static str> {
        let path: Vec<_> = path.split('.').collect();
        let (found, whole) = locate(GRAPH, &path);
        whole.then(|| &GRAPH[found.value])
    }

    #[test]
    fn a_path_goes_through_stages_enums_options_lists_and_maps() {
        assert_eq!(at("about"), Some("\"é(\""));
        assert_eq!(
            at("stages.shards.by"),
            Some("Dirichlet(alpha: 0.5, on_fail: Retry(100))")
        );
        assert_eq!(at("stages.shards.by.alpha"), Some("0.5"));
        assert_eq!(at("stages.shards.by.on_fail.0"), Some("100"));
        assert_eq!(at("stages.sst2.files.train"), Some("\"a.tsv\""));
        assert_eq!(at("stages.fed.lora.targets.1"), Some("\"v\""));
        assert_eq!(at("stages.fed.lora.targets.2"), None);
        assert_eq!(at("stages.fed.by.alpha"), None);
    }

    #[test]
    fn the_nearest_written_value_stands_for_one_that_is_not() {
        let (found, whole) = locate(GRAPH, &["stages", "fed", "lora", "alpha"]);
        assert!(!whole);
        assert_eq!(found.path, ["stages", "fed", "lora"]);
        assert_eq!(&GRAPH[found.key.clone()], "lora");
        assert_eq!(&GRAPH[found.head(GRAPH)], "lora");
        let (by, _) = locate(GRAPH, &["stages", "shards", "by"]);
        assert_eq!(&GRAPH[by.head(GRAPH)], "Dirichlet");
    }

    #[test]
    fn an_offset_leads_to_the_innermost_value() {
        let offset = GRAPH.find("100").unwrap();
        let found = innermost(GRAPH, offset, false);
        assert_eq!(found.path.join("."), "stages.shards.by.on_fail.0");
        let after = innermost(GRAPH, offset + 3, true);
        assert_eq!(after.path, found.path);
        let outside = innermost(GRAPH, offset + 3, false);
        assert_eq!(outside.path.join("."), "stages.shards.by.on_fail");
    }

    #[test]
    fn empty_brackets_have_fields_and_a_bare_name_has_none() {
        let (opt, _) = locate(GRAPH, &["stages", "fed", "opt"]);
        assert!(matches!(contents(GRAPH, &opt.value), Contents::Fields(f) if f.is_empty()));
        let (by, _) = locate(GRAPH, &["stages", "fed", "by"]);
        assert!(matches!(contents(GRAPH, &by.value), Contents::Leaf));
    }
}
