//! The Hub's cache folder as every Hugging Face library lays it out, read without network.
//!
//! ```text
//! models--owner--name/refs/main                    the commit that `main` last was
//!                     snapshots/<commit>/<file>    links into blobs/
//!                     blobs/<etag>
//!                     .fedpipe/<commit>.json   the names of all files, which only fedpipe notes
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Kind;

/// The cache folder.
#[derive(Clone, Debug)]
pub struct HubCache {
    folder: PathBuf,
}

impl HubCache {
    /// The cache in this folder, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The commit that `revision` is known to be: itself if it is a whole hash, what the cache
    /// noted when it was last asked for, or the one cached commit that begins with it.
    pub fn commit(&self, kind: Kind, repo: &str, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let noted = fs::read_to_string(self.reference(kind, repo, revision)).ok();
        let noted = noted.map(|text| text.trim().to_owned());
        noted.filter(|commit| is_commit(commit)).or_else(|| self.shortened(kind, repo, revision))
    }

    /// Where a file of a commit lies, if it is there.
    pub fn file(&self, kind: Kind, repo: &str, commit: &str, name: &str) -> Option<PathBuf> {
        let path = self.snapshot(kind, repo, commit).join(name);
        // A link to a blob that was deleted is a file that is not there.
        path.is_file().then_some(path)
    }

    /// The files of a commit that are here, sorted, as paths with `/`; folders come as prefixes.
    pub fn files(&self, kind: Kind, repo: &str, commit: &str) -> Vec<String> {
        names_under(&self.snapshot(kind, repo, commit))
    }

    /// Notes that `revision` is `commit`, as the other libraries do. Best effort: a cache that
    /// cannot be written still works.
    pub(super) fn note(&self, kind: Kind, repo: &str, revision: &str, commit: &str) {
        let path = self.reference(kind, repo, revision);
        if is_commit(revision) || fs::read_to_string(&path).is_ok_and(|old| old.trim() == commit) {
            return;
        }
        if let Some(folder) = path.parent() {
            let noted = fs::create_dir_all(folder).and_then(|()| fs::write(&path, commit));
            drop(noted);
        }
    }

    /// The names of all of a commit's files, if they were noted.
    pub(super) fn listing(&self, kind: Kind, repo: &str, commit: &str) -> Option<Vec<String>> {
        let text = fs::read(self.noted_listing(kind, repo, commit)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Notes the names of all of a commit's files, which never change. Without them nobody could
    /// tell offline whether what is here is all. Best effort.
    pub(super) fn note_listing(&self, kind: Kind, repo: &str, commit: &str, names: &[String]) {
        let path = self.noted_listing(kind, repo, commit);
        if let (Some(folder), Ok(text)) = (path.parent(), serde_json::to_vec(names)) {
            let part = path.with_extension(format!("{}.part", std::process::id()));
            let noted = fs::create_dir_all(folder)
                .and_then(|()| fs::write(&part, text))
                .and_then(|()| fs::rename(&part, &path));
            drop(noted);
        }
    }

    /// Where the bytes with this `ETag` are, or are to be: in a folder that is there.
    pub(super) fn blob(&self, kind: Kind, repo: &str, etag: &str) -> io::Result<PathBuf> {
        let folder = self.repository(kind, repo).join("blobs");
        fs::create_dir_all(&folder)?;
        Ok(folder.join(etag))
    }

    /// The file that whoever fetches these bytes holds locked, as in Hugging Face's own library.
    pub(super) fn lock(&self, kind: Kind, repo: &str, etag: &str) -> PathBuf {
        self.folder.join(".locks").join(folder_name(kind, repo)).join(format!("{etag}.lock"))
    }

    /// Gives a blob its name in a commit, and returns where that is.
    pub(super) fn link(
        &self,
        kind: Kind,
        repo: &str,
        commit: &str,
        name: &str,
        blob: &Path,
    ) -> io::Result<PathBuf> {
        let path = self.snapshot(kind, repo, commit).join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        if path.is_symlink() {
            // Its blob was deleted, or another process was faster.
            fs::remove_file(&path)?;
        }
        let etag = blob.file_name().unwrap_or_default();
        let up = "../".repeat(name.split('/').count() + 1);
        if symlink(&Path::new(&up).join("blobs").join(etag), &path).is_err() && !path.is_file() {
            // A file system without links holds the file itself, as the other libraries do it.
            fs::rename(blob, &path)?;
        }
        Ok(path)
    }

    /// The folder of one repository.
    fn repository(&self, kind: Kind, repo: &str) -> PathBuf {
        self.folder.join(folder_name(kind, repo))
    }

    fn noted_listing(&self, kind: Kind, repo: &str, commit: &str) -> PathBuf {
        self.repository(kind, repo).join(".fedpipe").join(format!("{commit}.json"))
    }

    fn reference(&self, kind: Kind, repo: &str, revision: &str) -> PathBuf {
        self.repository(kind, repo).join("refs").join(revision)
    }

    fn snapshot(&self, kind: Kind, repo: &str, commit: &str) -> PathBuf {
        self.repository(kind, repo).join("snapshots").join(commit)
    }

    fn shortened(&self, kind: Kind, repo: &str, revision: &str) -> Option<String> {
        if revision.len() < 7 || !revision.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let snapshots = self.repository(kind, repo).join("snapshots");
        let mut matching = fs::read_dir(snapshots)
            .ok()?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| is_commit(name) && name.starts_with(revision));
        matching.next().filter(|_| matching.next().is_none())
    }
}

fn folder_name(kind: Kind, repo: &str) -> String {
    format!("{}--{}", kind.plural(), repo.replace('/', "--"))
}

#[cfg(unix)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(windows)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to, at)
}

/// Whether this is a whole commit hash: 40 hexadecimal digits.
pub fn is_commit(revision: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    revision.len() == 40 && revision.bytes().all(hex)
}

/// The files below a folder, sorted, as relative paths with `/`. Hidden ones are left out, as is
/// what cannot be read.
pub(super) fn names_under(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = vec![String::new()];
    while let Some(prefix) = open.pop() {
        let Ok(entries) = fs::read_dir(folder.join(&prefix)) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            // Through links, which is what a snapshot is made of; but never up or around: a linked
            // folder is not followed.
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder {
                open.push(format!("{prefix}{name}/"));
            } else if entry.path().is_file() {
                names.push(format!("{prefix}{name}"));
            }
        }
    }
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn what_another_library_fetched_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::new(folder.path());
        let repo = folder.path().join("models--owner--name");
        let snapshot = repo.join("snapshots").join(COMMIT);
        fs::create_dir_all(snapshot.join("data")).unwrap();
        fs::create_dir_all(repo.join("refs/refs")).unwrap();
        fs::write(repo.join("refs/main"), format!("{COMMIT}\n")).unwrap();
        fs::write(snapshot.join("config.json"), "{}").unwrap();
        fs::write(snapshot.join("data/a.csv"), "").unwrap();
        #[cfg(unix)]
        std::os::unix::fs::symlink("../../blobs/gone", snapshot.join("model.safetensors")).unwrap();

        let kind = Kind::Model;
        assert_eq!(cache.commit(kind, "owner/name", "main").unwrap(), COMMIT);
        assert_eq!(cache.commit(kind, "owner/name", "0123456").unwrap(), COMMIT);
        assert_eq!(cache.commit(kind, "owner/name", "012345"), None);
        assert_eq!(cache.commit(kind, "owner/name", "other"), None);
        assert_eq!(cache.commit(Kind::Dataset, "owner/name", "main"), None);
        assert!(cache.file(kind, "owner/name", COMMIT, "config.json").is_some());
        assert!(cache.file(kind, "owner/name", COMMIT, "model.safetensors").is_none());
        assert_eq!(cache.files(kind, "owner/name", COMMIT), ["config.json", "data/a.csv"]);
    }
}
