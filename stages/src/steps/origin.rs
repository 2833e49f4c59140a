//! Where a model or a data set comes from, as its key has it: by content, never by path.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use artifacts::Digest;
use serde::Serialize;

use crate::{
    check::Check,
    download::{Kind, NamedFile, cache::is_commit},
    error::Result,
    unroll::{Revision, Sources, Unroll},
};

/// What stands in the key.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Origin {
    /// Not known yet: a graph that was only read, or a revision that is not resolved.
    #[default]
    Unknown,
    /// A repository of the Hub at one commit.
    Hub {
        /// `owner/name`.
        repo: String,
        /// 40 hexadecimal digits.
        commit: String,
    },
    /// Local files by the digests of their content.
    Files(BTreeMap<String, Digest>),
}

impl Origin {
    /// The digests of local files.
    pub(crate) fn of_files(files: &[NamedFile], sources: &dyn Sources) -> Result<Self> {
        let mut digests = BTreeMap::new();
        for (name, path) in files {
            digests.insert(name.clone(), sources.digest(path)?.digest);
        }
        Ok(Self::Files(digests))
    }
}

/// A repository of the Hub as a graph names it.
pub(crate) struct Repository<'a> {
    pub(crate) kind: Kind,
    pub(crate) repo: &'a str,
    pub(crate) revision: Option<&'a str>,
}

impl Repository<'_> {
    /// The moving name that it has, or `None` if it is a whole commit.
    fn moving(&self) -> Option<Revision> {
        let revision = self.revision.unwrap_or("main").to_owned();
        (!is_commit(&revision)).then(|| Revision { kind: self.kind, repo: self.repo.to_owned(), revision })
    }

    /// The commit, if it is known without the network.
    pub(crate) fn commit(&self, sources: &dyn Sources) -> Option<String> {
        match self.moving() {
            Some(revision) => sources.commit(&revision),
            None => self.revision.map(str::to_owned),
        }
    }

    /// Its origin; and `add` gets to add the step, which then waits for the commit if it must.
    pub(crate) fn unroll(&self, to: &mut Unroll<'_>, add: impl FnOnce(&mut Unroll<'_>, Origin)) {
        let commit = self.commit(to.sources());
        let resolved = commit.is_some();
        let origin = match commit {
            Some(commit) => Origin::Hub { repo: self.repo.to_owned(), commit },
            None => Origin::Unknown,
        };
        add(to, origin);
        if let Some(revision) = self.moving() {
            to.last_moves_with(revision, resolved);
        }
    }
}

/// Complains unless exactly one of the sources is given, and says whether it is.
pub(crate) fn exactly_one(name: &str, given: &[(&str, bool)], check: &mut Check<'_>) -> bool {
    let all: Vec<String> = given.iter().map(|(field, _)| format!("`{field}`")).collect();
    let set: Vec<&str> = given.iter().filter(|(_, is)| *is).map(|(field, _)| *field).collect();
    match set.as_slice() {
        [_] => true,
        [] => {
            check.complain(name.to_owned(), format!("give one of {}", all.join(", ")), None);
            false
        }
        [_, second, ..] => {
            let message = format!("give only one of {}", all.join(", "));
            check.complain(format!("{name}.{second}"), message, None);
            false
        }
    }
}

/// A path of a graph: relative ones start where the text that holds them was written.
pub(crate) fn place(sources: &dyn Sources, stage: &str, field: &str, path: &Path) -> PathBuf {
    sources.folder(stage, field).join(path)
}
