//! How the training split is shared out, from the graph file to what is kept of it.

use std::{fmt::Write as _, fs};

use serde_json::{Value, json};

use crate::errors::refused;
use crate::harness::{Space, project};

/// Sentences of six users, of whom `ann` wrote the most, in a graph that only shares them out.
fn space(by: &str, clients: u32) -> Space {
    let space = Space::empty();
    let base = project().join("tests/data/llama-tiny-mha");
    let base = base.to_str().unwrap();
    let graph = format!(
        r#"Graph(
    about: "A test.",
    seed: 17,
    stages: (
        base: Model(folder: {base:?}),
        data: Dataset(file: "train.tsv"),
        tokens: Tokenize(of: data, with: base, max_len: 12),
        shards: Partition(of: tokens, clients: {clients}, by: {by}),
    ),
)
"#
    );
    space.write("graph.ron", &graph);
    let mut text = String::from("sentence\tuser\tlabel\n");
    for (i, user) in USERS.iter().enumerate() {
        writeln!(text, "what {user} wrote {i}\t{user}\t{}", ["bad", "good"][i % 2]).unwrap();
    }
    space.write("train.tsv", &text);
    space
}

const USERS: [&str; 16] = [
    "ann", "bob", "cid", "ann", "dan", "eve", "ann", "bob", "fay", "ann", "cid", "ann", "bob",
    "dan", "ann", "eve",
];

/// The digest of a file of the result of the step `shards`, as the latest run left it.
fn digest(space: &Space, name: &str) -> String {
    let runs = space.inside(".fedpipe/runs");
    let run = runs.iter().max_by_key(|run| {
        let path = space.path(&format!(".fedpipe/runs/{run}/run.json"));
        fs::metadata(path).unwrap().modified().unwrap()
    });
    let value = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
    let run = space.path(&format!(".fedpipe/runs/{}/run.json", run.unwrap()));
    let run = value(fs::read_to_string(run).unwrap());
    let record = value(stored(space, "ac", run["keys"]["shards"].as_str().unwrap()));
    let listing = match record["head"]["listing"].as_str() {
        Some(listing) => listing.to_owned(),
        // A long listing is a blob of its own.
        None => stored(space, "cas", record["head"]["digest"].as_str().unwrap()),
    };
    let line = listing.lines().find(|line| line.ends_with(&format!(" {name}")));
    let line = line.unwrap_or_else(|| panic!("no {name} in {listing}"));
    line.split(' ').next().unwrap().to_owned()
}

/// The text that lies under a hash in the store.
fn stored(space: &Space, area: &str, hash: &str) -> String {
    let path = format!(".fedpipe/{area}/{}/{}", &hash[..2], &hash[2..]);
    fs::read_to_string(space.path(&path)).unwrap()
}

/// A file of the result of the step `shards`.
fn file(space: &Space, name: &str) -> String {
    stored(space, "cas", &digest(space, name))
}

fn indices(space: &Space) -> Vec<Vec<usize>> {
    let file: Value = serde_json::from_str(&file(space, "indices.json")).unwrap();
    serde_json::from_value(file["clients"].clone()).unwrap()
}

fn outcome(space: &Space) -> Value {
    let skew: Value = serde_json::from_str(&file(space, "skew.json")).unwrap();
    skew["outcome"].clone()
}

#[test]
fn a_column_says_whose_an_example_is() {
    let space = space(r#"Natural(column: "user")"#, 6);
    space.run(&[]);
    let mut users: Vec<&str> = USERS.to_vec();
    users.sort_unstable();
    users.dedup();
    for (user, shard) in users.iter().zip(indices(&space)) {
        let own = (0..USERS.len()).filter(|&at| USERS[at] == *user);
        assert_eq!(shard, own.collect::<Vec<_>>(), "{user}");
    }
    // Six of ann, then three of bob, then two of cid, dan, eve, and one of fay.
    space.run(&["shards.clients=3"]);
    let sizes: Vec<usize> = indices(&space).iter().map(Vec::len).collect();
    assert_eq!(sizes, [6, 5, 5]);
    // Nothing is drawn, so a seed changes nothing; a column is in the key.
    assert_eq!(space.run(&["shards.clients=3", "shards.seed=5"]).counts(), (4, 4, 0));
    let by_label = r#"shards.by=Natural(column: "label")"#;
    assert_eq!(space.run(&["shards.clients=2", by_label]).counts(), (4, 3, 1));
    let parity = [0, 1].map(|rest| (0..16).filter(|at| at % 2 == rest).collect::<Vec<_>>());
    assert_eq!(indices(&space), parity);
}

#[test]
fn what_a_split_wrote_gives_it_again() {
    let space = space("Dirichlet(alpha: [1, 2.5, 0.5], min: 2, on_fail: TopUp)", 3);
    space.run(&[]);
    let made = indices(&space);
    let shards = || [0, 1, 2].map(|client| digest(&space, &format!("client-00{client}")));
    let digests = shards();
    space.write("split.json", &file(&space, "indices.json"));
    let given = |file: &str| format!("shards.by=Explicit(file: {file:?})");
    assert_eq!(space.run(&[&given("split.json")]).counts(), (4, 3, 1));
    assert_eq!((indices(&space), shards()), (made, digests));

    fs::create_dir(space.path("splits")).unwrap();
    fs::rename(space.path("split.json"), space.path("splits/other.json")).unwrap();
    let moved = given("splits/other.json");
    assert_eq!(space.run(&[&moved]).counts(), (4, 4, 0), "a path is in no key");
    space.write("splits/other.json", "[[0, 1], [2, 3], [4]]");
    assert_eq!(space.run(&[&moved]).counts(), (4, 3, 1), "the content is");
    assert_eq!(outcome(&space), json!({"attempts": 1, "moved": 0, "left_out": 11}));
}

#[test]
fn proportions_are_of_classes_by_name() {
    let space = space(r#"Explicit(file: "split.json")"#, 2);
    space.write("split.json", r#"{"proportions": {"good": [0, 1], "bad": [0.75, 0.25]}}"#);
    let notes = space.run(&[]).events();
    assert_eq!(indices(&space), [vec![0, 2, 4, 6, 8, 10], vec![1, 3, 5, 7, 9, 11, 12, 13, 14, 15]]);
    let says = "1 of 2 clients have examples of one class only, such as client-000";
    let is_note = |event: &Value| event["text"].as_str() == Some(says);
    assert!(notes.iter().any(is_note), "{notes:?}");
}

#[test]
fn every_other_rule_runs() {
    let space = space("Iid", 3);
    for (by, expected) in [
        ("Dirichlet(alpha: 2, min: 1, cut: NiidBench, on_fail: TopUp)", None),
        ("Dirichlet(alpha: 2, min: 1, balance: true, on_fail: TopUp)", None),
        ("Hsu(alpha: 0.5, prior: Data)", Some([5, 5, 5])),
        ("Quantity(beta: 5, min: 2)", None),
        ("Pathological()", None),
        ("Pathological(labels: 1)", Some([5, 5, 6])),
    ] {
        space.run(&[&format!("shards.by={by}")]);
        let mut sizes: Vec<usize> = indices(&space).iter().map(Vec::len).collect();
        sizes.sort_unstable();
        let left_out = outcome(&space)["left_out"].as_u64();
        if by.starts_with("Hsu") {
            assert_eq!(left_out, Some(1));
        } else {
            assert_eq!((sizes.iter().sum::<usize>(), left_out), (16, None), "{by}");
        }
        if let Some(expected) = expected {
            assert_eq!(sizes, expected, "{by}");
        }
    }
}

#[test]
fn what_cannot_be_shared_out_is_refused_before_work() {
    let space = space("Iid", 3);
    let with = |by: &str, words: &[&str]| {
        refused(&space, &[&format!("shards.by={by}")], &[words, &["--set:1:"]].concat());
    };
    with("Dirichlet(alpha: [1, 2])", &["alpha is a list of 2, but there are 3 clients"]);
    with("Dirichlet(alpha: -1)", &["alpha is -1"]);
    with("Dirichlet(alpha: \"much\")", &["a number, or a list of one number for each client"]);
    with("Dirichlet(alpha: 1, balance: true, cut: NiidBench)", &["always balances"]);
    with("Hsu(alpha: 0)", &["alpha is 0", "100 nearly even"]);
    with("Quantity(beta: 1, min: 6)", &["16 examples cannot give 3 clients at least 6 each"]);
    with("Pathological(labels: 0)", &["labels is 0"]);
    with("Pathological(labels: 6)", &["16 examples cannot be cut into 18 pieces"]);
    with("Pathological(label: 2)", &["no field `label`", "did you mean `labels`?"]);
    with(r#"Natural(column: "usr")"#, &["no column `usr`", "did you mean `user`?"]);
    with(r#"Natural(column: "label")"#, &["2 different values, too few for 3 clients"]);
    with(r#"Explicit(file: "absent.json")"#, &["there is no file", "absent.json"]);
    space.write("split.json", "[[0], [1], [16]]");
    let given = r#"Explicit(file: "split.json")"#;
    with(given, &["split.json` has position 16, but there are 16 examples"]);
    space.write("split.json", "[[0], [1]]");
    with(given, &["split.json` has shards for 2 clients, but there are 3"]);
    space.write("split.json", r#"{"proportions": {"bad": [1, 0, 0], "god": [0, 0.5, 0.5]}}"#);
    with(given, &["split.json` has proportions of `god`", "did you mean `good`?"]);
}
