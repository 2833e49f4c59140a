//! Leases: each live process says that it is at work, and since when.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{At, Result};
use crate::holder::{self, Holder};
use crate::{Store, files};

const HEARTBEAT: Duration = Duration::from_mins(1);
/// A holder that cannot be asked is taken for dead after this long without a heartbeat.
const SILENCE: Duration = Duration::from_mins(15);

/// Keeps the collector from everything that was made or touched since it was taken.
///
/// Take it before the first look at the store, and keep it until after the last use. Clones are the
/// same lease; the last one to go gives it back, with all that was staged under it.
#[derive(Clone, Debug)]
pub struct Lease {
    held: Arc<Held>,
}

#[derive(Debug)]
struct Held {
    id: String,
    file: PathBuf,
    staging: PathBuf,
    count: AtomicU64,
    heart: Option<(Sender<()>, JoinHandle<()>)>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    holder: Holder,
    /// By the clock of the store: seconds and nanoseconds since 1970.
    start: (u64, u32),
}

impl Lease {
    pub(crate) fn take(store: &Store) -> Result<Self> {
        let holder = Holder::this();
        let tmp = store.folder("tmp");
        loop {
            let id = holder::unique();
            let new = tmp.join(format!("lease-{id}"));
            files::write(&new, b"", 0o644).at(&new)?;
            // The start is older than the moment at which the collector can first see the lease.
            let start = fs::metadata(&new).and_then(|m| m.modified()).at(&new)?;
            let since = start.duration_since(UNIX_EPOCH).unwrap_or_default();
            let start = (since.as_secs(), since.subsec_nanos());
            let content = Content {
                holder: holder.clone(),
                start,
            };
            fs::write(&new, serde_json::to_vec(&content).at(&new)?).at(&new)?;
            let file = store.folder("leases").join(&id);
            if files::rename_if_absent(&new, &file).at(&file)? {
                let staging = tmp.join(&id);
                fs::create_dir(&staging).at(&staging)?;
                return Ok(Self::beating(id, file, staging));
            }
            files::remove(&new).at(&new)?;
        }
    }

    fn beating(id: String, file: PathBuf, staging: PathBuf) -> Self {
        let (stop, stopped) = mpsc::channel::<()>();
        let path = file.clone();
        let beat = move || {
            while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                // A beat that fails is made up for by the next one, 14 times over.
                drop(files::touch(&path));
            }
        };
        // Without a thread the lease still holds: on this machine the process itself is looked for.
        let thread = std::thread::Builder::new()
            .name("store heartbeat".into())
            .spawn(beat);
        let heart = thread.ok().map(|thread| (stop, thread));
        Self {
            held: Arc::new(Held {
                id,
                file,
                staging,
                count: AtomicU64::new(0),
                heart,
            }),
        }
    }

    /// The name of the lease.
    pub fn id(&self) -> &str {
        &self.held.id
    }

    /// A new path on the file system of the store that nobody else writes to.
    pub(crate) fn staging(&self) -> PathBuf {
        let count = self.held.count.fetch_add(1, Ordering::Relaxed);
        self.held.staging.join(count.to_string())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.heart.take() {
            drop(stop);
            drop(thread.join());
        }
        // What cannot be removed now is found dead by the collector.
        drop(fs::remove_dir_all(&self.staging));
        drop(fs::remove_file(&self.file));
    }
}

/// A lease as the collector finds it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) start: SystemTime,
    pub(crate) is_live: bool,
}

/// All leases, as seen at the store's time `now`.
pub(crate) fn read_all(store: &Store, now: SystemTime) -> Result<Vec<Found>> {
    let folder = store.folder("leases");
    let this = Holder::this();
    let mut leases = Vec::new();
    for id in files::names(&folder).at(&folder)? {
        let path = folder.join(&id);
        // A lease that went away since the listing was given back by its holder.
        let Some(bytes) = files::read(&path).at(&path)? else {
            continue;
        };
        let Some(beat) = files::look(&path).at(&path)? else {
            continue;
        };
        leases.push(judge(id, &bytes, beat.modified().at(&path)?, &this, now));
    }
    Ok(leases)
}

fn judge(id: String, bytes: &[u8], beat: SystemTime, this: &Holder, now: SystemTime) -> Found {
    let is_silent = now
        .duration_since(beat)
        .is_ok_and(|silence| silence > SILENCE);
    match serde_json::from_slice::<Content>(bytes) {
        Ok(Content {
            holder,
            start: (seconds, nanos),
        }) => Found {
            id,
            start: UNIX_EPOCH + Duration::new(seconds, nanos),
            is_live: holder.is_alive(this).unwrap_or(!is_silent),
        },
        // Nobody knows since when it holds, so that it keeps everything while it beats.
        Err(_) => Found {
            id,
            start: UNIX_EPOCH,
            is_live: !is_silent,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_there_while_it_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let lease = store.lease().unwrap();
        let again = lease.clone();
        let now = store.now().unwrap();
        let found = read_all(&store, now).unwrap();
        assert!(
            found.len() == 1 && found[0].is_live && found[0].start <= now,
            "{found:?}"
        );
        drop(lease);
        assert_eq!(read_all(&store, now).unwrap().len(), 1);
        drop(again);
        assert!(read_all(&store, now).unwrap().is_empty());
        assert!(files::names(&store.folder("tmp")).unwrap().is_empty());
    }

    #[test]
    fn a_holder_elsewhere_dies_by_silence() {
        let this = Holder::this();
        let now = UNIX_EPOCH + Duration::from_hours(10);
        let elsewhere =
            r#"{"holder":{"host":"b","boot":"b","space":null,"pid":7,"begun":null},"start":[5,6]}"#;
        for (content, minutes, is_live) in [
            (elsewhere, 14, true),
            (elsewhere, 16, false),
            ("", 14, true),
            ("", 16, false),
        ] {
            let beat = now - Duration::from_mins(minutes);
            let found = judge("x".into(), content.as_bytes(), beat, &this, now);
            assert_eq!(found.is_live, is_live, "{content} {minutes}");
            let start = if content.is_empty() {
                Duration::ZERO
            } else {
                Duration::new(5, 6)
            };
            assert_eq!(found.start, UNIX_EPOCH + start);
        }
    }
}
