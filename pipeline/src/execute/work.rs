//! One step on one worker: open the inputs, do the work, publish the record.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::AtomicBool, mpsc::Sender},
    time::Instant,
};

use artifacts::{BlobRef, Digest, Lease, NewRecord, Provenance, Published, Store, Tree};
use serde_json::Value;
use stages::{
    error::Error,
    session::Session,
    stage::{Context, Needs, Place, Report, Work},
};

/// A step that is ready to run.
pub struct Job {
    /// Its index in the plan.
    pub step: usize,
    /// What it does.
    pub work: Arc<dyn Work>,
    /// The key under which its record goes.
    pub key: Digest,
    /// The manifest that the key is of.
    pub manifest: Value,
    /// Where its edges lead.
    pub inputs: BTreeMap<String, Place>,
    /// Whether a record is there already, whose bytes were pruned.
    pub again: bool,
}

/// What a worker tells the coordinator.
pub enum Message {
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
pub struct Made {
    /// The tree.
    pub tree: BlobRef,
    /// Its listing.
    pub listing: Tree,
    /// Its figures.
    pub metrics: BTreeMap<String, f64>,
    /// Wall time.
    pub seconds: f64,
    /// Bytes of the tree's entries.
    pub bytes: u64,
}

/// What all workers share.
pub struct Shop<'a> {
    /// Where results go.
    pub store: &'a Store,
    /// Keeps results of this process from the collector.
    pub lease: &'a Lease,
    /// Device, bases, Hub.
    pub session: &'a Session,
    /// Set when the user asks to stop.
    pub stop: &'a AtomicBool,
    /// This machine, for provenance.
    pub host: &'a str,
    /// The clock, for provenance.
    pub now: fn() -> String,
}

/// Runs one step and tells how it went.
pub fn perform(job: &Job, shop: &Shop<'_>, tell: &Sender<Message>) {
    let step = job.step;
    // The receiver outlives the workers, so a failed send means that nobody cares any more.
    let send = |message| drop(tell.send(message));
    let device = match job.work.needs() {
        Needs::Device => match shop.session.device() {
            Ok(found) => Some(found.to_string()),
            Err(error) => return send(Message::Ended { step, result: Err(error) }),
        },
        Needs::Net | Needs::Cpu => None,
    };
    send(Message::Started { step, device: device.clone() });
    let told = Told { step, tell: tell.clone() };
    let result = catch_unwind(AssertUnwindSafe(|| made(job, shop, &told, device)));
    let result = result.unwrap_or_else(|panic| {
        Err(Error::failed(format!("the step broke down: {}", reason(&*panic)))
            .with_hint("this is a fault of fedpipe; nothing that was done is lost"))
    });
    send(Message::Ended { step, result });
}

fn made(job: &Job, shop: &Shop<'_>, told: &Told, device: Option<String>) -> Result<Made, Error> {
    let start = Instant::now();
    let draft = shop.store.draft(shop.lease)?;
    let mut cx = Context::new(shop.store, shop.session, &job.inputs, told, shop.stop, draft);
    job.work.run(&mut cx)?;
    let (draft, metrics) = cx.finish();
    let output = draft.finish()?;
    let (tree, listing) = (output.blob, output.tree.clone());
    let seconds = start.elapsed().as_secs_f64();
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

fn reason(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason given".into())
}

/// A step's report, sent to the coordinator.
struct Told {
    step: usize,
    tell: Sender<Message>,
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
