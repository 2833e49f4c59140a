use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{Lease, NewRecord, Provenance};

#[expect(clippy::unnecessary_wraps, reason = "the check asks for an option")]
fn key_of(manifest: &Value) -> Option<Digest> {
    Some(Digest::of(manifest.to_string().as_bytes()))
}

fn store() -> (TempDir, Store, Lease) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let lease = store.lease().unwrap();
    (dir, store, lease)
}

/// A record with an entry of 100,000 bytes, an external one, and so many others.
fn publish(dir: &TempDir, store: &Store, lease: &Lease, name: &str, others: usize) -> NewRecord {
    let mut draft = store.draft(lease).unwrap();
    draft
        .bytes("large", name.repeat(100_000).as_bytes())
        .unwrap();
    let outside = dir.path().join(name);
    fs::write(&outside, format!("outside {name}")).unwrap();
    draft.external("outside", &outside).unwrap();
    for i in 0..others {
        draft.bytes(&format!("other/{i}"), b"same").unwrap();
    }
    let manifest = json!({"stage": name});
    let record = NewRecord {
        key: key_of(&manifest).unwrap(),
        manifest,
        kind: "test".into(),
        output: draft.finish().unwrap(),
        metrics: [].into(),
        provenance: Provenance::default(),
    };
    store.publish(lease, record.clone()).unwrap();
    record
}

fn rewrite(path: PathBuf, change: impl Fn(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_good_store_has_no_problems_and_pruned_blobs_are_none() {
    let (dir, store, lease) = store();
    let one = publish(&dir, &store, &lease, "a", 300);
    publish(&dir, &store, &lease, "b", 0);
    let found = store.verify(Some(1.0), &key_of).unwrap();
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    assert_eq!(
        (found.records, found.blobs, found.external, found.hashed),
        (2, 5, 2, 7)
    );
    assert_eq!(found.pruned, 0);
    fs::remove_file(store.path(&one.output.tree.get("large").unwrap()).unwrap()).unwrap();
    let found = store.verify(None, &key_of).unwrap();
    assert_eq!(
        (found.problems.len(), found.pruned, found.hashed),
        (0, 1, 0)
    );
    assert!(store.find(&one.key).unwrap().is_some());
}

#[test]
fn each_kind_of_damage_is_found_named_and_set_aside() {
    type Damage = fn(&Store, &NewRecord) -> PathBuf;
    let cases: [(&str, What, Damage); 6] = [
        ("a flipped bit in a blob", What::Blob, |store, record| {
            let large = record.output.tree.get("large").unwrap();
            rewrite(store.path(&large).unwrap(), |bytes| bytes[50_000] ^= 1)
        }),
        ("a truncated blob", What::Blob, |store, record| {
            let large = record.output.tree.get("large").unwrap();
            rewrite(store.path(&large).unwrap(), |bytes| bytes.truncate(50_000))
        }),
        ("an empty blob", What::Blob, |store, record| {
            let large = record.output.tree.get("large").unwrap();
            rewrite(store.path(&large).unwrap(), Vec::clear)
        }),
        ("an edited listing", What::Blob, |store, record| {
            rewrite(store.path(&record.output.blob).unwrap(), |bytes| {
                *bytes.last_mut().unwrap() ^= 1;
            })
        }),
        ("an edited record", What::Record, |store, record| {
            rewrite(store.place(Area::Records, &record.key), |bytes| {
                *bytes.last_mut().unwrap() ^= 1;
            })
        }),
        ("an edited file outside", What::External, |store, record| {
            let blob = record.output.tree.get("outside").unwrap();
            fs::write(store.path(&blob).unwrap(), "other").unwrap();
            store.place(Area::External, &blob.digest)
        }),
    ];
    for (name, what, damage) in cases {
        let (dir, store, lease) = store();
        let record = publish(&dir, &store, &lease, "a", 300);
        let other = publish(&dir, &store, &lease, "b", 0);
        let path = damage(&store, &record);
        let found = store.verify(Some(1.0), &key_of).unwrap();
        let problem = found.problems.iter().find(|problem| problem.path == path);
        let problem = problem.unwrap_or_else(|| panic!("{name}: {:?}", found.problems));
        assert_eq!(problem.what, what, "{name}");
        assert!(
            !path.exists() && problem.moved.as_ref().unwrap().exists(),
            "{name}"
        );
        assert!(
            store.find(&record.key).unwrap().is_none(),
            "{name}: its record is a miss"
        );
        assert!(
            store.find(&other.key).unwrap().is_some(),
            "{name}: the other one is not"
        );
        let again = store.verify(Some(1.0), &key_of).unwrap();
        assert!(again.problems.is_empty(), "{name}: {:?}", again.problems);
    }
}

#[test]
fn a_key_must_be_that_of_its_manifest() {
    let (dir, store, lease) = store();
    let record = publish(&dir, &store, &lease, "a", 0);
    let found = store.verify(None, &|_| Some(Digest::of(b"other"))).unwrap();
    assert_eq!(found.problems.len(), 1);
    assert!(
        found.problems[0].why.contains("manifest"),
        "{}",
        found.problems[0].why
    );
    assert!(store.find(&record.key).unwrap().is_none());
}

#[test]
fn damaged_roots_are_set_aside_so_that_the_collector_can_go_on() {
    let (_dir, store, lease) = store();
    let run = store.new_run("r", &json!({})).unwrap();
    fs::write(run.path().join("run.json"), "{").unwrap();
    fs::write(store.folder("pins").join("p"), "").unwrap();
    assert!(store.gc(&crate::Policy::default(), true).is_err());
    let found = store.verify(None, &key_of).unwrap();
    let kinds: Vec<What> = found.problems.iter().map(|problem| problem.what).collect();
    assert_eq!(kinds, [What::Run, What::Pin]);
    assert!(store.gc(&crate::Policy::default(), true).is_ok());
    drop(lease);
}

#[test]
fn a_sample_is_a_part() {
    let (_dir, store, lease) = store();
    for i in 0..200u32 {
        store.put_bytes(&lease, &i.to_le_bytes()).unwrap();
    }
    let hashed = store.verify(Some(0.5), &key_of).unwrap().hashed;
    // 200 fair draws stray from 100 by more than 60 in fewer than one of 10^17 checks.
    assert!((40..160).contains(&hashed), "{hashed}");
}
