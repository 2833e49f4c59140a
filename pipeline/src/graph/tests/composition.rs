//! `extends`, `set`, `sweep` and `--set`.

use super::*;
use insta::assert_snapshot;
use std::path::PathBuf;

#[test]
fn a_graph_is_read_as_written() {
    let text = Text::new(Path::new("graphs/g.ron"), GRAPH.to_owned());
    let graph: Graph<Node> = parse(&text).unwrap();
    assert_eq!(
        (graph.about.as_str(), graph.seed, graph.exact),
        ("Ten clients.", 17, false)
    );
    let names: Vec<_> = graph.stages.0.keys().collect();
    assert_eq!(names, ["base", "tokens", "shards", "fed"]);
    for empty in ["Graph()", "Graph(stages: ())", "(stages: ( /* none */ ))"] {
        let text = Text::new(Path::new("e.ron"), empty.to_owned());
        assert!(parse::<Node>(&text).unwrap().stages.0.is_empty(), "{empty}");
    }
}

#[test]
fn a_graph_that_cannot_be_composed_names_who_asked() {
    let folder = Folder::new(&[
        ("a.ron", "Graph(extends: \"sub/b.ron\")"),
        ("sub/b.ron", "Graph(extends: \"../a.ron\")"),
        ("missing.ron", "Graph(extends: \"nope.ron\")"),
    ]);
    assert_snapshot!(folder.seen("a.ron", &[]), @r#"
    error: a graph extends itself: DIR/a.ron -> DIR/sub/b.ron -> DIR/a.ron
     --> DIR/sub/b.ron:1:16
      |
    1 | Graph(extends: "../a.ron")
      |                ^^^^^^^^^^ leads back
    "#);
    assert_snapshot!(folder.seen("missing.ron", &[]), @r#"
    error: cannot read `DIR/nope.ron`, which `DIR/missing.ron` extends: No such file or directory (os error 2)
     --> DIR/missing.ron:1:16
      |
    1 | Graph(extends: "nope.ron")
      |                ^^^^^^^^^^ no such graph
    "#);
    assert_snapshot!(folder.seen("nope.ron", &[]), @"error: cannot read the graph `DIR/nope.ron`: No such file or directory (os error 2)");
}

#[test]
fn a_composed_graph_is_one_text_that_stands_alone() {
    let folder = Folder::new(&[
        ("base/g.ron", GRAPH),
        (
            "h.ron",
            r#"// Not kept.
Graph(
    extends: "base/g.ron",
    about: "Two.",
    exact: true,
    set: { "fed.rounds": 10, "base.folder": "near/h" },
    stages: (tokens: Tokenize(of: mine, with: base), mine: Model(folder: "data")),
    sweep: { "fed.lora.rank": [16, 64], "fed.aggregate": [FedAvg, TrimmedMean(cut: 0.1)] },
)"#,
        ),
    ]);
    let loaded = folder
        .load(
            "h.ron",
            &["base.sample={\"train\": 3}", "mine.folder=\"x\""],
        )
        .unwrap();
    assert_eq!(
        (loaded.about.as_str(), loaded.seed, loaded.exact),
        ("Two.", 17, true)
    );
    assert_eq!(
        loaded.sweep["fed.aggregate"],
        ["FedAvg", "TrimmedMean(cut: 0.1)"]
    );
    assert_snapshot!(loaded.text.source, @r#"
    // Why: « ünïcode » comments stay.
    Graph(
        about: "Two.",
        seed: 17,
        stages: (
            base: Model(hub: "meta/Llama", folder: "near/h", sample: {"train": 3}),
            tokens: Tokenize(of: mine, with: base),
            shards: Partition(of: tokens, clients: 10, by: Dirichlet(alpha: 0.5)),
            fed: Federate(
                base: base, shards: shards,
                lora: (rank: 64, targets: ["q_proj"]), // 64 is much
                rounds: 10,
            ),
            mine: Model(folder: "x"),
        ),
        exact: true,
    )
    "#);

    let from = |path: &str| {
        let root = folder.0.path();
        loaded
            .text
            .folder_of(path)
            .strip_prefix(root)
            .map_or("cwd".into(), Path::to_owned)
    };
    let paths = [
        "base",
        "base.folder",
        "base.sample",
        "tokens",
        "mine",
        "mine.folder",
        "fed.rounds",
    ];
    let expected = ["base", "", "cwd", "", "", "cwd", ""].map(PathBuf::from);
    assert_eq!(paths.map(from), expected);
}

#[test]
fn a_sweep_has_every_combination_until_a_set_ends_it() {
    let sweep =
        "Graph(extends: \"g.ron\", sweep: { \"fed.lora.rank\": [16, 64], \"seed\": [1, 2] })";
    let folder = Folder::new(&[
        ("g.ron", GRAPH),
        ("s.ron", sweep),
        (
            "t.ron",
            "Graph(extends: \"s.ron\", sweep: { \"seed\": [7] }, set: { \"fed.rounds\": 3 })",
        ),
    ]);
    let labels = |name: &str, sets: &[&str]| -> Vec<String> {
        folder
            .variants(name, sets)
            .into_iter()
            .map(|v| v.label)
            .collect()
    };
    let all = ["fed.lora.rank=16, seed=1", "fed.lora.rank=16, seed=2"];
    assert_eq!(labels("s.ron", &[])[..2], all);
    assert_eq!(labels("s.ron", &[]).len(), 4);
    assert_eq!(labels("t.ron", &["fed.lora=(rank: 8)"]), ["seed=7"]);
    assert_eq!(labels("g.ron", &[]), [""]);

    let last = folder.variants("s.ron", &["fed.exact=true"]).pop().unwrap();
    assert_eq!(last.settings[1], ("seed".to_owned(), "2".to_owned()));
    let graph: Graph<Node> = parse(&last.text).unwrap();
    assert_eq!(graph.seed, 2);
    let Some(Node::Federate(fed)) = graph.stages.0.get("fed") else {
        panic!("no `fed`")
    };
    assert_eq!((fed.lora.rank, fed.rounds, fed.exact), (64, 20, true));
}
