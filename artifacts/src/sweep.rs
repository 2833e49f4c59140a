//! Taking things away so that they can be given back: rename, look again, and only then remove.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::error::{At, Result};
use crate::layout::{self, Area};
use crate::{Digest, Store, files, holder};

/// A file as the collector sees it.
pub(crate) struct Seen {
    pub(crate) digest: Digest,
    pub(crate) len: u64,
    pub(crate) time: SystemTime,
}

/// What became of a file that was to go.
pub(crate) enum Fate {
    /// It is removed.
    Gone,
    /// Somebody touched it: it is back, and these are its bytes (of a record; else none).
    Back(Vec<u8>),
    /// Somebody took it, or it had gone before.
    Absent,
}

/// Renames a file into the trash, looks at it again, and removes it unless its time has moved.
///
/// Whoever touched it before the rename moved its time, so that it is put back. Whoever comes after
/// it does not find it, and puts its own or waits.
pub(crate) fn take(store: &Store, area: Area, digest: &Digest, floor: SystemTime) -> Result<Fate> {
    let (place, trash) = (store.place(area, digest), store.trash(area, digest));
    if files::absent_is_none(files::rename(&place, &trash))
        .at(&trash)?
        .is_none()
    {
        return Ok(Fate::Absent);
    }
    let Some(found) = files::look(&trash).at(&trash)? else {
        return Ok(Fate::Absent);
    };
    if found.modified().at(&trash)? < floor {
        // It may have been taken back since the look: then it is somebody's, and stays.
        let is_removed = files::remove(&trash).at(&trash)?;
        return Ok(if is_removed { Fate::Gone } else { Fate::Absent });
    }
    let bytes = match area {
        Area::Records => files::read(&trash).at(&trash)?.unwrap_or_default(),
        Area::Blobs | Area::External => Vec::new(),
    };
    put_back(&trash, &place)?;
    Ok(Fate::Back(bytes))
}

/// If another one has its place by now, that one stays.
fn put_back(trash: &Path, place: &Path) -> Result<()> {
    let renamed = files::absent_is_none(files::rename_if_absent(trash, place)).at(place)?;
    if renamed == Some(false) {
        files::remove(trash).at(trash)?;
    }
    Ok(())
}

/// Puts back what an interrupted collection took away: this one decides anew.
pub(crate) fn recover(store: &Store) -> Result<()> {
    let folder = store.folder("trash");
    for shard in files::names(&folder).at(&folder)? {
        let path = folder.join(&shard);
        if shard.starts_with(FOLDER) {
            remove_all(&path)?;
            continue;
        }
        for name in files::names(&path).at(&path)? {
            if let Some((area, digest)) = Area::of_trash(&shard, &name) {
                put_back(&path.join(&name), &store.place(area, &digest))?;
            }
        }
    }
    Ok(())
}

const FOLDER: &str = "folder-";

/// Removes a folder or a file: out of sight in one step, then for good.
pub(crate) fn remove_folder(store: &Store, path: &Path) -> Result<()> {
    let trash = store
        .folder("trash")
        .join(format!("{FOLDER}{}", holder::unique()));
    match files::absent_is_none(files::rename(path, &trash)).at(path)? {
        Some(()) => remove_all(&trash),
        None => Ok(()),
    }
}

fn remove_all(path: &Path) -> Result<()> {
    let found = files::absent_is_none(fs::symlink_metadata(path)).at(path)?;
    match found {
        Some(found) if found.is_dir() => files::absent_is_none(fs::remove_dir_all(path))
            .at(path)
            .map(drop),
        Some(_) => files::remove(path).at(path).map(drop),
        None => Ok(()),
    }
}

/// The names of the shards of an area.
pub(crate) fn shards(store: &Store, area: Area) -> Result<Vec<String>> {
    let folder = store.folder(area.folder());
    let mut names = files::names(&folder).at(&folder)?;
    names.retain(|name| name.len() == 2);
    Ok(names)
}

/// The files of a shard, sorted. It is listed as a whole before anything in it is renamed.
pub(crate) fn shard(store: &Store, area: Area, shard: &str) -> Result<Vec<Seen>> {
    let folder = store.folder(area.folder()).join(shard);
    let mut all = Vec::new();
    let Some(entries) = files::absent_is_none(fs::read_dir(&folder)).at(&folder)? else {
        return Ok(all);
    };
    for entry in entries {
        let entry = entry.at(&folder)?;
        let name = entry.file_name();
        let Some(digest) = name.to_str().and_then(|name| layout::digest(shard, name)) else {
            continue;
        };
        // One that went away since the listing is none of ours any more.
        if let Some(found) = files::absent_is_none(entry.metadata()).at(&folder)? {
            let time = found.modified().at(&folder)?;
            all.push(Seen {
                digest,
                len: found.len(),
                time,
            });
        }
    }
    all.sort_unstable_by_key(|seen| seen.digest);
    Ok(all)
}

/// The bytes in a folder (or a file), and the time of the newest thing in it, itself included.
pub(crate) fn weigh(path: &Path) -> Result<(u64, Option<SystemTime>)> {
    let Some(found) = files::absent_is_none(fs::symlink_metadata(path)).at(path)? else {
        return Ok((0, None));
    };
    let mut newest = Some(found.modified().at(path)?);
    if !found.is_dir() {
        return Ok((found.len(), newest));
    }
    let mut bytes = 0;
    for name in files::names(path).at(path)? {
        let (more, time) = weigh(&path.join(name))?;
        bytes += more;
        newest = newest.max(time);
    }
    Ok((bytes, newest))
}
