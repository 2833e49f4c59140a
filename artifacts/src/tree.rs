//! What a step made: sorted names of blobs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::{BlobRef, Digest, Error, Result};

const HEADER: &str = "fedpipe-tree 1\n";

/// Sorted names -> blobs. The digest of its canonical listing is the content digest of an artifact.
///
/// Names are relative paths in UTF-8 with `/` between parts: no `..`, nothing absolute, no control characters, and no
/// name that is a folder of another, so that every tree can be written out as a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, BlobRef>,
}

impl Tree {
    /// Adds an entry.
    ///
    /// # Errors
    /// [`Error::Name`] if the name is not a relative path, is there already, or is a folder of another entry.
    pub fn insert(&mut self, name: impl Into<String>, blob: BlobRef) -> Result<()> {
        let name = name.into();
        self.can_take(&name)?;
        self.entries.insert(name, blob);
        Ok(())
    }

    /// Whether an entry of this name could be added.
    pub(crate) fn can_take(&self, name: &str) -> Result<()> {
        let checked = check(name).and_then(|()| self.check_free(name));
        checked.map_err(|why| Error::Name {
            name: name.to_owned(),
            why,
        })
    }

    fn check_free(&self, name: &str) -> Result<(), &'static str> {
        if self.entries.contains_key(name) {
            return Err("it is there already");
        }
        let below = format!("{name}/");
        let is_folder = self
            .entries
            .range(below.clone()..)
            .next()
            .is_some_and(|(next, _)| next.starts_with(&below));
        let in_file = name
            .match_indices('/')
            .any(|(at, _)| self.entries.contains_key(&name[..at]));
        if is_folder || in_file {
            return Err("a file and a folder would have the same name");
        }
        Ok(())
    }

    /// The blob of an entry.
    pub fn get(&self, name: &str) -> Option<BlobRef> {
        self.entries.get(name).copied()
    }

    /// The entries, sorted by the bytes of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, BlobRef)> {
        self.entries
            .iter()
            .map(|(name, blob)| (name.as_str(), *blob))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The canonical listing: a header, then `digest length name` a line. Equal trees have equal listings.
    pub fn canonical(&self) -> Vec<u8> {
        let mut text = String::with_capacity(HEADER.len() + self.entries.len() * 96);
        text.push_str(HEADER);
        for (name, blob) in &self.entries {
            writeln!(text, "{} {} {name}", blob.digest, blob.len)
                .expect("a string can always grow");
        }
        text.into_bytes()
    }

    /// Reads a canonical listing, and nothing else: what it accepts, [`Tree::canonical`] gives back byte by byte.
    ///
    /// # Errors
    /// [`Error::Listing`] says which line is wrong.
    pub fn parse(listing: &[u8]) -> Result<Self> {
        let wrong = |why: String| Error::Listing { why };
        let text = std::str::from_utf8(listing).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        let lines = text
            .strip_prefix(HEADER)
            .ok_or_else(|| wrong("its first line is unknown".to_owned()))?;
        if !lines.is_empty() && !lines.ends_with('\n') {
            return Err(wrong("its last line is cut off".to_owned()));
        }
        let mut tree = Self::default();
        let mut last = "";
        for (at, line) in lines.lines().enumerate() {
            let (name, blob) =
                entry(line).ok_or_else(|| wrong(format!("line {} is not an entry", at + 2)))?;
            if name <= last {
                return Err(wrong(format!("line {} is out of order", at + 2)));
            }
            tree.insert(name, blob)?;
            last = name;
        }
        Ok(tree)
    }

    /// The digest of the canonical listing.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.canonical())
    }

    /// The canonical listing as a blob: what a record points at.
    pub fn blob(&self) -> BlobRef {
        BlobRef::of(&self.canonical())
    }
}

/// A relative path that stays below the folder it is put in.
fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.starts_with('/') {
        return Err("it is absolute");
    }
    if name.chars().any(char::is_control) {
        return Err("it has a control character");
    }
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("a part of it is empty, `.` or `..`");
    }
    Ok(())
}

fn entry(line: &str) -> Option<(&str, BlobRef)> {
    let (digest, rest) = line.split_once(' ')?;
    let (len, name) = rest.split_once(' ')?;
    let digest = digest.parse().ok()?;
    // `+1` and `01` parse as numbers too: a length has one spelling.
    let canonical =
        len == "0" || (len.bytes().all(|b| b.is_ascii_digit()) && !len.starts_with('0'));
    let len = len.parse().ok().filter(|_| canonical)?;
    Some((name, BlobRef { digest, len }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(names: &[&str]) -> Tree {
        let mut tree = Tree::default();
        for name in names {
            tree.insert(*name, BlobRef::of(name.as_bytes())).unwrap();
        }
        tree
    }

    #[test]
    fn the_listing_does_not_depend_on_the_order_of_insertion() {
        let one = tree(&["b", "a/x", "a-b"]);
        assert_eq!(one.canonical(), tree(&["a-b", "b", "a/x"]).canonical());
        assert_eq!(Tree::parse(&one.canonical()).unwrap(), one);
        assert_eq!(one.blob().digest, one.digest());
        assert_ne!(one.digest(), tree(&["b", "a/x"]).digest());
    }

    #[test]
    fn names_stay_below_the_folder() {
        for name in [
            "", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a\nb", "a\0b",
        ] {
            assert!(
                Tree::default().insert(name, BlobRef::of(b"")).is_err(),
                "{name:?}"
            );
        }
        for (first, second) in [("a", "a"), ("a", "a/b"), ("a/b/c", "a/b"), ("a/b", "a")] {
            assert!(
                tree(&[first]).insert(second, BlobRef::of(b"")).is_err(),
                "{first} {second}"
            );
        }
    }

    #[test]
    fn only_canonical_listings_are_read() {
        let good = String::from_utf8(tree(&["a", "b"]).canonical()).unwrap();
        let lines: Vec<&str> = good.lines().collect();
        let swapped = format!("{}\n{}\n{}\n", lines[0], lines[2], lines[1]);
        let doubled = format!("{good}{}\n", lines[2]);
        let (cut, header) = (&good[..good.len() - 1], good.replace("tree 1", "tree 2"));
        for wrong in [
            "",
            cut,
            &header,
            &swapped,
            &doubled,
            &good.replace(" 1 ", " 01 "),
            &good.replace(" 1 ", " +1 "),
        ] {
            assert!(Tree::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
