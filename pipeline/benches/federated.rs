//! A federated run end to end, as whole processes, beside Flower's simulation and beside plain `PyTorch` and PEFT.
//!
//!     FEDPIPE_PEERS=VENV cargo bench --bench federated
//!
//! fedpipe begins with an empty store each time: import, tokens, split, local training, aggregation, evaluation. The
//! first run of each side is for its memory, and is not timed: looking at the memory takes time itself.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may panic")]

mod federation;
#[path = "measure/llama.rs"]
mod llama;
mod measure;
#[path = "federated/memory.rs"]
mod memory;
#[path = "measure/python.rs"]
mod python;

use std::{
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

use clap::Parser;
use serde_json::Value;

use federation::{Federation, Size, accuracies};
use measure::{Contender, Report, Times, interleave, ratios};
use python::Python;

#[derive(Parser)]
struct Options {
    /// Rounds of turns
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Clients of the federation
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Rounds of the federation
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Training examples of each client
    #[arg(long, default_value_t = 125)]
    examples: usize,
    /// Examples scored after each round
    #[arg(long, default_value_t = 250)]
    scored: usize,
    /// What fedpipe multiplies in when it trains and when it scores: F32, Bf16
    #[arg(long, value_delimiter = ',', default_value = "F32,Bf16")]
    precision: Vec<String>,
    /// Peers: plain, flower-1 (one thread a client), flower-2 (two threads)
    #[arg(long, value_delimiter = ',', default_value = "plain,flower-1,flower-2")]
    against: Vec<String>,
    /// Threads of each side
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Print the table, and leave the one in `results` as it is
    #[arg(long)]
    dry: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn size(&self) -> Size {
        let Self { clients, rounds, examples, scored, .. } = *self;
        Size { clients, rounds, examples, scored }
    }
}

/// One side: its command, made anew for each run, and how the accuracies are read off its output.
struct Side<'a> {
    name: String,
    command: Box<dyn Fn() -> Command + 'a>,
    read: fn(&[u8]) -> Vec<f64>,
}

fn main() {
    let options = Options::parse();
    let size = options.size();
    let Size { clients, rounds, examples, scored } = size;
    let python = Python::find();
    let folder = tempfile::tempdir().unwrap();
    let federation = Federation::write(folder.path(), size, "");
    let sides = sides(&federation, folder.path(), &options, python.as_ref());

    let mut peaks = Vec::new();
    let mut found = Vec::new();
    for side in &sides {
        println!("{}: memory", side.name);
        let (output, peak) = memory::peak(&mut (side.command)());
        peaks.push(peak as f64);
        let accuracies: Vec<String> =
            (side.read)(&output).iter().map(|accuracy| format!("{accuracy:.3}")).collect();
        found.push(accuracies.join(", "));
    }
    let contender = |side| Contender { name: Side::name(side), turn: Box::new(|| side.time()) };
    let mut contenders: Vec<Contender<'_>> = sides.iter().map(contender).collect();
    let all = interleave(options.turns, &mut contenders);

    let about = format!(
        "{clients} clients × {rounds} rounds × {examples} examples, {scored} examples scored after each round: a random \
         LLaMA of 8 blocks of width 256, LoRA of rank 16 on queries and values, batches of 16, AdamW at 1e-3, FedAvg. \
         Whole processes, from start to end. Medians, with quartiles; ratios are those of turns of the same round, and \
         below 1 fedpipe is faster, or smaller. Memory is that of a whole process tree, shared pages counted once."
    );
    let mut report = Report::new("federated", &about);
    report.fact(&format!("{} threads or processes at work on each side", options.threads));
    report.fact(&format!("{} rounds of turns", options.turns));
    if let Some(python) = &python {
        report.fact(&format!(
            "`FEDPIPE_PEERS`: {}",
            python.versions(&["torch", "transformers", "peft", "flwr", "ray"])
        ));
    }
    let own = options.precision.len();
    let row = |(at, times): (usize, &Times)| {
        let seconds = format!("{:.1}", times.spread().median);
        let mebibytes = format!("{:.0}", peaks[at] / f64::from(1 << 20));
        let space = (0..own).map(|own| format!("{:.2}", peaks[own] / peaks[at])).collect();
        let time = ratios(&all, own, at);
        [vec![times.name.clone(), seconds], time, vec![mebibytes], space, vec![found[at].clone()]]
            .concat()
    };
    let rows: Vec<Vec<String>> = all.iter().enumerate().map(row).collect();
    let head = |what: &str| {
        let own = options.precision.iter();
        own.map(|precision| format!("fedpipe {precision} to it, {what}")).collect::<Vec<_>>()
    };
    let (time, space) = (head("time"), head("memory"));
    let mut head = vec!["side", "s"];
    head.extend(time.iter().map(String::as_str).chain(["peak MiB"]));
    head.extend(space.iter().map(String::as_str).chain(["accuracy after each round"]));
    report.table(&head, &rows);
    report.finish(!options.dry);
}

fn sides<'a>(
    federation: &'a Federation,
    folder: &'a Path,
    options: &'a Options,
    python: Option<&'a Python>,
) -> Vec<Side<'a>> {
    let threads = options.threads.to_string();
    let mut sides = Vec::new();
    for precision in &options.precision {
        let set = match precision.as_str() {
            "F32" => Vec::new(),
            other => ["fed.local", "score"].map(|at| format!("{at}.precision={other}")).to_vec(),
        };
        let jobs = threads.clone();
        let command = move || {
            let mut command = federation.run("store", true, &set);
            command.args(["--jobs", &jobs]);
            command
        };
        let (name, command) = (format!("fedpipe {precision}"), Box::new(command));
        sides.push(Side { name, command, read: accuracies });
    }
    let Some(python) = python else { return sides };
    for peer in &options.against {
        let (name, program, cpus) = match peer.as_str() {
            "plain" => ("PyTorch + PEFT", "fed_plain.py", None),
            "flower-1" => ("Flower, one thread a client", "fed_flower.py", Some("1")),
            "flower-2" => ("Flower, two threads a client", "fed_flower.py", Some("2")),
            other => panic!("`--against {other}`: it is `plain`, `flower-1` or `flower-2`"),
        };
        let threads = threads.clone();
        let command = move || {
            let mut command = python.program(program);
            command.args(["--threads", &threads]).env("FED_DIR", folder);
            command.args(cpus.map(|cpus| ["--cpus", cpus]).into_iter().flatten());
            // Flower keeps things in this folder.
            command.env("FLWR_HOME", folder.join("flwr"));
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command
        };
        let (name, command) = (name.to_owned(), Box::new(command));
        sides.push(Side { name, command, read: last_line });
    }
    sides
}

impl Side<'_> {
    fn name(&self) -> String {
        self.name.clone()
    }

    /// The seconds that a run takes.
    fn time(&self) -> f64 {
        let mut command = (self.command)();
        let start = Instant::now();
        let output = command.output().unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} failed: {said}", self.name);
        println!("{}: {seconds:.1} s", self.name);
        seconds
    }
}

/// The accuracies that a peer says on its last line.
fn last_line(output: &[u8]) -> Vec<f64> {
    let text = String::from_utf8_lossy(output);
    let last = text.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(last).unwrap_or_else(|_| panic!("it said {last:?}"));
    let all = said["accuracy"].as_array().expect("the accuracies are a list");
    all.iter().filter_map(Value::as_f64).collect()
}
