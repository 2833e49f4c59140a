//! Hash a large file once: what was hashed is remembered by what the file system says of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Result};
use crate::stamp::Stamp;
use crate::{BlobRef, Digest, blob, files, holder};

/// A file that was written this short a time before it was hashed is not trusted.
const UNSETTLED: Duration = Duration::from_secs(2);
/// What was learnt of a file of this size (bytes) is saved at once.
const LARGE: u64 = 64 << 20;
/// Past this many files those that are gone or changed are not worth looking for: it starts anew.
const MOST: usize = 100_000;

/// The digests of files that lie outside the store, by device, inode, size and times.
///
/// It is a cache: deleting its file costs time and nothing else.
#[derive(Debug)]
pub struct StatCache {
    file: Option<PathBuf>,
    /// Read when it is first asked for, as most commands never do.
    known: Mutex<Option<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    files: BTreeMap<String, Entry>,
    is_changed: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Entry {
    stamp: Stamp,
    digest: Digest,
}

impl StatCache {
    /// A cache that is kept in `file`. Without one nothing is remembered, and every call hashes.
    pub fn open(file: Option<PathBuf>) -> Self {
        Self {
            file,
            known: Mutex::new(None),
        }
    }

    /// Digest and length of a file, hashed unless that was done before and nothing changed.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read, [`Error::Changing`] if it changed meanwhile.
    pub fn digest(&self, path: &Path) -> Result<BlobRef> {
        let before = Stamp::at(path).of_input(path)?;
        let name = before.file();
        if let Some(entry) = self.known().files.get(&name).filter(|e| e.stamp == before) {
            return Ok(BlobRef {
                digest: entry.digest,
                len: before.size,
            });
        }
        let now = self.now();
        let digest = hash(path)?;
        if Stamp::at(path).of_input(path)? != before {
            return Err(Error::Changing {
                path: path.to_owned(),
            });
        }
        if now.is_some_and(|now| before.is_settled(now, UNSETTLED)) {
            let mut known = self.known();
            known.files.insert(
                name,
                Entry {
                    stamp: before,
                    digest,
                },
            );
            known.is_changed = true;
            drop(known);
            if before.size >= LARGE {
                // A killed process should not cost a second reading of 13 GB. It is a cache: if it
                // cannot be written now, that is told when the caller saves it.
                drop(self.save());
            }
        }
        Ok(BlobRef {
            digest,
            len: before.size,
        })
    }

    /// Writes what was learnt, together with what other processes wrote meanwhile.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn save(&self) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut known = self.known();
        if !known.is_changed {
            return Ok(());
        }
        let mut all = read(file);
        all.extend(
            known
                .files
                .iter()
                .map(|(name, entry)| (name.clone(), *entry)),
        );
        if all.len() > MOST {
            all.clone_from(&known.files);
        }
        let new = fresh(file);
        let bytes = serde_json::to_vec(&all).at(&new)?;
        files::write(&new, &bytes, 0o644).at(&new)?;
        files::rename(&new, file).at(file)?;
        known.is_changed = false;
        Ok(())
    }

    fn known(&self) -> KnownGuard<'_> {
        // A panic elsewhere leaves a map that is whole: at worst an entry is missing.
        let mut guard = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        guard.get_or_insert_with(|| Known {
            files: self.file.as_deref().map(read).unwrap_or_default(),
            is_changed: false,
        });
        KnownGuard(guard)
    }

    /// The time, as the file system of the cache has it. None: nothing can be trusted.
    fn now(&self) -> Option<SystemTime> {
        let probe = fresh(self.file.as_deref()?);
        files::write(&probe, b"", 0o644).ok()?;
        let now = fs::metadata(&probe).and_then(|m| m.modified()).ok();
        files::remove(&probe).ok()?;
        now
    }
}

/// The map, which is there from the first use on.
struct KnownGuard<'a>(MutexGuard<'a, Option<Known>>);

impl std::ops::Deref for KnownGuard<'_> {
    type Target = Known;

    fn deref(&self) -> &Known {
        self.0
            .as_ref()
            .expect("it was read before the guard was made")
    }
}

impl std::ops::DerefMut for KnownGuard<'_> {
    fn deref_mut(&mut self) -> &mut Known {
        self.0
            .as_mut()
            .expect("it was read before the guard was made")
    }
}

/// A path beside `file` that nobody else uses.
fn fresh(file: &Path) -> PathBuf {
    let mut path = file.to_owned();
    path.add_extension(format!("new-{}", holder::unique()));
    path
}

/// What cannot be read is forgotten: it is a cache.
fn read(file: &Path) -> BTreeMap<String, Entry> {
    let bytes = fs::read(file).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

/// BLAKE3 of a file: mapped and on all cores where it is local.
pub(crate) fn hash(path: &Path) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    if blob::can_map(path) {
        hasher.update_mmap_rayon(path).of_input(path)?;
    } else {
        hasher
            .update_reader(fs::File::open(path).of_input(path)?)
            .of_input(path)?;
    }
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn write_old(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1))
            .unwrap();
    }

    #[test]
    fn a_recent_file_is_hashed_again() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("x"), dir.path().join("stat_cache.json"));
        let cache = StatCache::open(Some(file.clone()));
        fs::write(&path, "one").unwrap();
        assert_eq!(cache.digest(&path).unwrap(), BlobRef::of(b"one"));
        cache.save().unwrap();
        assert!(
            !file.exists(),
            "it was written less than two seconds before"
        );
        // Even with an old modification time: the change time cannot be set back.
        write_old(&path, "two");
        assert_eq!(cache.digest(&path).unwrap(), BlobRef::of(b"two"));
        assert!(cache.known().files.is_empty());
    }

    #[test]
    fn an_unchanged_file_is_hashed_once() {
        let dir = tempfile::tempdir().unwrap();
        let (path, file) = (dir.path().join("x"), dir.path().join("stat_cache.json"));
        fs::write(&path, "one").unwrap();
        let stamp = Stamp::at(&path).unwrap();
        // A digest that is not that of the bytes shows that the cache answered.
        let entry = Entry {
            stamp,
            digest: Digest::of(b"remembered"),
        };
        fs::write(
            &file,
            serde_json::to_vec(&BTreeMap::from([(stamp.file(), entry)])).unwrap(),
        )
        .unwrap();
        let cache = StatCache::open(Some(file.clone()));
        assert_eq!(
            cache.digest(&path).unwrap().digest,
            Digest::of(b"remembered")
        );
        fs::write(&path, "1").unwrap();
        assert_eq!(cache.digest(&path).unwrap(), BlobRef::of(b"1"));
        fs::write(&file, "rubbish").unwrap();
        assert_eq!(
            StatCache::open(Some(file)).digest(&path).unwrap(),
            BlobRef::of(b"1")
        );
    }
}
