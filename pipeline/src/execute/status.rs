//! The states of a step while a plan is run.

use artifacts::{BlobRef, Found, Tree};

/// Where a step is. Each state's precondition:
///
/// ```text
/// Unknown ──► Queued ──► Running ──► Done
///    │  ▲                   │
///    ▼  │                   ▼
///   Wanted                Failed
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Some input is not done, or the step has not been looked at since one was.
    Unknown,
    /// All inputs are done and there is no record, but bytes of an input were pruned and are being
    /// made again.
    Wanted,
    /// The key is known and the inputs' bytes are there; the step waits for a worker, or for a step
    /// of another name that has the same key.
    Queued,
    /// A worker has it.
    Running,
    /// There is a record under its key, and what it names is what the step made.
    Done,
    /// It ended with an error; what depends on it stays `Unknown`.
    Failed,
}

impl Status {
    /// Whether the step's output is known.
    pub fn is_done(self) -> bool {
        self == Self::Done
    }
}

/// What a done step made.
#[derive(Clone, Debug)]
pub struct Output {
    /// The tree.
    pub tree: BlobRef,
    /// Its listing, where it is at hand.
    pub listing: Option<Tree>,
}

impl Output {
    /// What a record says.
    pub fn found(found: &Found) -> Self {
        Self { tree: found.tree, listing: found.listing.clone() }
    }
}
