//! Which process holds a lease, and whether it is still there.

use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::Digest;

/// A word that no other process, and nothing else in this one, has used or will use.
pub(crate) fn unique() -> String {
    static PROCESS: OnceLock<String> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let process = PROCESS.get_or_init(|| {
        let this = Holder::this();
        format!(
            "{}-{}",
            this.pid,
            Digest::of(format!("{this:?}").as_bytes()).short()
        )
    });
    format!("{process}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A process, told apart from every other one on every other machine.
///
/// `host` is for people only: containers and cloned machines share names. What the kernel gives
/// decides; where it gives nothing, the heartbeat alone tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) host: String,
    /// One boot of one kernel.
    boot: Option<String>,
    /// The namespace in which `pid` means something.
    space: Option<String>,
    pub(crate) pid: u32,
    /// When the process began, in ticks since the boot: a later process may get the same `pid`.
    begun: Option<u64>,
}

impl Holder {
    /// This process.
    pub(crate) fn this() -> Self {
        let line = |path| Some(fs::read_to_string(path).ok()?.trim().to_owned());
        let pid = std::process::id();
        Self {
            host: line("/proc/sys/kernel/hostname").unwrap_or_default(),
            boot: line("/proc/sys/kernel/random/boot_id"),
            space: fs::read_link("/proc/self/ns/pid")
                .ok()
                .map(|p| p.display().to_string()),
            pid,
            begun: state(pid).map(|(_, begun)| begun),
        }
    }

    /// Whether the process is there, as far as it can be told from `this` one.
    pub(crate) fn is_alive(&self, this: &Self) -> Option<bool> {
        let same_kernel = self.boot.is_some() && self.boot == this.boot;
        let same_space = self.space.is_some() && self.space == this.space;
        if !same_kernel || !same_space {
            return None;
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw)?;
        // Not by /proc alone: it may hide the processes of others.
        if test_kill_process(pid) == Err(rustix::io::Errno::SRCH) {
            return Some(false);
        }
        Some(match state(self.pid) {
            Some((state, begun)) => {
                !matches!(state, 'Z' | 'X') && self.begun.is_none_or(|then| then == begun)
            }
            None => true,
        })
    }
}

/// State letter and start time of a process: the 3rd and 22nd field of `/proc/PID/stat`.
fn state(pid: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The 2nd field is the name of the program, which may hold spaces and parentheses.
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ended_process_is_told_from_a_living_one() {
        let this = Holder::this();
        assert_eq!(this.is_alive(&this), Some(true));
        assert_eq!(
            Holder {
                begun: Some(1),
                ..this.clone()
            }
            .is_alive(&this),
            Some(false)
        );
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let ended = Holder {
            pid: child.id(),
            begun: None,
            ..this.clone()
        };
        assert_eq!(ended.is_alive(&this), Some(false));
        let elsewhere = Holder {
            boot: Some("another".into()),
            ..ended
        };
        assert_eq!(
            elsewhere.is_alive(&this),
            None,
            "only its heartbeat can tell"
        );
    }
}
