//! Blobs that stay where they are: a model in a download cache, a folder of the user.
//!
//! The store keeps a note of where the bytes lie and of what the file system said of them. If that
//! changed they are hashed again before they are believed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::layout::Area;
use crate::stamp::Stamp;
use crate::{BlobRef, Digest, Lease, Store, files};

/// What lies in `ext/ab/<hash>`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) path: PathBuf,
    pub(crate) stamp: Stamp,
}

impl Note {
    /// Whether the file is what it was, without reading it.
    fn is_unchanged(&self) -> bool {
        Stamp::at(&self.path).is_ok_and(|now| now == self.stamp)
    }

    /// Whether the file holds the bytes. A file that was only copied back or renamed does.
    pub(crate) fn holds(&self, store: &Store, digest: &Digest) -> bool {
        self.is_unchanged()
            || store
                .stat_cache()
                .digest(&self.path)
                .is_ok_and(|found| found.digest == *digest)
    }
}

impl Store {
    /// Where an external blob lies, if it is there and still the same.
    pub(crate) fn external(&self, blob: &BlobRef) -> Result<Option<PathBuf>> {
        let note = self.note(&blob.digest)?;
        let good = note.filter(|n| n.stamp.size == blob.len && n.holds(self, &blob.digest));
        Ok(good.map(|note| note.path))
    }

    /// The note on an external blob; a damaged one is as good as none.
    pub(crate) fn note(&self, digest: &Digest) -> Result<Option<Note>> {
        let path = self.place(Area::External, digest);
        let bytes = files::read(&path).at(&path)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Leaves the bytes of a file where they are, and makes a note of it.
    pub(crate) fn put_external(&self, lease: &Lease, path: &Path) -> Result<BlobRef> {
        let path = absolute(path)?;
        let before = Stamp::at(&path).of_input(&path)?;
        let blob = self.stat_cache().digest(&path)?;
        self.put_note(lease, &blob, path, before)?;
        Ok(blob)
    }

    /// The same, for a file that the caller has hashed.
    pub(crate) fn put_known(&self, lease: &Lease, path: &Path, blob: &BlobRef) -> Result<()> {
        let path = absolute(path)?;
        let stamp = Stamp::at(&path).of_input(&path)?;
        if stamp.size != blob.len {
            return Err(Error::WrongLength {
                path,
                found: stamp.size,
                expected: blob.len,
            });
        }
        self.put_note(lease, blob, path, stamp)
    }

    fn put_note(&self, lease: &Lease, blob: &BlobRef, path: PathBuf, stamp: Stamp) -> Result<()> {
        // The caller may have written to the file since it was hashed.
        if Stamp::at(&path).of_input(&path)? != stamp {
            return Err(Error::Changing { path });
        }
        let note = serde_json::to_vec(&Note {
            path: path.clone(),
            stamp,
        });
        // The one way for this to fail is a path that is not UTF-8.
        let note = note.map_err(|error| Error::Input {
            path,
            source: error.into(),
        })?;
        let staged = lease.staging();
        let place = self.place(Area::External, &blob.digest);
        files::write(&staged, &note, 0o644).at(&staged)?;
        files::rename(&staged, &place).at(&place)
    }
}

/// Without links, so that the note does not depend on where the process stands.
fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().of_input(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_external_blob_is_believed_while_it_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        let file = dir.path().join("model.bin");
        fs::write(&file, "weights").unwrap();
        let blob = store.put_external(&lease, &file).unwrap();
        assert_eq!(blob, BlobRef::of(b"weights"));
        assert_eq!(store.path(&blob).unwrap(), file.canonicalize().unwrap());
        assert_eq!(&*store.blob(&blob).unwrap(), b"weights");
        assert!(store.hold(&blob).unwrap());
        // The same bytes in a new file are hashed and believed.
        fs::remove_file(&file).unwrap();
        fs::write(&file, "weights").unwrap();
        assert!(store.has(&blob));
        // Other bytes of the same length are not.
        fs::write(&file, "WEIGHTS").unwrap();
        assert!(!store.has(&blob) && !store.hold(&blob).unwrap());
        assert!(matches!(store.blob(&blob), Err(Error::Pruned { .. })));
    }

    #[test]
    fn a_known_digest_must_fit_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        let file = dir.path().join("model.bin");
        fs::write(&file, "weights").unwrap();
        let wrong = store.put_known(&lease, &file, &BlobRef::of(b"weight"));
        assert!(matches!(
            wrong,
            Err(Error::WrongLength {
                found: 7,
                expected: 6,
                ..
            })
        ));
        store
            .put_known(&lease, &file, &BlobRef::of(b"weights"))
            .unwrap();
        assert!(store.has(&BlobRef::of(b"weights")));
    }
}
