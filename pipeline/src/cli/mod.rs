//! The command line: one file a command.

mod check;
mod completions;
mod devices;
mod export;
mod gc;
mod hardware;
mod log;
mod plan;
mod run;
mod verify;
mod why;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};
use stages::{device::Asked, download::HubSettings, kernel_cache};

use crate::{
    env::Env,
    failure::{Exit, Failure},
    graph::Set,
    ui::Out,
    world::World,
};

/// Federated LoRA fine-tuning as a pipeline that never does the same work twice
#[derive(Debug, Parser)]
#[command(name = "fedpipe", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 a step failed, 2 the command line or the graph is \
    wrong, 3 the store is busy or damaged, 130 stopped.";

/// What every command takes.
#[derive(Debug, Args)]
struct Global {
    /// Keep results in DIR [default: .fedpipe in the current folder]
    #[arg(long, global = true, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Colour the output
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
    /// Print errors and the last line only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print a line for every step
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Print JSON on standard output: one line an event for `run`, one value otherwise
    #[arg(long, global = true)]
    json: bool,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a graph: only what no earlier run has made
    Run(run::Run),
    /// Show what a run would do, and do nothing
    Plan(plan::Plan),
    /// Say why a step would run: the field that changed, and its two values
    Why(why::Why),
    /// Check graphs, or list the stages that a graph can use
    Check(check::Check),
    /// List the runs of the store
    Log(log::Log),
    /// Write a run's adapter as a folder that PEFT loads, or merged into its base
    Export(export::Export),
    /// Remove what no kept run needs
    Gc(gc::Gc),
    /// Look for damage in the store
    Verify(verify::Verify),
    /// List the devices that this build can train on here
    Devices(devices::Devices),
    /// Print a completion script for a shell
    Completions(completions::Completions),
}

/// A graph file with the edits of the command line.
#[derive(Debug, Args)]
struct GraphArgs {
    /// The graph file
    #[arg(value_name = "GRAPH")]
    graph: PathBuf,
    /// Set a field: `fed.rounds=30`, `seed=2`, `shards.by=Iid`; may be repeated
    #[arg(long = "set", value_name = "PATH=RON")]
    sets: Vec<Set>,
}

/// What a command works with.
struct Desk {
    env: Env,
    out: Out,
    root: PathBuf,
}

impl Desk {
    fn new(global: &Global) -> Self {
        let env = Env::read();
        let color = match global.color {
            Color::Auto => None,
            Color::Always => Some(true),
            Color::Never => Some(false),
        };
        let out = Out::new(&env, color, global.quiet, global.verbose, global.json);
        let root = global.store.clone().or_else(|| env.store.clone());
        Self { env, out, root: root.unwrap_or_else(|| PathBuf::from(".fedpipe")) }
    }

    fn hub(&self, offline: bool) -> HubSettings {
        HubSettings {
            cache: self.env.hub_cache.clone(),
            token: self.env.token.clone(),
            endpoint: self.env.endpoint.clone(),
            offline: offline || self.env.offline,
        }
    }

    fn world(&self, offline: bool) -> Result<World, Failure> {
        Ok(World::look(&self.root, self.hub(offline))?)
    }

    /// The store, where a command makes no sense without one.
    fn store(&self) -> Result<artifacts::Store, Failure> {
        match artifacts::Store::open_existing(&self.root)? {
            Some(store) => Ok(store),
            None => Err(Failure::usage(format!("there is no store at `{}`", self.root.display()))
                .hint("a run makes one; `--store DIR` or FEDPIPE_STORE names another")),
        }
    }
}

fn devices_of(text: &str) -> Result<Asked, String> {
    text.parse()
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let desk = Desk::new(&cli.global);
    kernel_cache::keep(&desk.env.kernels);
    match dispatch(cli.command, &desk) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            desk.out.failure(&failure);
            failure.kind.into()
        }
    }
}

/// What clap prints, on the stream where it belongs.
fn usage(error: &clap::Error) -> ExitCode {
    let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
    // A reader that went away is no failure of ours.
    drop(error.print());
    exit.into()
}

fn dispatch(command: Command, desk: &Desk) -> Result<Exit, Failure> {
    match command {
        Command::Run(run) => run.run(desk),
        Command::Plan(plan) => plan.run(desk),
        Command::Why(why) => why.run(desk),
        Command::Check(check) => check.run(desk),
        Command::Log(log) => log.run(desk),
        Command::Export(export) => export.run(desk),
        Command::Gc(gc) => gc.run(desk),
        Command::Verify(verify) => verify.run(desk),
        Command::Devices(devices) => devices.run(desk),
        Command::Completions(completions) => completions.run(desk),
    }
}
