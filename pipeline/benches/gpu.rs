//! How fast a device trains, by the size of the cohort, and how near it is to the CPU; beside transformers and PEFT on the
//! same device, where a Python has them.
//!
//!     cargo bench --features cuda --bench gpu -- --device cuda:0 --python python3
//!
//! It needs nothing of the folder that it was built in, so that the program alone can be carried to a GPU: see `gpu/`.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints and may panic")]

#[path = "step/batches.rs"]
#[expect(dead_code, reason = "the benchmark of a step uses the rest")]
mod batches;
#[path = "measure/llama.rs"]
mod llama;
#[expect(dead_code, reason = "the other benchmarks use the rest")]
mod measure;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use burn::tensor::Device;
use clap::Parser;
use stages::{
    device::{DeviceChoice, Found, choose},
    local_train::{Client, Optimizer, Trainer},
    model::{Base, Batch},
    objective::Objective,
    precision::Precision,
    steps::Local,
};

use batches::{BATCH, Problem, RANK, SMOL};
use llama::SMALL;
use measure::{Report, Spread};

/// Steps whose losses are compared with the CPU's.
const COMPARED: usize = 5;

#[derive(Parser)]
struct Options {
    /// The device: vulkan:0, cuda:0
    #[arg(long)]
    device: DeviceChoice,
    /// Clients in a cohort
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8,16,32")]
    cohorts: Vec<usize>,
    /// Steps that are timed, after as many that are not
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Sizes: small, smol
    #[arg(long, value_delimiter = ',', default_value = "small,smol")]
    dims: Vec<String>,
    /// Tokens of the longest row
    #[arg(long, value_delimiter = ',', default_value = "32,128")]
    seq: Vec<usize>,
    /// What frozen weights multiply in: F32, Bf16, F16
    #[arg(long, default_value = "F32", value_parser = precision)]
    precision: Precision,
    /// A Python with torch, transformers and peft
    #[arg(long)]
    python: Option<PathBuf>,
    /// The peer's program
    #[arg(long, default_value = "pipeline/benches/peers/step.py")]
    peer: PathBuf,
    /// What the peer calls the device
    #[arg(long, default_value = "cuda")]
    peer_device: String,
    /// The folder of kernels that were compiled before
    #[arg(long)]
    kernels: Option<PathBuf>,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn precision(text: &str) -> Result<Precision, String> {
    match text {
        "F32" => Ok(Precision::F32),
        "Bf16" => Ok(Precision::Bf16),
        "F16" => Ok(Precision::F16),
        _ => Err("it is `F32`, `Bf16` or `F16`".to_owned()),
    }
}

fn main() {
    let options = Options::parse();
    if let Some(folder) = &options.kernels {
        stages::kernel_cache::keep(folder);
    }
    let found = choose(options.device).unwrap_or_else(|error| panic!("{error}"));
    let about = format!(
        "An optimizer step of local training for each size of cohort: LoRA of rank {RANK} on queries and values, batches \
         of {BATCH} a client, lengths uniform in [tokens / 2, tokens], AdamW. Tokens are real ones, without padding. The \
         difference is that of the first {COMPARED} losses of one client from those of Burn's operations in f32 on the \
         CPU, relative; memory is what the device's pool holds."
    );
    let mut report = Report::new("gpu", &about);
    report.fact(&format!("{found}, {:?}", options.precision));
    if let Some(memory) = found.memory() {
        report.fact(&format!("{:.1} GiB", memory as f64 / f64::from(1 << 30)));
    }
    let mut rows = Vec::new();
    for name in &options.dims {
        for &seq in &options.seq {
            rows.extend(measured(name, seq, &options, &found));
        }
    }
    let head = ["base", "tokens", "clients", "ms a step", "tokens/s", "MiB", "from the CPU"];
    report.table(&head, &rows);
    // The program may be far from the folder that it was built in: whoever runs it keeps what it prints.
    report.finish(false);
}

fn measured(name: &str, seq: usize, options: &Options, found: &Found) -> Vec<Vec<String>> {
    let dims = match name {
        "small" => SMALL,
        "smol" => SMOL,
        other => panic!("`--dims {other}`: it is `small` or `smol`"),
    };
    let folder = tempfile::tempdir().unwrap();
    let problem = Problem::draw(&dims, seq, folder.path());
    let cpu = problem.load(Precision::F32, &Device::flex());
    let wanted = run(&problem, &cpu, 1, COMPARED, Precision::F32).1;
    drop(cpu);
    let base = problem.load(options.precision, found.tensors());
    let mut rows = Vec::new();
    for &clients in &options.cohorts {
        let (seconds, losses) = run(&problem, &base, clients, options.steps, options.precision);
        let tokens: f64 = problem.cohorts(&base, clients).iter().map(tokens).sum::<f64>() / 8.0;
        let apart = losses.iter().zip(&wanted).map(|(own, cpu)| ((own - cpu) / cpu).abs());
        let apart = format!("{:.0e}", apart.fold(0.0, f64::max));
        let usage = found.tensors().memory_pool_usage();
        let memory = usage.map_or_else(String::new, |it| (it.bytes_reserved >> 20).to_string());
        let cells = [format!("{:.2}", seconds * 1e3), format!("{:.0}", tokens / seconds), memory];
        rows.push(
            [
                vec![name.to_owned(), seq.to_string(), clients.to_string()],
                cells.into(),
                vec![apart],
            ]
            .concat(),
        );
        println!("{:?}", rows.last().unwrap());
    }
    if let Some(python) = &options.python {
        for mode in ["f32", "bf16", "autocast"] {
            let (seconds, losses) = peer(python, options, folder.path(), mode);
            let tokens: f64 = problem.cohorts(&base, 1).iter().map(tokens).sum::<f64>() / 8.0;
            let apart = losses.iter().zip(&wanted).map(|(own, cpu)| ((own - cpu) / cpu).abs());
            let apart = format!("{:.0e}", apart.fold(0.0, f64::max));
            let cells = [format!("{:.2}", seconds * 1e3), format!("{:.0}", tokens / seconds)];
            let head = vec![name.to_owned(), seq.to_string(), format!("PEFT {mode}")];
            rows.push([head, cells.into(), vec![String::new(), apart]].concat());
            println!("{:?}", rows.last().unwrap());
        }
    }
    rows
}

fn tokens(batch: &Batch) -> f64 {
    (0..batch.clients()).map(|client| batch.tokens(client) as f64).sum()
}

/// The median seconds of a step of `clients` clients, and the first losses of the first of them.
fn run(
    problem: &Problem,
    base: &Base,
    clients: usize,
    steps: usize,
    precision: Precision,
) -> (f64, Vec<f64>) {
    let numbers =
        Local { optimizer: Optimizer::adamw(1e-4), precision, ..Local::default() }.numbers(1);
    let client = Client::new(
        &problem.adapter.tensors,
        &problem.lora,
        1,
        2 * steps as u64,
        &Objective::Classify,
    );
    let mut trainer = Trainer::new(base, &vec![client; clients], &numbers).unwrap();
    let batches = problem.cohorts(base, clients);
    let (mut seconds, mut losses) = (Vec::new(), Vec::new());
    for step in 0..2 * steps {
        let start = Instant::now();
        let loss = trainer.step(std::slice::from_ref(&batches[step % batches.len()])).unwrap();
        // Read at every step, so that what is timed is done.
        let loss = loss.try_into_vec_as::<f32>().unwrap();
        if step >= steps {
            seconds.push(start.elapsed().as_secs_f64());
        }
        if losses.len() < COMPARED {
            losses.push(f64::from(loss[0]));
        }
    }
    (Spread::of(seconds.into_iter()).median, losses)
}

/// The same of transformers and PEFT, one client.
fn peer(python: &Path, options: &Options, folder: &Path, mode: &str) -> (f64, Vec<f64>) {
    #[derive(serde::Deserialize)]
    struct Steps {
        seconds: Vec<f64>,
        losses: Vec<f64>,
    }
    let mut command = Command::new(python);
    command.arg("-B").arg(&options.peer).arg(folder).args(["--mode", mode, "--threads", "8"]);
    command.args(["--device", &options.peer_device]).env("HF_HUB_OFFLINE", "1");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    writeln!(to, "{}", 2 * options.steps).unwrap();
    drop(to);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    child.wait().unwrap();
    let steps: Steps =
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the peer said {line:?}"));
    (Spread::of(steps.seconds[options.steps..].iter().copied()).median, steps.losses)
}
