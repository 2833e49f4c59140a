//! Writers, readers and a collector at once: nothing that a lease holds is ever lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::layout::Area;
use crate::{Digest, Error, NewRecord, Policy, Provenance, Store, sweep};

const GRACE: Duration = Duration::from_millis(25);
const KEYS: u64 = 24;
const WRITERS: u64 = 3;

/// Numbers without a clock: another sequence for each writer.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

#[derive(Default)]
struct Tally {
    published: AtomicU64,
    reused: AtomicU64,
    pruned: AtomicU64,
}

/// Writes a record whose blobs other records share, or uses one that is there; then all that it
/// names must be readable for as long as the lease is held.
fn step(store: &Store, draw: &mut Draw, tally: &Tally) {
    let lease = store.lease().unwrap();
    let number = draw.below(KEYS);
    let key = Digest::of(&number.to_le_bytes());
    if store.find(&key).unwrap().is_some() && store.touch(&key).unwrap() {
        tally.reused.fetch_add(1, Ordering::Relaxed);
    } else {
        let mut draft = store.draft(&lease).unwrap();
        for part in 0..3 {
            let text = format!("blob {}", (number + part) % KEYS);
            draft.bytes(&part.to_string(), text.as_bytes()).unwrap();
        }
        let (output, metrics) = (draft.finish().unwrap(), [].into());
        let (manifest, provenance) = (json!(number), Provenance::default());
        let record = NewRecord {
            key,
            manifest,
            kind: "t".into(),
            output,
            metrics,
            provenance,
        };
        store.publish(&lease, record).unwrap();
        tally.published.fetch_add(1, Ordering::Relaxed);
    }
    for _ in 0..3 {
        let found = store.find(&key).unwrap();
        // In the trash for a moment: whoever reads waits and looks again.
        let found = found.or_else(|| {
            store
                .touch(&key)
                .unwrap()
                .then(|| store.find(&key).unwrap())?
        });
        let found = found.expect("a record that was touched under a lease stays");
        let tree = store.blob(&found.tree).expect("so does its tree");
        let tree = crate::Tree::parse(&tree).unwrap();
        for (name, blob) in tree.iter() {
            let bytes = store.blob(&blob).expect("and every blob that it names");
            assert!(bytes.starts_with(b"blob "), "{name}");
        }
        thread::sleep(Duration::from_millis(draw.below(8)));
    }
}

#[test]
fn nothing_that_a_lease_holds_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let (done, tally) = (AtomicBool::new(false), Tally::default());
    let policy = Policy {
        keep_last: None,
        keep_within: None,
        grace: GRACE,
    };
    let (mut swept, mut rescued, mut rounds) = (0, 0, 0);
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (store, done, tally) = (&store, &done, &tally);
            scope.spawn(move || {
                let mut draw = Draw(writer);
                while !done.load(Ordering::Relaxed) {
                    step(store, &mut draw, tally);
                    // Between two leases everything may go.
                    thread::sleep(Duration::from_millis(draw.below(60)));
                }
            });
        }
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            match store.gc(&policy, false) {
                Ok(done) => {
                    swept += done.items.len();
                    rescued += done.rescued;
                }
                Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
            }
            rounds += 1;
        }
        done.store(true, Ordering::Relaxed);
    });
    for shard in sweep::shards(&store, Area::Records).unwrap() {
        for seen in sweep::shard(&store, Area::Records, &shard).unwrap() {
            let found = store
                .find(&seen.digest)
                .unwrap()
                .expect("only whole records appear");
            let tree = store
                .tree(&found.tree)
                .unwrap()
                .expect("a record names its tree");
            for (_, blob) in tree.iter() {
                match store.blob(&blob) {
                    Err(Error::Pruned { .. }) => tally.pruned.fetch_add(1, Ordering::Relaxed),
                    read => u64::from(read.unwrap().is_empty()),
                };
            }
        }
    }
    let [published, reused, pruned] =
        [&tally.published, &tally.reused, &tally.pruned].map(|count| count.load(Ordering::Relaxed));
    let line = format!(
        "{rounds} collections, {swept} swept, {rescued} rescued, {published} published, {reused} reused"
    );
    assert_eq!(pruned, 0, "dangling references after {line}");
    // The test is worth something only if both sides were at work.
    assert!(published > 30 && swept > 30, "{line}");
}
