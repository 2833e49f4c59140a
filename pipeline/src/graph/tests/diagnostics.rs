//! What a user sees of a graph that is wrong, as snapshots.

use super::*;
use insta::assert_snapshot;
use stages::check::Complaint;

#[test]
fn unknown_names_are_answered_with_near_ones() {
    assert_snapshot!(seen("rank: 64", "rnak: 64"), @r#"
    error: `Lora` has no field `rnak`
      --> graphs/g.ron:11:20
       |
    11 |             lora: (rnak: 64, targets: ["q_proj"]), // 64 is much
       |                    ^^^^ unknown field
       |
    help: did you mean `rank`?
    "#);
    assert_snapshot!(seen("rank: 64", "zzz: 64"), @r#"
    error: `Lora` has no field `zzz`
      --> graphs/g.ron:11:20
       |
    11 |             lora: (zzz: 64, targets: ["q_proj"]), // 64 is much
       |                    ^^^ unknown field
       |
    help: its fields are: `rank`, `targets`
    "#);
    assert_snapshot!(seen("Dirichlet(", "Dirichelt("), @r"
    error: nothing is called `Dirichelt` here
     --> graphs/g.ron:8:56
      |
    8 |         shards: Partition(of: tokens, clients: 10, by: Dirichelt(alpha: 0.5)),
      |                                                        ^^^^^^^^^ unknown name
      |
    help: did you mean `Dirichlet`?
    ");
    assert_snapshot!(seen("about:", "abuot:"), @r#"
    error: `Graph` has no field `abuot`
     --> graphs/g.ron:3:5
      |
    3 |     abuot: "Ten clients.",
      |     ^^^^^ unknown field
      |
    help: did you mean `about`?
    "#);
}

#[test]
fn a_place_is_right_after_wide_characters_and_windows_lines() {
    assert_snapshot!(seen("\n        tokens: Tok", "\r\n  /* ä€𝄞 */ tokens: /* é */ Tko"), @r"
    error: nothing is called `Tkoenize` here
     --> graphs/g.ron:7:29
      |
    7 |   /* ä€𝄞 */ tokens: /* é */ Tkoenize(of: sst2, with: base),
      |                             ^^^^^^^^ unknown name
      |
    help: did you mean `Tokenize`?
    ");
}

#[test]
fn what_is_missing_or_there_twice_is_named() {
    assert_snapshot!(seen(", with: base", ""), @r"
    error: `Tokenize` needs the field `with`
     --> graphs/g.ron:7:17
      |
    7 |         tokens: Tokenize(of: sst2),
      |                 ^^^^^^^^ `with` is missing
      |
    help: the fields not given here are: `with`, `max_len`
    ");
    assert_snapshot!(seen("rank: 64, ", ""), @r#"
    error: `Lora` needs the field `rank`
      --> graphs/g.ron:11:13
       |
    11 |             lora: (targets: ["q_proj"]), // 64 is much
       |             ^^^^ `rank` is missing
    "#);
    assert_snapshot!(seen("rounds: 20", "rounds: 20,\n rounds: 3"), @r"
    error: `Federate` has two fields `rounds`
      --> graphs/g.ron:13:2
       |
    13 |  rounds: 3,
       |  ^^^^^^ given a second time
    ");
    assert_snapshot!(seen("tokens: Tok", "base: Tok"), @r"
    error: two stages are called `base`
     --> graphs/g.ron:7:9
      |
    7 |         base: Tokenize(of: sst2, with: base),
      |         ^^^^ here
    ");
    assert_snapshot!(seen("tokens: Tok", "seed: Tok"), @r"
    error: a stage cannot be called `seed`, the graph's own field
     --> graphs/g.ron:7:9
      |
    7 |         seed: Tokenize(of: sst2, with: base),
      |         ^^^^ here
    ");
}

#[test]
fn a_value_of_another_type_is_shown_with_its_path() {
    assert_snapshot!(seen("rounds: 20", "rounds: \"20\""), @r#"
    error: `fed.rounds` takes a whole number, not `"20"`
      --> graphs/g.ron:12:21
       |
    12 |             rounds: "20",
       |                     ^^^^ not a whole number
    "#);
    assert_snapshot!(seen("rounds: 20", "rounds: 2.5"), @r"
    error: `fed.rounds` cannot be `2.5`
      --> graphs/g.ron:12:21
       |
    12 |             rounds: 2.5,
       |                     ^^^ not a value of this field
    ");
    assert_snapshot!(seen("seed: 17", "seed: -1"), @r"
    error: `seed` cannot be `-1`
     --> graphs/g.ron:4:11
      |
    4 |     seed: -1,
      |           ^^ out of range
    ");
    assert_snapshot!(seen("\"meta/Llama\"", "Llama"), @r#"
    error: `base.hub` takes a text in quotes, not `Llama`
     --> graphs/g.ron:6:26
      |
    6 |         base: Model(hub: Llama),
      |                          ^^^^^ not a text in quotes
      |
    help: did you mean `"Llama"`?
    "#);
    assert_snapshot!(seen("base: base,", "base: \"base\","), @r#"
    error: `fed.base` takes a name, not `"base"`
      --> graphs/g.ron:10:19
       |
    10 |             base: "base", shards: shards,
       |                   ^^^^^^ not a name
       |
    help: did you mean `base`?
    "#);
    assert_snapshot!(seen("lora: (rank: 64, targets: [\"q_proj\"])", "lora: 3"), @r"
    error: `fed.lora` takes fields, `( name: value, … )`, not `3`
      --> graphs/g.ron:11:19
       |
    11 |             lora: 3, // 64 is much
       |                   ^ not fields, `( name: value, … )`
    ");
    assert_snapshot!(seen("Dirichlet(alpha: 0.5)", "(alpha: 1)"), @r"
    error: `shards.by` takes a name, not `(alpha: 1)`
     --> graphs/g.ron:8:56
      |
    8 |         shards: Partition(of: tokens, clients: 10, by: (alpha: 1)),
      |                                                        ^^^^^^^^^^ not a name
      |
    help: choose one of: `Iid`, `Dirichlet`
    ");
    assert_snapshot!(seen("Dirichlet(alpha: 0.5)", "Iid(alpha: 0.5)"), @r"
    error: `shards.by` cannot be `Iid(alpha: 0.5)`
     --> graphs/g.ron:8:56
      |
    8 |         shards: Partition(of: tokens, clients: 10, by: Iid(alpha: 0.5)),
      |                                                        ^^^^^^^^^^^^^^^ not a value of this field
    ");
    assert_snapshot!(seen("Dirichlet(alpha: 0.5)", "Dirichlet"), @r"
    error: `Dirichlet` needs its fields, in parentheses
     --> graphs/g.ron:8:56
      |
    8 |         shards: Partition(of: tokens, clients: 10, by: Dirichlet),
      |                                                        ^^^^^^^^^ no fields are given
      |
    help: write `Dirichlet( … )`, or `Dirichlet()` for its defaults
    ");
}

#[test]
fn a_text_that_is_no_ron_is_shown_where_it_breaks() {
    assert_snapshot!(seen("seed: 17,", "seed: 17"), @r"
    error: a comma is missing
     --> graphs/g.ron:5:5
      |
    5 |     stages: (
      |     ^ `,` expected before this
    ");
    assert_snapshot!(seen("[\"q_proj\"]", "[\"q_proj\""), @r#"
    error: a bracket is never closed
      --> graphs/g.ron:11:39
       |
    11 |             lora: (rank: 64, targets: ["q_proj"), // 64 is much
       |                                       ^ it is opened here
    "#);
    assert_snapshot!(seen("    ),\n)", "    ),"), @r"
    error: a bracket is never closed
     --> graphs/g.ron:2:6
      |
    2 | Graph(
      |      ^ it is opened here
    ");
    assert_snapshot!(seen("lora: (rank", "lora (rank"), @r#"
    error: a colon is missing
      --> graphs/g.ron:11:18
       |
    11 |             lora (rank: 64, targets: ["q_proj"]), // 64 is much
       |                  ^ `:` expected before this
    "#);
    assert_snapshot!(seen(GRAPH, "// nothing"), @r"
    error: there is no graph here
     --> graphs/g.ron:1:10
      |
    1 | // nothing
      |          ^ empty
    ");
    assert_snapshot!(seen(GRAPH, "[1]"), @r"
    error: a graph file is a `Graph( … )`
     --> graphs/g.ron:1:1
      |
    1 | [1]
      | ^^^ not a graph
    ");
}

#[test]
fn what_was_set_is_drawn_where_it_was_written() {
    let folder = Folder::new(&[
        ("g.ron", GRAPH),
        (
            "set.ron",
            "Graph(extends: \"g.ron\", set: {\"fed.rounds\": 10, \"fed.agregate\": Median})",
        ),
        ("value.ron", "Graph(extends: \"g.ron\", set: {\"fed.aggregate\": Medain})"),
        ("sweep.ron", "Graph(extends: \"g.ron\", sweep: {\"fde.rounds\": [1, 2]})"),
        ("tries.ron", "Graph(extends: \"g.ron\", sweep: {\"fed.aggregate\": [FedAvg, Medain]})"),
    ]);
    assert_snapshot!(folder.seen("set.ron", &[]), @r#"
    error: `Federate` has no field `agregate`
     --> DIR/set.ron:1:54
      |
    1 | Graph(extends: "g.ron", set: {"fed.rounds": 10, "fed.agregate": Median})
      |                                                      ^^^^^^^^ unknown field
      |
    help: did you mean `aggregate`?
    "#);
    assert_snapshot!(folder.seen("value.ron", &[]), @r#"
    error: nothing is called `Medain` here
     --> DIR/value.ron:1:48
      |
    1 | Graph(extends: "g.ron", set: {"fed.aggregate": Medain})
      |                                                ^^^^^^ unknown name
      |
    help: did you mean `Median`?
    "#);
    assert_snapshot!(folder.seen("sweep.ron", &[]), @r#"
    error: no stage is called `fde`
     --> DIR/sweep.ron:1:34
      |
    1 | Graph(extends: "g.ron", sweep: {"fde.rounds": [1, 2]})
      |                                  ^^^^^^^^^^ unknown stage
      |
    help: did you mean `fed`?
    "#);
    assert_snapshot!(folder.seen("tries.ron", &[]), @r#"
    error: nothing is called `Medain` here
     --> DIR/tries.ron:1:59
      |
    1 | Graph(extends: "g.ron", sweep: {"fed.aggregate": [FedAvg, Medain]})
      |                                                           ^^^^^^ unknown name
      |
    help: did you mean `Median`?
    "#);
    assert_snapshot!(folder.seen("g.ron", &["fed.lora.rnak=3"]), @r"
    error: `Lora` has no field `rnak`
     --> --set:1:10
      |
    1 | fed.lora.rnak=3
      |          ^^^^ unknown field
      |
    help: did you mean `rank`?
    ");
    assert_snapshot!(folder.seen("g.ron", &["fde.rounds=3"]), @r"
    error: no stage is called `fde`
     --> --set:1:1
      |
    1 | fde.rounds=3
      | ^^^^^^^^^^ unknown stage
      |
    help: did you mean `fed`?
    ");
    assert_snapshot!(folder.seen("g.ron", &["fed.rounds.x=3"]), @r"
    error: `fed.rounds` is `20`, which has no field `x`
     --> --set:1:1
      |
    1 | fed.rounds.x=3
      | ^^^^^^^^^^^^ `x` is not in `fed.rounds`
      |
    help: set `fed.rounds` as a whole
    ");
    assert_snapshot!(folder.seen("g.ron", &["shards.by=Dirichlet(alpha: x)"]), @r"
    error: `shards.by.alpha` takes a number, not `x`
     --> --set:1:28
      |
    1 | shards.by=Dirichlet(alpha: x)
      |                            ^ not a number
    ");
    assert_snapshot!(folder.seen("tries.ron", &["fed.aggregate.cut=3"]), @r"
    error: `fed.aggregate.cut` lies in `fed.aggregate`, which is swept
     --> --set:1:1
      |
    1 | fed.aggregate.cut=3
      | ^^^^^^^^^^^^^^^^^ a sweep would overwrite it
      |
    help: set `fed.aggregate` as a whole, which ends its sweep
    ");
}

#[test]
fn a_set_that_is_no_set_says_so() {
    let refused = |argument: &str| argument.parse::<Set>().unwrap_err().plain();
    assert_snapshot!(refused("fed.rounds"), @r"
    error: `--set fed.rounds` gives no value

    hint: write `--set fed.rounds=VALUE`
    ");
    assert_snapshot!(refused("base.hub=meta/Llama"), @r#"
    error: the value of `base.hub` is not RON: `L` is not expected here
     --> --set:1:16
      |
    1 | base.hub=meta/Llama
      |                ^ here
      |
    help: a text stands in quotes: --set 'base.hub="meta/Llama"'
    "#);
    assert_snapshot!(refused("fed=(1"), @r"
    error: the value of `fed` is not RON: a bracket is never closed
     --> --set:1:5
      |
    1 | fed=(1
      |     ^ it is opened here
    ");
    assert_snapshot!(refused("fed.rounds=3, seed: 1"), @r"
    error: the value of `fed.rounds` is not RON: something follows after the end
     --> --set:1:13
      |
    1 | fed.rounds=3, seed: 1
      |             ^ not expected here
    ");
}

#[test]
fn all_complaints_are_drawn_each_at_its_value() {
    let text = Text::new(Path::new("graphs/g.ron"), GRAPH.to_owned());
    let complaint = |path: &str, message: &str, help: Option<&str>| Complaint {
        path: path.to_owned(),
        message: message.to_owned(),
        label: "here".to_owned(),
        help: help.map(str::to_owned),
    };
    let failure = complain(
        &text,
        &[
            complaint("tokens.of", "no stage is called `sst2`", Some("the stages are: `base`")),
            complaint("stages.fed.lora.alpha", "`alpha` cannot be 0", None),
            complaint("shards.clients", "10 clients are too many", None),
        ],
    );
    assert_eq!(failure.message, "no stage is called `sst2`, and 2 more");
    assert_snapshot!(failure.plain(), @r#"
    error: no stage is called `sst2`
     --> graphs/g.ron:7:30
      |
    7 |         tokens: Tokenize(of: sst2, with: base),
      |                              ^^^^ here
      |
    help: the stages are: `base`

    error: `alpha` cannot be 0
      --> graphs/g.ron:11:13
       |
    11 |             lora: (rank: 64, targets: ["q_proj"]), // 64 is much
       |             ^^^^ here

    error: 10 clients are too many
     --> graphs/g.ron:8:48
      |
    8 |         shards: Partition(of: tokens, clients: 10, by: Dirichlet(alpha: 0.5)),
      |                                                ^^ here
    "#);
}
