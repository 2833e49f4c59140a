//! Labelled texts, from the Hub, a folder or files.

use std::{collections::BTreeMap, path::PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::origin::{Origin, Repository, exactly_one, place};
use crate::{
    check::Check,
    corpus::{self, Columns},
    download::{
        Hub, Kind, Located, Source,
        dataset::{fetch_dataset, locate},
    },
    error::Result,
    kinds::Corpus,
    node::GraphStage,
    stage::{Context, Needs, Stage},
    unroll::{Sources, Unroll},
};

/// Labelled texts: parquet, JSON lines, CSV or TSV, in named splits.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// `owner/name` on the Hub.
    #[serde(default, skip_serializing)]
    pub hub: Option<String>,
    /// A branch, tag or commit; `main` unless given.
    #[serde(default, skip_serializing)]
    pub revision: Option<String>,
    /// A folder instead, whose file names tell the splits.
    #[serde(default, skip_serializing)]
    pub folder: Option<PathBuf>,
    /// One file instead: the split `train`.
    #[serde(default, skip_serializing)]
    pub file: Option<PathBuf>,
    /// One file a split instead.
    #[serde(default, skip_serializing)]
    pub files: Option<IndexMap<String, PathBuf>>,
    /// The column of texts; found by its usual names unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The column of labels; found by its usual names unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Keep only so many rows of these splits, drawn at random, in their order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sample: BTreeMap<String, usize>,
    /// Seed of the sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    #[serde(skip_deserializing)]
    origin: Origin,
    #[serde(skip)]
    located: Located,
}

impl Dataset {
    fn repository(&self) -> Option<Repository<'_>> {
        let revision = self.revision.as_deref();
        self.hub.as_deref().map(|repo| Repository { kind: Kind::Dataset, repo, revision })
    }

    fn local(&self, name: &str, sources: &dyn Sources) -> Option<Source> {
        let at = |field: &str, path: &PathBuf| place(sources, name, field, path);
        if let Some(folder) = &self.folder {
            return Some(Source::Folder(at("folder", folder)));
        }
        if let Some(file) = &self.file {
            return Some(Source::File(at("file", file)));
        }
        let files = self.files.as_ref()?.iter();
        Some(Source::Files(files.map(|(split, path)| (split.clone(), at("files", path))).collect()))
    }

    /// The field that names where the data come from.
    fn field(&self) -> &'static str {
        match self {
            Self { hub: Some(_), .. } => "hub",
            Self { folder: Some(_), .. } => "folder",
            Self { file: Some(_), .. } => "file",
            _ => "files",
        }
    }

    fn read(&self, located: &Located, seed: u64) -> Result<corpus::Corpus> {
        let columns = Columns { text: self.text.clone(), label: self.label.clone() };
        let mut corpus = corpus::Corpus::read(located, &columns)?;
        let sizes = self.sample.iter().map(|(split, rows)| (split.as_str(), *rows));
        corpus.sample(sizes, seed)?;
        Ok(corpus)
    }

    /// The corpus, if its files are local.
    pub(crate) fn read_local(
        &self,
        name: &str,
        check: &Check<'_>,
    ) -> Option<Result<corpus::Corpus>> {
        let source = self.local(name, check.sources)?;
        let seed = check.seed("sample", self.seed);
        Some(locate(&source).and_then(|located| self.read(&located, seed)))
    }

    fn with_seed(&self, to: &Unroll<'_>, origin: Origin, located: Located) -> Self {
        // Without a sample nothing is drawn, so a seed must not reach the key.
        let seed = (!self.sample.is_empty()).then(|| to.seed("sample", self.seed));
        Self { seed, origin, located, ..self.clone() }
    }
}

impl GraphStage for Dataset {
    type Makes = Corpus;

    fn check(&self, name: &str, check: &mut Check<'_>) {
        let given = [
            ("hub", self.hub.is_some()),
            ("folder", self.folder.is_some()),
            ("file", self.file.is_some()),
            ("files", self.files.is_some()),
        ];
        if !exactly_one(name, &given, check) {
            return;
        }
        if self.revision.is_some() && self.hub.is_none() {
            let message = "only `hub` takes a revision";
            check.complain(format!("{name}.revision"), message, None);
        }
        for (split, &rows) in &self.sample {
            let path = format!("{name}.sample.{split}");
            check.require(rows > 0, path, "a sample must keep at least one row");
        }
        if let Some(source) = self.local(name, check.sources)
            && let Err(error) = locate(&source)
        {
            check.refuse(format!("{name}.{}", self.field()), &error);
        }
    }

    fn check_data(&self, name: &str, check: &mut Check<'_>) {
        if let Some(Err(error)) = self.read_local(name, check) {
            check.refuse(format!("{name}.{}", self.field()), &error);
        }
    }

    fn unroll(&self, name: &str, to: &mut Unroll<'_>) -> Result<()> {
        if let Some(hub) = self.repository() {
            hub.unroll(to, |to, origin| {
                let stage = self.with_seed(to, origin, Located::default());
                to.add(name, stage);
            });
        } else if let Some(source) = self.local(name, to.sources()) {
            let located = locate(&source)?;
            let origin = Origin::of_files(&located.files(), to.sources())?;
            let stage = self.with_seed(to, origin, located);
            to.add(name, stage);
        }
        Ok(())
    }
}

impl Stage for Dataset {
    const NAME: &'static str = "dataset";
    const VERSION: u32 = 1;
    type Output = Corpus;

    fn needs(&self) -> Needs {
        if self.hub.is_some() { Needs::Net } else { Needs::Cpu }
    }

    fn run(&self, cx: &mut Context<'_>) -> Result<()> {
        let fetched;
        let located = match &self.origin {
            Origin::Hub { repo, commit } => {
                let hub = Hub::new(cx.session().hub())?;
                fetched = fetch_dataset(&hub, repo, commit, &mut |_, done, total| {
                    cx.progress(done, total, "bytes");
                    cx.go_on()
                })?;
                &fetched
            }
            _ => &self.located,
        };
        let corpus = self.read(located, self.seed.unwrap_or_default())?;
        for (name, bytes) in corpus.to_files() {
            cx.out().bytes(&name, &bytes)?;
        }
        Ok(())
    }
}
