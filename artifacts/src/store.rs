//! A store: one folder, shared by any number of processes.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{At, Result};
use crate::layout::Area;
use crate::{Digest, Draft, Lease, StatCache, files, format, holder};

/// A content-addressed store in one folder.
///
/// Clones are cheap and are the same store; it can be shared between threads and processes.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    id: String,
    /// Held open, so that a look at a record resolves two names and not a whole path.
    records: OwnedFd,
    stats: StatCache,
}

impl Store {
    /// Opens the store at `root`, and makes one where there is nothing or an empty folder.
    ///
    /// # Errors
    /// [`Error::NotAStore`](crate::Error::NotAStore) for a folder that holds other things,
    /// [`Error::Unsupported`](crate::Error::Unsupported) for a store of a newer version.
    pub fn open(root: &Path) -> Result<Self> {
        if let Some(store) = Self::open_existing(root)? {
            return Ok(store);
        }
        format::create(root)?;
        let made = Self::open_existing(root)?;
        made.ok_or_else(|| crate::Error::damaged(root, "it went away while it was opened"))
    }

    /// Opens the store at `root`: `None` where there is none. Nothing is written.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_existing(root: &Path) -> Result<Option<Self>> {
        let Some(id) = format::read(root)? else {
            return Ok(None);
        };
        let path = root.join(Area::Records.folder());
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let records = rustix::fs::openat(CWD, &path, flags, Mode::empty()).at(&path)?;
        let stats = StatCache::open(Some(root.join("stat_cache.json")));
        let inner = Inner {
            root: root.to_owned(),
            id,
            records,
            stats,
        };
        Ok(Some(Self {
            inner: Arc::new(inner),
        }))
    }

    /// The folder, as it was given.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The name of this store, unlike that of any other; a copy of a store has the same.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The digests of files that lie outside the store.
    pub fn stat_cache(&self) -> &StatCache {
        &self.inner.stats
    }

    /// Says that this process is at work. Hold it from before the first look at the store until
    /// after the last use.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the store cannot be written.
    pub fn lease(&self) -> Result<Lease> {
        Lease::take(self)
    }

    /// Begins a tree: what is put into the draft is in the store at once, and is kept once a record
    /// names it.
    ///
    /// # Errors
    /// None today; a draft may need room of its own one day.
    pub fn draft(&self, lease: &Lease) -> Result<Draft> {
        Ok(Draft::new(self.clone(), lease.clone()))
    }

    /// The folder for a running step's own checkpoints, made if it is not there. What lies in it is
    /// never a result; it is pruned when the step has a record or nothing is at work on it.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if it cannot be made.
    pub fn wip(&self, key: &Digest) -> Result<PathBuf> {
        let path = self.folder("wip").join(key.to_string());
        fs::create_dir_all(&path).at(&path)?;
        Ok(path)
    }

    /// Makes durable all that was written so far: one call for a batch of records.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), which names the root.
    pub fn sync(&self) -> Result<()> {
        let root = File::open(self.root()).at(self.root())?;
        rustix::fs::syncfs(&root).at(self.root())
    }

    /// The time of the store: that of a file that was just made in it.
    pub(crate) fn now(&self) -> Result<SystemTime> {
        let path = self.folder("tmp").join(format!("now-{}", holder::unique()));
        files::write(&path, b"", 0o644).at(&path)?;
        let now = fs::metadata(&path).and_then(|m| m.modified()).at(&path);
        files::remove(&path).at(&path)?;
        now
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn place(&self, area: Area, digest: &Digest) -> PathBuf {
        area.place(self.root(), digest)
    }

    pub(crate) fn trash(&self, area: Area, digest: &Digest) -> PathBuf {
        area.trash(self.root(), digest)
    }

    pub(crate) fn records(&self) -> &OwnedFd {
        &self.inner.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        assert!(Store::open_existing(&root).unwrap().is_none());
        assert!(!root.exists());
        let made = Store::open(&root).unwrap();
        assert_eq!(
            Store::open_existing(&root).unwrap().unwrap().id(),
            made.id()
        );
        let other = Store::open(&dir.path().join("other")).unwrap();
        assert_ne!(other.id(), made.id());
        made.sync().unwrap();
    }
}
