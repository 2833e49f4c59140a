//! Finding and publishing records: a step is done if and only if its record is there.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{At, Error, Result};
use crate::layout::Area;
use crate::{BlobRef, Digest, Found, Lease, NewRecord, Record, Store, files, record};

/// What became of a record that was to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is the first one under its key.
    First,
    /// There was one already, with the same output.
    Same,
    /// There was one already, with another output, which was kept: the step does not repeat.
    Differs {
        /// The tree that the record which was kept names.
        kept: BlobRef,
    },
}

impl Store {
    /// Looks a record up: its head only, to plan with. `None` if it is not there; a damaged one is
    /// a miss too, which [`verify`](Store::verify) reports. Nothing is touched.
    ///
    /// # Errors
    /// [`Error::Io`] if it is there and cannot be read.
    pub fn find(&self, key: &Digest) -> Result<Option<Found>> {
        Ok(self
            .record_bytes(key)?
            .and_then(|bytes| record::head(key, &bytes).ok()))
    }

    /// Reads all of a record; a damaged one is a miss.
    ///
    /// # Errors
    /// As [`Store::find`].
    pub fn record(&self, key: &Digest) -> Result<Option<Record>> {
        Ok(self
            .record_bytes(key)?
            .and_then(|bytes| record::whole(key, &bytes).ok()))
    }

    /// A small text entry of what a step made, from its record: there even if the blob is pruned.
    ///
    /// # Errors
    /// As [`Store::find`].
    pub fn inline(&self, key: &Digest, name: &str) -> Result<Option<String>> {
        Ok(self
            .record(key)?
            .and_then(|mut record| record.inline.remove(name)))
    }

    /// Publishes what a step made. The first record under a key stays.
    ///
    /// # Errors
    /// [`Error::Pruned`] if a blob that the record names is not there: the lease was not held since
    /// before it was put. [`Error::Io`] if the store cannot be written.
    #[expect(clippy::needless_pass_by_value, reason = "a record is published once")]
    pub fn publish(&self, lease: &Lease, record: NewRecord) -> Result<Published> {
        let (staged, place) = self.stage(lease, &record)?;
        loop {
            if files::rename_if_absent(&staged, &place).at(&place)? {
                return Ok(Published::First);
            }
            // The one that is there must stay until it was compared, and after.
            if !self.touch(&record.key)? {
                continue;
            }
            let Some(bytes) = self.record_bytes(&record.key)? else {
                continue;
            };
            let Ok(there) = record::head(&record.key, &bytes) else {
                // Damage is a miss: what was just made takes its place.
                files::rename(&staged, &place).at(&place)?;
                return Ok(Published::First);
            };
            files::remove(&staged).at(&staged)?;
            let same = there.tree == record.output.blob;
            return Ok(if same {
                Published::Same
            } else {
                Published::Differs { kept: there.tree }
            });
        }
    }

    /// Publishes what a step made in the place of a record that is there, in one step: a re-run
    /// gave other bytes than the record said, and what follows is to use these.
    ///
    /// # Errors
    /// As [`Store::publish`].
    #[expect(clippy::needless_pass_by_value, reason = "a record is published once")]
    pub fn replace(&self, lease: &Lease, record: NewRecord) -> Result<()> {
        let (staged, place) = self.stage(lease, &record)?;
        files::rename(&staged, &place).at(&place)
    }

    /// Touches all that the record names, and writes it where nobody looks yet.
    fn stage(&self, lease: &Lease, record: &NewRecord) -> Result<(PathBuf, PathBuf)> {
        let entries = record.output.tree.iter().map(|(_, blob)| blob);
        for blob in entries.chain([record.output.blob]) {
            if !self.hold(&blob)? {
                return Err(Error::Pruned {
                    digest: blob.digest,
                });
            }
        }
        let staged = lease.staging();
        files::write(&staged, &record.encode(), 0o644).at(&staged)?;
        Ok((staged, self.place(Area::Records, &record.key)))
    }

    /// The bytes of a record, in as few system calls as can be: planning reads thousands.
    pub(crate) fn record_bytes(&self, key: &Digest) -> Result<Option<Vec<u8>>> {
        let hex = key.hex();
        let name = [&hex[..2], &hex[2..]].join("/");
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::openat(self.records(), &name, flags, Mode::empty()) {
            Ok(file) => read_all(&file)
                .map(Some)
                .at(&self.place(Area::Records, key)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno).at(&self.place(Area::Records, key)),
        }
    }
}

/// Most records are read in one piece, and a short piece is the last one.
fn read_all(file: impl AsFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 8 << 10];
    let mut len = 0;
    loop {
        match rustix::io::read(&file, &mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        if len == bytes.len() {
            bytes.resize(len * 4, 0);
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::Provenance;

    fn store() -> (TempDir, Store, Lease) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        (dir, store, lease)
    }

    fn made(store: &Store, lease: &Lease, text: &str) -> NewRecord {
        let mut draft = store.draft(lease).unwrap();
        draft.bytes("text", text.as_bytes()).unwrap();
        NewRecord {
            key: Digest::of(b"key"),
            manifest: json!({"stage": "Test"}),
            kind: "test".into(),
            output: draft.finish().unwrap(),
            metrics: [("loss".into(), 0.5)].into(),
            provenance: Provenance::default(),
        }
    }

    #[test]
    fn the_first_writer_wins() {
        let (_dir, store, lease) = store();
        let key = Digest::of(b"key");
        assert_eq!(store.find(&key).unwrap(), None);
        assert!(!store.touch(&key).unwrap());
        let one = made(&store, &lease, "one");
        assert_eq!(
            store.publish(&lease, one.clone()).unwrap(),
            Published::First
        );
        assert_eq!(store.publish(&lease, one.clone()).unwrap(), Published::Same);
        let two = made(&store, &lease, "two");
        let kept = one.output.blob;
        assert_eq!(
            store.publish(&lease, two.clone()).unwrap(),
            Published::Differs { kept }
        );
        assert_eq!(store.find(&key).unwrap().unwrap().tree, kept);
        store.replace(&lease, two.clone()).unwrap();
        let found = store.find(&key).unwrap().unwrap();
        assert_eq!(
            (found.tree, found.listing),
            (two.output.blob, Some(two.output.tree))
        );
        assert_eq!(found.metrics["loss"].to_bits(), 0.5f64.to_bits());
        assert!(store.touch(&key).unwrap());
        assert_eq!(
            store.record(&key).unwrap().unwrap().manifest,
            json!({"stage": "Test"})
        );
    }

    #[test]
    fn a_record_names_only_what_is_there() {
        let (_dir, store, lease) = store();
        let record = made(&store, &lease, "one");
        let blob = record.output.tree.get("text").unwrap();
        fs::remove_file(store.path(&blob).unwrap()).unwrap();
        let refused = store.publish(&lease, record);
        assert!(matches!(refused, Err(Error::Pruned { digest }) if digest == blob.digest));
        assert_eq!(store.find(&Digest::of(b"key")).unwrap(), None);
    }

    #[test]
    fn a_damaged_record_is_a_miss_and_is_replaced() {
        let (_dir, store, lease) = store();
        let record = made(&store, &lease, "one");
        store.publish(&lease, record.clone()).unwrap();
        let path = store.place(Area::Records, &record.key);
        let good = fs::read(&path).unwrap();
        for damaged in [&good[..0], &good[..good.len() / 2]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(store.find(&record.key).unwrap(), None);
            assert_eq!(
                store.publish(&lease, record.clone()).unwrap(),
                Published::First
            );
            assert_eq!(fs::read(&path).unwrap(), good);
        }
    }

    #[test]
    fn small_text_outlives_its_blob() {
        let (_dir, store, lease) = store();
        let record = made(&store, &lease, "one");
        store.publish(&lease, record.clone()).unwrap();
        let blob = record.output.tree.get("text").unwrap();
        fs::remove_file(store.path(&blob).unwrap()).unwrap();
        assert_eq!(
            store.inline(&record.key, "text").unwrap().as_deref(),
            Some("one")
        );
        assert_eq!(store.inline(&record.key, "other").unwrap(), None);
    }

    #[test]
    fn a_record_over_8_kib_is_read_whole() {
        let (_dir, store, lease) = store();
        let mut record = made(&store, &lease, "one");
        record.manifest = json!({"long": "x".repeat(40_000)});
        store.publish(&lease, record.clone()).unwrap();
        assert_eq!(
            store.record(&record.key).unwrap().unwrap().manifest,
            record.manifest
        );
    }
}
