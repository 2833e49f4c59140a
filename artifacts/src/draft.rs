//! A tree being written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{At, Error, Result};
use crate::touch::LARGE;
use crate::{BlobRef, Lease, Store, Tree, files};

/// A record carries up to this many bytes of small text entries.
const INLINE: usize = 16 << 10;
/// Bytes are hashed and written in pieces of this size.
const PIECE: usize = 64 << 10;

/// A tree being written, under a lease. Entries may be written by several threads at once.
///
/// A draft that is not finished leaves nothing but blobs that no record names.
#[derive(Debug)]
pub struct Draft {
    store: Store,
    lease: Lease,
    staged: Arc<Mutex<Staged>>,
}

#[derive(Debug, Default)]
struct Staged {
    tree: Tree,
    /// Small text entries, which a record may carry.
    texts: Vec<(String, String)>,
}

/// A finished tree, whose blobs (its listing among them) are in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The entries.
    pub tree: Tree,
    /// The listing of the tree, which is a blob too.
    pub blob: BlobRef,
    /// The small text entries that the record will carry, shortest first, 16 KiB in all.
    pub inline: BTreeMap<String, String>,
}

impl Draft {
    pub(crate) fn new(store: Store, lease: Lease) -> Self {
        Self {
            store,
            lease,
            staged: Arc::default(),
        }
    }

    /// Puts `bytes` as the entry `name`.
    ///
    /// # Errors
    /// [`Error::Name`] for a name that cannot be, [`Error::Io`] if the store cannot be written.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<BlobRef> {
        lock(&self.staged).tree.can_take(name)?;
        let blob = self.store.put_bytes(&self.lease, bytes)?;
        add(&self.staged, name, blob, Some(bytes))?;
        Ok(blob)
    }

    /// Begins the entry `name`, to be written piece by piece; it is in the tree once it is finished.
    ///
    /// # Errors
    /// As [`Draft::bytes`].
    pub fn file(&mut self, name: &str) -> Result<DraftFile> {
        // A wrong name is told before hours of work are written under it.
        lock(&self.staged).tree.can_take(name)?;
        let path = self.lease.staging();
        let file = files::create(&path, 0o444).at(&path)?;
        Ok(DraftFile {
            name: name.to_owned(),
            store: self.store.clone(),
            staged: Arc::clone(&self.staged),
            file: Some(file),
            path,
            hasher: blake3::Hasher::new(),
            piece: Vec::new(),
            len: 0,
            text: Some(Vec::new()),
            _lease: self.lease.clone(),
        })
    }

    /// Takes a file as the entry `name` and leaves its bytes where they are. It is hashed through
    /// the stat cache of the store; nobody may write to it in place from now on.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read, and as [`Draft::bytes`].
    pub fn external(&mut self, name: &str, path: &Path) -> Result<BlobRef> {
        lock(&self.staged).tree.can_take(name)?;
        let blob = self.store.put_external(&self.lease, path)?;
        add(&self.staged, name, blob, None)?;
        Ok(blob)
    }

    /// The same for a file whose digest is known; its length is checked.
    ///
    /// # Errors
    /// [`Error::WrongLength`], and as [`Draft::external`].
    pub fn external_known(&mut self, name: &str, path: &Path, blob: BlobRef) -> Result<()> {
        lock(&self.staged).tree.can_take(name)?;
        self.store.put_known(&self.lease, path, &blob)?;
        add(&self.staged, name, blob, None)
    }

    /// Takes a blob that is in the store already as the entry `name`.
    ///
    /// # Errors
    /// [`Error::Pruned`] if it is not there, and as [`Draft::bytes`].
    pub fn adopt(&mut self, name: &str, blob: BlobRef) -> Result<()> {
        if !self.store.hold(&blob)? {
            return Err(Error::Pruned {
                digest: blob.digest,
            });
        }
        add(&self.staged, name, blob, None)
    }

    /// Ends the tree and puts its listing. Entries whose [`DraftFile`] is not finished are not in it.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be written.
    pub fn finish(self) -> Result<Finished> {
        let Staged { tree, mut texts } = std::mem::take(&mut *lock(&self.staged));
        let blob = self.store.put_bytes(&self.lease, &tree.canonical())?;
        texts.sort_unstable_by(|a, b| (a.1.len(), &a.0).cmp(&(b.1.len(), &b.0)));
        let mut room = INLINE;
        let fits = |(_, text): &(String, String)| {
            room.checked_sub(text.len())
                .inspect(|rest| room = *rest)
                .is_some()
        };
        let inline = texts.into_iter().take_while(fits).collect();
        Ok(Finished { tree, blob, inline })
    }
}

fn lock(staged: &Mutex<Staged>) -> MutexGuard<'_, Staged> {
    // A panic elsewhere leaves a tree that is whole: the entry is in it or not.
    staged.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(staged: &Mutex<Staged>, name: &str, blob: BlobRef, bytes: Option<&[u8]>) -> Result<()> {
    let mut staged = lock(staged);
    staged.tree.insert(name, blob)?;
    let text = bytes
        .filter(|b| b.len() <= INLINE)
        .and_then(|b| std::str::from_utf8(b).ok());
    staged
        .texts
        .extend(text.map(|text| (name.to_owned(), text.to_owned())));
    Ok(())
}

/// An entry being written: hashed on the way, in the tree once [`finish`](DraftFile::finish) is
/// called. Dropped before that, it leaves nothing.
#[derive(Debug)]
pub struct DraftFile {
    name: String,
    store: Store,
    staged: Arc<Mutex<Staged>>,
    /// `None` once it is finished.
    file: Option<File>,
    path: PathBuf,
    hasher: blake3::Hasher,
    piece: Vec<u8>,
    len: u64,
    /// All the bytes, while they are few.
    text: Option<Vec<u8>>,
    _lease: Lease,
}

impl DraftFile {
    /// Ends the entry, puts it into the store and into the tree.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be written, [`Error::Name`] if an entry of the same name
    /// was finished meanwhile.
    pub fn finish(mut self) -> Result<BlobRef> {
        self.drain().at(&self.path)?;
        if let Some(file) = self.file.take().filter(|_| self.len > LARGE) {
            file.sync_data().at(&self.path)?;
        }
        let blob = BlobRef {
            digest: self.hasher.finalize().into(),
            len: self.len,
        };
        self.store.put_file(&blob, &self.path)?;
        add(&self.staged, &self.name, blob, self.text.as_deref())?;
        Ok(blob)
    }

    fn drain(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(&self.piece)?;
        }
        self.hasher.update(&self.piece);
        self.piece.clear();
        Ok(())
    }
}

impl Write for DraftFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(PIECE - self.piece.len())];
        self.piece.extend_from_slice(bytes);
        self.len += bytes.len() as u64;
        if self.len > INLINE as u64 {
            self.text = None;
        }
        if let Some(text) = &mut self.text {
            text.extend_from_slice(bytes);
        }
        if self.piece.len() == PIECE {
            self.drain().map_err(|source| {
                io::Error::new(
                    source.kind(),
                    Error::Io {
                        path: self.path.clone(),
                        source,
                    },
                )
            })?;
        }
        Ok(bytes.len())
    }

    /// Does nothing: bytes count once the entry is finished.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for DraftFile {
    fn drop(&mut self) {
        // It is not there if it was finished; the lease removes what cannot be removed now.
        drop(files::remove(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_from_bytes_pieces_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        let mut draft = store.draft(&lease).unwrap();
        let long: Vec<u8> = (0..300_000u32)
            .map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1])
            .collect();
        let mut file = draft.file("deep/long").unwrap();
        let mut cut = draft.file("cut").unwrap();
        file.write_all(&long).unwrap();
        cut.write_all(b"never finished").unwrap();
        drop(cut);
        assert_eq!(file.finish().unwrap(), BlobRef::of(&long));
        let small = draft.bytes("small.json", b"{}").unwrap();
        draft.adopt("again", small).unwrap();
        let outside = dir.path().join("x");
        std::fs::write(&outside, "outside").unwrap();
        draft.external("x", &outside).unwrap();
        let done = draft.finish().unwrap();
        let names: Vec<&str> = done.tree.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["again", "deep/long", "small.json", "x"]);
        assert_eq!(
            done.inline,
            BTreeMap::from([("small.json".into(), "{}".into())])
        );
        assert_eq!(
            &*store.blob(&done.tree.get("deep/long").unwrap()).unwrap(),
            &*long
        );
        assert_eq!(store.tree(&done.blob).unwrap(), Some(done.tree));
        let staging = dir.path().join("store/tmp").join(lease.id());
        assert!(files::names(&staging).unwrap().is_empty());
    }

    #[test]
    fn a_name_is_taken_once_and_a_missing_blob_is_not_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut draft = store.draft(&store.lease().unwrap()).unwrap();
        draft.bytes("a", b"1").unwrap();
        assert!(matches!(draft.bytes("a", b"2"), Err(Error::Name { .. })));
        assert!(matches!(
            draft.file("a/b").map(drop),
            Err(Error::Name { .. })
        ));
        assert!(matches!(
            draft.adopt("b", BlobRef::of(b"?")),
            Err(Error::Pruned { .. })
        ));
    }

    #[test]
    fn a_record_carries_16_kib_of_text_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let mut draft = store.draft(&store.lease().unwrap()).unwrap();
        draft.bytes("b", "x".repeat(9 << 10).as_bytes()).unwrap();
        draft.bytes("a", "y".repeat(8 << 10).as_bytes()).unwrap();
        draft.bytes("binary", &[0xff]).unwrap();
        let inline = draft.finish().unwrap().inline;
        assert_eq!(inline.keys().collect::<Vec<_>>(), ["a"]);
    }
}
