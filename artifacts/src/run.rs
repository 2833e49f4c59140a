//! Runs: what one invocation used, what it did, and what it keeps alive.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{At, Error, Result};
use crate::{Digest, Store, files, holder};

pub(crate) const RUN: &str = "run.json";
pub(crate) const JOURNAL: &str = "journal.jsonl";
const METRICS: &str = "metrics.jsonl";
/// An empty file whose time is that at which the run began.
const STARTED: &str = "started";

/// The folder of a run.
#[derive(Clone, Debug)]
pub struct RunDir {
    id: String,
    path: PathBuf,
}

/// A run as it is listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunInfo {
    /// The name of the run.
    pub id: String,
    /// Its folder.
    pub path: PathBuf,
    /// When it began, by the clock of the store.
    pub created: SystemTime,
}

/// What the store knows of a run: the keys that it keeps, and whether it has ended.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Kept {
    #[serde(default)]
    keys: BTreeMap<String, Option<Digest>>,
    #[serde(default)]
    pub(crate) ended: bool,
}

impl Store {
    /// Makes the folder of a run, with its `run.json`, in one step. Take a lease before.
    ///
    /// The store reads `"keys": {"step": "hex"}` and `"ended": bool` of it; the rest is the caller's.
    ///
    /// # Errors
    /// [`Error::RunExists`], and [`Error::Name`] for an id that no folder can have.
    pub fn new_run(&self, id: &str, run: &Value) -> Result<RunDir> {
        check_id(id)?;
        let staged = self.folder("tmp").join(format!("run-{}", holder::unique()));
        fs::create_dir(&staged).at(&staged)?;
        for (name, bytes) in [(STARTED, String::new()), (RUN, pretty(run))] {
            let path = staged.join(name);
            files::write(&path, bytes.as_bytes(), 0o644).at(&path)?;
        }
        let path = self.folder("runs").join(id);
        // A folder that holds something is never replaced: this is a create-if-absent as it is.
        let Err(error) = fs::rename(&staged, &path) else {
            return Ok(RunDir {
                id: id.to_owned(),
                path,
            });
        };
        fs::remove_dir_all(&staged).at(&staged)?;
        match error.kind() {
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => {
                Err(Error::RunExists { id: id.to_owned() })
            }
            _ => Err(error).at(&path),
        }
    }

    /// All runs, newest first.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be listed.
    pub fn runs(&self) -> Result<Vec<RunInfo>> {
        let folder = self.folder("runs");
        let mut runs = Vec::new();
        for id in files::names(&folder).at(&folder)? {
            let path = folder.join(&id);
            // What is no folder is none of ours; one that went away since the listing was pruned.
            let folder = files::look(&path).at(&path)?.filter(fs::Metadata::is_dir);
            let Some(folder) = folder else { continue };
            let started = path.join(STARTED);
            // A run that lost the file (copied by hand) is as old as its folder.
            let found = files::look(&started).at(&started)?.unwrap_or(folder);
            let created = found.modified().at(&path)?;
            runs.push(RunInfo { id, path, created });
        }
        runs.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        Ok(runs)
    }

    /// The folder of a run that is there.
    ///
    /// # Errors
    /// [`Error::Name`] for an id that no folder can have.
    pub fn run(&self, id: &str) -> Result<Option<RunDir>> {
        check_id(id)?;
        let path = self.folder("runs").join(id);
        let there = files::look(&path)
            .at(&path)?
            .is_some_and(|found| found.is_dir());
        Ok(there.then(|| RunDir {
            id: id.to_owned(),
            path,
        }))
    }
}

impl RunDir {
    /// The name of the run.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads `run.json`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not JSON.
    pub fn read(&self) -> Result<Value> {
        let path = self.path.join(RUN);
        let bytes = fs::read(&path).at(&path)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::damaged(&path, error.to_string()))
    }

    /// Replaces `run.json` in one step.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn update(&self, run: &Value) -> Result<()> {
        let (staged, path) = (
            self.path.join(format!(".{RUN}-{}", holder::unique())),
            self.path.join(RUN),
        );
        fs::write(&staged, pretty(run)).at(&staged)?;
        files::rename(&staged, &path).at(&path)
    }

    /// Opens `journal.jsonl` to add lines. A line may carry `"key": "hex"`, which keeps that record.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened.
    pub fn journal(&self) -> Result<Lines> {
        Lines::open(&self.path.join(JOURNAL))
    }

    /// Opens `metrics.jsonl` to add lines.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened.
    pub fn metrics(&self) -> Result<Lines> {
        Lines::open(&self.path.join(METRICS))
    }

    /// Removes the run; what only it kept is pruned by the next collection.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be removed.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.path).at(&self.path)
    }
}

fn pretty(run: &Value) -> String {
    format!("{run:#}\n")
}

/// Adds to a file of lines. Each write goes to the end in one piece: write whole lines.
#[derive(Debug)]
pub struct Lines {
    file: File,
}

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(path)
            .at(path)?;
        Ok(Self { file })
    }

    /// Adds one line, without its end.
    ///
    /// # Errors
    /// What the system says.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        self.file.write_all(format!("{line}\n").as_bytes())
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Kept {
    /// What a run keeps: the keys in `run.json` and those in the journal.
    ///
    /// # Errors
    /// [`Error::Damaged`] if either cannot be read. An unfinished last line is not damage.
    pub(crate) fn read(folder: &Path) -> Result<(Self, Vec<Digest>)> {
        let path = folder.join(RUN);
        // Without the file (set aside as damaged) the journal still says what was used.
        let kept: Self = match files::read(&path).at(&path)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Error::damaged(&path, error.to_string()))?,
            None => Self::default(),
        };
        let mut keys: Vec<Digest> = kept.keys.values().copied().flatten().collect();
        let path = folder.join(JOURNAL);
        let bytes = files::read(&path).at(&path)?.unwrap_or_default();
        for line in bytes
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|l| l.ends_with(b"\n"))
        {
            keys.extend(journal_key(line).map_err(|error| Error::damaged(&path, error))?);
        }
        Ok((kept, keys))
    }
}

fn journal_key(line: &[u8]) -> Result<Option<Digest>, String> {
    #[derive(Deserialize)]
    struct Line {
        key: Option<Digest>,
    }
    // Most lines carry none, and journals are long.
    if !line.windows(5).any(|word| word == b"\"key\"") {
        return Ok(None);
    }
    serde_json::from_slice::<Line>(line)
        .map(|line| line.key)
        .map_err(|error| error.to_string())
}

/// A name that is one plain file name.
pub(crate) fn check_id(name: &str) -> Result<()> {
    let why = if name.is_empty() || name.len() > 128 {
        "it must have 1 to 128 bytes"
    } else if name.starts_with('.') {
        "it starts with a dot"
    } else if name.chars().any(|c| c == '/' || c.is_control()) {
        "it has a slash or a control character"
    } else {
        return Ok(());
    };
    Err(Error::Name {
        name: name.to_owned(),
        why,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_is_there_with_its_file_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let run = store.new_run("one", &json!({"ended": false})).unwrap();
        assert!(matches!(
            store.new_run("one", &json!({})),
            Err(Error::RunExists { .. })
        ));
        assert!(matches!(
            store.new_run(".one", &json!({})),
            Err(Error::Name { .. })
        ));
        run.update(&json!({"ended": true})).unwrap();
        assert_eq!(run.read().unwrap(), json!({"ended": true}));
        let folder = files::names(run.path()).unwrap();
        assert_eq!(folder, ["run.json", "started"]);
        assert!(files::names(&store.folder("tmp")).unwrap().is_empty());
        store.run("one").unwrap().unwrap().remove().unwrap();
        assert!(store.run("one").unwrap().is_none());
    }

    #[test]
    fn the_newest_run_comes_first_whatever_was_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        for (at, id) in ["b", "a", "c"].into_iter().enumerate() {
            let run = store.new_run(id, &json!({})).unwrap();
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(at as u64);
            File::options()
                .write(true)
                .open(run.path().join(STARTED))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        store.run("b").unwrap().unwrap().update(&json!({})).unwrap();
        let ids: Vec<String> = store
            .runs()
            .unwrap()
            .into_iter()
            .map(|run| run.id)
            .collect();
        assert_eq!(ids, ["c", "a", "b"]);
    }

    #[test]
    fn keys_are_read_from_the_file_and_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let keys = json!({"keys": {"step": one, "later": null}, "ended": false, "graph": "…"});
        let run = store.new_run("one", &keys).unwrap();
        let mut journal = run.journal().unwrap();
        journal
            .line(&json!({"event": "finished", "key": two}).to_string())
            .unwrap();
        journal
            .line("a line without it need not even be JSON")
            .unwrap();
        write!(journal, "{{\"key\":\"torn").unwrap();
        let (kept, read) = Kept::read(run.path()).unwrap();
        assert!(!kept.ended);
        assert_eq!(read, [one, two]);
        writeln!(journal, "off\"}}").unwrap();
        assert!(matches!(Kept::read(run.path()), Err(Error::Damaged { .. })));
    }
}
