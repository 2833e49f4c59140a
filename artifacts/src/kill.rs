//! A process killed at any moment leaves whole files only, and nothing that is not pruned later.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{Digest, NewRecord, Policy, Provenance, Store, files};

const AT_ONCE: Policy = Policy {
    keep_last: None,
    keep_within: None,
    grace: Duration::ZERO,
};

#[expect(clippy::unnecessary_wraps, reason = "the check asks for an option")]
fn key_of(manifest: &Value) -> Option<Digest> {
    Some(Digest::of(manifest.to_string().as_bytes()))
}

/// Writes records and collects now and then, in the store below the working folder. It is run, and
/// killed, by the test below; by itself it ends after a while.
#[test]
#[ignore = "it is a part of the other test"]
fn writes_until_it_is_killed() {
    let store = Store::open(Path::new("store")).unwrap();
    let begun = Instant::now();
    for number in 0.. {
        if begun.elapsed() > Duration::from_secs(10) {
            return;
        }
        let lease = store.lease().unwrap();
        store
            .new_run(&format!("{}-{number}", lease.id()), &json!({"ended": true}))
            .unwrap();
        let mut draft = store.draft(&lease).unwrap();
        for part in 0..4 {
            let text = format!("{part} of {number} ").repeat(10_000);
            draft.bytes(&part.to_string(), text.as_bytes()).unwrap();
        }
        let manifest = json!({"number": number});
        let record = NewRecord {
            key: key_of(&manifest).unwrap(),
            manifest,
            kind: "test".into(),
            output: draft.finish().unwrap(),
            metrics: [].into(),
            provenance: Provenance::default(),
        };
        store.publish(&lease, record).unwrap();
        drop(lease);
        if number % 5 == 4 {
            store
                .gc(
                    &Policy {
                        keep_last: Some(3),
                        ..AT_ONCE
                    },
                    false,
                )
                .unwrap();
        }
    }
}

fn spawn(folder: &Path) -> Child {
    let mut writer = Command::new(std::env::current_exe().unwrap());
    writer.args(["--ignored", "--exact", "kill::writes_until_it_is_killed"]);
    writer
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn held(root: &Path) -> Vec<String> {
    files::names(&root.join("leases")).unwrap()
}

#[test]
fn a_kill_leaves_whole_files_only() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let (mut records, mut leases) = (0, 0);
    for round in 0..9 {
        let before = held(&root);
        let mut writer = spawn(dir.path());
        for _ in 0..500 {
            if held(&root).iter().any(|id| !before.contains(id)) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(Duration::from_millis(7 * round));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let Some(store) = Store::open_existing(&root).unwrap() else {
            continue;
        };
        let found = store.verify(Some(1.0), &key_of).unwrap();
        assert!(found.problems.is_empty(), "{:?}", found.problems);
        records += found.records;
        leases += held(&root).len();
        // Now and then the next writer goes on with what the killed one left.
        if round % 3 == 2 {
            thread::sleep(Duration::from_millis(20));
            store
                .gc(
                    &Policy {
                        keep_last: Some(0),
                        ..AT_ONCE
                    },
                    false,
                )
                .unwrap();
            for folder in ["leases", "tmp", "runs"] {
                assert!(
                    files::names(&store.folder(folder)).unwrap().is_empty(),
                    "{folder}"
                );
            }
            let left = store.verify(None, &key_of).unwrap();
            assert_eq!((left.records, left.blobs), (0, 0));
        }
    }
    // The test is worth something only if writers were killed at work.
    assert!(
        records > 0 && leases > 0,
        "{records} records, {leases} leases"
    );
}
