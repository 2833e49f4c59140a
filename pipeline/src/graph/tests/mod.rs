//! Graph files as a whole, with toy stages that have the shape of the real ones.

mod composition;
mod diagnostics;

use super::*;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "what is read is shown by `Debug` only")]
pub(super) enum Node {
    Model(Model),
    Tokenize(Tokenize),
    Partition(Partition),
    Federate(Federate),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is read is shown by `Debug` only")]
pub(super) struct Model {
    hub: Option<String>,
    folder: Option<String>,
    #[serde(default)]
    sample: BTreeMap<String, usize>,
}

#[derive(Debug)]
#[expect(dead_code, reason = "what is read is shown by `Debug` only")]
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bare;
        impl Visitor<'_> for Bare {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a stage")
            }
            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.to_owned()))
            }
        }
        deserializer.deserialize_identifier(Bare)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is read is shown by `Debug` only")]
pub(super) struct Tokenize {
    of: Name,
    with: Name,
    #[serde(default)]
    max_len: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is read is shown by `Debug` only")]
enum By {
    Iid,
    Dirichlet {
        alpha: f64,
        #[serde(default)]
        min: usize,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is read is shown by `Debug` only")]
pub(super) struct Partition {
    of: Name,
    clients: usize,
    by: By,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is read is shown by `Debug` only")]
struct Lora {
    rank: usize,
    #[serde(default)]
    targets: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is read is shown by `Debug` only")]
enum Rule {
    #[default]
    FedAvg,
    Median,
    TrimmedMean {
        cut: f64,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "what is read is shown by `Debug` only")]
pub(super) struct Federate {
    base: Name,
    shards: Name,
    #[serde(default)]
    lora: Lora,
    #[serde(default)]
    rounds: usize,
    #[serde(default)]
    aggregate: Rule,
    #[serde(default)]
    exact: bool,
}

const GRAPH: &str = r#"// Why: « ünïcode » comments stay.
Graph(
    about: "Ten clients.",
    seed: 17,
    stages: (
        base: Model(hub: "meta/Llama"),
        tokens: Tokenize(of: sst2, with: base),
        shards: Partition(of: tokens, clients: 10, by: Dirichlet(alpha: 0.5)),
        fed: Federate(
            base: base, shards: shards,
            lora: (rank: 64, targets: ["q_proj"]), // 64 is much
            rounds: 20,
        ),
    ),
)
"#;

/// What a user sees of the graph with one thing changed.
fn seen(from: &str, to: &str) -> String {
    assert!(GRAPH.contains(from), "{from}");
    let text = Text::new(Path::new("graphs/g.ron"), GRAPH.replacen(from, to, 1));
    parse::<Node>(&text).unwrap_err().plain()
}

/// A folder of graph files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, source) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, source).unwrap();
        }
        Self(dir)
    }

    fn load(&self, name: &str, sets: &[&str]) -> Result<Loaded, Failure> {
        let sets: Result<Vec<Set>, _> = sets.iter().map(|set| set.parse()).collect();
        load(&self.0.path().join(name), &sets?)
    }

    /// The variants of a graph.
    fn variants(&self, name: &str, sets: &[&str]) -> Vec<Variant> {
        variants(&self.load(name, sets).unwrap()).unwrap()
    }

    /// What a user sees who loads, varies and parses it.
    fn seen(&self, name: &str, sets: &[&str]) -> String {
        let failure = self
            .load(name, sets)
            .and_then(|loaded| variants(&loaded))
            .and_then(|all| {
                all.iter()
                    .try_for_each(|v| parse::<Node>(&v.text).map(drop))
            })
            .unwrap_err();
        failure
            .plain()
            .replace(&self.0.path().display().to_string(), "DIR")
    }
}

#[test]
fn fuzz() {
    let mut x: u64 = 88172645463325252;
    let mut rnd = |n: usize| { x ^= x << 13; x ^= x >> 7; x ^= x << 17; (x % n as u64) as usize };
    let bits = ["(", ")", "[", "]", "{", "}", "\"", ",", ":", "//", "/*", "*/", "é", "\r\n", " ", "r#", "'", "#", "\\", "Some(", "fed", "1", "-", ".", "rank: 3,", "#![enable(implicit_some)]", "extends: \"x\"", "set: {\"fed.rounds\": 3}", "sweep: {\"seed\": [1]}", "()", "\u{feff}"];
    let paths = ["fed.rounds", "fed.lora.rank", "seed", "base.files.x", "fed.lora.targets.0", "x", "tokens", "fed.a.b.c", "shards.by.alpha", "about", "fed.lora.targets.7", "fed.x-y"];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f.ron");
    let base = GRAPH.replacen("seed: 17,", "seed: 17, set: {\"fed.rounds\": 3}, sweep: {\"fed.lora.rank\": [1, 2]},", 1);
    let mut oks = 0;
    for _ in 0..20000 {
        let mut s: Vec<char> = base.chars().collect();
        for _ in 0..=rnd(3) {
            let i = rnd(s.len());
            match rnd(3) {
                0 => { let j = (i + 1 + rnd(6)).min(s.len()); s.drain(i..j); }
                1 => { let b: Vec<char> = bits[rnd(bits.len())].chars().collect(); s.splice(i..i, b); }
                _ => { let j = rnd(s.len()); s.swap(i, j); }
            }
        }
        let s: String = s.into_iter().collect();
        fs::write(&file, &s).unwrap();
        let set = format!("{}={}", paths[rnd(paths.len())], ["3", "\"x\"", "(a: 1)", "[1]", "{\"a\": 2}", "Foo", "Iid"][rnd(7)]);
        let r = std::panic::catch_unwind(|| {
            let sets = [set.parse::<Set>().unwrap()];
            match load(&file, &sets).and_then(|l| variants(&l)) {
                Ok(all) => for v in all {
                    assert!(ron_ok(&v.text.source), "unsound {}", v.text.source);
                    match parse::<Node>(&v.text) { Ok(_) => {}, Err(e) => { e.plain(); } }
                    complain(&v.text, &paths.map(|p| Complaint { path: p.into(), message: "m".into(), label: "l".into(), help: None })).plain();
                    return true;
                },
                Err(e) => { assert!(e.plain().len() > 10); }
            }
            false
        });
        match r { Ok(ok) => oks += usize::from(ok), Err(_) => panic!("SOURCE {set}\n{s}") }
    }
    println!("oks {oks}");
}
fn ron_ok(s: &str) -> bool { options().from_str::<serde::de::IgnoredAny>(s).is_ok() }
