//! An adapter of the store as a folder for the Hugging Face world.

mod manifest;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;

use artifacts::{Blob, BlobRef, Store};

pub use manifest::{
    base_name, data_name, is_of_client, needs_stand_in, personal, refusal, start, subject,
    trainings, warning,
};

use crate::edge::Artifact as _;
use crate::edge::{Open, Opened, TreeView};
use crate::error::{Error, Result};
use crate::federate::of_client;
use crate::kinds::{Adapter, ModelFiles};
use crate::model::{Checkpoint, Config, INDEX_FILE, NamedFile};
use crate::parts::Parts;
use crate::peft::{self, Card};

/// The kinds of artifact that an export looks at.
pub const ADAPTER: &str = Adapter::KIND;
/// The kind of a base.
pub const BASE: &str = ModelFiles::KIND;
/// The kind of an evaluation.
pub const SCORES: &str = crate::kinds::Scores::KIND;
/// The kind of a data set.
pub const DATA: &str = crate::kinds::Corpus::KIND;

/// The artifacts that an exported adapter is put together from.
#[derive(Clone, Copy, Debug)]
pub struct Trees {
    /// The adapter.
    pub adapter: BlobRef,
    /// For a client's: the adapter that it started from, which says what was added to the base.
    pub start: Option<BlobRef>,
    /// A client's adapter, and the parts of it that stand in place of those of `adapter`.
    pub own: Option<(BlobRef, Parts)>,
    /// Whether the adapter is none that anybody has, so that something must stand in for it.
    pub needs_stand_in: bool,
    /// The base.
    pub base: BlobRef,
}

impl Trees {
    /// Puts the adapter together. Where no client's parts are asked for, what stands in for an adapter that nobody has
    /// goes in its place.
    fn open(&self, store: &Store) -> Result<Adapter> {
        let found = view(store, self.adapter)?;
        let stand_in = if self.own.is_none() { Adapter::stand_in(&found)? } else { None };
        let mut adapter = Adapter::open(Opened::Tree(found))?;
        if let Some(start) = self.start {
            adapter.delta = Adapter::delta(&view(store, start)?)?;
        }
        if self.needs_stand_in && self.own.is_none() && stand_in.is_none() {
            return Err(Error::input(
                "there is no adapter that stands for all: each client keeps its own B, and nothing of it was shown",
            )
            .with_hint("`--client K` exports what client K has"));
        }
        if let Some(stand_in) = stand_in {
            adapter.tensors = adapter.tensors.overlaid(&stand_in);
        }
        let Some((own, parts)) = self.own else { return Ok(adapter) };
        let own = Adapter::open(Opened::Tree(view(store, own)?))?;
        // As it is scored: the round's adapter at the client's own rank, its own parts over it.
        adapter.tensors = of_client(&adapter, Some(&own), parts, &own.config.lora)?;
        adapter.config = own.config;
        Ok(adapter)
    }
}

/// Writes an adapter into the new folder `folder`: as PEFT has it, or merged into its base.
///
/// The folder is there whole, or not at all.
///
/// # Errors
/// The folder is there already and not empty, bytes were pruned from the store, or a file cannot be written.
pub fn export(folder: &Path, store: &Store, trees: &Trees, card: &Card) -> Result<()> {
    let folder = &std::path::absolute(folder).map_err(|e| Error::io("find", folder, e))?;
    let taken = fs::read_dir(folder).is_ok_and(|mut names| names.next().is_some());
    if taken || folder.is_file() {
        return Err(Error::input(format!("`{}` is there already", folder.display()))
            .with_hint("give a folder that is new or empty"));
    }
    let (adapter, files) = (trees.open(store)?, view(store, trees.base)?);
    let name = folder.file_name().unwrap_or_default().display();
    let partial = folder.with_file_name(format!(".{name}.fedpipe-{}", std::process::id()));
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent).map_err(|e| Error::io("make", parent, e))?;
    }
    fs::create_dir(&partial).map_err(|e| Error::io("make", &partial, e))?;
    let written = fill(&partial, &adapter, &files, card)
        .and_then(|()| fs::rename(&partial, folder).map_err(|e| Error::io("rename to", folder, e)));
    if written.is_err() {
        drop(fs::remove_dir_all(&partial));
    }
    written
}

fn view(store: &Store, at: BlobRef) -> Result<TreeView<'_>> {
    let pruned = artifacts::Error::Pruned { digest: at.digest };
    let tree = store.tree(&at)?.ok_or(Error::Store(pruned))?;
    Ok(TreeView { tree, at, store })
}

fn fill(folder: &Path, adapter: &Adapter, files: &TreeView<'_>, card: &Card) -> Result<()> {
    let config = files.blob("config.json")?;
    let mut written = None;
    if card.merged {
        let names = files.tree.iter().map(|(name, _)| name);
        let (weights, others): (Vec<&str>, Vec<&str>) = names
            .filter(|name| *name != "config.json")
            .partition(|name| name.ends_with(".safetensors") || *name == INDEX_FILE);
        let blobs: Vec<(&str, Blob)> = weights
            .into_iter()
            .map(|name| Ok((name, weight(files, name)?)))
            .collect::<Result<_>>()?;
        let shards: Vec<NamedFile<'_>> =
            blobs.iter().map(|(name, bytes)| NamedFile { name, bytes }).collect();
        peft::write_merged(folder, adapter, &config, Checkpoint::open(&shards)?)?;
        for name in others {
            let path = folder.join(name);
            fs::write(&path, &*files.blob(name)?).map_err(|e| Error::io("write", &path, e))?;
        }
    } else {
        written = Some(peft::write_adapter(folder, adapter, &Config::parse(&config)?, &card.base)?);
    }
    let family_targets = Config::parse(&config)?.family.default_targets().to_vec();
    let card = Card { family_targets, written, ..card.clone() };
    let path = folder.join("README.md");
    fs::write(&path, card.text(adapter)).map_err(|e| Error::io("write", &path, e))
}

/// A file of the base's weights, which lies outside the store.
fn weight(files: &TreeView<'_>, name: &str) -> Result<Blob> {
    files.blob(name).map_err(|error| match error {
        Error::Store(artifacts::Error::Pruned { .. }) => {
            Error::input(format!("`{name}` of the base is not what it was in that run, or is gone"))
                .with_hint(
                    "put the base back, or run the graph again with the one that there is now",
                )
        }
        other => other,
    })
}
