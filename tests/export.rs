//! Adapters leave as PEFT has them, and come back.

use serde_json::Value;

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
