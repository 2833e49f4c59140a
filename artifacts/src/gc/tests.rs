use std::fs;
use std::thread::sleep;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{BlobRef, Lease, NewRecord, Pin, Provenance, Root};

/// Everything that no lease holds is old enough.
const NOW: Policy = Policy {
    keep_last: None,
    keep_within: None,
    grace: Duration::ZERO,
};

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// Past one tick of the clock of the file system.
fn tick() {
    sleep(Duration::from_millis(25));
}

fn publish(store: &Store, lease: &Lease, name: &str) -> (Digest, BlobRef) {
    let mut draft = store.draft(lease).unwrap();
    let blob = draft.bytes("text", name.as_bytes()).unwrap();
    let record = NewRecord {
        key: Digest::of(name.as_bytes()),
        manifest: json!({}),
        kind: "test".into(),
        output: draft.finish().unwrap(),
        metrics: [].into(),
        provenance: Provenance::default(),
    };
    let key = record.key;
    store.publish(lease, record).unwrap();
    (key, blob)
}

/// A record that nobody holds any more.
fn publish_old(store: &Store, name: &str) -> (Digest, BlobRef) {
    let made = publish(store, &store.lease().unwrap(), name);
    tick();
    made
}

fn is_there(store: &Store, (key, blob): &(Digest, BlobRef)) -> bool {
    let found = store.find(key).unwrap();
    let tree = found.map(|found| store.has(&found.tree));
    assert!(
        tree.is_none_or(|has| has && store.has(blob)),
        "a record names what is not there"
    );
    tree.is_some()
}

fn all_files(folder: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for name in files::names(folder).unwrap() {
        let path = folder.join(&name);
        if path.is_dir() {
            all.extend(
                all_files(&path)
                    .into_iter()
                    .map(|below| format!("{name}/{below}")),
            );
        } else {
            all.push(name);
        }
    }
    all
}

#[test]
fn what_nothing_keeps_goes_and_a_dry_run_deletes_nothing() {
    let (_dir, store) = store();
    let made = publish_old(&store, "one");
    let before = all_files(store.root());
    let dry = store.gc(&NOW, true).unwrap();
    assert_eq!(all_files(store.root()), before);
    assert!(is_there(&store, &made));
    let swept = store.gc(&NOW, false).unwrap();
    assert_eq!((swept.records, swept.blobs, swept.rescued), (1, 2, 0));
    assert_eq!(
        (swept.bytes, swept.items.len()),
        (dry.bytes, dry.items.len())
    );
    assert!(!is_there(&store, &made) && !store.has(&made.1));
    assert_eq!(all_files(store.root()), ["FORMAT", "gc.lock"]);
}

#[test]
fn what_a_live_lease_could_be_using_stays() {
    let (_dir, store) = store();
    let old = publish_old(&store, "old");
    let lease = store.lease().unwrap();
    let new = publish(&store, &lease, "new");
    let loose = store.put_bytes(&lease, b"not yet in a record").unwrap();
    tick();
    let swept = store.gc(&NOW, false).unwrap();
    assert_eq!((swept.records, swept.kept_records), (1, 1));
    assert!(!is_there(&store, &old) && is_there(&store, &new) && store.has(&loose));
    drop(lease);
    store.gc(&NOW, false).unwrap();
    assert!(!is_there(&store, &new) && !store.has(&loose));
}

#[test]
fn a_touched_record_keeps_what_it_names() {
    let (_dir, store) = store();
    let made = publish_old(&store, "one");
    let lease = store.lease().unwrap();
    assert!(store.touch(&made.0).unwrap());
    tick();
    store.gc(&NOW, false).unwrap();
    assert!(
        is_there(&store, &made),
        "its blobs were not touched, but the record was"
    );
    drop(lease);
}

#[test]
fn what_was_touched_after_the_listing_is_put_back() {
    let (_dir, store) = store();
    let (key, blob) = publish_old(&store, "one");
    let floor = store.now().unwrap();
    tick();
    store.touch(&key).unwrap();
    assert!(matches!(
        sweep::take(&store, Area::Records, &key, floor),
        Ok(Fate::Back(_))
    ));
    assert!(store.find(&key).unwrap().is_some());
    assert!(matches!(
        sweep::take(&store, Area::Blobs, &blob.digest, floor),
        Ok(Fate::Gone)
    ));
    assert!(matches!(
        sweep::take(&store, Area::Blobs, &blob.digest, floor),
        Ok(Fate::Absent)
    ));
}

#[test]
fn grace_keeps_what_is_recent() {
    let (_dir, store) = store();
    let made = publish_old(&store, "one");
    let swept = store.gc(&Policy::default(), false).unwrap();
    assert!(swept.items.is_empty() && is_there(&store, &made));
}

#[test]
fn runs_past_the_policy_go_and_what_only_they_reached() {
    let (_dir, store) = store();
    let names = ["a", "b", "c", "d"];
    let made = names.map(|name| publish_old(&store, name));
    for (name, (key, _)) in names.iter().zip(&made) {
        let keys = json!({"keys": {"own": key, "shared": made[0].0}, "ended": true});
        store.new_run(name, &keys).unwrap();
        tick();
    }
    store
        .pin(
            "kept",
            &Pin {
                root: Root::Run("b".into()),
                note: String::new(),
                expires: None,
            },
        )
        .unwrap();
    assert_eq!(
        store.gc(&NOW, false).unwrap().items.len(),
        0,
        "all runs are kept"
    );
    let last = Policy {
        keep_last: Some(1),
        ..NOW
    };
    let swept = store.gc(&last, false).unwrap();
    assert_eq!((swept.runs, swept.kept_runs, swept.records), (2, 2, 1));
    let ids: Vec<String> = store
        .runs()
        .unwrap()
        .into_iter()
        .map(|run| run.id)
        .collect();
    assert_eq!(ids, ["d", "b"]);
    let stays: Vec<bool> = made.iter().map(|made| is_there(&store, made)).collect();
    assert_eq!(
        stays,
        [true, true, false, true],
        "what a kept run shares stays"
    );
    let within = Policy {
        keep_within: Some(Duration::from_hours(1)),
        ..last
    };
    assert_eq!(
        store.gc(&within, false).unwrap().runs,
        0,
        "either keeps a run"
    );
}

#[test]
fn a_run_that_goes_on_keeps_what_its_journal_names() {
    let (_dir, store) = store();
    let made = publish_old(&store, "one");
    let lease = store.lease().unwrap();
    let run = store.new_run("r", &json!({"ended": false})).unwrap();
    run.journal()
        .unwrap()
        .line(&json!({"key": made.0}).to_string())
        .unwrap();
    let none = Policy {
        keep_last: Some(0),
        ..NOW
    };
    tick();
    assert_eq!(store.gc(&none, false).unwrap().runs, 0);
    assert!(is_there(&store, &made));
    drop(lease);
    assert_eq!(store.gc(&none, false).unwrap().runs, 1, "it was killed");
    assert!(!is_there(&store, &made));
}

#[test]
fn a_root_that_cannot_be_read_stops_everything() {
    let (_dir, store) = store();
    let made = publish_old(&store, "one");
    let run = store.new_run("r", &json!({})).unwrap();
    fs::write(run.path().join("run.json"), "{").unwrap();
    assert!(matches!(store.gc(&NOW, false), Err(Error::Damaged { .. })));
    assert!(is_there(&store, &made));
    run.update(&json!({"keys": {"a": made.0}, "ended": true}))
        .unwrap();
    fs::write(store.place(Area::Records, &made.0), "cut").unwrap();
    assert!(matches!(store.gc(&NOW, false), Err(Error::Damaged { .. })));
    assert!(store.has(&made.1));
}

#[test]
fn an_interrupted_collection_is_taken_up() {
    let (_dir, store) = store();
    let (kept, gone) = (publish_old(&store, "kept"), publish_old(&store, "gone"));
    store
        .new_run("r", &json!({"keys": {"a": kept.0}, "ended": true}))
        .unwrap();
    for (key, blob) in [&kept, &gone] {
        for (area, digest) in [(Area::Records, key), (Area::Blobs, &blob.digest)] {
            files::rename(&store.place(area, digest), &store.trash(area, digest)).unwrap();
        }
    }
    fs::create_dir_all(store.folder("trash").join("folder-1")).unwrap();
    let swept = store.gc(&NOW, false).unwrap();
    assert_eq!((swept.records, swept.kept_records), (1, 1));
    assert!(is_there(&store, &kept) && !is_there(&store, &gone));
    assert!(all_files(&store.folder("trash")).is_empty());
    assert!(!store.folder("trash").join("folder-1").exists());
}

#[test]
fn what_an_ended_process_left_goes() {
    let (_dir, store) = store();
    let lease = store.lease().unwrap();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    // The lease of a process that ended without giving it back.
    let mut dead: serde_json::Value =
        serde_json::from_slice(&fs::read(store.folder("leases").join(lease.id())).unwrap())
            .unwrap();
    dead["holder"]["pid"] = child.id().into();
    dead["holder"]["begun"] = serde_json::Value::Null;
    fs::write(store.folder("leases").join("dead"), dead.to_string()).unwrap();
    files::write(&store.folder("tmp").join("dead/0"), b"half", 0o444).unwrap();
    let mine = lease.staging();
    fs::write(&mine, "being written").unwrap();
    tick();
    let swept = store.gc(&NOW, false).unwrap();
    assert_eq!((swept.tmp, swept.bytes), (1, 4));
    assert_eq!(files::names(&store.folder("leases")).unwrap(), [lease.id()]);
    assert!(mine.exists() && !store.folder("tmp").join("dead").exists());
}

#[test]
fn checkpoints_stay_while_a_kept_run_wants_their_step() {
    let (_dir, store) = store();
    let done = publish_old(&store, "done").0;
    let (wanted, lost) = (Digest::of(b"wanted"), Digest::of(b"lost"));
    for key in [done, wanted, lost] {
        fs::write(store.wip(&key).unwrap().join("state"), "state").unwrap();
    }
    store
        .new_run("r", &json!({"keys": {"a": done, "b": wanted}}))
        .unwrap();
    tick();
    store.gc(&NOW, false).unwrap();
    assert_eq!(
        files::names(&store.folder("wip")).unwrap(),
        [wanted.to_string()]
    );
}

#[test]
fn a_second_collector_is_refused() {
    let (_dir, store) = store();
    let claim = store.claim().unwrap();
    assert!(matches!(store.gc(&NOW, false), Err(Error::Busy { .. })));
    assert!(store.gc(&NOW, true).is_ok());
    drop(claim);
    assert!(store.gc(&NOW, false).is_ok());
}
