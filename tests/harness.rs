//! A folder to run `fedpipe` in, and what it printed.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with a small graph that really trains: a random `LLaMA` of three layers, 44 sentences.
pub(crate) struct Space {
    dir: TempDir,
    env: BTreeMap<&'static str, String>,
}

/// What a command printed and how it ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    fn new(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same, if it succeeded.
    #[track_caller]
    pub(crate) fn fine(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}:\n{}", self.stdout))
    }

    /// Standard output as one JSON value a line.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }

    /// `(steps, reused, ran)` of the last event of a run with `--json`.
    #[track_caller]
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let events = self.events();
        let ended = events.last().unwrap();
        assert_eq!(ended["event"], "ended");
        let count = |name: &str| ended[name].as_u64().unwrap();
        (count("steps"), count("reused"), count("ran"))
    }
}

/// The project's folder.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// A graph like that of ARCHITECTURE.md's reuse table, at the size of a test.
pub(crate) fn graph(clients: u32, rounds: u32) -> String {
    let base = project().join("tests/data/llama-tiny-mha");
    let base = base.to_str().unwrap();
    format!(
        r#"Graph(
    about: "A test.",
    seed: 17,
    stages: (
        base: Model(folder: {base:?}),
        sst2: Dataset(files: {{ "train": "train.tsv", "validation": "validation.tsv" }}),
        tokens: Tokenize(of: sst2, with: base, max_len: 12),
        shards: Partition(of: tokens, clients: {clients}, by: Dirichlet(alpha: 5.0, min: 1, on_fail: TopUp)),
        fed: Federate(
            base: base,
            shards: shards,
            lora: (rank: 4, alpha: 8, targets: ["q_proj", "v_proj"]),
            local: (epochs: 1, batch: 4, optimizer: AdamW(lr: 1e-3)),
            rounds: {rounds},
            aggregate: FedAvg,
        ),
        score: Evaluate(base: base, adapter: fed, on: tokens),
    ),
)
"#
    )
}

/// `n` labelled sentences as TSV.
pub(crate) fn sentences(n: usize) -> String {
    let good = ["a fine film", "truly moving", "I loved every minute", "warm and funny"];
    let bad = ["a dull film", "truly awful", "I hated every minute", "cold and slow"];
    let mut text = String::from("sentence\tlabel\n");
    for i in 0..n {
        let (words, label) = if i % 2 == 0 { (good, 1) } else { (bad, 0) };
        writeln!(text, "{} number {i}\t{label}", words[i / 2 % 4]).unwrap();
    }
    text
}

impl Space {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        Self { dir: TempDir::new().unwrap(), env: BTreeMap::new() }
    }

    /// A folder with `graph.ron` and its data.
    pub(crate) fn with_graph(clients: u32, rounds: u32) -> Self {
        let space = Self::empty();
        space.write("graph.ron", &graph(clients, rounds));
        space.write("train.tsv", &sentences(44));
        space.write("validation.tsv", &sentences(12));
        space
    }

    /// Sets a variable for all that is run here from now on.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.env.insert(name, value.to_owned());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fedpipe"));
        command.current_dir(self.dir.path()).args(args).stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            // The HTTP client reads the names of proxies.
            let is_proxy = text.to_ascii_lowercase().ends_with("_proxy");
            if text.starts_with("HF_") || text.starts_with("FEDPIPE_") || text == "CI" || is_proxy {
                command.env_remove(&name);
            }
        }
        // A closed port, so that no test ever reaches a real Hub.
        command.env("HF_HOME", self.path("hf")).env("HF_ENDPOINT", "http://127.0.0.1:9");
        command.env("NO_COLOR", "1").env("RUST_BACKTRACE", "0").envs(&self.env);
        command
    }

    /// Runs `fedpipe` to its end.
    pub(crate) fn fedpipe(&self, args: &[&str]) -> Ran {
        Ran::new(&self.command(args).output().unwrap())
    }

    /// Runs `fedpipe` to its end with an address space of at most so many MiB.
    pub(crate) fn limited(&self, mib: u64, args: &[&str]) -> Ran {
        let whole = self.command(args);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("ulimit -v {} && exec \"$0\" \"$@\"", mib << 10));
        command.arg(whole.get_program()).args(whole.get_args()).stdin(Stdio::null());
        command.current_dir(self.dir.path());
        // Else each thread would reserve 64 MiB of addresses, and a machine of many cores all that there are.
        command.env("MALLOC_ARENA_MAX", "2");
        for (name, value) in whole.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Ran::new(&command.output().unwrap())
    }

    /// Starts `fedpipe` and lets it run.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        self.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// `fedpipe run graph.ron --device cpu --json` with edits.
    #[track_caller]
    pub(crate) fn run(&self, sets: &[&str]) -> Ran {
        let mut args = vec!["run", "graph.ron", "--device", "cpu", "--json"];
        for set in sets {
            args.extend(["--set", set]);
        }
        self.fedpipe(&args).fine()
    }

    /// Every record of the store as `(key, output digest)`, sorted: equal lists mean equal bytes.
    pub(crate) fn records(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let Ok(shards) = fs::read_dir(self.path(".fedpipe/ac")) else { return all };
        for shard in shards.flatten() {
            for record in fs::read_dir(shard.path()).unwrap().flatten() {
                let value: Value =
                    serde_json::from_slice(&fs::read(record.path()).unwrap()).unwrap();
                let shard = shard.file_name().to_string_lossy().into_owned();
                let key = shard + &record.file_name().to_string_lossy();
                all.push((key, value["head"]["digest"].as_str().unwrap().to_owned()));
            }
        }
        all.sort();
        all
    }

    /// Names of what is in a folder of the store.
    pub(crate) fn inside(&self, folder: &str) -> Vec<String> {
        let Ok(list) = fs::read_dir(self.path(folder)) else { return Vec::new() };
        list.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}
