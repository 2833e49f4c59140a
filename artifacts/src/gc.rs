//! The collector: what nothing keeps goes, and nothing that is in use ever does.
//!
//! The order is the protocol. The store's time is taken first, then the leases are read, then the
//! roots: whoever appears later touches later than the floor. A root that cannot be read stops it
//! before anything is deleted. Runs go before their records, records before their blobs, so that an
//! interrupted collection leaves only what the next one removes.

use std::fmt;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::error::{At, Error, Result};
use crate::layout::Area;
use crate::lease::{self, Found as FoundLease};
use crate::mark::{Marks, Roots};
use crate::sweep::{self, Fate};
use crate::{Digest, Store, files};

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Keep this many of the newest runs.
    pub keep_last: Option<usize>,
    /// Keep the runs that began within this time. With `keep_last` too, either keeps a run; with
    /// neither, all are kept.
    pub keep_within: Option<Duration>,
    /// Keep everything that was made or touched within this time.
    pub grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { keep_last: None, keep_within: None, grace: Duration::from_hours(1) }
    }
}

/// A kind of thing in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A run.
    Run,
    /// A record.
    Record,
    /// A blob.
    Blob,
    /// A note on a blob that lies outside the store. The bytes outside are never touched.
    External,
    /// Files that an ended process was still writing.
    Staging,
    /// Checkpoints of a step that has ended.
    Wip,
    /// A pin.
    Pin,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Run => "run",
            Self::Record => "record",
            Self::Blob => "blob",
            Self::External => "external",
            Self::Staging => "staging",
            Self::Wip => "wip",
            Self::Pin => "pin",
        })
    }
}

/// One thing that went, or in a dry run would go.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// Its kind.
    pub what: What,
    /// Its name: a digest, or the name of a run or folder.
    pub id: String,
    /// The room it took (bytes).
    pub bytes: u64,
    /// Why it goes.
    pub why: &'static str,
}

/// What a collection did, or in a dry run would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Swept {
    /// How many runs went.
    pub runs: u64,
    /// How many records went.
    pub records: u64,
    /// How many blobs went, with notes on external ones.
    pub blobs: u64,
    /// How many folders and files of ended processes went.
    pub tmp: u64,
    /// The room that was made (bytes).
    pub bytes: u64,
    /// How many things were put back because somebody touched them meanwhile.
    pub rescued: u64,
    /// How many runs stay.
    pub kept_runs: u64,
    /// How many records stay.
    pub kept_records: u64,
    /// How many blobs stay, with notes on external ones.
    pub kept_blobs: u64,
    /// The room that they take (bytes).
    pub kept_bytes: u64,
    /// Each thing that went.
    pub items: Vec<Item>,
}

impl Store {
    /// Prunes what no kept run, pin or recent use reaches. A dry run deletes nothing.
    ///
    /// # Errors
    /// [`Error::Busy`] while another process collects; [`Error::Damaged`] if a root or a record that
    /// stays cannot be read, before anything was deleted.
    pub fn gc(&self, policy: &Policy, dry_run: bool) -> Result<Swept> {
        let claim = if dry_run { None } else { Some(self.claim()?) };
        let now = self.now()?;
        let leases = lease::read_all(self, now)?;
        let floor = floor(policy, now, &leases);
        if !dry_run {
            sweep::recover(self)?;
        }
        let roots = Roots::read(self, policy, now, floor)?;
        let marks = Marks::read(self, &roots, floor)?;
        let swept = Swept {
            kept_runs: roots.kept_runs,
            kept_records: marks.kept.0,
            kept_bytes: marks.kept.1,
            ..Swept::default()
        };
        let mut broom = Broom { store: self, floor, dry_run, marks, swept };
        broom.runs(&roots)?;
        broom.records()?;
        for area in [Area::Blobs, Area::External] {
            broom.blobs(area)?;
        }
        broom.wip(&roots)?;
        broom.staging(&leases)?;
        // Held until here.
        drop(claim);
        Ok(broom.swept)
    }

    /// One collector at a time. The lock goes with the process, however it ends. It saves work; two
    /// collectors on a file system without locks still lose nothing.
    fn claim(&self) -> Result<Claim> {
        let path = self.folder("gc.lock");
        let file = File::options().create(true).append(true).open(&path).at(&path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::Busy { path: self.root().to_owned() }),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Claim(file)),
        }
    }
}

/// The collector's lock. Closing the file alone would not let go of it at once: a process that another thread has just
/// forked has the file open, too, until it runs its own program.
struct Claim(File);

impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.0.unlock());
    }
}

/// Nothing as new as this goes.
fn floor(policy: &Policy, now: SystemTime, leases: &[FoundLease]) -> SystemTime {
    let aged = now.checked_sub(policy.grace).unwrap_or(UNIX_EPOCH);
    let oldest = leases.iter().filter(|lease| lease.is_live).map(|lease| lease.start).min();
    oldest.map_or(aged, |start| start.min(aged))
}

struct Broom<'a> {
    store: &'a Store,
    floor: SystemTime,
    dry_run: bool,
    marks: Marks,
    swept: Swept,
}

impl Broom<'_> {
    fn went(&mut self, what: What, id: impl Into<String>, bytes: u64, why: &'static str) {
        self.swept.bytes += bytes;
        self.swept.items.push(Item { what, id: id.into(), bytes, why });
    }

    fn runs(&mut self, roots: &Roots) -> Result<()> {
        for run in &roots.doomed {
            let (bytes, _) = sweep::weigh(&run.path)?;
            if !self.dry_run {
                sweep::remove_folder(self.store, &run.path)?;
            }
            self.swept.runs += 1;
            self.went(What::Run, &run.id, bytes, "the policy keeps newer runs only");
        }
        Ok(())
    }

    fn records(&mut self) -> Result<()> {
        for (key, bytes) in std::mem::take(&mut self.marks.doomed) {
            if self.sweep(Area::Records, &key)? {
                self.swept.records += 1;
                self.went(What::Record, key.to_string(), bytes, "no kept run or pin uses it");
            } else {
                self.swept.kept_records += 1;
                self.swept.kept_bytes += bytes;
            }
        }
        Ok(())
    }

    fn blobs(&mut self, area: Area) -> Result<()> {
        let what = if area == Area::Blobs { What::Blob } else { What::External };
        for shard in sweep::shards(self.store, area)? {
            for seen in sweep::shard(self.store, area, &shard)? {
                let stays = self.marks.live.contains(&seen.digest) || seen.time >= self.floor;
                if !stays && self.sweep(area, &seen.digest)? {
                    self.swept.blobs += 1;
                    self.went(what, seen.digest.to_string(), seen.len, "no kept record names it");
                } else {
                    self.swept.kept_blobs += 1;
                    self.swept.kept_bytes += seen.len;
                }
            }
        }
        Ok(())
    }

    /// Whether it went. What was touched meanwhile stays, and if it is a record, so does what it
    /// names.
    fn sweep(&mut self, area: Area, digest: &Digest) -> Result<bool> {
        if self.dry_run {
            return Ok(true);
        }
        match sweep::take(self.store, area, digest, self.floor)? {
            Fate::Gone => return Ok(true),
            Fate::Back(bytes) => {
                self.swept.rescued += 1;
                if area == Area::Records {
                    // A damaged record is a miss for the one who touched it, too.
                    self.marks.add(self.store, digest, &bytes).or_else(Error::unless_damaged)?;
                }
            }
            Fate::Absent => {}
        }
        if area == Area::Records
            && let Some(bytes) = self.store.record_bytes(digest)?
        {
            self.marks.add(self.store, digest, &bytes).or_else(Error::unless_damaged)?;
        }
        Ok(false)
    }

    /// Checkpoints go when their step is done, or when no kept run wants it.
    fn wip(&mut self, roots: &Roots) -> Result<()> {
        let folder = self.store.folder("wip");
        for name in files::names(&folder).at(&folder)? {
            let path = folder.join(&name);
            let Ok(key) = name.parse::<Digest>() else {
                continue;
            };
            let is_done = self.store.find(&key)?.is_some();
            if !is_done && roots.keys.contains(&key) {
                continue;
            }
            let why = if is_done { "its step is done" } else { "no kept run uses it" };
            self.folder(What::Wip, &path, &name, why)?;
        }
        Ok(())
    }

    fn staging(&mut self, leases: &[FoundLease]) -> Result<()> {
        let (tmp, folder) = (self.store.folder("tmp"), self.store.folder("leases"));
        for name in files::names(&tmp).at(&tmp)? {
            match leases.iter().find(|lease| lease.id == name) {
                Some(lease) if lease.is_live => {}
                Some(_) => self.remove_folder(What::Staging, &tmp.join(&name), &name, ENDED)?,
                None => self.folder(What::Staging, &tmp.join(&name), &name, ENDED)?,
            }
        }
        for dead in leases.iter().filter(|lease| !lease.is_live && !self.dry_run) {
            let path = folder.join(&dead.id);
            files::remove(&path).at(&path)?;
        }
        Ok(())
    }

    /// Removes a folder (or a file) if nothing in it is as new as the floor.
    fn folder(&mut self, what: What, path: &Path, name: &str, why: &'static str) -> Result<()> {
        let (_, newest) = sweep::weigh(path)?;
        if newest.is_some_and(|time| time < self.floor) {
            self.remove_folder(what, path, name, why)?;
        }
        Ok(())
    }

    fn remove_folder(
        &mut self,
        what: What,
        path: &Path,
        name: &str,
        why: &'static str,
    ) -> Result<()> {
        let (bytes, _) = sweep::weigh(path)?;
        if !self.dry_run {
            sweep::remove_folder(self.store, path)?;
        }
        self.swept.tmp += 1;
        self.went(what, name, bytes, why);
        Ok(())
    }
}

const ENDED: &str = "the process that wrote it has ended";

#[cfg(test)]
mod tests;
