//! The store: what a step made, kept under the hash of what went into it.
//!
//! It knows no tensors, no graph files and no terminal. It reads neither the environment nor the
//! clock: time is the modification time of a file that it has just made, so that every machine on a
//! shared file system agrees on it.
//!
//! | name | what it is |
//! |---|---|
//! | [`Digest`] | the BLAKE3 hash of bytes, which is their name |
//! | [`BlobRef`] | a digest and a length: a truncated blob is found without hashing |
//! | [`Tree`] | sorted names of blobs: what one step made |
//! | [`Record`] | action key -> tree, with the manifest of the key and the provenance |
//! | [`Lease`] | says that this process is at work: nothing that it touches is collected |
//! | [`Draft`] | a tree being written |
//! | [`RunDir`], [`Pin`] | what is kept alive |
//!
//! # Why nothing in use is ever lost
//!
//! A writer holds a lease from before its first touch until after its last use. It *touches* a blob
//! before it relies on it (never "does it exist?"), and publishes a record only after touching all
//! the blobs that the record names.
//!
//! The collector takes the store's time, then reads the leases, then the roots. Nothing as new as
//! the floor is a candidate: the store's time less a grace, or the start of the oldest live lease if
//! that is earlier. A candidate is renamed into `trash/`, looked at again, and put back if its time
//! has moved. Each step is one atomic rename, so that a kill at any point leaves whole files only.

mod blob;
mod digest;
mod draft;
mod error;
mod external;
mod files;
mod format;
mod gc;
mod holder;
mod layout;
mod lease;
mod mark;
mod pin;
mod publish;
mod record;
mod run;
mod stamp;
mod stat_cache;
mod store;
mod sweep;
mod touch;
mod tree;
mod verify;

#[cfg(test)]
mod kill;
#[cfg(test)]
mod race;

pub use blob::Blob;
pub use digest::{BlobRef, Digest};
pub use draft::{Draft, DraftFile, Finished};
pub use error::{Error, Result};
pub use gc::{Item, Policy, Swept, What};
pub use lease::Lease;
pub use pin::{Pin, Root};
pub use publish::Published;
pub use record::{Found, NewRecord, Provenance, Record};
pub use run::{Lines, RunDir, RunInfo};
pub use stat_cache::StatCache;
pub use store::Store;
pub use tree::Tree;
pub use verify::{Findings, Problem};
