//! The Hugging Face Hub: what is cached is used, the rest is fetched into the cache.
//!
//! There is a client of Hugging Face's own, `hf-hub`. It sends the token to the host that a large
//! file is stored at, cannot fetch from a server that ignores `Range`, does not look at what came,
//! and can neither be stopped nor time out; so this speaks HTTP itself.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::cache::{HubCache, is_commit};
use super::client::{Answer, Ask, Client, STALL_LIMIT, transport, uri};
use super::names::{check_file, check_repository, escape};
use super::refusal::{Cause, Refusal};
use super::transfer::{Remote, Stop, Told, lock};
use super::{Kind, Progress};
use crate::{Error, Result};

/// How often the same is tried again.
const RETRIES: u32 = 3;
/// The longest that a Hub with too many requests is waited for.
const WAIT_LIMIT: Duration = Duration::from_mins(1);
/// How often a wait looks whether it is still wanted.
const NAP: Duration = Duration::from_millis(100);
/// What a listing may be long: a data set of a million files.
const LISTING_LIMIT: u64 = 256 << 20;

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

/// The Hub behind its cache.
pub struct Hub {
    settings: HubSettings,
    cache: HubCache,
    client: Client,
}

/// What the Hub tells of a revision.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Hub {
    /// A Hub by these settings; nothing is asked yet.
    pub fn new(settings: &HubSettings) -> Result<Self> {
        let mut settings = settings.clone();
        settings.endpoint.truncate(settings.endpoint.trim_end_matches('/').len());
        settings.cache = std::path::absolute(&settings.cache)
            .map_err(|source| Error::io("find", &settings.cache, source))?;
        let client = Client::new(&settings.endpoint, settings.token.clone(), STALL_LIMIT);
        let client = client.map_err(|_| {
            Error::input(format!("`{}` is no address of a Hub", settings.endpoint))
                .with_hint("HF_ENDPOINT is to be such as https://huggingface.co")
        })?;
        Ok(Self { cache: HubCache::new(settings.cache.clone()), settings, client })
    }

    /// The commit (40 hexadecimal digits) that `revision` is now.
    ///
    /// A whole commit hash is returned as it is. Offline, or with the Hub out of reach, it is what
    /// the cache last noted.
    pub fn resolve(&self, kind: Kind, repo: &str, revision: &str) -> Result<String> {
        check_repository(repo, revision)?;
        if is_commit(revision) {
            return Ok(revision.to_owned());
        }
        let cause = if self.settings.offline {
            Cause::Offline
        } else {
            match self.info(kind, repo, revision) {
                Ok(info) => {
                    self.cache.note(kind, repo, revision, &info.sha);
                    return Ok(info.sha);
                }
                Err(cause) => cause,
            }
        };
        match self.cache.commit(kind, repo, revision) {
            Some(commit) if cause.is_out_of_reach() => Ok(commit),
            _ => Err(self.refusal(kind, repo, revision).error(cause)),
        }
    }

    /// The names of a commit's files, sorted.
    ///
    /// They never change, so the Hub is asked once. If it cannot be asked, those that are cached
    /// are taken for all.
    pub fn list(&self, kind: Kind, repo: &str, commit: &str) -> Result<Vec<String>> {
        check_repository(repo, commit)?;
        if let Some(names) = self.cache.listing(kind, repo, commit) {
            return Ok(names);
        }
        let cause = if self.settings.offline {
            Cause::Offline
        } else {
            match self.info(kind, repo, commit) {
                Ok(info) => {
                    let files = info.siblings.into_iter();
                    let mut names: Vec<String> = files.map(|file| file.rfilename).collect();
                    names.sort_unstable();
                    self.cache.note_listing(kind, repo, commit, &names);
                    return Ok(names);
                }
                Err(cause) => cause,
            }
        };
        let cached = self.cache.files(kind, repo, commit);
        if cause.is_out_of_reach() && !cached.is_empty() {
            Ok(cached)
        } else {
            Err(self.refusal(kind, repo, commit).error(cause))
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
        if let Some(path) = self.cache.file(kind, repo, commit, name) {
            return Ok(path);
        }
        let refusal = self.refusal(kind, repo, commit).of_file(name);
        if self.settings.offline {
            return Err(refusal.error(Cause::Offline));
        }
        let mut most = 0;
        let mut retries = 0;
        loop {
            let mut here = 0;
            let mut told = |done, total| {
                here = done;
                progress(name, done, total)
            };
            let cause = match self.fetch(kind, repo, commit, name, &mut told) {
                Ok(path) => return Ok(path),
                Err(Stop::Asked) => return Err(Error::Stopped),
                Err(Stop::Failed(cause)) => cause,
            };
            if here > most {
                // It gets on, however often it breaks.
                (most, retries) = (here, 0);
            }
            match pause(&cause, retries) {
                Some(time) => sleep(time, &mut || progress(name, here, here))?,
                None => return Err(refusal.error(cause)),
            }
            retries += 1;
        }
    }

    fn fetch(
        &self,
        kind: Kind,
        repo: &str,
        commit: &str,
        name: &str,
        told: &mut Told<'_>,
    ) -> Result<PathBuf, Stop> {
        let endpoint = &self.settings.endpoint;
        let (page, escaped) = (kind.page(), escape(name, "/"));
        let url = format!("{endpoint}/{page}{repo}/resolve/{commit}/{escaped}");
        let remote = Remote::ask(&self.client, &uri(&url)?, commit)?;
        let blob = self.cache.blob(kind, repo, &remote.etag)?;
        let lock = lock(&self.cache.lock(kind, repo, &remote.etag), told)?;
        if !blob.is_file() {
            remote.fetch(&self.client, &blob, told)?;
        }
        let path = self.cache.link(kind, repo, commit, name, &blob)?;
        drop(lock);
        Ok(path)
    }

    fn info(&self, kind: Kind, repo: &str, revision: &str) -> Result<Info, Cause> {
        let endpoint = &self.settings.endpoint;
        let (kind, revision) = (kind.plural(), escape(revision, "%2F"));
        let url = uri(&format!("{endpoint}/api/{kind}/{repo}/revision/{revision}"))?;
        let mut retries = 0;
        loop {
            let cause = match self.client.send(&url, Ask::Json).and_then(read) {
                Ok(info) => return Ok(info),
                Err(cause) => cause,
            };
            match pause(&cause, retries) {
                Some(time) => thread::sleep(time),
                None => return Err(cause),
            }
            retries += 1;
        }
    }

    fn refusal<'a>(&'a self, kind: Kind, repo: &'a str, revision: &'a str) -> Refusal<'a> {
        Refusal {
            endpoint: &self.settings.endpoint,
            cache: &self.settings.cache,
            has_token: self.settings.token.is_some(),
            kind,
            repo,
            revision,
            file: None,
        }
    }
}

fn read(answer: Answer) -> Result<Info, Cause> {
    let mut body = answer.response.into_body();
    let info = body.with_config().limit(LISTING_LIMIT).read_json::<Info>();
    let info = info.map_err(|error| transport(&error))?;
    // It becomes a folder's name, and a part of keys.
    if is_commit(&info.sha) {
        Ok(info)
    } else {
        Err(Cause::NotAHub("a revision without a commit".to_owned()))
    }
}

/// How long to wait before the same is tried again, if it is.
fn pause(cause: &Cause, retries: u32) -> Option<Duration> {
    let time = match cause {
        Cause::Status { wait: Some(wait), .. } => *wait,
        Cause::Damaged => Duration::ZERO,
        _ => Duration::from_millis(250 << retries.min(RETRIES)),
    };
    (cause.may_pass() && retries < RETRIES && time <= WAIT_LIMIT).then_some(time)
}

fn sleep(time: Duration, go_on: &mut dyn FnMut() -> ControlFlow<()>) -> Result<()> {
    let mut left = time;
    while !left.is_zero() {
        if go_on().is_break() {
            return Err(Error::Stopped);
        }
        let nap = left.min(NAP);
        thread::sleep(nap);
        left -= nap;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_do_not_show_their_token() {
        let settings = HubSettings {
            cache: PathBuf::from("cache"),
            token: Some("hf_secret".to_owned()),
            endpoint: "https://hub.co".to_owned(),
            offline: false,
        };
        let shown = format!("{settings:?}");
        assert!(shown.contains("hub.co") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn what_may_pass_is_tried_again_a_few_times_and_not_after_long_waits() {
        let millis = |cause: &Cause, retries| pause(cause, retries).map(|time| time.as_millis());
        let broken = Cause::Broken(String::new());
        let waits: Vec<_> = (0..4).map(|retries| millis(&broken, retries)).collect();
        assert_eq!(waits, [Some(250), Some(500), Some(1000), None]);
        let status = |status, wait: Option<u64>| {
            let wait = wait.map(Duration::from_secs);
            millis(&Cause::Status { status, code: None, wait }, 0)
        };
        assert_eq!(status(429, None), Some(250));
        assert_eq!(status(429, Some(60)), Some(60_000));
        assert_eq!(status(429, Some(61)), None);
        assert_eq!(status(503, Some(1)), Some(1000));
        assert_eq!(status(404, Some(1)), None);
        assert_eq!(millis(&Cause::Unreachable(String::new()), 0), None, "told at once");
    }
}
