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

use std::{cell::RefCell, sync::Arc, time::Instant};

use burn::tensor::Device;
use clap::Parser;
use stages::{
    local_train::{Client, LocalNumbers, Optimizer, Trainer},
    model::{Base, Batch},
    objective::Objective,
    precision::Precision,
    session::Session,
    steps::Local,
};

use batches::{BATCH, Problem, RANK, SMOL};
use llama::SMALL;
use measure::{Contender, Report, Spread, Times, interleave, ratios};
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
    /// What fedpipe multiplies in: F32, Bf16
    #[arg(long, value_delimiter = ',', default_value = "F32,Bf16", value_parser = precision)]
    precision: Vec<Precision>,
    /// Compute by Burn's operations, on one thread, and not by fedpipe's own kernels
    #[arg(long)]
    stock: bool,
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
    if options.stock {
        report.fact("fedpipe by Burn's operations (`--kernels stock`), on one thread, as in a run");
    }
    report.fact(&format!("{} rounds of turns of {} steps", options.rounds, options.steps));
    if let Some(python) = &python {
        report.fact(&format!(
            "`FEDPIPE_PEERS`: {}",
            python.versions(&["torch", "transformers", "peft"])
        ));
    }
    let mut rows = Vec::new();
    for name in &options.dims {
        for &seq in &options.seq {
            rows.extend(compare(name, seq, &options, python.as_ref()));
        }
    }
    let own = options.precision.iter().map(|precision| format!("fedpipe {precision:?} to it"));
    let own: Vec<String> = own.collect();
    let own = own.iter().map(String::as_str);
    let mut head = vec!["base", "tokens", "side", "ms a step"];
    head.extend(own.chain(["losses differ from the first side's by"]));
    report.table(&head, &rows);
    report.finish(!options.dry);
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "F32" => Ok(Precision::F32),
        "Bf16" => Ok(Precision::Bf16),
        _ => Err("it is `F32` or `Bf16`".to_owned()),
    }
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
    let problem = Problem::draw(&dims, seq, folder.path());
    let bases: Vec<(Precision, Base)> = options
        .precision
        .iter()
        .map(|&precision| (precision, load(&problem, precision, options)))
        .collect();
    let total = (options.rounds as u64 + 1) * options.steps as u64;
    let optimizer = Optimizer::adamw(LR);
    let numbers = |&(precision, _): &(Precision, Base)| {
        Local { optimizer, precision, ..Local::default() }.numbers(1)
    };
    let numbers: Vec<LocalNumbers> = bases.iter().map(numbers).collect();
    let adapter = &problem.adapter.tensors;
    let client = Client::new(adapter, &problem.lora, 1, total, &Objective::Classify);
    let own = bases.iter().zip(&numbers).map(|((_, base), numbers)| Own {
        trainer: Trainer::new(base, &[client], numbers).unwrap(),
        batches: problem.batches(base),
        done: 0,
    });
    let mut own: Vec<Own<'_>> = own.collect();

    let mut peers: Vec<(String, Peer)> = Vec::new();
    if let Some(python) = python {
        let start = |mode| Peer::start(python, folder.path(), mode, options.threads);
        peers.extend(options.against.iter().map(|mode| (format!("PEFT {mode}"), start(mode))));
    }
    let losses = RefCell::new(vec![Vec::new(); own.len() + peers.len()]);
    let count = |side: usize, steps: Steps| {
        losses.borrow_mut()[side].extend(steps.losses);
        Spread::of(steps.seconds.into_iter()).median
    };
    let mut contenders = Vec::new();
    for (side, own) in own.iter_mut().enumerate() {
        contenders.push(Contender {
            name: format!("fedpipe {:?}", bases[side].0),
            turn: Box::new(move || count(side, own.steps(options.steps))),
        });
    }
    for (name, peer) in &mut peers {
        let side = contenders.len();
        let turn = Box::new(move || count(side, peer.steps(options.steps)));
        contenders.push(Contender { name: name.clone(), turn });
    }
    // The first turns load code and fill caches.
    interleave(1, &mut contenders);
    let all = interleave(options.rounds, &mut contenders);
    drop(contenders);
    let losses = losses.into_inner();
    let row = |(side, times): (usize, &Times)| {
        let milliseconds = format!("{:.1}", times.spread().median * 1e3);
        let head = vec![name.to_owned(), seq.to_string(), times.name.clone(), milliseconds];
        let apart = difference(&losses[0], &losses[side]);
        [head, ratios(&all, bases.len(), side), vec![apart]].concat()
    };
    all.iter().enumerate().map(row).collect()
}

/// A base as a run has it.
fn load(problem: &Problem, precision: Precision, options: &Options) -> Base {
    let base = problem.load(precision, &Device::flex());
    if options.stock {
        return base;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build().unwrap();
    base.fused(Arc::new(pool))
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
            // As in a run: only the kernels themselves have several threads.
            let loss = Session::on_one_thread(|| self.trainer.step(std::slice::from_ref(batch)));
            let loss = loss.unwrap().try_into_vec_as::<f32>().unwrap();
            steps.seconds.push(start.elapsed().as_secs_f64());
            steps.losses.push(f64::from(loss[0]));
            self.done += 1;
        }
        steps
    }
}
