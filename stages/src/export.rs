//! An adapter of the store as a folder for the Hugging Face world.

use std::fs;
use std::path::Path;

use artifacts::{Blob, BlobRef, Store};
use serde_json::Value;

use crate::edge::Artifact as _;
use crate::edge::{Open, Opened, TreeView};
use crate::error::{Error, Result};
use crate::kinds::{Adapter, ModelFiles};
use crate::model::{Checkpoint, Config, INDEX_FILE, NamedFile};
use crate::peft::{self, BaseName, Card};

/// The kinds of artifact that an export looks at.
pub const ADAPTER: &str = Adapter::KIND;
/// The kind of a base.
pub const BASE: &str = ModelFiles::KIND;
/// The kind of an evaluation.
pub const SCORES: &str = crate::kinds::Scores::KIND;
/// The kind of a data set.
pub const DATA: &str = crate::kinds::Corpus::KIND;

/// Writes the adapter whose tree is `adapter` into the new folder `folder`: as PEFT has it, or merged into its base.
///
/// The folder is there whole, or not at all.
///
/// # Errors
/// The folder is there already and not empty, bytes were pruned from the store, or a file cannot be written.
pub fn export(
    folder: &Path,
    store: &Store,
    adapter: BlobRef,
    base: BlobRef,
    card: &Card,
) -> Result<()> {
    let folder = &std::path::absolute(folder).map_err(|e| Error::io("find", folder, e))?;
    let taken = fs::read_dir(folder).is_ok_and(|mut names| names.next().is_some());
    if taken || folder.is_file() {
        return Err(Error::input(format!("`{}` is there already", folder.display()))
            .with_hint("give a folder that is new or empty"));
    }
    let (adapter, files) =
        (Adapter::open(Opened::Tree(view(store, adapter)?))?, view(store, base)?);
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
        peft::write_adapter(folder, adapter, &Config::parse(&config)?, &card.base)?;
    }
    let family_targets = Config::parse(&config)?.family.default_targets().to_vec();
    let card = Card { family_targets, ..card.clone() };
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

/// Whether a step's result is one client's own, and not what a federation came to.
pub fn is_of_client(step: &str) -> bool {
    step.rsplit('/').next().is_some_and(|last| last.starts_with("client-"))
}

/// The digest of the adapter that an evaluation was about, by the manifest of its step.
pub fn subject(manifest: &Value) -> Option<&str> {
    manifest["with"]["adapter"]["$blake3"].as_str()
}

/// What PEFT should call the base: its name on the Hub, by the manifest of the step that fetched it, else the folder
/// where its weights lie.
pub fn base_name(store: &Store, base: BlobRef, manifest: &Value) -> Result<BaseName> {
    let hub = &manifest["with"]["origin"]["hub"];
    if let Some(name) = hub["repo"].as_str() {
        let revision = hub["commit"].as_str().map(str::to_owned);
        return Ok(BaseName { name: name.to_owned(), revision });
    }
    let files = view(store, base)?;
    let weights = files.tree.iter().find(|(name, _)| name.ends_with(".safetensors"));
    let folder = weights.and_then(|(_, blob)| {
        let path = store.path(&blob).ok()?;
        Some(path.parent()?.display().to_string())
    });
    Ok(BaseName { name: folder.unwrap_or_default(), revision: None })
}

/// What a data set is called, by the manifest of the step that read it.
pub fn data_name(manifest: &Value) -> String {
    let origin = &manifest["with"]["origin"];
    if let Some(repo) = origin["hub"]["repo"].as_str() {
        return format!("`{repo}` at `{}`", origin["hub"]["commit"].as_str().unwrap_or("?"));
    }
    let files = origin["files"].as_object().into_iter().flatten();
    let listed: Vec<String> = files
        .map(|(name, digest)| {
            let digest = digest.as_str().unwrap_or_default();
            format!("`{name}` (BLAKE3 {}…)", &digest[..digest.len().min(12)])
        })
        .collect();
    listed.join(", ")
}

/// What a user should know of an adapter before others use it, by the manifest of the step that made it.
pub fn warning(manifest: &Value) -> Option<&'static str> {
    (manifest["with"]["head"] == "Local").then_some(
        "its classifier was never trained: with `head: Local` each client keeps its own, and is scored with that on top of \
         this adapter; `--step` exports what a client trained, its own factors and classifier",
    )
}
