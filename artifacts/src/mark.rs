//! What is kept: the roots, the records that they reach, and the blobs that those name.

use std::collections::BTreeSet;
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::gc::Policy;
use crate::layout::Area;
use crate::pin::Root;
use crate::run::Kept;
use crate::{Digest, RunInfo, Store, Tree, record, sweep};

/// The keys that kept runs and pins name, and the runs that the policy gives up.
pub(crate) struct Roots {
    pub(crate) keys: BTreeSet<Digest>,
    pub(crate) doomed: Vec<RunInfo>,
    pub(crate) kept_runs: u64,
}

impl Roots {
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) if any run or pin cannot be read: what it keeps is
    /// not known.
    pub(crate) fn read(
        store: &Store,
        policy: &Policy,
        now: SystemTime,
        floor: SystemTime,
    ) -> Result<Self> {
        let mut roots = Self {
            keys: BTreeSet::new(),
            doomed: Vec::new(),
            kept_runs: 0,
        };
        let mut pinned = BTreeSet::new();
        for (_, pin) in store.pins()?.into_iter().filter(|(_, pin)| pin.holds(now)) {
            match pin.root {
                Root::Key(key) => drop(roots.keys.insert(key)),
                Root::Run(id) => drop(pinned.insert(id)),
            }
        }
        for (age, run) in store.runs()?.into_iter().enumerate() {
            let (kept, keys) = Kept::read(&run.path)?;
            // Its process holds a lease since before the run began, so that the floor is older.
            let is_live = !kept.ended && run.created >= floor;
            if is_live || pinned.contains(&run.id) || policy.keeps(age, run.created, now) {
                roots.keys.extend(keys);
                roots.kept_runs += 1;
            } else {
                roots.doomed.push(run);
            }
        }
        Ok(roots)
    }
}

impl Policy {
    /// Whether a run stays, the `age`-th newest one.
    fn keeps(&self, age: usize, created: SystemTime, now: SystemTime) -> bool {
        let of_last = self.keep_last.map(|count| age < count);
        let within = self.keep_within.map(|span| {
            now.duration_since(created).is_ok_and(|since| since <= span) || created > now
        });
        match (of_last, within) {
            (None, None) => true,
            (last, within) => last == Some(true) || within == Some(true),
        }
    }
}

/// Which records go and which blobs stay.
pub(crate) struct Marks {
    /// Blobs that a record which stays names.
    pub(crate) live: BTreeSet<Digest>,
    /// Records that nothing keeps, with their size (bytes).
    pub(crate) doomed: Vec<(Digest, u64)>,
    /// How many records stay, and their size (bytes).
    pub(crate) kept: (u64, u64),
}

impl Marks {
    /// # Errors
    /// [`Error::Damaged`](crate::Error::Damaged) if a record that stays cannot be read.
    pub(crate) fn read(store: &Store, roots: &Roots, floor: SystemTime) -> Result<Self> {
        let mut marks = Self {
            live: BTreeSet::new(),
            doomed: Vec::new(),
            kept: (0, 0),
        };
        for shard in sweep::shards(store, Area::Records)? {
            for seen in sweep::shard(store, Area::Records, &shard)? {
                if seen.time < floor && !roots.keys.contains(&seen.digest) {
                    marks.doomed.push((seen.digest, seen.len));
                } else if let Some(bytes) = store.record_bytes(&seen.digest)? {
                    marks.add(store, &seen.digest, &bytes)?;
                    marks.kept.0 += 1;
                    marks.kept.1 += seen.len;
                }
            }
        }
        Ok(marks)
    }

    /// Keeps what a record names.
    pub(crate) fn add(&mut self, store: &Store, key: &Digest, bytes: &[u8]) -> Result<()> {
        let found = record::head(key, bytes)
            .map_err(|why| Error::damaged(&store.place(Area::Records, key), why))?;
        let is_new = self.live.insert(found.tree.digest);
        // A tree of which the listing was pruned has no entries that could be found.
        let tree = match found.listing {
            _ if !is_new => None,
            Some(tree) => Some(tree),
            None => store.tree(&found.tree)?,
        };
        self.live.extend(
            tree.iter()
                .flat_map(Tree::iter)
                .map(|(_, blob)| blob.digest),
        );
        Ok(())
    }
}
