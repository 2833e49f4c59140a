//! The few file operations that the protocol is made of. Each is atomic: a kill leaves the old state or the new one.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

/// Sets the times of a file to now, by the clock of its file system, and looks at it again.
///
/// `None` if it is not there. The second look closes the window in which the name was resolved before a rename took the
/// file away and the time was set after it: what is still at its path after its time was set cannot be collected.
pub(crate) fn touch(path: &Path) -> io::Result<Option<Metadata>> {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    match rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()) {
        Ok(()) => look(path),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// What is at `path`, if anything.
pub(crate) fn look(path: &Path) -> io::Result<Option<Metadata>> {
    absent_is_none(fs::metadata(path))
}

/// The bytes at `path`, if it is there.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    absent_is_none(fs::read(path))
}

pub(crate) fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file; `false` if it was not there.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    Ok(absent_is_none(fs::remove_file(path))?.is_some())
}

/// Creates a file that must not be there yet.
pub(crate) fn create(path: &Path, mode: u32) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
    };
    with_parent(path, open)
}

/// Creates a file with all its bytes.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    create(path, mode)?.write_all(bytes)
}

/// Renames onto whatever is there, making the folder if it is missing.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    with_parent(to, || fs::rename(from, to))
}

/// Renames only if nothing is there: `false` if something is. The first one wins.
pub(crate) fn rename_if_absent(from: &Path, to: &Path) -> io::Result<bool> {
    let renamed = with_parent(to, || {
        Ok(rustix::fs::renameat_with(
            CWD,
            from,
            CWD,
            to,
            RenameFlags::NOREPLACE,
        )?)
    });
    match renamed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        // Some network file systems know no flags: there, a hard link is what fails if the name is taken.
        Err(error) if is_unsupported(&error) => link_if_absent(from, to),
        Err(error) => Err(error),
    }
}

fn link_if_absent(from: &Path, to: &Path) -> io::Result<bool> {
    match with_parent(to, || fs::hard_link(from, to)) {
        Ok(()) => fs::remove_file(from).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [Errno::INVAL, Errno::NOSYS, Errno::NOTSUP]
        .iter()
        .any(|e| errno == Some(e.raw_os_error()))
}

/// Shards are made when they are first needed.
fn with_parent<T>(path: &Path, operation: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match operation() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            operation()
        }
        result => result,
    }
}

/// The names in a folder, sorted; none if it is not there. Names that are not UTF-8 are none of ours.
pub(crate) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = absent_is_none(fs::read_dir(folder))? else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rename_wins() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two, to) = (
            dir.path().join("1"),
            dir.path().join("2"),
            dir.path().join("x/y"),
        );
        write(&one, b"one", 0o444).unwrap();
        write(&two, b"two", 0o444).unwrap();
        assert!(rename_if_absent(&one, &to).unwrap());
        assert!(!rename_if_absent(&two, &to).unwrap());
        assert!(!link_if_absent(&two, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"one");
        assert!(link_if_absent(&two, &dir.path().join("z")).unwrap());
        assert!(!two.exists());
    }

    #[test]
    fn touch_moves_the_time_of_a_read_only_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        assert!(touch(&path).unwrap().is_none());
        write(&path, b"x", 0o444).unwrap();
        File::open(&path)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
        let touched = touch(&path).unwrap().unwrap();
        assert!(touched.modified().unwrap() > std::time::UNIX_EPOCH);
    }
}
