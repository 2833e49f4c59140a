//! The commits that moving names on the Hub were resolved to, kept until `--refresh`.

use std::{fs, io, path::PathBuf};

use anyhow::{Context as _, Result};
use stages::{download::Kind, unroll::Revision};

/// A folder with one small file a revision.
pub struct Revisions {
    folder: PathBuf,
}

impl Revisions {
    /// Those of the store at `root`.
    pub fn of(root: &std::path::Path) -> Self {
        Self { folder: root.join("revisions") }
    }

    fn file(&self, revision: &Revision) -> PathBuf {
        let repo = revision.repo.replace('/', "--");
        let name = revision.revision.replace('/', "--");
        let kind = match revision.kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        self.folder.join(format!("{kind}--{repo}@{name}"))
    }

    /// The commit that was recorded.
    pub fn commit(&self, revision: &Revision) -> Option<String> {
        let text = fs::read_to_string(self.file(revision)).ok()?;
        let commit = text.trim();
        (commit.len() == 40).then(|| commit.to_owned())
    }

    /// Records a commit; the file appears whole or not at all.
    pub fn record(&self, revision: &Revision, commit: &str) -> Result<()> {
        let file = self.file(revision);
        let write = || -> io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            let part = file.with_extension(format!("{}.part", std::process::id()));
            fs::write(&part, format!("{commit}\n"))?;
            fs::rename(&part, &file)
        };
        write().with_context(|| format!("cannot write {}", file.display()))
    }
}
