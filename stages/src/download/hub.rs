//! The Hugging Face Hub. The one file that names `hf-hub` and its HTTP client.
//!
//! `hf-hub` knows neither offline mode nor time limits, and resumes wrongly in two cases; what is
//! done about each is said where it is done.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use hf_hub::api::RepoInfo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

use super::cache::HubCache;
use super::refusal::{Cause, Refusal};
use super::{Kind, Progress};
use crate::{Error, Result};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a download may go without one byte.
const STALL_LIMIT: Duration = Duration::from_secs(60);
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
        settings
            .endpoint
            .truncate(settings.endpoint.trim_end_matches('/').len());
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
        Ok(Self {
            cache: HubCache::new(settings.cache.clone()),
            settings,
            api,
        })
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
        self.check(repo, revision)?;
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
        self.check(repo, revision).ok()?;
        self.cache.commit(kind, repo, revision)
    }

    /// The names of a commit's files, sorted.
    ///
    /// Offline, or with the Hub out of reach, those that are cached.
    pub fn list(&self, kind: Kind, repo: &str, commit: &str) -> Result<Vec<String>> {
        self.check(repo, commit)?;
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
        self.check(repo, commit)?;
        check_name(repo, name)?;
        let refusal = self.refusal(repo, commit).of_file(name);
        let (mut retries, mut waits) = (0, 0);
        loop {
            if let Some(path) = self.cache.file(kind, repo, commit, name) {
                return Ok(path);
            }
            if self.settings.offline {
                return Err(refusal.error(Cause::Offline));
            }
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
                    return response
                        .body_mut()
                        .read_json()
                        .map_err(|error| transport(&error));
                }
                Ok(response) => {
                    let code = response.headers().get("x-error-code");
                    let code = code
                        .and_then(|value| value.to_str().ok())
                        .map(str::to_owned);
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

    // Both become parts of paths and URLs.
    #[expect(
        clippy::unused_self,
        reason = "reads as a check by the Hub that is asked"
    )]
    fn check(&self, repo: &str, revision: &str) -> Result<()> {
        let plain = |text: &str, more: &str| {
            !text.is_empty()
                && !text.starts_with('.')
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c) || more.contains(c))
        };
        if repo.split('/').count() > 2 || !repo.split('/').all(|part| plain(part, "")) {
            return Err(
                Error::input(format!("`{repo}` is no repository of the Hub"))
                    .with_hint("write `owner/name`, as in the address of its page"),
            );
        }
        if !revision.split('/').all(|part| plain(part, "+@=")) {
            return Err(
                Error::input(format!("`{revision}` is no revision of `{repo}`"))
                    .with_hint("a branch, a tag or a commit hash, such as `main`"),
            );
        }
        Ok(())
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
        ureq::Error::Protocol(_) | ureq::Error::Json(_) => Cause::NotAHub(text),
        _ => Cause::Unreachable(text),
    }
}

// A connection that closes early can look like the end of the file.
fn whole(path: PathBuf, total: u64) -> Result<PathBuf, Stop> {
    let size = fs::metadata(&path)
        .map_err(|source| Stop::Failed(Cause::Disk(source)))?
        .len();
    if size == total {
        return Ok(path);
    }
    if let Ok(blob) = fs::canonicalize(&path) {
        drop(fs::remove_file(blob));
    }
    drop(fs::remove_file(&path));
    Err(Stop::Failed(Cause::Broken(format!(
        "{size} of {total} bytes came"
    ))))
}

fn check_name(repo: &str, name: &str) -> Result<()> {
    let inside = Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    // `hf-hub` puts the name into the URL as it is.
    let plain = |c: char| c.is_ascii_graphic() && !"?#%\\\"<>{}|^`".contains(c);
    if name.is_empty() || !inside || !name.chars().all(plain) {
        return Err(Error::input(format!(
            "`{repo}` has a file `{name}`, a name that cannot be fetched"
        ))
        .with_hint("download the repository by other means, and name its folder with `folder:`"));
    }
    Ok(())
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
        Self {
            sender,
            done: 0,
            total: 0,
        }
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
mod tests {
    use super::super::server::{COMMIT, Server};
    use super::*;

    const FILES: [(&str, &str); 2] = [("config.json", "{}"), ("data/a.txt", "0123456789abcdef")];
    const MODEL: Kind = Kind::Model;

    fn settings(server: &Server, cache: &Path) -> HubSettings {
        HubSettings {
            cache: cache.to_owned(),
            token: None,
            endpoint: format!("{}/", server.endpoint),
            offline: false,
        }
    }

    fn hub(settings: &HubSettings) -> Hub {
        Hub::new(settings).unwrap()
    }

    fn get(hub: &Hub, repo: &str, name: &str) -> Result<PathBuf> {
        hub.file(MODEL, repo, COMMIT, name, &mut |_, _, _| {
            ControlFlow::Continue(())
        })
    }

    fn sentence(error: Error) -> String {
        match error {
            Error::Input { message, hint } | Error::Failed { message, hint } => {
                format!("{message}; {}", hint.expect("every refusal has a mend"))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_cached_is_not_fetched_again_and_serves_offline() {
        let (server, folder) = (Server::new(&FILES), tempfile::tempdir().unwrap());
        let mut settings = settings(&server, folder.path());
        let online = hub(&settings);
        assert_eq!(online.cached_commit(MODEL, "owner/name", "main"), None);
        assert_eq!(online.resolve(MODEL, "owner/name", "main").unwrap(), COMMIT);
        assert_eq!(online.resolve(MODEL, "owner/name", COMMIT).unwrap(), COMMIT);
        assert_eq!(
            online.list(MODEL, "owner/name", COMMIT).unwrap(),
            FILES.map(|f| f.0)
        );
        assert_eq!(server.requests().len(), 2, "a whole hash needs no request");

        let mut seen = Vec::new();
        let mut note = |name: &str, done: u64, total: u64| {
            seen.push((name.to_owned(), done, total));
            ControlFlow::Continue(())
        };
        let path = online
            .file(MODEL, "owner/name", COMMIT, "data/a.txt", &mut note)
            .unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), FILES[1].1);
        assert_eq!(seen.last().unwrap(), &("data/a.txt".to_owned(), 16, 16));
        assert!(!server.requests().is_empty());
        assert_eq!(get(&online, "owner/name", "data/a.txt").unwrap(), path);
        assert_eq!(server.requests(), [""; 0]);

        let repo = folder.path().join("models--owner--name");
        let refs: Vec<_> = fs::read_dir(repo.join("refs")).unwrap().collect();
        assert_eq!(refs.len(), 1, "`main`, and no ref named after the commit");
        assert!(repo.join("blobs/data-a-txt").is_file());

        settings.offline = true;
        let offline = hub(&settings);
        assert_eq!(
            offline.resolve(MODEL, "owner/name", "main").unwrap(),
            COMMIT
        );
        assert_eq!(
            offline.list(MODEL, "owner/name", COMMIT).unwrap(),
            ["data/a.txt"]
        );
        assert_eq!(get(&offline, "owner/name", "data/a.txt").unwrap(), path);
        let fault = sentence(get(&offline, "owner/name", "config.json").unwrap_err());
        assert!(
            fault.contains("`config.json` of `owner/name` is not in the cache"),
            "{fault}"
        );
        let fault = sentence(offline.resolve(MODEL, "owner/other", "main").unwrap_err());
        assert!(fault.contains("the network is not to be used"), "{fault}");
        assert_eq!(server.requests(), [""; 0]);
    }

    #[test]
    fn a_hub_out_of_reach_leaves_the_cache() {
        let (server, folder) = (Server::new(&FILES), tempfile::tempdir().unwrap());
        let hub = hub(&settings(&server, folder.path()));
        hub.resolve(MODEL, "owner/name", "main").unwrap();
        get(&hub, "owner/name", "config.json").unwrap();
        drop(server);
        assert_eq!(hub.resolve(MODEL, "owner/name", "main").unwrap(), COMMIT);
        assert_eq!(
            hub.list(MODEL, "owner/name", COMMIT).unwrap(),
            ["config.json"]
        );
        let error = hub.resolve(MODEL, "owner/other", "main").unwrap_err();
        assert!(matches!(error, Error::Input { .. }));
        let fault = sentence(error);
        assert!(
            fault.starts_with("cannot reach http://127.0.0.1:"),
            "{fault}"
        );
        assert!(fault.contains("nothing of it is in the cache"), "{fault}");
        let fault = sentence(get(&hub, "owner/name", "data/a.txt").unwrap_err());
        assert!(fault.starts_with("cannot reach"), "{fault}");
    }

    #[test]
    fn a_refusal_is_a_sentence_without_the_token() {
        let (server, folder) = (Server::new(&FILES), tempfile::tempdir().unwrap());
        let mut settings = settings(&server, folder.path());
        let open = hub(&settings);
        let fault = |result: Result<String>| sentence(result.unwrap_err());
        let text = fault(open.resolve(MODEL, "owner/private", "main"));
        assert!(
            text.contains("no public repository `owner/private`"),
            "{text}"
        );
        let text = fault(open.resolve(MODEL, "owner/name", "v9"));
        assert!(text.contains("`owner/name` has no revision `v9`"), "{text}");
        let text = sentence(get(&open, "owner/gated", "config.json").unwrap_err());
        assert!(
            text.contains("accept its licence on http") && text.contains("HF_TOKEN"),
            "{text}"
        );
        let text = sentence(get(&open, "owner/name", "gone.json").unwrap_err());
        assert!(text.contains("has no file `gone.json`"), "{text}");
        for repo in ["../x", "a/b/c", "", "a b"] {
            let text = fault(open.resolve(MODEL, repo, "main"));
            assert!(text.contains("no repository of the Hub"), "{text}");
        }
        assert!(fault(open.resolve(MODEL, "a", "../../x")).contains("no revision"));
        assert!(get(&open, "owner/name", "../x").is_err());

        settings.token = Some("wrong".to_owned());
        let text = fault(hub(&settings).resolve(MODEL, "owner/private", "main"));
        assert!(text.contains("refuses the access token"), "{text}");
        assert!(!text.contains("wrong") && !format!("{settings:?}").contains("wrong"));

        settings.token = Some("secret".to_owned());
        let known = hub(&settings);
        assert_eq!(
            known.resolve(MODEL, "owner/private", "main").unwrap(),
            COMMIT
        );
        get(&known, "owner/gated", "config.json").unwrap();
    }

    #[test]
    fn a_broken_download_goes_on() {
        let (server, folder) = (Server::new(&FILES), tempfile::tempdir().unwrap());
        let hub = hub(&settings(&server, folder.path()));
        server.cut_next(2);
        let path = get(&hub, "owner/name", "data/a.txt").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), FILES[1].1);

        // All bytes came, and then the process was ended.
        let blobs = folder.path().join("models--owner--name/blobs");
        fs::write(blobs.join("config-json.part"), "{}").unwrap();
        let path = get(&hub, "owner/name", "config.json").unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "{}");

        server.fail_next(2);
        assert_eq!(hub.resolve(MODEL, "owner/name", "main").unwrap(), COMMIT);
        server.fail_next(9);
        let fault = sentence(hub.list(MODEL, "owner/gated", COMMIT).unwrap_err());
        assert!(
            fault.contains("HTTP status 503 for `owner/gated`"),
            "{fault}"
        );
    }

    #[test]
    fn a_download_can_be_stopped() {
        let (server, folder) = (Server::new(&FILES), tempfile::tempdir().unwrap());
        let hub = hub(&settings(&server, folder.path()));
        let stop = &mut |_: &str, _, _| ControlFlow::Break(());
        let error = hub
            .file(MODEL, "owner/name", COMMIT, "config.json", stop)
            .unwrap_err();
        assert!(matches!(error, Error::Stopped));
    }
}
