//! Tasks, heads and families, from the graph file to the figures.

use stages::peft::{AdapterTensors, SCORE as SCORE_NAME};

use crate::harness::{Space, project};

/// A small graph on a model of the tests' data, with `task`, `fed`, and stages of its own behind them.
pub(crate) fn graph(model: &str, task: &str, fed: &str, more: &str) -> String {
    let base = project().join("tests/data").join(model);
    let base = base.to_str().unwrap();
    format!(
        r#"Graph(
    about: "A test.",
    seed: 17,
    stages: (
        base: Model(folder: {base:?}),
        sst2: Dataset(files: {{ "train": "train.tsv", "validation": "validation.tsv" }}),
        tokens: Tokenize(of: sst2, with: base, max_len: 24{task}),
        shards: Partition(of: tokens, clients: 3),
        fed: Federate(
            base: base,
            shards: shards,
            local: (batch: 4, optimizer: AdamW(lr: 1e-2)),
            rounds: 2,
            {fed}
        ),
        {more}
    ),
)
"#
    )
}

const SCORE: &str = "score: Evaluate(base: base, adapter: fed, on: tokens),";
const WORDS: &str =
    r#", task: Verbalize(prompt: "{sentence}\nVerdict:", labels: [" bad", " good"])"#;
const ANSWER: &str = r#", task: Complete(prompt: "{sentence}\nVerdict:", completion: " {label}")"#;

pub(crate) fn space(graph: &str) -> Space {
    let space = Space::with_graph(3, 1);
    space.write("graph.ron", graph);
    space
}

/// The last value of a metric of a step.
fn metric(space: &Space, step: &str, name: &str) -> f64 {
    let events = space.fedpipe(&["run", "graph.ron", "--json"]).fine().events();
    let is_meant =
        |e: &&serde_json::Value| e["event"] == "metric" && e["step"] == step && e["name"] == name;
    let found = events.iter().rfind(is_meant);
    found.unwrap_or_else(|| panic!("no {name} of {step}"))["value"].as_f64().unwrap()
}

#[test]
fn every_family_does_every_task() {
    for model in ["llama-tiny-mha", "bloom-tiny"] {
        let untrained = SCORE.replace("tokens)", "tokens, untrained: true)");
        let classify = space(&graph(model, "", "lora: (rank: 2),", &untrained));
        assert!(
            metric(&classify, "score/round-002", "loss")
                < metric(&classify, "score/round-000", "loss")
        );
        let zero = format!("zero: Evaluate(base: base, on: tokens), {SCORE}");
        let verbalize =
            space(&graph(model, WORDS, "lora: (rank: 2, targets: \"all-linear\"),", &zero));
        let before = metric(&verbalize, "zero", "loss");
        assert!(metric(&verbalize, "score/round-002", "loss") < before);
        let complete =
            space(&graph(model, ANSWER, "lora: (rank: 2, targets: \"all-linear\"),", &zero));
        let before = metric(&complete, "zero", "perplexity");
        let after = metric(&complete, "score/round-002", "perplexity");
        assert!(after < before, "{model}: perplexity {before}, then {after}");
        assert!(metric(&complete, "score/round-002", "token_accuracy") > 0.0);
    }
}

#[test]
fn data_of_prompts_need_no_labels() {
    let text = graph("llama-tiny-mha", ANSWER, "lora: (rank: 2),", SCORE);
    let space = space(&text.replace("{sentence}", "{ask}").replace("{label}", "{answer}"));
    space.write("train.tsv", "ask\tanswer\nwhy\tso\nhow\tthus\nwhen\tnow\nwho\tme\n");
    space.write("validation.tsv", "ask\tanswer\nwhere\there\n");
    assert!(metric(&space, "score/round-002", "perplexity") > 1.0);
    // The same data cannot be classified, and that is said before anything is written.
    space.write("other.ron", &text.replace(ANSWER, ""));
    let ran = space.fedpipe(&["run", "other.ron", "--store", "elsewhere"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("no text column"), "{}", ran.stderr);
    assert!(!space.path("elsewhere").exists());
    space.write("third.ron", &text.replace("{sentence}", "{asks}").replace("{label}", "{answer}"));
    let ran = space.fedpipe(&["run", "third.ron"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("has no column `asks`"), "{}", ran.stderr);
    assert!(ran.stderr.contains("did you mean `ask`?"), "{}", ran.stderr);
}

#[test]
fn a_head_is_shared_local_or_frozen() {
    let with = |head: &str| {
        space(&graph("llama-tiny-mha", "", &format!("lora: (rank: 2), {head}"), SCORE))
    };
    // Whether the classifier of `step` is that of the start.
    let is_as_at_the_start = |space: &Space, step: &str| {
        let score = |step: &str, folder: &str| {
            space.fedpipe(&["export", "last", folder, "--step", step]).fine();
            let bytes =
                std::fs::read(space.path(folder).join("adapter_model.safetensors")).unwrap();
            let tensors = AdapterTensors::from_safetensors(&bytes).unwrap();
            tensors.get(SCORE_NAME).unwrap().1.to_vec()
        };
        score("fed/init", "start") == score(step, "end")
    };
    let shared = with("");
    shared.fedpipe(&["run", "graph.ron"]).fine();
    assert!(!is_as_at_the_start(&shared, "fed/round-002"), "it is trained and averaged");
    let local = with("head: Local,");
    let mean = metric(&local, "score/round-002", "client_accuracy");
    assert!(metric(&local, "score/round-002", "worst_client_accuracy") <= mean);
    let why = local.fedpipe(&["why", "fed", "graph.ron", "--set", "fed.head=Shared"]).fine();
    assert!(why.stdout.contains("head"), "{}", why.stdout);
    // The first round's local training is the same, whoever gets the head.
    let plan = local.fedpipe(&["plan", "graph.ron", "--set", "fed.head=Shared", "--json"]).fine();
    assert_eq!(plan.json()["reused"], 4 + 1 + 3);
    assert!(is_as_at_the_start(&local, "fed/round-002"), "no client's reaches the server");
    let frozen = with("head: Frozen,");
    frozen.fedpipe(&["run", "graph.ron"]).fine();
    assert!(is_as_at_the_start(&frozen, "fed/round-002"), "the server's stays");
    std::fs::remove_dir_all(frozen.path("start")).unwrap();
    std::fs::remove_dir_all(frozen.path("end")).unwrap();
    assert!(is_as_at_the_start(&frozen, "fed/round-002/client-001"), "and the clients'");
}

#[test]
fn wrong_tasks_and_heads_are_refused_before_work_starts() {
    let fed = "lora: (rank: 2),";
    for (task, fed, more, sentence) in [
        (r#", task: Verbalize(prompt: "{a", labels: ["x", "y"])"#, fed, SCORE, "does not close"),
        (r#", task: Verbalize(prompt: "{a}", labels: ["x"])"#, fed, SCORE, "at least two labels"),
        (
            r#", task: Verbalize(prompt: "{sentence}:", labels: ["x", "y", "z"])"#,
            fed,
            SCORE,
            "3 labels for 2 classes",
        ),
        (WORDS, "lora: (rank: 2), head: Frozen,", SCORE, "there is no classifier to keep apart"),
        ("", fed, "zero: Evaluate(base: base, on: tokens),", "only an adapter has"),
        ("", "", SCORE, "give `lora`"),
        ("", "lora: (rank: 2, targets: \"(\"),", SCORE, "no regular expression"),
        ("", "lora: (rank: 2, rank_pattern: {\"k_proj\": 4}),", SCORE, "matches no module"),
        ("", "lora: (rank: 2, layers: Only([7])),", SCORE, "names block 7"),
        ("", "from: Adapter(folder: \"gone\"),", SCORE, "gone"),
    ] {
        let space = space(&graph("llama-tiny-mha", task, fed, more));
        let ran = space.fedpipe(&["run", "graph.ron"]);
        assert_eq!(ran.code, 2, "{task} {fed}: {}", ran.stderr);
        assert!(ran.stderr.contains(sentence), "{sentence}: {}", ran.stderr);
        assert!(!space.path(".fedpipe").exists(), "{sentence}");
    }
}

#[test]
fn a_split_that_is_not_there_is_found_before_work_starts() {
    let refused = |graph: &str, files: &[(&str, &str)], sentence: &str| {
        let space = space(graph);
        for (name, text) in files {
            space.write(name, text);
        }
        let ran = space.fedpipe(&["run", "graph.ron"]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(sentence), "{sentence}: {}", ran.stderr);
        assert!(!space.path(".fedpipe").exists());
    };
    let score = "score: Evaluate(base: base, adapter: fed, on: tokens, split: \"test\"),";
    let plain = graph("llama-tiny-mha", "", "lora: (rank: 2),", score);
    refused(&plain, &[], "the data have no split `test`, only `train`, `validation`");
    let plain = graph("llama-tiny-mha", "", "lora: (rank: 2),", SCORE);
    let unlabelled = [("validation.tsv", "sentence\tlabel\na film\t-1\n")];
    refused(&plain, &unlabelled, "the split `validation` has no labels");
    let renamed = plain.replace("\"train\":", "\"learn\":");
    refused(&renamed, &[], "the data have no split `train`");
}
