//! The reuse table of ARCHITECTURE.md, row by row, on runs that really train; and what `why` says.

use std::fmt::Write as _;

use crate::harness::Space;

/// One row: the edits, then the counts `(steps, reused, ran)` after a full run without them.
type Row = (&'static [&'static str], (u64, u64, u64));

/// Ten clients and twenty rounds.
const ROWS: [Row; 8] = [
    (&[], (245, 245, 0)),
    (&["fed.rounds=30"], (365, 245, 120)),
    (&["fed.rounds=5"], (65, 65, 0)),
    (&["fed.lora.rank=2"], (245, 4, 241)),
    (&["fed.aggregate=Median"], (245, 15, 230)),
    (&["fed.local.optimizer=AdamW(lr: 1e-4)"], (245, 5, 240)),
    (&["shards.by=Dirichlet(alpha: 1.0, min: 1, on_fail: TopUp)"], (245, 4, 241)),
    (&["score.every=5"], (229, 229, 0)),
];

#[test]
fn an_edit_runs_only_what_it_can_reach() {
    let space = Space::with_graph(10, 20);
    assert_eq!(space.run(&[]).counts(), (245, 0, 245));
    let mut table = String::new();
    for (sets, expected) in ROWS {
        let counts = space.run(sets).counts();
        writeln!(table, "{sets:?}: {counts:?}").unwrap();
        assert_eq!(counts, expected, "so far:\n{table}");
    }
}

#[test]
fn why_names_the_field_and_its_two_values() {
    let space = Space::with_graph(3, 2);
    space.run(&[]);
    let why = |step: &str, set: &str| {
        space.fedpipe(&["why", step, "graph.ron", "--set", set]).fine().stdout
    };
    assert_eq!(why("fed/init", "fed.lora.rank=2"), "lora.rank 4 -> 2 in fed/init\n");
    assert_eq!(
        why("fed/round-002/client-001", "fed.lora.rank=2"),
        "lora.rank 4 -> 2 in fed/init\n"
    );
    let clients = why("score", "shards.clients=4");
    assert!(clients.ends_with("clients 3 -> 4 in shards\n"), "{clients}");
    assert!(
        clients.contains("session.members [0,1,2] -> [0,1,2,3] in fed/round-001\n"),
        "{clients}"
    );
    let lr = why("fed", "fed.local.optimizer=AdamW(lr: 1e-4)");
    assert!(lr.contains("local.optimizer.AdamW.lr 0.001 -> 0.0001 in fed/round-00"), "{lr}");
    let reused = space.fedpipe(&["why", "fed/init", "graph.ron"]).fine().stdout;
    assert!(reused.starts_with("`fed/init` is reused: made in "), "{reused}");
}

#[test]
fn the_same_bytes_again_stop_a_change_early() {
    let space = Space::with_graph(3, 2);
    let (steps, ..) = space.run(&[]).counts();
    // The file moves and its column gets another place, but its rows stay what they were. Only the
    // data set is read again, and it makes the same corpus.
    std::fs::rename(space.path("train.tsv"), space.path("moved.tsv")).unwrap();
    let moved = r#"sst2.files={"train": "moved.tsv", "validation": "validation.tsv"}"#;
    assert_eq!(space.run(&[moved]).counts(), (steps, steps, 0), "a path is in no key");
    let text = std::fs::read_to_string(space.path("moved.tsv")).unwrap();
    space.write("moved.tsv", &text.replace('\n', "\r\n"));
    assert_eq!(space.run(&[moved]).counts(), (steps, steps - 1, 1), "other line ends, same rows");
}

#[test]
fn a_sweep_does_what_its_variants_share_once() {
    let space = Space::with_graph(3, 2);
    space.write(
        "sweep.ron",
        r#"Graph(extends: "graph.ron", sweep: { "fed.lora.rank": [2, 4], "fed.aggregate": [FedAvg, Median] })"#,
    );
    let ran = space.fedpipe(&["run", "sweep.ron", "--device", "cpu", "--json"]).fine();
    // Shared by all: base, sst2, tokens, shards. By rank: init and the three clients of round 1.
    // By variant: two aggregations, three clients of round 2, two scores.
    assert_eq!(ran.counts(), (4 + 2 * 4 + 4 * 7, 0, 40));
    let (_, reused, ran) = space.run(&[]).counts();
    assert_eq!((reused, ran), (4 + 4 + 7, 0), "one variant is the plain graph");
}

#[test]
fn results_do_not_depend_on_the_number_of_jobs() {
    let records = |jobs: &str| {
        let space = Space::with_graph(4, 2);
        space.fedpipe(&["run", "graph.ron", "--device", "cpu", "--jobs", jobs]).fine();
        space.records()
    };
    let one = records("1");
    assert_eq!(one.len(), 4 + 1 + 2 * 5 + 2);
    assert_eq!(one, records("3"));
}
