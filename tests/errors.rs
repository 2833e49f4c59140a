//! Wrong input: each kind has its sentence, ends with exit code 2, and leaves nothing behind.

use std::fs;

use crate::harness::{Space, graph, project, sentences};

/// Runs `graph.ron` with edits, and looks that it was refused with all of `words`.
#[track_caller]
pub(crate) fn refused(space: &Space, sets: &[&str], words: &[&str]) {
    let mut args = vec!["run", "graph.ron"];
    for set in sets {
        args.extend(["--set", set]);
    }
    refused_args(space, &args, words);
}

#[track_caller]
fn refused_args(space: &Space, args: &[&str], words: &[&str]) {
    let ran = space.fedpipe(args);
    assert_eq!(ran.code, 2, "stderr:\n{}", ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is not in:\n{}", ran.stderr);
    }
    assert!(ran.stdout.is_empty(), "{}", ran.stdout);
    assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    assert!(space.inside(".fedpipe").is_empty(), "left behind: {:?}", space.inside(".fedpipe"));
}

#[track_caller]
fn refused_text(from: &str, to: &str, words: &[&str]) {
    let space = Space::with_graph(3, 2);
    let text = graph(3, 2);
    assert!(text.contains(from), "{from}");
    space.write("graph.ron", &text.replacen(from, to, 1));
    refused(&space, &[], words);
}

#[test]
fn a_misspelt_field() {
    refused_text(
        "rank: 4",
        "rnak: 4",
        &["no field `rnak`", "graph.ron:12:", "did you mean `rank`?"],
    );
    refused_text("lr: 1e-3", "lrr: 1e-3", &["`lrr`", "did you mean `lr`?"]);
}

#[test]
fn an_unknown_stage() {
    refused_text("Evaluate(", "Evalute(", &["`Evalute`", "did you mean `Evaluate`?"]);
}

#[test]
fn an_edge_to_nowhere_or_of_the_wrong_kind() {
    refused_text(
        "shards: shards",
        "shards: shrads",
        &["no stage is called `shrads`", "did you mean `shards`?"],
    );
    refused_text(
        "adapter: fed",
        "adapter: tokens",
        &["`tokens` makes tokens, but adapter is needed here", "adapter comes from: `fed`"],
    );
}

#[test]
fn an_unknown_path_of_set() {
    let space = Space::with_graph(3, 2);
    refused(&space, &["fde.rounds=3"], &["no stage is called `fde`", "`fed`"]);
    refused(&space, &["fed.ruonds=3"], &["`ruonds`", "did you mean `rounds`?"]);
    refused_args(&space, &["run", "graph.ron", "--set", "fed.rounds"], &["fed.rounds", "="]);
}

#[test]
fn a_missing_file() {
    let space = Space::with_graph(3, 2);
    refused_args(&space, &["run", "absent.ron"], &["absent.ron"]);
    refused(&space, &[r#"sst2=Dataset(file: "absent.tsv")"#], &["absent.tsv"]);
    refused(&space, &[r#"base.folder="absent""#], &["absent"]);
}

#[test]
fn data_that_cannot_be_used() {
    let space = Space::with_graph(3, 2);
    let with = |text: &str, words: &[&str]| {
        space.write("train.tsv", text);
        refused(&space, &[], words);
    };
    with("sentence\tstars\nfine\t1\n", &["train.tsv", "label", "`stars`"]);
    with(&sentences(20).replace("number 7\t0", "number 7\t-4"), &["train.tsv", "-4"]);
    with(&sentences(20).replace("number 7\t0", "number 7\t0.5"), &["train.tsv", "0.5"]);
    with("sentence\tlabel\n", &["train.tsv", "empty"]);
    with("", &["train.tsv", "empty"]);
}

#[test]
fn a_split_that_cannot_be_made() {
    let space = Space::with_graph(3, 2);
    let many = "shards=Partition(of: tokens, clients: 100)";
    refused(&space, &[many], &["100 clients", "44 examples"]);
    let by = "shards.by=Dirichlet(alpha: 0.01, min: 14, on_fail: Error)";
    refused(&space, &[by], &["14", "--set:1:"]);
}

#[test]
fn adapters_that_the_model_cannot_have() {
    let space = Space::with_graph(3, 2);
    refused(&space, &["fed.lora.rank=0"], &["`rank` is 0", "--set:1:"]);
    refused(&space, &[r#"fed.lora.targets=["q_prj"]"#], &["`q_prj`", "did you mean `q_proj`?"]);
    refused(&space, &["fed.lora.dropout=1.5"], &["dropout"]);
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let space = Space::with_graph(3, 2);
    refused(
        &space,
        &["fed.lora.rank=0", "fed.rounds=0", "fed.local.batch=0"],
        &["rank", "round", "batch"],
    );
}

#[test]
fn a_model_that_is_not_supported_or_not_whole() {
    let space = Space::with_graph(3, 2);
    let base = project().join("tests/data/llama-tiny-mha");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
        fs::create_dir_all(space.path("base")).unwrap();
        fs::copy(base.join(name), space.path("base").join(name)).unwrap();
    }
    let config = fs::read_to_string(base.join("config.json")).unwrap();
    space.write("base/config.json", &config.replace("LlamaForCausalLM", "MambaForCausalLM"));
    refused(&space, &[r#"base.folder="base""#], &["`MambaForCausalLM`", "LlamaForCausalLM"]);
    space.write("base/config.json", &config);
    let whole = fs::read(base.join("model.safetensors")).unwrap();
    fs::write(space.path("base/model.safetensors"), &whole[..whole.len() / 2]).unwrap();
    refused(&space, &[r#"base.folder="base""#], &["model.safetensors", "truncated"]);
}

#[test]
fn a_graph_that_extends_itself() {
    let space = Space::empty();
    space.write("graph.ron", r#"Graph(extends: "b.ron")"#);
    space.write("b.ron", r#"Graph(extends: "graph.ron")"#);
    refused(&space, &[], &["graph.ron -> b.ron -> graph.ron"]);
}

#[test]
fn no_network_and_nothing_cached() {
    let space = Space::with_graph(3, 2);
    let hub = r#"base=Model(hub: "owner/name")"#;
    refused(&space, &[hub], &["owner/name", "127.0.0.1:9"]);
    refused_args(
        &space,
        &["run", "graph.ron", "--offline", "--set", hub],
        &["owner/name", "--offline"],
    );
}

#[test]
fn a_device_that_is_not_built_in() {
    let space = Space::with_graph(3, 2);
    if !cfg!(feature = "cuda") {
        refused_args(
            &space,
            &["run", "graph.ron", "--device", "cuda"],
            &["built without", "--features cuda"],
        );
    }
    refused_args(&space, &["run", "graph.ron", "--device", "tpu"], &["tpu", "cuda[:INDEX]"]);
}

#[test]
fn a_store_that_is_none() {
    let space = Space::with_graph(3, 2);
    space.write("notes/a.txt", "not a store");
    let ran = space.fedpipe(&["run", "graph.ron", "--store", "notes"]);
    assert_eq!(ran.code, 3, "{}", ran.stderr);
    assert!(ran.stderr.contains("notes"), "{}", ran.stderr);
    assert_eq!(space.inside("notes"), ["a.txt"]);
}
