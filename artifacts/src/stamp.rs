//! What a file system says of a file: if none of it changed, neither did the bytes.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Size, times and identity of a file. Times are seconds and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
    inode: u64,
    device: u64,
}

impl Stamp {
    pub(crate) fn of(found: &Metadata) -> Self {
        Self {
            size: found.len(),
            mtime: (found.mtime(), found.mtime_nsec()),
            ctime: (found.ctime(), found.ctime_nsec()),
            inode: found.ino(),
            device: found.dev(),
        }
    }

    /// Follows links: the stamp is that of the bytes.
    pub(crate) fn at(path: &Path) -> std::io::Result<Self> {
        Ok(Self::of(&std::fs::metadata(path)?))
    }

    /// Device and inode: the file, whatever its name is.
    pub(crate) fn file(&self) -> String {
        format!("{}:{}", self.device, self.inode)
    }

    /// Whether the file was last written at least `gap` before `now`. A later write within one tick
    /// of the clock of the file system would leave no trace in the stamp.
    pub(crate) fn is_settled(&self, now: SystemTime, gap: Duration) -> bool {
        [self.mtime, self.ctime]
            .into_iter()
            .all(|(seconds, nanos)| {
                let (Ok(seconds), Ok(nanos)) = (u64::try_from(seconds), u32::try_from(nanos))
                else {
                    return false;
                };
                UNIX_EPOCH + Duration::new(seconds, nanos) + gap <= now
            })
    }
}
