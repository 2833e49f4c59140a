//! A federation of a random Llama on made-up sentences, in a folder that fedpipe and the peers both read.
//!
//! A sentence is made of the words `t1` to `t4095`, and a word's number is its token's id. Each has 8 to 64 words; its
//! label says whether most of them are from the upper half of the vocabulary (70 %) or from the lower one.

use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use stages::{seed::Draws, tokenize::Tokenizer};

use crate::llama::SMALL;

/// LoRA's rank, and the examples of a batch.
const RANK: usize = 16;
const BATCH: usize = 16;
/// The most words of a sentence.
const LONGEST: usize = 64;

/// How large a federation is.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) clients: usize,
    pub(crate) rounds: usize,
    /// Training examples of each client.
    pub(crate) examples: usize,
    /// Examples that are scored after each round.
    pub(crate) scored: usize,
}

/// A folder with `base/`, the data, `graph.ron` for fedpipe, and `settings.json` for the peers.
pub(crate) struct Federation {
    folder: PathBuf,
}

impl Federation {
    /// Writes everything that a run needs; `lora` goes into the graph's `lora: (..)` beside rank and targets.
    pub(crate) fn write(folder: &Path, size: Size, lora: &str) -> Self {
        let base = folder.join("base");
        SMALL.write(&base).unwrap();
        fs::write(base.join("tokenizer.json"), tokenizer().to_string()).unwrap();
        let special = json!({"unk_token": "t0", "pad_token": "t0"});
        fs::write(base.join("tokenizer_config.json"), special.to_string()).unwrap();

        let train: Vec<Value> =
            (0..size.clients * size.examples).map(|i| example("train", i)).collect();
        let scored: Vec<Value> = (0..size.scored).map(|i| example("validation", i)).collect();
        check_tokens(&base, &train);
        let lines = |examples: &[Value]| -> String {
            examples.iter().flat_map(|example| [example.to_string(), "\n".into()]).collect()
        };
        fs::write(folder.join("train.jsonl"), lines(&train)).unwrap();
        fs::write(folder.join("validation.jsonl"), lines(&scored)).unwrap();
        let rows = |client: usize| client * size.examples..(client + 1) * size.examples;
        let shares: Vec<Vec<usize>> = (0..size.clients).map(rows).map(Range::collect).collect();
        fs::write(folder.join("split.json"), json!({"clients": shares}).to_string()).unwrap();
        fs::write(folder.join("graph.ron"), graph(size, lora)).unwrap();
        let settings = json!({
            "clients": size.clients, "rounds": size.rounds, "batch": BATCH, "rank": RANK, "lr": 1e-3,
        });
        fs::write(folder.join("settings.json"), settings.to_string()).unwrap();
        Self { folder: folder.to_owned() }
    }

    /// `fedpipe run` of it on the CPU, with a store of its own for `store`, which is emptied first if `fresh` says so.
    pub(crate) fn run(&self, store: &str, fresh: bool, sets: &[String]) -> Command {
        let store = self.folder.join(store);
        if fresh && store.exists() {
            fs::remove_dir_all(&store).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_fedpipe"));
        command.args(["run", "graph.ron", "--json", "--device", "cpu", "--store"]).arg(store);
        for set in sets {
            command.args(["--set", set]);
        }
        command.current_dir(&self.folder).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// The accuracy of each round that a run told of in its events, in order.
pub(crate) fn accuracies(events: &[u8]) -> Vec<f64> {
    let events = String::from_utf8_lossy(events);
    let events = events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut rounds: Vec<(String, f64)> = events
        .filter(|event| event["event"] == "metric" && event["name"] == "accuracy")
        .filter(|event| event["client"].is_null())
        .map(|event| {
            let step = event["step"].as_str().expect("a metric has its step");
            (step.to_owned(), event["value"].as_f64().expect("an accuracy is a number"))
        })
        .collect();
    rounds.sort_by(|(one, _), (other, _)| one.cmp(other));
    rounds.into_iter().map(|(_, accuracy)| accuracy).collect()
}

fn graph(size: Size, lora: &str) -> String {
    let Size { clients, rounds, .. } = size;
    format!(
        r#"Graph(
    seed: 17,
    stages: (
        base: Model(folder: "base"),
        sentences: Dataset(files: {{ "train": "train.jsonl", "validation": "validation.jsonl" }}),
        tokens: Tokenize(of: sentences, with: base, max_len: {LONGEST}),
        shards: Partition(of: tokens, clients: {clients}, by: Explicit(file: "split.json")),
        fed: Federate(
            base: base,
            shards: shards,
            lora: (rank: {RANK}, alpha: {}, targets: ["q_proj", "v_proj"]{lora}),
            local: (epochs: 1, batch: {BATCH}, optimizer: AdamW(lr: 1e-3)),
            rounds: {rounds},
            aggregate: FedAvg,
        ),
        score: Evaluate(base: base, adapter: fed, on: tokens, batch: {BATCH}),
    ),
)
"#,
        2 * RANK
    )
}

/// One token for each word, and no other.
fn tokenizer() -> Value {
    let vocabulary = (0..SMALL.vocab).map(|id| (format!("t{id}"), json!(id)));
    json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "decoder": null, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "added_tokens": [{
            "id": 0, "content": "t0", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        }],
        "model": {"type": "WordLevel", "unk_token": "t0", "vocab": Value::Object(vocabulary.collect())},
    })
}

/// The sentence `number` of a split, with its label and the ids of its tokens.
fn example(split: &str, number: usize) -> Value {
    let mut draws = Draws::named(7, "bench", &[split, &number.to_string()]);
    let (words, label, half) = (8 + draws.below(LONGEST - 7), draws.below(2), SMALL.vocab / 2);
    let id = |_| {
        let is_upper = draws.unit() < if label == 1 { 0.7 } else { 0.3 };
        if is_upper { half + draws.below(half) } else { 1 + draws.below(half - 1) }
    };
    let ids: Vec<usize> = (0..words).map(id).collect();
    let words: Vec<String> = ids.iter().map(|id| format!("t{id}")).collect();
    json!({"text": words.join(" "), "label": label})
}

/// Whether fedpipe reads the ids that the peers read off the words.
fn check_tokens(base: &Path, examples: &[Value]) {
    let read = |name: &str| fs::read(base.join(name)).unwrap();
    let (model, special) = (read("tokenizer.json"), read("tokenizer_config.json"));
    let tokenizer = Tokenizer::load(&model, Some(&special)).unwrap();
    for example in examples {
        let text = example["text"].as_str().expect("a sentence is text");
        let ids: Vec<u32> = text.split(' ').map(|word| word[1..].parse().unwrap()).collect();
        assert_eq!(tokenizer.encode_all(&[text], LONGEST).unwrap()[0].ids, ids);
    }
}
