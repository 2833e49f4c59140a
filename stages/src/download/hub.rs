//! The Hugging Face Hub. The one file that names `hf-hub` and its HTTP client.
//!
//! `hf-hub` knows neither offline mode nor time limits, and resumes wrongly in two cases; what is
//! done about each is said where it is done.

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::cache::HubCache;
use super::names::{check_file, check_repository};
use super::refusal::{Cause, Refusal};
use super::{Kind, Progress};
use crate::{Error, Result};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a download may go without one byte.
const STALL_LIMIT: Duration = Duration::from_mins(1);
const RETRIES: u32 = 3;
/// Another process may be fetching the same file; `hf-hub` waits five seconds for its lock.
const LOCK_WAITS: u32 = 120;

/// How the Hub is reached: values, read from nowhere else.
#[derive(Clone)]
pub struct HubSettings {
    /// The Hub's cache folder (`HF_HUB_CACHE`).
    pub cache: PathBuf,
    /// The access token. It goes to the endpoint, and to no message.
    pub token: Option<String>,
    /// The Hub or a mirror of it, such as `https://huggingface.co`.
    pub endpoint: String,
    /// Use what is cached, and no network.
    pub offline: bool,
}

impl std::fmt::Debug for HubSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HubSettings")
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .finish()
    }
}

/// The Hub behind its cache: what is cached is used, the rest is fetched into the cache.
#[derive(Clone, Debug)]
pub struct Hub {
    settings: HubSettings,
    cache: HubCache,
    api: Api,
}

impl Hub {
    /// A Hub by these settings; nothing is asked yet.
    pub fn new(settings: &HubSettings) -> Result<Self> {
        let mut settings = settings.clone();
        settings.endpoint.truncate(settings.endpoint.trim_end_matches('/').len());
        settings.cache = std::path::absolute(&settings.cache)
            .map_err(|source| Error::io("find", &settings.cache, source))?;
        // Its own retries are off: after a resumed download that failed before its first byte they
        // start at byte 0 and append to what is there.
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_user_agent("fedpipe", env!("CARGO_PKG_VERSION"))
            .with_progress(false)
            .with_retries(0)
            .build()
            .map_err(|error| Error::failed(format!("cannot set up the Hub client: {error}")))?;
        Ok(Self { cache: HubCache::new(settings.cache.clone()), settings, api })
    }

    /// The cache that it works on.
    pub fn cache(&self) -> &HubCache {
        &self.cache
    }

    /// The commit (40 hexadecimal digits) that `revision` is now.
    ///
    /// A whole commit hash is returned as it is. Offline, or with the Hub out of reach, it is what
    /// the cache last noted.
    pub fn resolve(&self, kind: Kind, repo: &str, revision: &str) -> Result<String> {
        check_repository(repo, revision)?;
        if super::cache::is_commit(revision) {
            return Ok(revision.to_owned());
        }
        if self.settings.offline {
            return self
                .cache
                .commit(kind, repo, revision)
                .ok_or_else(|| self.refusal(repo, revision).error(Cause::Offline));
        }
        match self.info(kind, repo, revision) {
            Ok(info) => {
                self.cache.note(kind, repo, revision, &info.sha);
                Ok(info.sha)
            }
            Err(cause) => match self.cache.commit(kind, repo, revision) {
                Some(commit) if cause.is_out_of_reach() => Ok(commit),
                _ => Err(self.refusal(repo, revision).error(cause)),
            },
        }
    }

    /// The commit that the cache knows `revision` as; asks nobody.
    pub fn cached_commit(&self, kind: Kind, repo: &str, revision: &str) -> Option<String> {
        check_repository(repo, revision).ok()?;
        self.cache.commit(kind, repo, revision)
    }

    /// The names of a commit's files, sorted.
    ///
    /// Offline, or with the Hub out of reach, those that are cached.
    pub fn list(&self, kind: Kind, repo: &str, commit: &str) -> Result<Vec<String>> {
        check_repository(repo, commit)?;
        let cause = if self.settings.offline {
            Cause::Offline
        } else {
            match self.info(kind, repo, commit) {
                Ok(info) => {
                    let files = info.siblings.into_iter();
                    let mut names: Vec<String> = files.map(|file| file.rfilename).collect();
                    names.sort_unstable();
                    return Ok(names);
                }
                Err(cause) => cause,
            }
        };
        let cached = self.cache.files(kind, repo, commit);
        if cause.is_out_of_reach() && !cached.is_empty() {
            Ok(cached)
        } else {
            Err(self.refusal(repo, commit).error(cause))
        }
    }

    /// Where a file of a commit lies in the cache, after fetching it if it was not there.
    ///
    /// A download that was cut off is taken up where it stopped.
    pub fn file(
        &self,
        kind: Kind,
        repo: &str,
        commit: &str,
        name: &str,
        progress: &mut Progress<'_>,
    ) -> Result<PathBuf> {
        check_repository(repo, commit)?;
        check_file(repo, name)?;
        let refusal = self.refusal(repo, commit).of_file(name);
        let (mut retries, mut waits) = (0, 0);
        loop {
            if let Some(path) = self.cache.file(kind, repo, commit, name) {
                return Ok(path);
            }
            if self.settings.offline {
                return Err(refusal.error(Cause::Offline));
            }
            self.cache.unlink_dangling(kind, repo, commit, name);
            let target = Repo::with_revision(repo.to_owned(), repo_type(kind), commit.to_owned());
            match self.fetch(target.clone(), name, progress) {
                Ok(path) => {
                    // `hf-hub` notes every commit under its own name too, which no other library does.
                    let noted = self.cache.repository(kind, repo).join("refs").join(commit);
                    drop(fs::remove_file(noted));
                    return Ok(path);
                }
                Err(Stop::Asked) => return Err(Error::Stopped),
                Err(Stop::Locked) if waits < LOCK_WAITS => waits += 1,
                Err(Stop::Locked) => return Err(refusal.error(Cause::Locked)),
                Err(Stop::Partial) if retries < RETRIES => {
                    self.discard_partial(kind, repo, target, name);
                    retries += 1;
                }
                Err(Stop::Partial) => return Err(refusal.error(Cause::Cut)),
                Err(Stop::Failed(cause)) if cause.may_pass() && retries < RETRIES => {
                    pause(retries);
                    retries += 1;
                }
                Err(Stop::Failed(cause)) => return Err(refusal.error(cause)),
            }
        }
    }

    /// Fetches on a thread of its own: `hf-hub` can neither be stopped nor time out, so a download
    /// that stalls or is no longer wanted is left behind, to end with the process.
    fn fetch(&self, repo: Repo, name: &str, progress: &mut Progress<'_>) -> Result<PathBuf, Stop> {
        let (sender, receiver) = mpsc::channel();
        let api = self.api.repo(repo);
        let wanted = name.to_owned();
        let worker = thread::spawn(move || api.download_with_progress(&wanted, Meter::new(sender)));
        let mut total = 0;
        loop {
            match receiver.recv_timeout(STALL_LIMIT) {
                Ok((done, of)) => {
                    total = of;
                    if let ControlFlow::Break(()) = progress(name, done, of) {
                        return Err(Stop::Asked);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Err(Stop::Failed(Cause::Stalled)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let outcome = worker
            .join()
            .map_err(|_| Stop::Failed(Cause::NotAHub("an answer it cannot read".to_owned())))?;
        let path = outcome.map_err(stop)?;
        whole(path, total)
    }

    /// Removes what is left of a download that cannot be resumed: `hf-hub` asks for the bytes after
    /// the last one when all of them are there, which servers refuse, for ever.
    fn discard_partial(&self, kind: Kind, repo: &str, target: Repo, name: &str) {
        let url = self.api.repo(target).url(name);
        if let Ok(metadata) = self.api.metadata(&url) {
            let blobs = self.cache.repository(kind, repo).join("blobs");
            let part = blobs.join(metadata.etag()).with_extension("part");
            drop(fs::remove_file(part));
        }
    }

    fn info(&self, kind: Kind, repo: &str, revision: &str) -> Result<RepoInfo, Cause> {
        let target = Repo::with_revision(repo.to_owned(), repo_type(kind), revision.to_owned());
        let repo = self.api.repo(target);
        let mut retries = 0;
        loop {
            let request = repo.info_request().config();
            let request = request
                .timeout_connect(Some(CONNECT_LIMIT))
                .timeout_recv_response(Some(ANSWER_LIMIT))
                .timeout_recv_body(Some(ANSWER_LIMIT))
                .http_status_as_error(false);
            let cause = match request.build().call() {
                Ok(mut response) if response.status().is_success() => {
                    return response.body_mut().read_json().map_err(|error| transport(&error));
                }
                Ok(response) => {
                    let code = response.headers().get("x-error-code");
                    let code = code.and_then(|value| value.to_str().ok()).map(str::to_owned);
                    Cause::Status(response.status().as_u16(), code)
                }
                Err(error) => transport(&error),
            };
            if retries == RETRIES || !cause.may_pass() {
                return Err(cause);
            }
            pause(retries);
            retries += 1;
        }
    }

    fn refusal<'a>(&'a self, repo: &'a str, revision: &'a str) -> Refusal<'a> {
        Refusal {
            endpoint: &self.settings.endpoint,
            cache: &self.settings.cache,
            has_token: self.settings.token.is_some(),
            repo,
            revision,
            file: None,
        }
    }
}

/// Why a download did not give a file.
enum Stop {
    Asked,
    Locked,
    Partial,
    Failed(Cause),
}

fn stop(error: ApiError) -> Stop {
    match error {
        ApiError::LockAcquisition(_) => Stop::Locked,
        ApiError::InvalidResume => Stop::Partial,
        ApiError::RequestError(error) => match *error {
            ureq::Error::StatusCode(416) => Stop::Partial,
            ref other => Stop::Failed(transport(other)),
        },
        // While a body is read the client's own errors come wrapped as I/O errors.
        ApiError::IoError(error) => match error.get_ref().and_then(|e| e.downcast_ref()) {
            Some(inner) => Stop::Failed(transport(inner)),
            None if is_of_the_network(&error) => Stop::Failed(Cause::Broken(error.to_string())),
            None => Stop::Failed(Cause::Disk(error)),
        },
        other => Stop::Failed(Cause::NotAHub(other.to_string())),
    }
}

fn is_of_the_network(error: &std::io::Error) -> bool {
    use std::io::ErrorKind as K;
    matches!(
        error.kind(),
        K::UnexpectedEof
            | K::ConnectionReset
            | K::ConnectionAborted
            | K::BrokenPipe
            | K::TimedOut
            | K::WouldBlock
    )
}

fn transport(error: &ureq::Error) -> Cause {
    use std::io::ErrorKind as K;
    let text = error.to_string();
    match error {
        ureq::Error::StatusCode(status) => Cause::Status(*status, None),
        ureq::Error::Io(source) => match source.kind() {
            K::UnexpectedEof | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => {
                Cause::Broken(source.to_string())
            }
            _ => Cause::Unreachable(source.to_string()),
        },
        ureq::Error::Protocol(_)
        | ureq::Error::Json(_)
        | ureq::Error::BadUri(_)
        | ureq::Error::Http(_) => Cause::NotAHub(text),
        _ => Cause::Unreachable(text),
    }
}

// A connection that closes early can look like the end of the file.
fn whole(path: PathBuf, total: u64) -> Result<PathBuf, Stop> {
    let size = fs::metadata(&path).map_err(|source| Stop::Failed(Cause::Disk(source)))?.len();
    if size == total {
        return Ok(path);
    }
    if let Ok(blob) = fs::canonicalize(&path) {
        drop(fs::remove_file(blob));
    }
    drop(fs::remove_file(&path));
    Err(Stop::Failed(Cause::Broken(format!("{size} of {total} bytes came"))))
}

fn repo_type(kind: Kind) -> RepoType {
    match kind {
        Kind::Model => RepoType::Model,
        Kind::Dataset => RepoType::Dataset,
    }
}

fn pause(retries: u32) {
    thread::sleep(Duration::from_millis(250 << retries));
}

/// Passes `hf-hub`'s progress on as (bytes here, bytes in all).
struct Meter {
    sender: mpsc::Sender<(u64, u64)>,
    done: u64,
    total: u64,
}

impl Meter {
    fn new(sender: mpsc::Sender<(u64, u64)>) -> Self {
        Self { sender, done: 0, total: 0 }
    }

    fn send(&self) {
        // Nobody listens any more once the download is no longer wanted.
        let _ = self.sender.send((self.done, self.total));
    }
}

impl hf_hub::api::Progress for Meter {
    fn init(&mut self, size: usize, _name: &str) {
        self.total = size as u64;
        self.done = 0;
        self.send();
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        self.send();
    }

    fn finish(&mut self) {
        self.send();
    }
}

#[cfg(test)]
mod tests;
