//! Adapters leave as PEFT has them, and come back.

use serde_json::Value;
use stages::peft::{AdapterTensors, SCORE as SCORE_NAME};

use crate::{harness::Space, tasks};

const SCORE: &str = "score: Evaluate(base: base, adapter: fed, on: tokens, untrained: true),";

fn json(space: &Space, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(space.path(name)).unwrap()).unwrap()
}

fn loss(space: &Space, graph: &str, step: &str) -> f64 {
    let events = space.fedpipe(&["run", graph, "--json"]).fine().events();
    let found = events.iter().find(|e| e["step"] == step && e["name"] == "loss");
    found.unwrap_or_else(|| panic!("no loss of {step}"))["value"].as_f64().unwrap()
}

#[test]
fn an_exported_adapter_is_where_another_federation_starts() {
    for model in ["llama-tiny-mha", "bloom-tiny"] {
        let lora = "lora: (rank: 4, targets: \"all-linear\", layers: Last(2)),";
        let space = tasks::space(&tasks::graph(model, "", lora, SCORE));
        let last = loss(&space, "graph.ron", "score/round-002");
        let told = space.fedpipe(&["export", "last", "adapter"]).fine();
        assert!(told.stdout.contains("`fed/round-002` of run "), "{}", told.stdout);
        let settings = json(&space, "adapter/adapter_config.json");
        assert_eq!(
            (&settings["peft_type"], &settings["task_type"]),
            (&"LORA".into(), &"SEQ_CLS".into())
        );
        assert_eq!(settings["layers_to_transform"], Value::Null, "a pattern is written out");
        let card = std::fs::read_to_string(space.path("adapter/README.md")).unwrap();
        assert!(card.contains("| score/round-002 |") && card.contains("Federate("), "{card}");

        let from = "from: Adapter(folder: \"adapter\"),";
        space.write("next.ron", &tasks::graph(model, "", from, SCORE));
        let first = loss(&space, "next.ron", "score/round-000");
        assert_eq!(first.to_bits(), last.to_bits(), "it goes on where the other ended");
        // Only the content of the folder is in a key.
        std::fs::rename(space.path("adapter"), space.path("moved")).unwrap();
        space.write("next.ron", &tasks::graph(model, "", &from.replace("adapter", "moved"), SCORE));
        let ran = space.fedpipe(&["run", "next.ron", "--json"]).fine().counts();
        assert_eq!(ran.2, 0, "{ran:?}");
        let other = tasks::graph(
            model,
            "",
            &format!("{} lora: (rank: 2),", from.replace("adapter", "moved")),
            SCORE,
        );
        space.write("both.ron", &other);
        let ran = space.fedpipe(&["plan", "both.ron"]);
        assert!(ran.code == 2 && ran.stderr.contains("not both"), "{}", ran.stderr);
    }
}

#[test]
fn a_merged_checkpoint_is_a_base_like_any_other() {
    let task = r#", task: Verbalize(prompt: "{sentence}\nVerdict:", labels: [" bad", " good"])"#;
    for model in ["llama-tiny-mha", "bloom-tiny"] {
        let space = tasks::space(&tasks::graph(model, task, "lora: (rank: 4),", SCORE));
        let last = loss(&space, "graph.ron", "score/round-002");
        space.fedpipe(&["export", "last", "merged", "--merge"]).fine();
        assert_eq!(json(&space, "merged/config.json")["dtype"], "float32");
        let alone = "zero: Evaluate(base: base, on: tokens),";
        let text = tasks::graph(model, task, "lora: (rank: 4),", alone);
        let start = text.find("Model(folder: ").unwrap();
        let end = start + text[start..].find("),").unwrap();
        let text = format!("{}Model(folder: \"merged\"{}", &text[..start], &text[end..]);
        space.write("merged.ron", &text);
        let merged = loss(&space, "merged.ron", "zero");
        assert!((merged - last).abs() < 1e-5, "{model}: {merged}, {last}");
    }
}

#[test]
fn what_cannot_be_exported_is_said() {
    let space =
        tasks::space(&tasks::graph("llama-tiny-mha", "", "lora: (rank: 2), head: Local,", SCORE));
    let refused = |args: &[&str], sentence: &str| {
        let ran = space.fedpipe(args);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(sentence), "{}", ran.stderr);
    };
    refused(&["export", "last", "out"], "there is no store");
    space.fedpipe(&["run", "graph.ron"]).fine();
    refused(&["export", "19", "out"], "no run is called `19`");
    refused(&["export", "last", "out", "--step", "fed/round-02"], "did you mean `fed/round-002`?");
    refused(&["export", "last", "out", "--step", "tokens"], "has no adapter called `tokens`");
    space.write("taken/file", "");
    refused(&["export", "last", "taken"], "is there already");
    let told = space.fedpipe(&["export", "last", "out"]).fine();
    assert!(told.stdout.contains("never trained"), "{}", told.stdout);
    let own = "fed/round-002/client-001";
    let told = space.fedpipe(&["export", "last", "own", "--step", own, "--json"]).fine().json();
    assert_eq!((&told["step"], &told["warning"]), (&own.into(), &Value::Null));
    // Two stages that train: one must be named.
    let train = "central: Train(base: base, on: tokens, lora: (rank: 2)),";
    space.write("graph.ron", &tasks::graph("llama-tiny-mha", "", "lora: (rank: 2),", train));
    space.fedpipe(&["run", "graph.ron"]).fine();
    refused(&["export", "last", "two"], "came to 2 adapters");
    space.fedpipe(&["export", "last", "two", "--step", "central/round-001"]).fine();
}

/// The tensors of an export with these flags.
fn exported(space: &Space, flags: &[&str]) -> AdapterTensors {
    let folder = space.path("exported");
    drop(std::fs::remove_dir_all(&folder));
    space.fedpipe(&[&["export", "last", "exported"], flags].concat()).fine();
    let bytes = std::fs::read(folder.join("adapter_model.safetensors")).unwrap();
    AdapterTensors::from_safetensors(&bytes).unwrap()
}

#[test]
fn a_client_is_exported_with_what_it_keeps_to_itself() {
    let fed = "lora: (rank: 2), head: Local, clients: (per_round: 2),";
    let space = tasks::space(&tasks::graph("llama-tiny-mha", "", fed, SCORE));
    let events = space.fedpipe(&["run", "graph.ron", "--json"]).fine().events();
    let trained = |round: u32, client: u32| {
        let step = format!("fed/round-{round:03}/client-{client:03}");
        events.iter().any(|event| event["step"] == step.as_str())
    };
    let resting = (0..3).find(|&client| !trained(2, client)).unwrap();
    let busy = (0..3).find(|&client| trained(2, client)).unwrap();
    for (client, round) in [(resting, 1), (busy, 2)] {
        let (number, step) =
            (client.to_string(), format!("fed/round-{round:03}/client-{client:03}"));
        assert!(trained(round, client), "two of three are in each round");
        let (own, shared) = (exported(&space, &["--step", &step]), exported(&space, &[]));
        let found = exported(&space, &["--client", &number]);
        assert_eq!(found.get(SCORE_NAME), own.get(SCORE_NAME));
        assert_ne!(found.get(SCORE_NAME), shared.get(SCORE_NAME));
        assert_eq!(found.without(SCORE_NAME), shared.without(SCORE_NAME));
        let card = std::fs::read_to_string(space.path("exported/README.md")).unwrap();
        let row = format!("| client | {client}, with its own head of `{step}` |");
        assert!(card.contains(&row) && !card.contains("never trained"), "{card}");
    }
    let told = space.fedpipe(&["export", "last", "told", "--client", &busy.to_string(), "--json"]);
    let told = told.fine().json();
    assert_eq!((&told["client"], &told["step"]), (&busy.into(), &"fed/round-002".into()));
    let own = format!("head of `fed/round-002/client-{busy:03}`");
    assert_eq!((&told["own"], &told["warning"]), (&own.into(), &Value::Null));
    let refused = |args: &[&str], sentence: &str| {
        let ran = space.fedpipe(&[&["export", "last", "none"], args].concat());
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(sentence), "{sentence}: {}", ran.stderr);
    };
    refused(&["--client", "3"], "no client 3 has trained by `fed/round-002`");
    refused(&["--client", "0", "--step", "fed/init"], "`fed/init` ends no round");
}

#[test]
fn a_client_that_keeps_nothing_is_exported_as_it_trained() {
    let fed = "lora: (rank: 2), clients: (per_round: 2),";
    let space = tasks::space(&tasks::graph("bloom-tiny", "", fed, SCORE));
    let events = space.fedpipe(&["run", "graph.ron", "--json"]).fine().events();
    let trained = |client: &u32| {
        let step = format!("fed/round-002/client-{client:03}");
        events.iter().any(|event| event["step"] == step.as_str())
    };
    let (busy, resting) = ((0..3).find(trained).unwrap(), (0..3).find(|k| !trained(k)).unwrap());
    let step = format!("fed/round-002/client-{busy:03}");
    let own = exported(&space, &["--step", &step]);
    assert_eq!(exported(&space, &["--client", &busy.to_string()]), own);
    let ran = space.fedpipe(&["export", "last", "none", "--client", &resting.to_string()]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    let sentence = format!("client {resting} took no part in `fed/round-002`, and keeps nothing");
    assert!(ran.stderr.contains(&sentence), "{}", ran.stderr);
    assert!(ran.stderr.contains("it trained in round 1: name one"), "{}", ran.stderr);
}

#[test]
fn the_last_of_rounds_that_changed_nothing_is_exported() {
    // The rate falls to nothing in the first round, so that the second and third leave what they found.
    let fed = "lora: (rank: 2), aggregate: Median,";
    let text = tasks::graph("llama-tiny-mha", "", fed, SCORE).replace("rounds: 2", "rounds: 3");
    let rate = "optimizer: AdamW(lr: 1e-2)";
    let level = format!("{rate}, schedule: Linear(to: 0.0, over_rounds: 1)");
    let space = tasks::space(&text.replace(rate, &level));
    space.fedpipe(&["run", "graph.ron"]).fine();
    let told = space.fedpipe(&["export", "last", "out", "--json"]).fine().json();
    assert_eq!(told["step"], "fed/round-003");
    let first = exported(&space, &["--step", "fed/round-001"]);
    assert_eq!(exported(&space, &[]), first);
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_by_file() {
    let space = tasks::space(&tasks::graph("bloom-tiny", "", "lora: (rank: 2),", SCORE));
    space.fedpipe(&["run", "graph.ron"]).fine();
    space.fedpipe(&["export", "last", "adapter"]).fine();
    let from = "from: Adapter(folder: \"adapter\"),";
    space.write("llama.ron", &tasks::graph("llama-tiny-mha", "", from, SCORE));
    let ran = space.fedpipe(&["run", "llama.ron"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("does not fit the base: the base has no module `query_key_value`"),
        "{}",
        ran.stderr
    );
    let task = r#", task: Verbalize(prompt: "{sentence}:", labels: [" bad", " good"])"#;
    space.write("causal.ron", &tasks::graph("bloom-tiny", task, from, SCORE));
    let ran = space.fedpipe(&["run", "causal.ron"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("has a classifier of 2 classes"), "{}", ran.stderr);
    std::fs::write(space.path("adapter/adapter_model.safetensors"), "cut").unwrap();
    space.write("cut.ron", &tasks::graph("bloom-tiny", "", from, SCORE));
    let ran = space.fedpipe(&["run", "cut.ron"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("adapter_model.safetensors"), "{}", ran.stderr);
}
