//! What surrounds a graph: the store, the local files, the Hub's commits.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context as _, Result};
use artifacts::{BlobRef, StatCache, Store};
use stages::{
    download::{Hub, HubSettings, Kind, cache::HubCache},
    unroll::{Revision, Sources},
};

use crate::{graph::Text, revisions::Revisions};

/// Where the store is, if there is one, and how the Hub is reached.
pub struct World {
    root: PathBuf,
    store: OnceLock<Store>,
    /// Digests of local files while there is no store to keep them in.
    loose: StatCache,
    hub: HubSettings,
}

impl World {
    /// The store at `root` as it is; nothing is made.
    ///
    /// # Errors
    /// There is something at `root` that is no store.
    pub fn look(root: &Path, hub: HubSettings) -> Result<Self> {
        let store = OnceLock::new();
        if let Some(found) = Store::open_existing(root)? {
            // The lock is new, so it is empty.
            drop(store.set(found));
        }
        Ok(Self { root: root.to_owned(), store, loose: StatCache::open(None), hub })
    }

    /// The store, if there is one.
    pub fn store(&self) -> Option<&Store> {
        self.store.get()
    }

    /// The store, made if there is none.
    pub fn make_store(&self) -> Result<&Store> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let store = Store::open(&self.root)?;
        Ok(self.store.get_or_init(|| store))
    }

    /// Removes a store that this process made and in which nothing was done, unless another process
    /// began to use it meanwhile.
    pub fn unmake_store(&self) -> Result<()> {
        let used = |folder: &str| {
            std::fs::read_dir(self.root.join(folder)).is_ok_and(|mut list| list.next().is_some())
        };
        if used("leases") || used("ac") || used("runs") {
            return Ok(());
        }
        std::fs::remove_dir_all(&self.root)
            .with_context(|| format!("cannot remove {}", self.root.display()))
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How the Hub is reached.
    pub fn hub(&self) -> &HubSettings {
        &self.hub
    }

    /// The world as one graph sees it.
    pub fn seen_from<'a>(&'a self, text: &'a Text) -> Seen<'a> {
        Seen { world: self, text }
    }

    /// The commits of moving names, by the record of earlier runs or else by the Hub: nothing is
    /// written. `refresh` asks the Hub in any case.
    ///
    /// # Errors
    /// The Hub cannot be reached and nothing is cached, or it refuses.
    pub fn resolve(
        &self,
        revisions: &[Revision],
        refresh: bool,
    ) -> Result<Vec<(Revision, String)>> {
        let known = Revisions::of(&self.root);
        let mut resolved = Vec::new();
        for revision in revisions {
            if refresh || known.commit(revision).is_none() {
                resolved.push((revision.clone(), self.ask(revision)?));
            }
        }
        Ok(resolved)
    }

    fn ask(&self, revision: &Revision) -> Result<String> {
        let Revision { kind, repo, revision: name } = revision;
        Ok(Hub::new(&self.hub)?.resolve(*kind, repo, name)?)
    }

    /// Records resolved commits in the store.
    pub fn record(&self, commits: &[(Revision, String)]) -> Result<()> {
        let known = Revisions::of(&self.root);
        commits.iter().try_for_each(|(revision, commit)| known.record(revision, commit))
    }
}

/// A [`World`] with one graph's folders.
pub struct Seen<'a> {
    world: &'a World,
    text: &'a Text,
}

impl Sources for Seen<'_> {
    fn digest(&self, path: &Path) -> stages::error::Result<BlobRef> {
        let cache = self.world.store().map_or(&self.world.loose, Store::stat_cache);
        Ok(cache.digest(path)?)
    }

    fn commit(&self, revision: &Revision) -> Option<String> {
        let known = Revisions::of(&self.world.root).commit(revision);
        let cache = HubCache::new(&self.world.hub.cache);
        known.or_else(|| cache.commit(revision.kind, &revision.repo, &revision.revision))
    }

    fn cached(&self, kind: Kind, repo: &str, commit: &str, file: &str) -> Option<PathBuf> {
        HubCache::new(&self.world.hub.cache).file(kind, repo, commit, file)
    }

    fn folder(&self, stage: &str, field: &str) -> PathBuf {
        self.text.folder_of(&format!("{stage}.{field}")).to_owned()
    }
}
