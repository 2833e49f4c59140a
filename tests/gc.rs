//! Pruning keeps what later runs need, and a pruned artifact is made again only where it is needed.

use crate::harness::Space;

#[test]
fn a_forgotten_run_goes_and_a_kept_one_stays() {
    let space = Space::with_graph(3, 2);
    space.run(&[]);
    space.run(&["fed.lora.rank=2"]);
    let gc = |args: &[&str]| {
        let mut all = vec!["gc", "--json", "--grace", "0s"];
        all.extend(args);
        space.fedpipe(&all).fine().json()
    };
    let nothing = gc(&[]);
    assert_eq!(nothing["records"], 0, "{nothing}");
    let would = gc(&["--keep-last", "1", "--dry-run"]);
    assert_eq!(would["runs"], 1);
    assert_eq!(space.inside(".fedpipe/runs").len(), 2, "a dry run removed something");
    let did = gc(&["--keep-last", "1"]);
    assert_eq!(did["records"], would["records"]);
    assert!(did["bytes"].as_u64().unwrap() > 0);
    let (steps, reused, _) = space.run(&["fed.lora.rank=2"]).counts();
    assert_eq!(reused, steps, "the kept run is whole");
    let (_, reused, ran) = space.run(&[]).counts();
    assert_eq!((reused, ran), (4, steps - 4), "the forgotten one is gone, but for what both used");
    assert_eq!(space.fedpipe(&["verify", "--content"]).code, 0);
}

#[test]
fn pruned_bytes_are_made_again_only_where_a_step_needs_them() {
    let space = Space::with_graph(3, 2);
    let (steps, ..) = space.run(&[]).counts();
    let before = space.records();
    // All bytes go; the records stay.
    std::fs::remove_dir_all(space.path(".fedpipe/cas")).unwrap();
    std::fs::create_dir(space.path(".fedpipe/cas")).unwrap();
    assert_eq!(space.run(&[]).counts(), (steps, steps, 0), "nothing needs the bytes");
    // A third round needs round 2's adapter and the shards; for those, their inputs.
    let ran = space.run(&["fed.rounds=3"]);
    let (_, reused, ran) = ran.counts();
    assert!(ran >= 5, "at least the new round and its score");
    assert!(reused >= 2, "scores of earlier rounds are not made again");
    let after = space.records();
    for record in before {
        assert!(after.contains(&record), "a step that was made again gave other bytes");
    }
}
