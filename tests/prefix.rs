//! Hidden states below the adapted blocks are computed once and serve all that is trained above them.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::harness::Space;

/// Three clients, two rounds, LoRA on the last of three blocks.
fn space() -> Space {
    let space = Space::with_graph(3, 2);
    let text = std::fs::read_to_string(space.path("graph.ron")).unwrap();
    space.write("graph.ron", &text.replace("alpha: 8,", "alpha: 8, layers: Last(1),"));
    space
}

fn digests(space: &Space) -> BTreeSet<String> {
    space.records().into_iter().map(|(_, digest)| digest).collect()
}

#[test]
fn a_prefix_serves_all_ranks_rules_rounds_and_seeds() {
    let space = space();
    // Base, data, tokens, shards, init; three clients' prefixes and that of the scores; two rounds of three clients.
    assert_eq!(space.run(&[]).counts(), (5 + 4 + 8 + 2, 0, 19));
    let rows = [
        (&[][..], (19, 19, 0)),
        (&["fed.rounds=3"], (24, 19, 5)),
        // The prefixes and what they are made from stay.
        (&["fed.lora.rank=2"], (19, 4 + 4, 11)),
        (&["fed.aggregate=Median"], (19, 4 + 4 + 1 + 3, 7)),
        (&["fed.seeds=(local: 5)"], (19, 4 + 4 + 1, 10)),
        (&["fed.local.optimizer=AdamW(lr: 1e-4)"], (19, 4 + 4 + 1, 10)),
        (&["score.every=2"], (18, 18, 0)),
        (&["fed.lora.layers=Only([2])"], (19, 4, 15)),
        // Other blocks, other prefixes.
        (&["fed.lora.layers=Last(2)"], (19, 4, 15)),
        // What every block changes has none; nor has a rule that adds to the base itself.
        (&["fed.lora.layers=All"], (15, 4, 11)),
        (&["fed.aggregate=FLoRA", "fed.lora.rank=3"], (15, 4, 11)),
        (&["fed.aggregate=FedExLoRA", "fed.lora.rank=3"], (15, 4 + 1 + 3, 7)),
    ];
    let mut table = String::new();
    for (sets, expected) in rows {
        let counts = space.run(sets).counts();
        writeln!(table, "{sets:?}: {counts:?}").unwrap();
        assert_eq!(counts, expected, "so far:\n{table}");
    }
}

#[test]
fn a_run_without_prefixes_gives_the_same_bytes() {
    let (with, without) = (space(), space());
    with.run(&[]);
    assert_eq!(without.run(&["fed.local.prefix=Recompute"]).counts(), (15, 0, 15));
    let (with, without) = (digests(&with), digests(&without));
    assert!(without.is_subset(&with), "{:?}", without.difference(&with).collect::<Vec<_>>());
}

#[test]
fn a_plan_shows_them_and_a_causal_task_has_them_too() {
    let space = space();
    let plan = space.fedpipe(&["plan", "graph.ron"]).fine().stdout;
    assert!(plan.contains("fed/prefix, 3 clients"), "{plan}");
    assert!(plan.contains("score/prefix"), "{plan}");
    let task =
        r#"tokens.task=Verbalize(prompt: "{sentence} It was", labels: [" bad", " so very good"])"#;
    space.run(&[task]);
    let with = digests(&space);
    let alone = self::space();
    alone.run(&[task, "fed.local.prefix=Recompute"]);
    assert!(digests(&alone).is_subset(&with));
}

#[test]
fn the_centralised_baseline_and_the_losses_of_shards_begin_there_too() {
    let (with, without) = (space(), space());
    let rule = "fed.aggregate=QFedAvg()";
    with.run(&[rule]);
    without.run(&[rule, "fed.local.prefix=Recompute"]);
    assert!(digests(&without).is_subset(&digests(&with)));
    let graph = |space: &Space| {
        let text = std::fs::read_to_string(space.path("graph.ron")).unwrap();
        let (start, rest) = text.split_once("fed: Federate(").unwrap();
        let (_, end) = rest.split_once("score:").unwrap();
        let train = "fed: Train(base: base, on: tokens, rounds: 2,
            lora: (rank: 4, alpha: 8, layers: Last(1)), local: (batch: 4)),
        score:";
        space.write("train.ron", &format!("{start}{train}{end}"));
    };
    let ran = |space: &Space, set: &[&str]| {
        graph(space);
        space
            .fedpipe(&[&["run", "train.ron", "--device", "cpu", "--json"], set].concat())
            .fine()
            .counts()
    };
    // Shards are there though nothing trains on them; two prefixes (that of the scores is known), init, two rounds, two
    // scores.
    assert_eq!(ran(&with, &[]), (4 + 2 + 1 + 2 + 2, 5, 6));
    assert_eq!(ran(&without, &["--set", "fed.local.prefix=Recompute"]).0, 9);
    assert!(digests(&without).is_subset(&digests(&with)));
}

#[test]
fn a_pruned_prefix_is_made_again_only_if_it_is_needed() {
    let space = space();
    space.run(&[]);
    let before = space.records();
    std::fs::remove_dir_all(space.path(".fedpipe/cas")).unwrap();
    std::fs::create_dir(space.path(".fedpipe/cas")).unwrap();
    assert_eq!(space.run(&[]).counts(), (19, 19, 0), "nothing needs the bytes");
    let ran = space.run(&["fed.rounds=3"]);
    let made = |name: &str| {
        ran.events().iter().any(|event| event["event"] == "finished" && event["step"] == name)
    };
    assert!(made("fed/prefix/client-000") && made("score/prefix"));
    assert!(!made("fed/round-001/client-000/loss") && !made("score/round-001"));
    let after = space.records();
    assert!(before.iter().all(|record| after.contains(record)), "other bytes than before");
}
