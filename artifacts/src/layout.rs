//! Where each thing lies below the root of a store.

use std::path::{Path, PathBuf};

use crate::Digest;

/// Every folder of a store.
pub(crate) const FOLDERS: [&str; 10] = [
    "cas",
    "ac",
    "ext",
    "runs",
    "pins",
    "leases",
    "wip",
    "tmp",
    "trash",
    "quarantine",
];

/// A folder of files that are named by a digest, 256 ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    /// Blobs, by their own hash.
    Blobs,
    /// Records, by action key.
    Records,
    /// Notes on blobs that were left where they are, by the hash of the blob.
    External,
}

impl Area {
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Blobs => "cas",
            Self::Records => "ac",
            Self::External => "ext",
        }
    }

    /// `<root>/cas/ab/cdef…`
    pub(crate) fn place(self, root: &Path, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        path(root, &[self.folder(), &hex[..2], &hex[2..]])
    }

    /// `<root>/trash/ab/cas-cdef…`
    pub(crate) fn trash(self, root: &Path, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        path(
            root,
            &[
                "trash",
                &hex[..2],
                &format!("{}-{}", self.folder(), &hex[2..]),
            ],
        )
    }

    /// Takes `trash/ab/cas-cdef…` apart.
    pub(crate) fn of_trash(shard: &str, name: &str) -> Option<(Self, Digest)> {
        let (folder, rest) = name.split_once('-')?;
        let area = [Self::Blobs, Self::Records, Self::External]
            .into_iter()
            .find(|a| a.folder() == folder)?;
        Some((area, digest(shard, rest)?))
    }
}

/// The digest that a file in a shard is named by.
pub(crate) fn digest(shard: &str, name: &str) -> Option<Digest> {
    if shard.len() == 2 {
        format!("{shard}{name}").parse().ok()
    } else {
        None
    }
}

fn path(root: &Path, parts: &[&str]) -> PathBuf {
    let mut path = root.to_owned();
    path.extend(parts);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trash_remembers_where_it_came_from() {
        let key = Digest::of(b"x");
        for area in [Area::Blobs, Area::Records, Area::External] {
            let trash = area.trash(Path::new("s"), &key);
            let names: Vec<&str> = trash.iter().map(|part| part.to_str().unwrap()).collect();
            assert_eq!(Area::of_trash(names[2], names[3]), Some((area, key)));
        }
        assert_eq!(Area::of_trash("ab", "cas-12"), None);
    }
}
