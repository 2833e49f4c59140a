//! A base model, from the Hub or from a folder.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use artifacts::Blob;
use serde::{Deserialize, Serialize};

use super::origin::{Origin, Repository, exactly_one, place};
use crate::{
    check::Check,
    download::{Hub, Kind, NamedFile, model},
    edge::{In, TreeView},
    error::{Error, Result},
    kinds::{Adapter, ModelFiles},
    memory,
    model::{self as decoder, Base, Checkpoint, Config},
    node::GraphStage,
    precision::Precision,
    session::Session,
    stage::{Context, Needs, Stage},
    unroll::{Sources, Unroll},
};

/// The tokenizer's settings: special tokens and padding.
const SETTINGS: &str = "tokenizer_config.json";

/// A base model in Hugging Face layout. The weights are left where they lie: in the Hub's cache, or
/// in the folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// `owner/name` on the Hub.
    #[serde(default, skip_serializing)]
    pub hub: Option<String>,
    /// A branch, tag or commit; `main` unless given.
    #[serde(default, skip_serializing)]
    pub revision: Option<String>,
    /// A folder instead.
    #[serde(default, skip_serializing)]
    pub folder: Option<PathBuf>,
    #[serde(skip_deserializing)]
    origin: Origin,
    #[serde(skip)]
    files: Vec<NamedFile>,
}

impl Model {
    fn repository(&self) -> Option<Repository<'_>> {
        let revision = self.revision.as_deref();
        self.hub.as_deref().map(|repo| Repository { kind: Kind::Model, repo, revision })
    }

    fn local(&self, name: &str, sources: &dyn Sources) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| place(sources, name, "folder", folder))
    }

    /// Its config, if that lies on this machine.
    ///
    /// # Errors
    /// The config cannot be read, or the model is of an unsupported kind.
    pub fn config(&self, name: &str, sources: &dyn Sources) -> Result<Option<Config>> {
        let path = match (self.local(name, sources), self.repository()) {
            (Some(folder), _) => Some(folder.join("config.json")),
            (None, Some(hub)) => {
                let commit = hub.commit(sources);
                commit.and_then(|commit| {
                    sources.cached(Kind::Model, hub.repo, &commit, "config.json")
                })
            }
            (None, None) => None,
        };
        let Some(path) = path else { return Ok(None) };
        let text = std::fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        Ok(Some(Config::parse(&text)?))
    }

    fn check_folder(folder: &Path) -> Result<()> {
        for (name, path) in model::model_files(folder)? {
            if is_weights(&name) {
                check_whole(&path)?;
            }
        }
        Ok(())
    }
}

fn is_weights(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "safetensors")
}

/// Looks by its header whether a safetensors file is as long as it should be.
fn check_whole(path: &Path) -> Result<()> {
    let failed = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let shown = path.display().to_string();
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head).map_err(failed)?;
    let header = decoder::header_length(&shown, &head)?;
    file.take(header.saturating_sub(8)).read_to_end(&mut head).map_err(failed)?;
    Ok(decoder::check_header(&shown, &head, length)?)
}

impl GraphStage for Model {
    type Makes = ModelFiles;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        let given = [("hub", self.hub.is_some()), ("folder", self.folder.is_some())];
        if !exactly_one(name, &given, check) {
            return;
        }
        let sources = check.sources;
        if let Some(folder) = self.local(name, sources) {
            let path = format!("{name}.folder");
            if self.revision.is_some() {
                let message = "a folder has no revision; only `hub` takes one";
                check.complain(format!("{name}.revision"), message, None);
            }
            if let Err(error) = Self::check_folder(&folder) {
                return check.refuse(path, &error);
            }
        }
        let field = if self.hub.is_some() { "hub" } else { "folder" };
        if let Err(error) = self.config(name, sources) {
            check.refuse(format!("{name}.{field}"), &error);
        }
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        if let Some(hub) = self.repository() {
            hub.unroll(to, |to, origin| {
                to.add(name, Self { origin, ..self.clone() });
            });
        } else if let Some(folder) = self.local(name, to.sources()) {
            let files = model::model_files(&folder)?;
            let origin = Origin::of_files(&files, to.sources())?;
            to.add(name, Self { origin, files, ..self.clone() });
        }
        Ok(())
    }
}

impl Stage for Model {
    const NAME: &'static str = "model";
    const VERSION: u32 = 1;
    type Output = ModelFiles;

    fn needs(&self) -> Needs {
        if self.hub.is_some() { Needs::Net } else { Needs::Cpu }
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let files = match &self.origin {
            Origin::Hub { repo, commit } => {
                let hub = Hub::new(cx.session().hub())?;
                model::fetch_model(&hub, repo, commit, &mut |_, done, total| {
                    cx.progress(done, total, "bytes");
                    cx.go_on()
                })?
            }
            _ => self.files.clone(),
        };
        if !files.iter().any(|(name, _)| name == SETTINGS) {
            // Steps have an edge to it, so it is always there.
            cx.out().bytes(SETTINGS, b"{}\n")?;
        }
        for (name, path) in &files {
            if is_weights(name) {
                check_whole(path)?;
                cx.out().external(name, path)?;
            } else {
                let text = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
                if name == "config.json" {
                    Config::parse(&text)?;
                }
                cx.out().bytes(name, &text)?;
            }
        }
        Ok(())
    }
}

/// The base that an edge leads to, loaded on the session's device, or shared if it is loaded already; `causal` says
/// whether its causal head is needed, too. What rules have added to the base that `adapter` stands on is added, before
/// anything is rounded to `precision`.
pub(crate) fn load_base(
    cx: &Context<'_>,
    base: &In<ModelFiles>,
    precision: Precision,
    causal: bool,
    adapter: Option<&In<Adapter>>,
) -> Result<Arc<Base>> {
    precision.check(cx.session().device()?)?;
    let files = cx.tree(base)?;
    let plain = load_plain(cx.session(), &files, precision, causal)?;
    let Some(adapter) = adapter.map(|adapter| cx.tree(adapter)).transpose()? else {
        return Ok(plain);
    };
    let Some(delta) = adapter.tree.get(Adapter::DELTA) else { return Ok(plain) };
    cx.session().changed_base(
        [files.at.digest, delta.digest],
        precision,
        // One that was made of this base shares its head; but this one may have been loaded again since.
        |changed| causal && !changed.has_causal_head(),
        || {
            let delta = Adapter::delta(&adapter)?.unwrap_or_default();
            if precision.is_f32() {
                return Ok(Arc::new(plain.with_delta(&delta)?));
            }
            with_checkpoint(&files, |_, shards| {
                Ok(Arc::new(plain.with_delta_of(&delta, Checkpoint::open(shards)?)?))
            })
        },
    )
}

/// The base itself.
fn load_plain(
    session: &Session,
    files: &TreeView<'_>,
    precision: Precision,
    causal: bool,
) -> Result<Arc<Base>> {
    session.base(
        files.at.digest,
        precision,
        |base| causal && !base.has_causal_head(),
        |held| {
            with_checkpoint(files, |config, shards| {
                let base = if let Some(base) = held {
                    base
                } else {
                    let bytes = memory::base(&config, causal, precision, memory::Path::Stock);
                    let mend = "use a smaller base, or a machine with more memory";
                    session.require(bytes, "the base", mend)?;
                    let checkpoint = Checkpoint::open(shards)?;
                    let device = &session.device()?.device;
                    let base = Base::load_in(config, checkpoint, precision, device)?;
                    Arc::new(session.prepared(base)?)
                };
                if causal && !base.has_causal_head() {
                    base.load_causal_head(&Checkpoint::open(shards)?)?;
                }
                Ok(base)
            })
        },
    )
}

/// Gives `work` the config and the files of the weights of a base.
pub(crate) fn with_checkpoint<T>(
    files: &TreeView<'_>,
    work: impl FnOnce(Config, &[decoder::NamedFile<'_>]) -> Result<T>,
) -> Result<T> {
    let config = Config::parse(&files.blob("config.json")?)?;
    let names = files.tree.iter().map(|(name, _)| name);
    let wanted = names.filter(|name| is_weights(name) || *name == decoder::INDEX_FILE);
    let blobs: Vec<(&str, Blob)> =
        wanted.map(|name| Ok((name, files.blob(name)?))).collect::<Result<_>>()?;
    let shards: Vec<decoder::NamedFile<'_>> =
        blobs.iter().map(|(name, bytes)| decoder::NamedFile { name, bytes }).collect();
    work(config, &shards)
}
