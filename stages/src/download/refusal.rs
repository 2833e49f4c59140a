//! What to say when the Hub does not give what was asked for.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::Kind;
use crate::Error;

/// Why it did not.
#[derive(Debug)]
pub(super) enum Cause {
    /// Offline was asked for, and this is not cached.
    Offline,
    /// No connection.
    Unreachable(String),
    /// The connection broke.
    Broken(String),
    /// No byte for a long while.
    Stalled,
    /// Another process holds the file's lock.
    Locked,
    /// What came is not what the Hub says that the file is.
    Damaged,
    /// An HTTP status of the Hub that is no success.
    Status {
        /// The status itself.
        status: u16,
        /// The Hub's own code for it, such as `GatedRepo`.
        code: Option<String>,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// An HTTP status of where the Hub stores its files.
    Storage(u16),
    /// Something answered that does not speak the Hub's protocol.
    NotAHub(String),
    /// The cache could not be written.
    Disk(io::Error),
}

impl Cause {
    /// Whether the network, and not the Hub's answer, is the reason: the cache may stand in.
    pub(super) fn is_out_of_reach(&self) -> bool {
        match self {
            Self::Offline | Self::Unreachable(_) | Self::Broken(_) | Self::Stalled => true,
            Self::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }

    /// Whether trying again soon may help. No connection at all is told at once.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            // The address of a stored file is signed for some time only, and each try gets a new one.
            Self::Broken(_) | Self::Stalled | Self::Damaged | Self::Storage(_) => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429,
            _ => false,
        }
    }
}

/// What was asked for, and of whom.
pub(super) struct Refusal<'a> {
    pub(super) endpoint: &'a str,
    pub(super) cache: &'a Path,
    pub(super) has_token: bool,
    pub(super) kind: Kind,
    pub(super) repo: &'a str,
    pub(super) revision: &'a str,
    pub(super) file: Option<&'a str>,
}

impl<'a> Refusal<'a> {
    /// The same for one file.
    pub(super) fn of_file(mut self, name: &'a str) -> Self {
        self.file = Some(name);
        self
    }

    /// The sentence and the mend.
    pub(super) fn error(&self, cause: Cause) -> Error {
        let Self { endpoint, repo, .. } = self;
        let wanted = self.wanted();
        let cache = self.cache.display();
        match cause {
            Cause::Offline => Error::input(format!(
                "{wanted} is not in the cache {cache}, and the network is not to be used"
            ))
            .with_hint("run once without `--offline` and HF_HUB_OFFLINE, set HF_HOME to the cache that has it, or name a local copy with `folder:`"),
            Cause::Unreachable(reason) => Error::input(format!(
                "cannot reach {endpoint} for {wanted} ({reason}), and nothing of it is in the cache {cache}"
            ))
            .with_hint("check the network, name a local copy with `folder:`, or set HF_HOME to the cache that has it"),
            Cause::Broken(reason) => Error::failed(format!(
                "the connection to {endpoint} broke again and again while fetching {wanted} ({reason})"
            ))
            .with_hint("run again: the download goes on where it stopped"),
            Cause::Stalled => Error::failed(format!(
                "{endpoint} sent nothing of {wanted} for a minute"
            ))
            .with_hint("run again: the download goes on where it stopped"),
            Cause::Locked => Error::failed(format!(
                "another process has been fetching {wanted} for ten minutes"
            ))
            .with_hint("let it finish, or end it, and run again"),
            Cause::Damaged => Error::failed(format!(
                "{wanted} came damaged each time: its content is not what {endpoint} says it is"
            ))
            .with_hint("what came was thrown away; run again, or look for a proxy or mirror that changes files"),
            Cause::Status { status: 429, wait, .. } => self.busy(wait),
            Cause::Status { status, code, .. } => self.status(status, code.as_deref()),
            Cause::Storage(status) => Error::failed(format!(
                "where {endpoint} stores its files, {wanted} is refused with HTTP status {status}"
            ))
            .with_hint("its service may be disturbed: run again later"),
            Cause::NotAHub(reason) => Error::failed(format!(
                "{endpoint} does not answer as the Hub does for {wanted} ({reason})"
            ))
            .with_hint("check HF_ENDPOINT"),
            Cause::Disk(source) => Error::Io {
                action: "write a download to",
                path: self.cache.join(repo.replace('/', "--")),
                source,
            },
        }
    }

    fn wanted(&self) -> String {
        match self.file {
            Some(file) => format!("`{file}` of `{}`", self.repo),
            None => format!("`{}`", self.repo),
        }
    }

    fn busy(&self, wait: Option<Duration>) -> Error {
        let asks = match wait {
            Some(wait) => format!(", and asks to wait {} seconds", wait.as_secs()),
            None => String::new(),
        };
        let message = format!("{} has had too many requests{asks}", self.endpoint);
        Error::failed(message).with_hint(if self.has_token {
            "wait some minutes and run again"
        } else {
            "wait some minutes, or set HF_TOKEN: known accounts are allowed more"
        })
    }

    fn status(&self, status: u16, code: Option<&str>) -> Error {
        let Self { endpoint, repo, revision, .. } = self;
        match (status, code) {
            (_, Some("RevisionNotFound")) => {
                Error::input(format!("`{repo}` has no revision `{revision}`"))
                    .with_hint("a branch, a tag or a whole commit hash, such as `main`")
            }
            (403, _) | (_, Some("GatedRepo")) => self.gated(),
            (401, code) if self.has_token && code != Some("RepoNotFound") => {
                Error::input(format!("{endpoint} refuses the access token for `{repo}`"))
                    .with_hint("HF_TOKEN may have expired, or be mistyped")
            }
            // The Hub answers so for what does not exist, too, unless it knows who asks.
            (401, _) | (404, Some("RepoNotFound")) => Error::input(if self.has_token {
                format!("there is no repository `{repo}` on {endpoint} that this token may read")
            } else {
                format!("there is no public repository `{repo}` on {endpoint}")
            })
            .with_hint("check its name; for a private or gated one set HF_TOKEN"),
            (404, _) => match self.file {
                Some(file) => Error::input(format!(
                    "`{repo}` has no file `{file}` at revision {revision}"
                )),
                None => Error::input(format!(
                    "there is no repository `{repo}` on {endpoint}, or it has no revision `{revision}`"
                )),
            }
            .with_hint("check the name and `revision:`"),
            _ => Error::failed(format!(
                "{endpoint} answers with HTTP status {status} for {}",
                self.wanted()
            ))
            .with_hint("its service may be disturbed: run again later"),
        }
    }

    fn gated(&self) -> Error {
        let Self { endpoint, repo, .. } = self;
        let page = format!("accept its terms on its page, {endpoint}/{}{repo}", self.kind.page());
        Error::input(format!(
            "`{repo}` is gated: its files are only for those who accepted its terms"
        ))
        .with_hint(if self.has_token {
            format!("{page}, with the account that HF_TOKEN belongs to")
        } else {
            format!("{page}, and set HF_TOKEN to a token of that account")
        })
    }
}
