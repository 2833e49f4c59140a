//! What is saved by keeping the hidden states below the adapted blocks, in the rounds after the first.
//!
//!     cargo bench --bench prefix
//!
//! The federation of `federated`, with LoRA on the last quarter of the blocks. The first round, with which the states
//! are computed, is run before and is not timed; what is timed is the command that goes on to the last round.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may panic")]

mod federation;
#[path = "measure/llama.rs"]
mod llama;
mod measure;

use std::{cell::RefCell, time::Instant};

use clap::Parser;

use federation::{Federation, Size, accuracies};
use measure::{Contender, Report, Times, interleave, ratios};

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
    /// Print the table, and leave the one in `results` as it is
    #[arg(long)]
    dry: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let Options { turns, clients, rounds, examples, scored, dry, .. } = Options::parse();
    let folder = tempfile::tempdir().unwrap();
    let size = Size { clients, rounds, examples, scored };
    let federation = Federation::write(folder.path(), size, ", layers: Last(2)");
    let found: [_; 2] = std::array::from_fn(|_| RefCell::new(Vec::new()));
    let contender = |at: usize, name: &str, reuse: &str| {
        let (federation, found) = (&federation, &found[at]);
        let set = format!("fed.local.prefix={reuse}");
        let turn = move || {
            run(federation, true, &["fed.rounds=1".to_owned(), set.clone()]);
            let start = Instant::now();
            let output = run(federation, false, std::slice::from_ref(&set));
            let seconds = start.elapsed().as_secs_f64();
            *found.borrow_mut() = accuracies(&output);
            println!("{set}: {seconds:.1} s");
            seconds
        };
        Contender { name: name.to_owned(), turn: Box::new(turn) }
    };
    let mut contenders =
        [contender(0, "kept", "Keep"), contender(1, "computed in every pass", "Recompute")];
    let all = interleave(turns, &mut contenders);

    let about = format!(
        "{clients} clients × {rounds} rounds × {examples} examples, {scored} examples scored after each round, LoRA of \
         rank 16 on queries and values of the last 2 of 8 blocks. Timed is `fedpipe run` from after round 1 to the end, as \
         a whole process. Medians, with quartiles; ratios are those of turns of the same round."
    );
    let mut report = Report::new("prefix", &about);
    report.fact(&format!("{turns} rounds of turns"));
    let row = |(at, times): (usize, &Times)| {
        let found: Vec<String> = found[at].borrow().iter().map(|a| format!("{a:.3}")).collect();
        let seconds = format!("{:.2}", times.spread().median);
        let ratio = ratios(&all, 1, at);
        [vec![times.name.clone(), seconds], ratio, vec![found.join(", ")]].concat()
    };
    let rows: Vec<Vec<String>> = all.iter().enumerate().map(row).collect();
    let head = ["hidden states below", "s", "kept to it", "accuracy after each round"];
    report.table(&head, &rows);
    report.finish(!dry);
}

/// Runs the federation, or what is left of it; gives its events.
fn run(federation: &Federation, fresh: bool, sets: &[String]) -> Vec<u8> {
    let output = federation.run("store", fresh, sets).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
