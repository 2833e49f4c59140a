//! What a worker takes up, what it tells, and how it publishes a record.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool, mpsc::Sender},
};

use artifacts::{BlobRef, Digest, Draft, Lease, NewRecord, Provenance, Published, Store, Tree};
use serde_json::Value;
use stages::{
    error::Error,
    session::Session,
    stage::{Place, Report, Work},
};

/// A step that is ready to run.
pub(super) struct Job {
    /// Its index in the plan.
    pub(super) step: usize,
    /// What it does.
    pub(super) work: Arc<dyn Work>,
    /// The key under which its record goes.
    pub(super) key: Digest,
    /// The manifest that the key is of.
    pub(super) manifest: Value,
    /// Where its edges lead.
    pub(super) inputs: BTreeMap<String, Place>,
    /// Whether a record is there already, whose bytes were pruned.
    pub(super) again: bool,
    /// What it has in common with those that it may be run together with.
    pub(super) cohort: Option<String>,
}

/// What a worker tells the coordinator.
pub(super) enum Message {
    /// A worker took the step up.
    Started {
        /// Index in the plan.
        step: usize,
        /// Where it runs, if it needs the device.
        device: Option<String>,
    },
    /// How far it is.
    Progress {
        /// Index in the plan.
        step: usize,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
        /// What is counted.
        unit: String,
    },
    /// Something to know.
    Note {
        /// Index in the plan.
        step: usize,
        /// A sentence.
        text: String,
    },
    /// It ended.
    Ended {
        /// Index in the plan.
        step: usize,
        /// What it made, or why not.
        result: Result<Made, Error>,
    },
}

/// What a step made.
pub(super) struct Made {
    /// The tree.
    pub(super) tree: BlobRef,
    /// Its listing.
    pub(super) listing: Tree,
    /// Its figures.
    pub(super) metrics: BTreeMap<String, f64>,
    /// Wall time.
    pub(super) seconds: f64,
    /// Bytes of the tree's entries.
    pub(super) bytes: u64,
}

/// What all workers share.
pub struct Shop<'a> {
    /// Where results go.
    pub store: &'a Store,
    /// Keeps results of this process from the collector.
    pub lease: &'a Lease,
    /// A session for each device, at least one; on the CPU all workers share one.
    pub sessions: &'a [Session],
    /// Set when the user asks to stop.
    pub stop: &'a AtomicBool,
    /// This machine, for provenance.
    pub host: &'a str,
    /// The clock, for provenance.
    pub now: fn() -> String,
}

/// What one worker works with.
pub(super) struct Bench<'a> {
    /// What it shares with all.
    pub(super) shop: &'a Shop<'a>,
    /// The device that it works on.
    pub(super) session: &'a Session,
    /// The coordinator's ear.
    pub(super) tell: &'a Sender<Message>,
}

impl Bench<'_> {
    /// Tells the coordinator something.
    pub(super) fn send(&self, message: Message) {
        // The receiver outlives the workers, so a failed send means that nobody cares any more.
        drop(self.tell.send(message));
    }
}

/// Publishes what a step made in `seconds`.
pub(super) fn publish(
    job: &Job,
    shop: &Shop<'_>,
    (draft, metrics): (Draft, BTreeMap<String, f64>),
    (seconds, device): (f64, Option<String>),
    told: &Told,
) -> Result<Made, Error> {
    let output = draft.finish()?;
    let (tree, listing) = (output.blob, output.tree.clone());
    let record = NewRecord {
        key: job.key,
        manifest: job.manifest.clone(),
        kind: job.work.kind().to_owned(),
        output,
        metrics: metrics.clone(),
        provenance: Provenance {
            seconds,
            cpu_seconds: None,
            peak_bytes: None,
            device,
            host: shop.host.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            created: (shop.now)(),
        },
    };
    let kept = if job.again {
        publish_again(shop, record, tree, told)?
    } else {
        match shop.store.publish(shop.lease, record)? {
            Published::First | Published::Same => tree,
            Published::Differs { kept } => {
                told.note("another process made other bytes of this step first; those are kept");
                kept
            }
        }
    };
    let listing = if kept == tree { listing } else { shop.store.tree(&kept)?.unwrap_or(listing) };
    let bytes = listing.iter().map(|(_, blob)| blob.len).sum();
    Ok(Made { tree: kept, listing, metrics, seconds, bytes })
}

/// A re-run whose first bytes were pruned: if it repeats, the record stands; if not, it is replaced,
/// and what follows is planned again.
fn publish_again(
    shop: &Shop<'_>,
    record: NewRecord,
    tree: BlobRef,
    told: &Told,
) -> Result<BlobRef, Error> {
    let before = shop.store.find(&record.key)?.map(|found| found.tree);
    if before.is_some_and(|before| before != tree) {
        told.note("made again, this step gave other bytes; what follows is planned again");
        shop.store.replace(shop.lease, record)?;
    } else {
        shop.store.publish(shop.lease, record)?;
    }
    Ok(tree)
}

/// A step's report, sent to the coordinator.
pub(super) struct Told {
    /// Index in the plan.
    pub(super) step: usize,
    /// The coordinator's ear.
    pub(super) tell: Sender<Message>,
}

impl Report for Told {
    fn progress(&self, done: u64, total: u64, unit: &str) {
        let unit = unit.to_owned();
        drop(self.tell.send(Message::Progress { step: self.step, done, total, unit }));
    }

    fn note(&self, text: &str) {
        drop(self.tell.send(Message::Note { step: self.step, text: text.to_owned() }));
    }
}
