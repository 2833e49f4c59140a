//! Reading blobs.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::error::{At, Error, Result};
use crate::layout::Area;
use crate::touch::{TRIES, pause};
use crate::{BlobRef, Digest, Store, Tree, files};

/// Blobs up to this length (bytes) are read and their hash is checked; longer ones are mapped.
const READ: u64 = 64 << 10;

/// The bytes of a blob. Clones share them.
#[derive(Clone)]
pub struct Blob {
    bytes: Arc<Bytes>,
}

enum Bytes {
    Read(Vec<u8>),
    Mapped(Mmap),
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &*self.bytes {
            Bytes::Read(bytes) => bytes,
            Bytes::Mapped(map) => map,
        }
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} bytes)", self.len())
    }
}

impl Store {
    /// Whether the bytes are there with the right length, in the store or (unchanged) outside it.
    /// Nothing is touched: to rely on it, hold a lease and [`touch`](Store::touch) the record first.
    pub fn has(&self, blob: &BlobRef) -> bool {
        matches!(self.locate(blob), Ok(Some(_)))
    }

    /// The bytes: mapped where they are long and lie on a local file system, else read.
    ///
    /// What is read is checked against its hash. What is mapped is checked by its length only; a
    /// flipped bit in it is found by [`verify`](Store::verify).
    ///
    /// # Errors
    /// [`Error::Pruned`] if they are not there, [`Error::Damaged`] if they are not what was put.
    pub fn blob(&self, blob: &BlobRef) -> Result<Blob> {
        for attempt in 0..TRIES {
            pause(attempt);
            let Some(path) = self.locate(blob)? else {
                continue;
            };
            if let Some(bytes) = open(&path, blob)? {
                return Ok(bytes);
            }
        }
        Err(Error::Pruned { digest: blob.digest })
    }

    /// Where the bytes lie: in the store or outside it. They must not be changed.
    ///
    /// # Errors
    /// As [`Store::blob`].
    pub fn path(&self, blob: &BlobRef) -> Result<PathBuf> {
        for attempt in 0..TRIES {
            pause(attempt);
            if let Some(path) = self.locate(blob)? {
                return Ok(path);
            }
        }
        Err(Error::Pruned { digest: blob.digest })
    }

    /// The bytes that are free to this user on the store's file system, if the system says so.
    pub fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(self.root()).ok()?;
        found.f_bavail.checked_mul(found.f_frsize)
    }

    /// The tree whose canonical listing is the blob `at`: `None` if it was pruned.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the blob is not the listing that it is named after.
    pub fn tree(&self, at: &BlobRef) -> Result<Option<Tree>> {
        let Some(path) = self.locate(at)? else {
            return Ok(None);
        };
        let Some(bytes) = open(&path, at)? else {
            return Ok(None);
        };
        if Digest::of(&bytes) != at.digest {
            return Err(Error::damaged(&path, "its bytes are not those that it is named after"));
        }
        Tree::parse(&bytes).map(Some).map_err(|error| Error::damaged(&path, error.to_string()))
    }

    /// The file with the bytes, if it is there with the right length.
    fn locate(&self, blob: &BlobRef) -> Result<Option<PathBuf>> {
        let path = self.place(Area::Blobs, &blob.digest);
        match files::look(&path).at(&path)? {
            Some(found) if found.len() == blob.len => Ok(Some(path)),
            Some(found) => Err(wrong_length(&path, found.len(), blob)),
            None => self.external(blob),
        }
    }
}

fn wrong_length(path: &Path, found: u64, blob: &BlobRef) -> Error {
    Error::damaged(path, format!("it has {found} bytes where {} are expected", blob.len))
}

/// `None` if the file went away.
fn open(path: &Path, blob: &BlobRef) -> Result<Option<Blob>> {
    let Some(mut file) = files::absent_is_none(File::open(path)).at(path)? else {
        return Ok(None);
    };
    let found = file.metadata().at(path)?.len();
    if found != blob.len {
        return Err(wrong_length(path, found, blob));
    }
    let bytes = if blob.len > READ && can_map(path) {
        Bytes::Mapped(map(&file).at(path)?)
    } else {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).at(path)?;
        if Digest::of(&bytes) != blob.digest {
            return Err(Error::damaged(path, "its bytes are not those that it is named after"));
        }
        Bytes::Read(bytes)
    };
    Ok(Some(Blob { bytes: Arc::new(bytes) }))
}

#[expect(unsafe_code, reason = "a memory map is sound only while nobody changes the file")]
fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: a blob is read-only and never written again once it has its name; it is replaced and
    // removed by rename and unlink, which leave the mapped file as it is. An external blob is the
    // user's: that it is not rewritten in place while a step reads it is the stated condition of
    // leaving bytes where they are.
    unsafe { Mmap::map(file) }
}

/// Whether a file may be mapped: on a network file system a lost server would kill the process.
pub(crate) fn can_map(path: &Path) -> bool {
    /// NFS, SMB, CIFS, SMB2, FUSE, Lustre, 9P, AFS, Ceph, GPFS, `BeeGFS`: from `linux/magic.h` and their sources.
    const REMOTE: [u32; 11] = [
        0x6969,
        0x517B,
        0xFF53_4D42,
        0xFE53_4D42,
        0x6573_5546,
        0x0BD0_0BD0,
        0x0102_1997,
        0x5346_414F,
        0x00C3_6400,
        0x4750_4653,
        0x1983_0326,
    ];
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "magics are 32 bits"
    )]
    rustix::fs::statfs(path).is_ok_and(|fs| !REMOTE.contains(&(fs.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn short_and_long_blobs_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        for len in [0u64, 1, READ, READ + 1, 3 << 20] {
            let bytes: Vec<u8> =
                (0..len).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[1]).collect();
            let blob = store.put_bytes(&lease, &bytes).unwrap();
            assert!(store.has(&blob));
            let read = store.blob(&blob).unwrap();
            assert_eq!(&*read, &*bytes);
            // What is mapped stays readable after it was pruned.
            fs::remove_file(store.path(&blob).unwrap()).unwrap();
            assert_eq!(&*read, &*bytes);
            assert!(!store.has(&blob));
            assert!(
                matches!(store.blob(&blob), Err(Error::Pruned { digest }) if digest == blob.digest)
            );
        }
    }

    #[test]
    fn damage_is_never_read_as_good() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        let mut tree = Tree::default();
        tree.insert("a", BlobRef::of(b"a")).unwrap();
        let listing = tree.canonical();
        let blob = store.put_bytes(&lease, &listing).unwrap();
        assert_eq!(store.tree(&blob).unwrap(), Some(tree));
        let path = store.path(&blob).unwrap();
        for at in [listing.len() - 1, listing.len() - 2, 0, 20] {
            let mut bytes = listing.clone();
            if at + 1 == listing.len() {
                bytes.truncate(at);
            } else {
                bytes[at] ^= 1;
            }
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
            assert!(matches!(store.blob(&blob), Err(Error::Damaged { .. })));
            assert!(matches!(store.tree(&blob), Err(Error::Damaged { .. })));
        }
    }
}
