//! The writer's half of the protocol: touch, never "does it exist?".

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::error::{At, Error, Result};
use crate::layout::Area;
use crate::{BlobRef, Digest, Lease, Store, files};

/// What the collector has taken away to look at again is back within a moment.
pub(crate) const TRIES: u32 = 10;
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

impl Store {
    /// Touches the record of `key`, so that it and what it names stay while a lease is held: do this
    /// before reading what it names. `false` if it is not there (any more), which is a miss.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be written.
    pub fn touch(&self, key: &Digest) -> Result<bool> {
        for attempt in 0..TRIES {
            pause(attempt);
            if self.touch_in(Area::Records, key)?.is_some() {
                return Ok(true);
            }
            self.rescue(Area::Records, key)?;
        }
        Ok(false)
    }

    /// Touches a blob, so that it stays while a lease is held. `false` if it is not there.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is there with another length.
    pub(crate) fn hold(&self, blob: &BlobRef) -> Result<bool> {
        for attempt in 0..TRIES {
            pause(attempt);
            if self.touch_blob(blob)? {
                return Ok(true);
            }
            for area in [Area::Blobs, Area::External] {
                self.rescue(area, &blob.digest)?;
            }
        }
        Ok(false)
    }

    fn touch_blob(&self, blob: &BlobRef) -> Result<bool> {
        match self.touch_in(Area::Blobs, &blob.digest)? {
            Some(len) if len == blob.len => Ok(true),
            Some(len) => {
                let why = format!("it has {len} bytes where {} are expected", blob.len);
                Err(Error::damaged(&self.place(Area::Blobs, &blob.digest), why))
            }
            None => Ok(self.touch_in(Area::External, &blob.digest)?.is_some()
                && self.external(blob)?.is_some()),
        }
    }

    /// The length of the file, if it is there; its time is now.
    fn touch_in(&self, area: Area, digest: &Digest) -> Result<Option<u64>> {
        let path = self.place(area, digest);
        Ok(files::touch(&path).at(&path)?.map(|found| found.len()))
    }

    /// Takes back what the collector has taken away but not yet removed (or never will, if it was
    /// killed). The collector finds it gone and goes on.
    fn rescue(&self, area: Area, digest: &Digest) -> Result<()> {
        let (trash, place) = (self.trash(area, digest), self.place(area, digest));
        // Looked for first: the rename would make folders, and here almost always nothing is found.
        if files::look(&trash).at(&trash)?.is_some() {
            files::absent_is_none(files::rename_if_absent(&trash, &place)).at(&place)?;
        }
        Ok(())
    }

    /// Puts bytes, staged in a file that nobody else writes to, under their name. A blob of another
    /// length that lies there (a new name after a power loss) is replaced.
    pub(crate) fn put_file(&self, blob: &BlobRef, staged: &Path) -> Result<()> {
        if self.has_fresh(blob)? {
            files::remove(staged).at(staged)?;
            return Ok(());
        }
        let place = self.place(Area::Blobs, &blob.digest);
        files::rename(staged, &place).at(&place)
    }

    /// Puts bytes under their name; they are written only if they are not there.
    pub(crate) fn put_bytes(&self, lease: &Lease, bytes: &[u8]) -> Result<BlobRef> {
        let blob = BlobRef::of(bytes);
        if !self.has_fresh(&blob)? {
            let staged = lease.staging();
            let place = self.place(Area::Blobs, &blob.digest);
            write_whole(&staged, bytes).at(&staged)?;
            files::rename(&staged, &place).at(&place)?;
        }
        Ok(blob)
    }

    /// Touches the blob itself (not a note on an external one), if it is there and whole.
    fn has_fresh(&self, blob: &BlobRef) -> Result<bool> {
        match self.touch_in(Area::Blobs, &blob.digest) {
            Ok(len) => Ok(len == Some(blob.len)),
            // It belongs to somebody else, and cannot be touched: it is replaced by an equal one.
            Err(Error::Io { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Blobs over this size (bytes) are made durable one by one, so that one `syncfs` is never long.
pub(crate) const LARGE: u64 = 1 << 20;

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let written = files::create(path, 0o444).and_then(|mut file| {
        file.write_all(bytes)?;
        if bytes.len() as u64 > LARGE {
            file.sync_data()
        } else {
            Ok(())
        }
    });
    if written.is_err() {
        drop(files::remove(path));
    }
    written
}

pub(crate) fn pause(attempt: u32) {
    if attempt > 0 {
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_the_collector_took_away_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        let blob = store.put_bytes(&lease, b"hello").unwrap();
        let (place, trash) = (
            store.place(Area::Blobs, &blob.digest),
            store.trash(Area::Blobs, &blob.digest),
        );
        files::rename(&place, &trash).unwrap();
        assert!(store.hold(&blob).unwrap());
        assert!(place.exists() && !trash.exists());
        fs::remove_file(&place).unwrap();
        assert!(!store.hold(&blob).unwrap());
    }

    #[test]
    fn a_truncated_blob_is_replaced_by_the_next_put() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        let blob = store.put_bytes(&lease, b"hello").unwrap();
        let place = store.place(Area::Blobs, &blob.digest);
        fs::remove_file(&place).unwrap();
        fs::write(&place, "").unwrap();
        assert!(matches!(store.hold(&blob), Err(Error::Damaged { .. })));
        store.put_bytes(&lease, b"hello").unwrap();
        assert_eq!(&*store.blob(&blob).unwrap(), b"hello");
        assert!(
            files::names(&dir.path().join("store/tmp").join(lease.id()))
                .unwrap()
                .is_empty()
        );
    }
}
