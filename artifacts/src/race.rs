//! Writers and a collector at once: nothing that a lease holds is ever lost.
//!
//! Each round lets everything grow old, then starts the collector and the writers together, so that
//! they meet on the same records; and collects once more while the writers still hold their leases.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::layout::Area;
use crate::{Digest, Lease, NewRecord, Policy, Provenance, Store, Tree, sweep};

const GRACE: Duration = Duration::from_millis(25);
const KEYS: u64 = 64;
const WRITERS: usize = 4;
const LENGTH: Duration = Duration::from_secs(2);

/// Numbers without a clock: another sequence for each writer.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % end
    }

    fn pause(&mut self, micros: u64) {
        thread::sleep(Duration::from_micros(self.below(micros)));
    }
}

#[derive(Default)]
struct Tally {
    published: AtomicU64,
    reused: AtomicU64,
}

/// Uses the record of a key, or makes it; its blobs are shared with other records.
fn obtain(store: &Store, lease: &Lease, number: u64, tally: &Tally) -> Digest {
    let key = Digest::of(&number.to_le_bytes());
    if store.find(&key).unwrap().is_some() && store.touch(&key).unwrap() {
        tally.reused.fetch_add(1, Ordering::Relaxed);
        return key;
    }
    let mut draft = store.draft(lease).unwrap();
    for part in 0..3 {
        let text = format!("blob {}", (number + part) % KEYS);
        draft.bytes(&part.to_string(), text.as_bytes()).unwrap();
    }
    let record = NewRecord {
        key,
        manifest: json!(number),
        kind: "test".into(),
        output: draft.finish().unwrap(),
        metrics: [].into(),
        provenance: Provenance::default(),
    };
    store.publish(lease, record).unwrap();
    tally.published.fetch_add(1, Ordering::Relaxed);
    key
}

/// All that a record names must be readable once it was touched or published under a lease.
fn check(store: &Store, key: &Digest) {
    // It may be in the trash for a moment: then the touch takes it back.
    let found = store.find(key).unwrap().or_else(|| {
        assert!(store.touch(key).unwrap(), "a record under a lease stays");
        store.find(key).unwrap()
    });
    let found = found.expect("a record that was taken back is whole");
    let tree = Tree::parse(&store.blob(&found.tree).expect("its tree stays")).unwrap();
    for (_, blob) in tree.iter() {
        let bytes = store.blob(&blob).expect("every blob that it names stays");
        assert!(bytes.starts_with(b"blob "));
    }
}

fn write(store: &Store, draw: &mut Draw, tally: &Tally) {
    draw.pause(3000);
    let lease = store.lease().unwrap();
    let mut keys = Vec::new();
    for _ in 0..8 {
        keys.push(obtain(store, &lease, draw.below(KEYS), tally));
        draw.pause(300);
    }
    for _ in 0..3 {
        for key in &keys {
            check(store, key);
        }
        draw.pause(40_000);
    }
}

/// Collects for as long as the test lasts: how many went, were rescued, and collections failed.
fn collect(store: &Store, gate: &Barrier, done: &AtomicBool) -> (usize, u64, u64) {
    let policy = Policy {
        keep_last: None,
        keep_within: None,
        grace: GRACE,
    };
    let (begun, mut sum) = (Instant::now(), (0, 0, 0));
    while !done.load(Ordering::Relaxed) {
        gate.wait();
        for pause in [GRACE * 2, Duration::ZERO] {
            // The writers wait at the gate: a collection that fails must not keep them there.
            if let Ok(swept) = store.gc(&policy, false) {
                sum = (sum.0 + swept.items.len(), sum.1 + swept.rescued, sum.2);
            } else {
                sum.2 += 1;
            }
            thread::sleep(pause);
        }
        done.store(begun.elapsed() > LENGTH, Ordering::Relaxed);
        // The writers have given back their leases; now everything grows old.
        gate.wait();
        thread::sleep(GRACE + GRACE / 4);
    }
    sum
}

#[test]
fn nothing_that_a_lease_holds_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (tally, done, gate) = (
        Tally::default(),
        AtomicBool::new(false),
        Barrier::new(WRITERS + 1),
    );
    let lost = AtomicU64::new(0);
    let (swept, rescued, failed) = thread::scope(|scope| {
        for writer in 0..WRITERS as u64 {
            let (store, tally, done, gate, lost) = (&store, &tally, &done, &gate, &lost);
            scope.spawn(move || {
                let mut draw = Draw(writer);
                while !done.load(Ordering::Relaxed) {
                    gate.wait();
                    // A writer that panicked must still meet the others at the gate.
                    let wrote = std::panic::AssertUnwindSafe(|| write(store, &mut draw, tally));
                    if std::panic::catch_unwind(wrote).is_err() {
                        lost.fetch_add(1, Ordering::Relaxed);
                    }
                    gate.wait();
                }
            });
        }
        collect(&store, &gate, &done)
    });
    for shard in sweep::shards(&store, Area::Records).unwrap() {
        for seen in sweep::shard(&store, Area::Records, &shard).unwrap() {
            check(&store, &seen.digest);
        }
    }
    let [published, reused] =
        [&tally.published, &tally.reused].map(|count| count.load(Ordering::Relaxed));
    let line = format!("{swept} swept, {rescued} rescued, {published} published, {reused} reused");
    assert_eq!((lost.into_inner(), failed), (0, 0), "{line}");
    // The test is worth something only if both sides were at work, on the same things.
    assert!(
        published > 50 && reused > 20 && swept > 50 && rescued > 0,
        "{line}"
    );
}
