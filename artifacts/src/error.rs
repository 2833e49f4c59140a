//! What can go wrong with a store, each as a sentence fragment that a person can act on.

use std::io;
use std::path::{Path, PathBuf};

use crate::Digest;

/// The result of anything that uses a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store could not do what it was asked to.
///
/// The system's own words are the `source()` of [`Error::Io`] and [`Error::Input`]: print an error with its sources.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the store could not be read or written.
    #[error("cannot use `{}` in the store{}", path.display(), mend(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file outside the store, which was to be taken in, could not be read.
    #[error("cannot read `{}`", path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file outside the store changed while it was read.
    #[error("`{}` changed while it was being read; try again when nothing writes to it", path.display())]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// A file outside the store is not the one that it was said to be.
    #[error("`{}` has {found} bytes where {expected} are expected", path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// How long it is (bytes).
        found: u64,
        /// How long it was said to be (bytes).
        expected: u64,
    },
    /// The folder holds something else than a store.
    #[error("`{}` is not a store (it has no FORMAT file): name an empty or a new folder", path.display())]
    NotAStore {
        /// The folder that was named.
        path: PathBuf,
    },
    /// The store was written by a version that this one does not understand.
    #[error("the store `{}` needs {feature}, which this version does not know; use a newer one", path.display())]
    Unsupported {
        /// The root of the store.
        path: PathBuf,
        /// What is not known.
        feature: String,
    },
    /// Another process collects in this store.
    #[error("another process is pruning the store `{}`; try again when it has ended", path.display())]
    Busy {
        /// The root of the store.
        path: PathBuf,
    },
    /// The bytes are not in the store (any more).
    #[error("the blob {} is not in the store (it was pruned)", digest.short())]
    Pruned {
        /// The blob.
        digest: Digest,
    },
    /// A file of the store does not hold what it must.
    #[error("`{}` is damaged: {why}; verify the store to set it aside", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A name that cannot be the name of an entry, a run or a pin.
    #[error("`{name}` cannot be a name in the store: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A run of this name is there already.
    #[error("there is a run `{id}` already")]
    RunExists {
        /// The run.
        id: String,
    },
    /// Not a digest.
    #[error("`{text}` is not a digest of 64 lower-case hexadecimal digits")]
    Digest {
        /// What was given.
        text: String,
    },
    /// Not the canonical listing of a tree.
    #[error("not the listing of a tree: {why}")]
    Listing {
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// Whether the store is at fault (busy, damaged, full, not readable), rather than what it was given.
    pub fn is_store_problem(&self) -> bool {
        match self {
            Self::Io { .. }
            | Self::NotAStore { .. }
            | Self::Unsupported { .. }
            | Self::Busy { .. }
            | Self::Pruned { .. }
            | Self::Damaged { .. }
            | Self::Listing { .. } => true,
            Self::Input { .. }
            | Self::Changing { .. }
            | Self::WrongLength { .. }
            | Self::Name { .. }
            | Self::RunExists { .. }
            | Self::Digest { .. } => false,
        }
    }

    /// Lets damage pass, where what is damaged counts as not there.
    pub(crate) fn unless_damaged(self) -> Result<()> {
        if matches!(self, Self::Damaged { .. }) {
            Ok(())
        } else {
            Err(self)
        }
    }

    pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            why: why.into(),
        }
    }
}

/// The mend for what users meet most: a full disk, a read-only place, a missing permission.
fn mend(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": the disk is full; free some space or prune the store"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            ": it lies on a read-only file system; name a store that can be written"
        }
        io::ErrorKind::PermissionDenied => {
            ": no permission; make the store yours or name another one"
        }
        _ => "",
    }
}

/// Gives an I/O result the path that it is about.
pub(crate) trait At<T> {
    /// Of a file of the store.
    fn at(self, path: &Path) -> Result<T>;
    /// Of a file outside the store.
    fn of_input(self, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io {
            path: path.to_owned(),
            source: source.into(),
        })
    }

    fn of_input(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Input {
            path: path.to_owned(),
            source: source.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_names_the_path_and_the_mend() {
        let full: Result<(), _> = Err(io::Error::from(io::ErrorKind::StorageFull));
        let error = full.at(Path::new("store/tmp/x")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot use `store/tmp/x` in the store: the disk is full; free some space or prune the store"
        );
        assert!(error.is_store_problem());
    }
}
