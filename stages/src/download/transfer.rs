//! One file from the Hub into its cache, taken up where an earlier transfer of it stopped.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ureq::http::Uri;

use super::client::{Ask, Client, etag, header, interrupted};
use super::refusal::Cause;

/// How often to look whether another process has let go of a file, and how many times.
const LOCK_WAIT: Duration = Duration::from_millis(100);
const LOCK_WAITS: usize = 6000;

/// Why a transfer gave no file.
pub(super) enum Stop {
    /// It is no longer wanted.
    Asked,
    /// It went wrong.
    Failed(Cause),
}

impl From<Cause> for Stop {
    fn from(cause: Cause) -> Self {
        Self::Failed(cause)
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(Cause::Disk(error))
    }
}

/// Told the bytes that are here, and those in all.
pub(super) type Told<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// A file as the Hub tells of it before it is fetched.
pub(super) struct Remote {
    /// What names its content, and its blob.
    pub(super) etag: String,
    size: Option<u64>,
    url: Uri,
}

impl Remote {
    /// Asks for what stands at `url`, which is to be of this commit.
    pub(super) fn ask(client: &Client, url: &Uri, commit: &str) -> Result<Self, Cause> {
        let answer = client.send(url, Ask::Head)?;
        let header = |name| header(&answer.response, name);
        let strange = |what: &str| Err(Cause::NotAHub(what.to_owned()));
        if header("x-repo-commit").is_some_and(|other| other != commit) {
            return strange("a file of another commit");
        }
        let plain = |etag: &&str| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
            !etag.is_empty() && etag.bytes().all(known)
        };
        // It becomes a file's name.
        let Some(etag) = etag(&answer.response).filter(plain) else {
            return strange("a file without a usable ETag");
        };
        // A redirect's own length is that of a page that nobody reads.
        let own = header("content-length").filter(|_| answer.response.status().is_success());
        let size = header("x-linked-size").or(own).and_then(|size| size.parse().ok());
        Ok(Self { etag: etag.to_owned(), size, url: answer.url })
    }

    /// Fetches it to `blob`. The name appears there only once the content is known to be right.
    pub(super) fn fetch(
        &self,
        client: &Client,
        blob: &Path,
        told: &mut Told<'_>,
    ) -> Result<(), Stop> {
        let part = partial(blob);
        let size = self.transfer(client, &part, told)?;
        if self.size.is_some_and(|expected| expected != size)
            || !super::content::is_of(&self.etag, &part)?
        {
            fs::remove_file(&part)?;
            return Err(Cause::Damaged.into());
        }
        Ok(fs::rename(&part, blob)?)
    }

    /// Brings the bytes that are missing, and returns how many there are then.
    fn transfer(&self, client: &Client, part: &Path, told: &mut Told<'_>) -> Result<u64, Stop> {
        let mut file = OpenOptions::new().create(true).append(true).open(part)?;
        let mut here = file.metadata()?.len();
        if self.size.is_some_and(|size| here > size) {
            here = restart(&file)?;
        }
        if self.size == Some(here) {
            // All bytes came, and then the process was ended.
            return Ok(here);
        }
        let response = client.send(&self.url, Ask::Bytes(here))?.response;
        match response.status().as_u16() {
            206 if header(&response, "content-range").and_then(first_byte) == Some(here) => {}
            // The server knows no ranges: this is the whole.
            200 => here = restart(&file)?,
            _ => {
                restart(&file)?;
                let reason = "the rest of the file is not to be had".to_owned();
                return Err(Cause::Broken(reason).into());
            }
        }
        let mut body = response.into_body().into_reader();
        let mut piece = vec![0; 1 << 16];
        loop {
            if told(here, self.size.unwrap_or(here)).is_break() {
                return Err(Stop::Asked);
            }
            let n = body.read(&mut piece).map_err(|error| interrupted(&error))?;
            if n == 0 {
                break;
            }
            file.write_all(&piece[..n])?;
            here += n as u64;
        }
        match self.size {
            // A connection that closes early can look like the end of the file.
            Some(size) if here < size => {
                Err(Cause::Broken(format!("{here} of {size} bytes came")).into())
            }
            _ => Ok(here),
        }
    }
}

/// Where a blob is while it is incomplete, as in Hugging Face's own library.
pub(super) fn partial(blob: &Path) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(".incomplete");
    name.into()
}

/// Waits until nobody else fetches what this lock stands for.
pub(super) fn lock(path: &Path, told: &mut Told<'_>) -> Result<File, Stop> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    for _ in 0..LOCK_WAITS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if told(0, 0).is_break() => return Err(Stop::Asked),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_WAIT),
            // Without an answer from the file system two downloads of one file may meet; then the
            // check of the content tells.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(file),
        }
    }
    Err(Cause::Locked.into())
}

fn restart(file: &File) -> std::io::Result<u64> {
    file.set_len(0)?;
    Ok(0)
}

/// The `7` of `bytes 7-15/16`.
fn first_byte(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}
