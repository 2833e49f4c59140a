//! What surrounds a graph: the store, the local files, the Hub's commits.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::Result;
use artifacts::{BlobRef, StatCache, Store};
use stages::{
    download::{self, HubSettings},
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
    pub fn resolve(&self, revisions: &[Revision], refresh: bool) -> Result<Vec<(Revision, String)>> {
        let known = Revisions::of(&self.root);
        let mut resolved = Vec::new();
        for revision in revisions {
            if refresh || known.commit(revision).is_none() {
                resolved.push((revision.clone(), self.ask(revision, refresh)?));
            }
        }
        Ok(resolved)
    }

    /// Without a network, what another program left in the cache is as good as the Hub's answer.
    fn ask(&self, revision: &Revision, refresh: bool) -> Result<String> {
        let Revision { kind, repo, revision: name } = revision;
        let answer = download::Hub::new(&self.hub)?.resolve(*kind, repo, name);
        let cached = || download::cached_commit(&self.hub, *kind, repo, name);
        match answer {
            Err(error) if !refresh => cached().ok_or_else(|| error.into()),
            answer => Ok(answer?),
        }
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
        known.or_else(|| {
            download::cached_commit(
                &self.world.hub,
                revision.kind,
                &revision.repo,
                &revision.revision,
            )
        })
    }

    fn folder(&self, stage: &str, field: &str) -> PathBuf {
        self.text.folder_of(&format!("{stage}.{field}")).to_owned()
    }
}
