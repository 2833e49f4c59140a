//! Where the files of a data set lie, split by split.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::cache::names_under;
use super::{Hub, Kind, NamedFile, Progress};
use crate::corpus::layout::{self, LABELS};
use crate::rows::{Format, missing};
use crate::{Error, Result};

/// A data set beside the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder, whose file names tell the splits (see [`layout::splits`]).
    Folder(PathBuf),
    /// One file, which is the split `train`.
    File(PathBuf),
    /// One file a split.
    Files(IndexMap<String, PathBuf>),
}

/// The files of a data set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Located {
    /// The files of each split, in order, in the order train, validation, test, others by name.
    pub splits: IndexMap<String, Vec<PathBuf>>,
    /// The file that names the classes, where there is one.
    pub labels: Option<PathBuf>,
}

impl Located {
    /// Every file once, each with a name that holds no folder of this machine: what to digest.
    pub fn files(&self) -> Vec<NamedFile> {
        let mut files = Vec::new();
        for (split, paths) in &self.splits {
            for (i, path) in paths.iter().enumerate() {
                // The extension decides how the bytes are read, so it belongs to the content.
                let extension = path.extension().unwrap_or_default().to_string_lossy();
                files.push((format!("{split}/{i:05}.{extension}"), path.clone()));
            }
        }
        files.extend(
            self.labels
                .iter()
                .map(|path| (LABELS.to_owned(), path.clone())),
        );
        files
    }
}

/// Finds the files of a data set beside the graph.
pub fn locate(source: &Source) -> Result<Located> {
    let named: Vec<(&str, &PathBuf)> = match source {
        Source::Folder(folder) => return locate_folder(folder),
        Source::File(path) => vec![("train", path)],
        Source::Files(files) => files.iter().map(|(split, p)| (split.as_str(), p)).collect(),
    };
    if named.is_empty() {
        return Err(Error::input("`files:` names no file")
            .with_hint("such as files: {\"train\": \"train.tsv\", \"validation\": \"dev.tsv\"}"));
    }
    let mut splits = IndexMap::new();
    for (split, path) in named {
        layout::check_name(split)?;
        if path.is_dir() {
            return Err(Error::input(format!("`{}` is a folder", path.display()))
                .with_hint("name it with `folder:`"));
        }
        std::fs::metadata(path).map_err(|source| missing(path, source))?;
        if Format::of(path).is_none() {
            return Err(layout::unknown_format(&path.display().to_string()));
        }
        splits.insert(split.to_owned(), vec![path.clone()]);
    }
    layout::sort(&mut splits);
    Ok(Located {
        splits,
        labels: None,
    })
}

/// The files of a data set on the Hub, fetched into its cache.
pub fn fetch_dataset(
    hub: &Hub,
    repo: &str,
    commit: &str,
    progress: &mut Progress<'_>,
) -> Result<Located> {
    let names = hub.list(Kind::Dataset, repo, commit)?;
    assemble(repo, &names, |name| {
        hub.file(Kind::Dataset, repo, commit, name, progress)
    })
}

fn locate_folder(folder: &Path) -> Result<Located> {
    let shown = folder.display().to_string();
    if !folder.is_dir() {
        let error = Error::input(format!("there is no folder `{shown}`"));
        return Err(if folder.is_file() {
            error.with_hint("it is a file: name it with `file:`")
        } else {
            error
        });
    }
    assemble(&shown, &names_under(folder), |name| Ok(folder.join(name)))
}

fn assemble(
    place: &str,
    names: &[String],
    mut path: impl FnMut(&str) -> Result<PathBuf>,
) -> Result<Located> {
    let mut located = Located::default();
    for (split, names) in layout::splits(place, names)? {
        let paths = names.iter().map(|name| path(name)).collect::<Result<_>>()?;
        located.splits.insert(split, paths);
    }
    if names.iter().any(|name| name == LABELS) {
        located.labels = Some(path(LABELS)?);
    }
    Ok(located)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::tests::file;

    #[test]
    fn sources_beside_the_graph() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let test = file(at, "test.csv", "a\n1\n");
        let train = file(at, "train.csv", "a\n1\n");
        let labels = file(at, LABELS, "{}");

        let found = locate(&Source::Folder(at.to_owned())).unwrap();
        let names: Vec<String> = found.files().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["train/00000.csv", "test/00000.csv", LABELS]);
        assert_eq!(found.labels, Some(labels));

        let found = locate(&Source::File(test.clone())).unwrap();
        assert_eq!(found.splits["train"], [test.clone()]);

        let files = IndexMap::from([("dev".to_owned(), test), ("train".to_owned(), train)]);
        let found = locate(&Source::Files(files)).unwrap();
        assert_eq!(found.splits.keys().collect::<Vec<_>>(), ["train", "dev"]);
    }

    #[test]
    fn a_wrong_source_is_a_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let note = file(at, "note.txt", "x");
        let data = file(at, "data.csv", "a\n");
        let fault = |source: Source| locate(&source).unwrap_err().to_string();
        assert!(fault(Source::Folder(at.join("gone"))).contains("no folder"));
        assert!(fault(Source::Folder(data.clone())).contains("no folder"));
        assert!(fault(Source::File(at.join("gone.csv"))).contains("no file"));
        assert!(fault(Source::File(at.to_owned())).contains("is a folder"));
        assert!(fault(Source::File(note)).contains("format"));
        assert!(fault(Source::Files(IndexMap::new())).contains("names no file"));
        let files = IndexMap::from([("../up".to_owned(), data)]);
        assert!(fault(Source::Files(files)).contains("`../up`"));
    }
}
