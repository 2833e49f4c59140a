//! Checking a store: what rotted, was cut off or was edited is found, named and set aside.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::Serialize;
use serde_json::Value;

use crate::error::{At, Error, Result};
use crate::gc::What;
use crate::layout::Area;
use crate::run::Kept;
use crate::stat_cache::hash;
use crate::{BlobRef, Digest, Store, files, record, sweep};

/// What a check found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// How many records were read.
    pub records: u64,
    /// How many blobs were looked at.
    pub blobs: u64,
    /// How many external blobs were looked at.
    pub external: u64,
    /// How many of both were hashed again.
    pub hashed: u64,
    /// How many times a record names a blob that was pruned, which is no damage.
    pub pruned: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Something that is not what it must be.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// Its kind.
    pub what: What,
    /// Where it was found.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
    /// Where it was moved, so that it counts as not there; `None` if it could not be moved.
    pub moved: Option<PathBuf>,
}

/// Makes a key from a manifest again, as only the caller can; `None` for what is no manifest.
type KeyOf<'a> = &'a dyn Fn(&Value) -> Option<Digest>;

impl Store {
    /// Checks the structure: records are whole, their keys are those of their manifests (by
    /// `key_of`, `None` for what is no manifest), and what they name has the right length. With `content`, that fraction of the
    /// blobs (1.0: all) is hashed again.
    ///
    /// What is damaged is moved to `quarantine/`, with the records that name it: the next run makes
    /// it again.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be read. Damage is not an error but a finding.
    pub fn verify(&self, content: Option<f64>, key_of: KeyOf<'_>) -> Result<Findings> {
        // Another sample each time, so that repeated checks reach everything.
        let salt = match content {
            Some(_) => self
                .now()?
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_nanos(),
            None => 0,
        };
        let mut check = Check {
            store: self,
            share: content.unwrap_or(0.0),
            salt,
            bad: BTreeSet::new(),
            findings: Findings::default(),
        };
        check.blobs()?;
        check.external()?;
        check.records(key_of)?;
        check.roots()?;
        Ok(check.findings)
    }
}

struct Check<'a> {
    store: &'a Store,
    share: f64,
    salt: u128,
    /// Blobs that were found damaged.
    bad: BTreeSet<Digest>,
    findings: Findings,
}

impl Check<'_> {
    fn blobs(&mut self) -> Result<()> {
        for shard in sweep::shards(self.store, Area::Blobs)? {
            for seen in sweep::shard(self.store, Area::Blobs, &shard)? {
                self.findings.blobs += 1;
                let path = self.store.place(Area::Blobs, &seen.digest);
                if seen.len == 0 && seen.digest != Digest::of(b"") {
                    self.damaged_blob(What::Blob, &path, &seen.digest, "it is empty");
                } else if self.is_sampled(&seen.digest) {
                    self.findings.hashed += 1;
                    match hash(&path) {
                        Ok(found) if found == seen.digest => {}
                        // It was pruned since the listing.
                        Err(_) if files::look(&path).at(&path)?.is_none() => {}
                        Ok(_) => {
                            let why = "its bytes are not those that it is named after";
                            self.damaged_blob(What::Blob, &path, &seen.digest, why);
                        }
                        Err(error) => {
                            self.damaged_blob(What::Blob, &path, &seen.digest, error.to_string());
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn external(&mut self) -> Result<()> {
        for shard in sweep::shards(self.store, Area::External)? {
            for seen in sweep::shard(self.store, Area::External, &shard)? {
                self.findings.external += 1;
                let place = self.store.place(Area::External, &seen.digest);
                let note = self.store.note(&seen.digest)?;
                let is_sampled = self.is_sampled(&seen.digest);
                self.findings.hashed += u64::from(is_sampled);
                let why = match note {
                    None => "it cannot be read".to_owned(),
                    Some(note) if !note.holds(self.store, &seen.digest) => {
                        format!("`{}` changed or is gone", note.path.display())
                    }
                    Some(note) if is_sampled && !is_hash_of(&note.path, &seen.digest) => {
                        format!("the bytes of `{}` changed", note.path.display())
                    }
                    Some(_) => continue,
                };
                self.damaged_blob(What::External, &place, &seen.digest, why);
            }
        }
        Ok(())
    }

    fn records(&mut self, key_of: KeyOf<'_>) -> Result<()> {
        for shard in sweep::shards(self.store, Area::Records)? {
            for seen in sweep::shard(self.store, Area::Records, &shard)? {
                let Some(bytes) = self.store.record_bytes(&seen.digest)? else {
                    continue;
                };
                self.findings.records += 1;
                if let Err(why) = self.record(&seen.digest, &bytes, key_of)? {
                    self.problem(
                        What::Record,
                        &self.store.place(Area::Records, &seen.digest),
                        why,
                    );
                }
            }
        }
        Ok(())
    }

    /// `Err` within says what is wrong with the record.
    fn record(
        &mut self,
        key: &Digest,
        bytes: &[u8],
        key_of: KeyOf<'_>,
    ) -> Result<Result<(), String>> {
        let record = match record::whole(key, bytes) {
            Ok(record) => record,
            Err(why) => return Ok(Err(why.to_owned())),
        };
        if key_of(&record.manifest) != Some(*key) {
            return Ok(Err("its key is not that of its manifest".to_owned()));
        }
        let found = record.found;
        if found
            .listing
            .as_ref()
            .is_some_and(|tree| tree.blob() != found.tree)
        {
            return Ok(Err("its listing is not the tree that it names".to_owned()));
        }
        if let Some(why) = self.reference(&found.tree)? {
            return Ok(Err(why));
        }
        let tree = match (found.listing, self.store.tree(&found.tree)) {
            (Some(tree), _) | (None, Ok(Some(tree))) => tree,
            (None, Ok(None)) => return Ok(Ok(())),
            (None, Err(Error::Damaged { path, why })) => {
                self.damaged_blob(What::Blob, &path, &found.tree.digest, why);
                return Ok(Err(names_damaged(&found.tree)));
            }
            (None, Err(error)) => return Err(error),
        };
        for (_, blob) in tree.iter() {
            if let Some(why) = self.reference(&blob)? {
                return Ok(Err(why));
            }
        }
        Ok(Ok(()))
    }

    /// What is wrong with a blob that a record names, if anything.
    fn reference(&mut self, blob: &BlobRef) -> Result<Option<String>> {
        if self.bad.contains(&blob.digest) {
            return Ok(Some(names_damaged(blob)));
        }
        let path = self.store.place(Area::Blobs, &blob.digest);
        match files::look(&path).at(&path)? {
            Some(found) if found.len() == blob.len => Ok(None),
            Some(found) => {
                let why = format!(
                    "it has {} bytes where {} are expected",
                    found.len(),
                    blob.len
                );
                self.damaged_blob(What::Blob, &path, &blob.digest, why);
                Ok(Some(names_damaged(blob)))
            }
            None => {
                self.findings.pruned += u64::from(!self.store.has(blob));
                Ok(None)
            }
        }
    }

    /// What the collector must be able to read.
    fn roots(&mut self) -> Result<()> {
        for run in self.store.runs()? {
            match Kept::read(&run.path) {
                Err(Error::Damaged { path, why }) => self.problem(What::Run, &path, why),
                read => drop(read?),
            }
        }
        // Each damaged pin ends the listing, and is out of the way after that.
        loop {
            match self.store.pins() {
                Err(Error::Damaged { path, why }) => {
                    self.problem(What::Pin, &path, why);
                    if path.exists() {
                        return Ok(());
                    }
                }
                read => return read.map(drop),
            }
        }
    }

    fn damaged_blob(&mut self, what: What, path: &Path, digest: &Digest, why: impl Into<String>) {
        self.bad.insert(*digest);
        self.problem(what, path, why);
    }

    fn problem(&mut self, what: What, path: &Path, why: impl Into<String>) {
        let moved = self.quarantine(path);
        self.findings.problems.push(Problem {
            what,
            path: path.to_owned(),
            why: why.into(),
            moved,
        });
    }

    /// Moves a file out of the way; `None` if that cannot be done (a read-only store).
    fn quarantine(&self, path: &Path) -> Option<PathBuf> {
        let below = path.strip_prefix(self.store.root()).ok()?;
        let name: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
        let name = name.join("-");
        (0..100).find_map(|count| {
            let name = if count == 0 {
                name.clone()
            } else {
                format!("{name}.{count}")
            };
            let to = self.store.folder("quarantine").join(name);
            files::rename_if_absent(path, &to)
                .is_ok_and(|moved| moved)
                .then_some(to)
        })
    }

    fn is_sampled(&self, digest: &Digest) -> bool {
        let draw = Digest::of(&[&digest.as_bytes()[..], &self.salt.to_le_bytes()].concat());
        let [a, b, c, d, ..] = *draw.as_bytes();
        f64::from(u32::from_le_bytes([a, b, c, d])) < self.share * (f64::from(u32::MAX) + 1.0)
    }
}

fn names_damaged(blob: &BlobRef) -> String {
    format!(
        "it names the blob {}, which is damaged",
        blob.digest.short()
    )
}

fn is_hash_of(path: &Path, digest: &Digest) -> bool {
    hash(path).is_ok_and(|found| found == *digest)
}

#[cfg(test)]
mod tests;
