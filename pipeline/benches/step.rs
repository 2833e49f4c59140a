//! How long an optimizer step of local training takes, beside transformers and PEFT.
//!
//!     FEDPIPE_PEERS=VENV cargo bench --bench step
//!
//! Both sides have the same random base, the same first adapter and the same batches, so that their losses can be
//! compared, too. They take turns of some steps; a turn counts as the median of its steps.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may panic")]

#[path = "step/batches.rs"]
mod batches;
#[path = "measure/llama.rs"]
mod llama;
mod measure;
#[path = "step/peer.rs"]
mod peer;
#[path = "measure/python.rs"]
mod python;

use std::{cell::RefCell, time::Instant};

use burn::tensor::Device;
use clap::Parser;
use stages::{
    local_train::{Client, Optimizer, Trainer},
    model::Batch,
    objective::Objective,
    steps::Local,
};

use batches::{BATCH, Problem, RANK, SMOL};
use llama::SMALL;
use measure::{Contender, Report, Spread, Times, interleave};
use peer::{Peer, Steps};
use python::Python;

const LR: f64 = 1e-4;

#[derive(Parser)]
struct Options {
    /// Rounds of turns
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Steps in a turn
    #[arg(long, default_value_t = 5)]
    steps: usize,
    /// Threads of each side
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Sizes: small, smol
    #[arg(long, value_delimiter = ',', default_value = "small,smol")]
    dims: Vec<String>,
    /// Tokens of the longest row
    #[arg(long, value_delimiter = ',', default_value = "32,128")]
    seq: Vec<usize>,
    /// What PEFT is run in: f32, bf16, autocast
    #[arg(long, value_delimiter = ',', default_value = "f32,bf16,autocast")]
    against: Vec<String>,
    /// Print the table, and leave the one in `results` as it is
    #[arg(long)]
    dry: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    let python = Python::find();
    let about = format!(
        "An optimizer step of local training: LoRA of rank {RANK} on queries and values, a classifier of two classes, \
         batches of {BATCH}, lengths uniform in [tokens / 2, tokens], AdamW. `small` has 8 blocks of width 256, `smol` \
         the dimensions of SmolLM2-135M. Medians, with quartiles; a ratio is that of turns of the same round, and \
         below 1 fedpipe is faster."
    );
    let mut report = Report::new("step", &about);
    report.fact(&format!("{} threads on each side", options.threads));
    report.fact(&format!("{} rounds of turns of {} steps", options.rounds, options.steps));
    if let Some(python) = &python {
        report.fact(&python.versions(&["torch", "transformers", "peft"]));
    }
    let mut rows = Vec::new();
    for name in &options.dims {
        for &seq in &options.seq {
            rows.extend(compare(name, seq, &options, python.as_ref()));
        }
    }
    let head = ["base", "tokens", "side", "ms a step", "fedpipe F32 to it", "losses differ by"];
    report.table(&head, &rows);
    report.finish(!options.dry);
}

/// The rows of one size.
fn compare(name: &str, seq: usize, options: &Options, python: Option<&Python>) -> Vec<Vec<String>> {
    println!("{name} at {seq} tokens");
    let dims = match name {
        "small" => SMALL,
        "smol" => SMOL,
        other => panic!("`--dims {other}`: it is `small` or `smol`"),
    };
    let folder = tempfile::tempdir().unwrap();
    let mut problem = Problem::draw(&dims, seq, folder.path());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build().unwrap();
    let base = problem.load(&Device::flex());
    let total = (options.rounds as u64 + 1) * options.steps as u64;
    let numbers = Local { optimizer: Optimizer::adamw(LR), ..Local::default() }.numbers(1);
    let adapter = &problem.adapter.tensors;
    let client = Client::new(adapter, &problem.lora, 1, total, &Objective::Classify);
    let mut own = Own {
        trainer: Trainer::new(&base, &[client], &numbers).unwrap(),
        batches: problem.batches(&base),
        done: 0,
    };

    let mut peers: Vec<(String, Peer)> = Vec::new();
    if let Some(python) = python {
        let start = |mode| Peer::start(python, folder.path(), mode, options.threads);
        peers.extend(options.against.iter().map(|mode| (format!("PEFT {mode}"), start(mode))));
    }
    let losses = RefCell::new(vec![Vec::new(); 1 + peers.len()]);
    let count = |side: usize, steps: Steps| {
        losses.borrow_mut()[side].extend(steps.losses);
        Spread::of(steps.seconds.into_iter()).median
    };
    let mut contenders = vec![Contender {
        name: "fedpipe F32".to_owned(),
        turn: Box::new(|| count(0, pool.install(|| own.steps(options.steps)))),
    }];
    for (side, (name, peer)) in (1..).zip(&mut peers) {
        let turn = Box::new(move || count(side, peer.steps(options.steps)));
        contenders.push(Contender { name: name.clone(), turn });
    }
    // The first turns load code and fill caches.
    interleave(1, &mut contenders);
    let all = interleave(options.rounds, &mut contenders);
    drop(contenders);
    let losses = losses.into_inner();
    let row = |(side, times): (usize, &Times)| {
        let (mut ratio, mut apart) = (String::from("1"), String::new());
        if side > 0 {
            ratio = all[0].over(times).to_string();
            apart = difference(&losses[0], &losses[side]);
        }
        let milliseconds = format!("{:.1}", times.spread().median * 1e3);
        [name.to_owned(), seq.to_string(), times.name.clone(), milliseconds, ratio, apart].to_vec()
    };
    all.iter().enumerate().map(row).collect()
}

/// The largest relative difference of two series of losses, one of each step.
fn difference(own: &[f64], other: &[f64]) -> String {
    let each = own.iter().zip(other).map(|(own, other)| ((own - other) / other).abs());
    format!("{:.0e} in {} steps", each.fold(0.0, f64::max), own.len())
}

/// The local training of one client, as a run has it.
struct Own<'a> {
    trainer: Trainer<'a>,
    batches: Vec<Batch>,
    done: usize,
}

impl Own<'_> {
    fn steps(&mut self, n: usize) -> Steps {
        let mut steps = Steps { seconds: Vec::new(), losses: Vec::new() };
        for _ in 0..n {
            let start = Instant::now();
            let batch = &self.batches[self.done % self.batches.len()];
            let loss = self.trainer.step(std::slice::from_ref(batch)).unwrap();
            let loss = loss.try_into_vec_as::<f32>().unwrap();
            steps.seconds.push(start.elapsed().as_secs_f64());
            steps.losses.push(f64::from(loss[0]));
            self.done += 1;
        }
        steps
    }
}
