//! The FORMAT file: what makes a folder a store, and which version may use it.

use std::fs;
use std::path::Path;

use crate::error::{At, Error, Result};
use crate::{Digest, files, holder, layout};

const NAME: &str = "FORMAT";
const FIRST_LINE: &str = "fedpipe-store 1";
/// What this version knows of; a store that requires anything else is refused.
const FEATURES: [&str; 0] = [];

/// Reads FORMAT: the id of the store, or `None` where there is no store yet.
///
/// A folder counts as no store yet if it is absent, empty, or holds only what a killed [`create`]
/// leaves behind.
pub(crate) fn read(root: &Path) -> Result<Option<String>> {
    let path = root.join(NAME);
    // Another process may be making the store: what it has just finished is read on a second look.
    for _ in 0..2 {
        match fs::read_to_string(&path) {
            Ok(text) => return parse(root, &path, &text).map(Some),
            Err(error) if is_no_file(&error) => {}
            Err(error) => return Err(error).at(&path),
        }
        if is_unfinished(root)? {
            return Ok(None);
        }
    }
    Err(Error::NotAStore {
        path: root.to_owned(),
    })
}

fn is_no_file(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

fn is_unfinished(root: &Path) -> Result<bool> {
    match files::look(root).at(root)? {
        None => return Ok(true),
        Some(found) if !found.is_dir() => return Ok(false),
        Some(_) => {}
    }
    for name in files::names(root).at(root)? {
        let path = root.join(&name);
        let is_ours = if layout::FOLDERS.contains(&name.as_str()) {
            files::names(&path).at(&path)?.is_empty()
        } else {
            name.starts_with("FORMAT.new-")
        };
        if !is_ours {
            return Ok(false);
        }
    }
    Ok(true)
}

fn parse(root: &Path, path: &Path, text: &str) -> Result<String> {
    let unsupported = |feature: String| Error::Unsupported {
        path: root.to_owned(),
        feature,
    };
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    if !first.starts_with("fedpipe-store ") {
        return Err(Error::damaged(
            path,
            "its first line is not that of a store",
        ));
    }
    if first != FIRST_LINE {
        return Err(unsupported(format!("the format `{first}`")));
    }
    let mut id = None;
    for line in lines {
        match line.split_once(' ') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("required", name)) if !FEATURES.contains(&name) => {
                return Err(unsupported(format!("the feature `{name}`")));
            }
            // An optional feature is one that a version which does not know it may ignore.
            _ => {}
        }
    }
    id.ok_or_else(|| Error::damaged(path, "it has no id"))
}

/// Makes an empty store: the folders first, FORMAT last and whole, so that a kill leaves no
/// half of one. Of several processes one wins, and all get its store.
pub(crate) fn create(root: &Path) -> Result<()> {
    for folder in layout::FOLDERS {
        let path = root.join(folder);
        fs::create_dir_all(&path).at(&path)?;
    }
    let word = holder::unique();
    let new = root.join(format!("{NAME}.new-{word}"));
    files::write(&new, b"", 0o644).at(&new)?;
    // Process, file and time: no other store gets the same id.
    let seed = format!("{word} {:?}", fs::metadata(&new).at(&new)?);
    let id = &Digest::derive("fedpipe store id", seed.as_bytes()).to_string()[..32];
    fs::write(&new, format!("{FIRST_LINE}\nid {id}\n")).at(&new)?;
    let path = root.join(NAME);
    if !files::rename_if_absent(&new, &path).at(&path)? {
        files::remove(&new).at(&new)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_things_is_no_store() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        assert_eq!(read(&dir.path().join("absent")).unwrap(), None);
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = read(dir.path()).unwrap_err();
        assert!(
            matches!(&error, Error::NotAStore { path } if path == dir.path()),
            "{error}"
        );
        assert!(matches!(
            read(&dir.path().join("thesis.tex")),
            Err(Error::NotAStore { .. })
        ));
    }

    #[test]
    fn what_a_killed_creation_leaves_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("cas")).unwrap();
        fs::write(dir.path().join("FORMAT.new-1-0"), "").unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        create(dir.path()).unwrap();
        let id = read(dir.path()).unwrap().unwrap();
        create(dir.path()).unwrap();
        assert_eq!(read(dir.path()).unwrap().unwrap(), id, "the first one wins");
    }

    #[test]
    fn an_unknown_format_or_feature_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (text, word) in [
            ("fedpipe-store 2\nid a\n", "fedpipe-store 2"),
            ("fedpipe-store 1\nid a\nrequired packs\n", "packs"),
        ] {
            fs::write(dir.path().join(NAME), text).unwrap();
            let error = read(dir.path()).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        fs::write(
            dir.path().join(NAME),
            "fedpipe-store 1\nid a\noptional packs\n",
        )
        .unwrap();
        assert_eq!(read(dir.path()).unwrap().as_deref(), Some("a"));
        fs::write(dir.path().join(NAME), "").unwrap();
        assert!(matches!(read(dir.path()), Err(Error::Damaged { .. })));
    }
}
