//! Where output goes: data to the standard output, all else to the standard error.

use super::{Bars, Json, Lines, Volume, style};
use crate::env::Env;
use crate::event::Sinks;
use crate::failure::Failure;
use crate::journal::Journal;
use anstream::{AutoStream, ColorChoice};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::time::Instant;

/// How this process speaks, decided once by the command line and the environment.
pub struct Out {
    color: ColorChoice,
    volume: Volume,
    json: bool,
    bars: bool,
}

impl Out {
    /// Decides. `color` is what `--color` asks for, if it is neither left out nor `auto`; `verbose` counts
    /// the `-v`.
    pub fn new(env: &Env, color: Option<bool>, quiet: bool, verbose: u8, json: bool) -> Self {
        let volume = match (quiet, verbose) {
            (true, _) => Volume::Quiet,
            (false, 0) => Volume::Normal,
            (false, _) => Volume::Verbose,
        };
        let is_terminal = io::stderr().is_terminal();
        let bars = is_terminal && !env.ci && !json && volume == Volume::Normal;
        Self { color: style::choice(color, env, is_terminal), volume, json, bars }
    }

    /// Whether data is to be JSON.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether a line for everything is wanted.
    pub fn verbose(&self) -> bool {
        self.volume == Volume::Verbose
    }

    /// Prints a line of data.
    pub fn line(&self, line: &str) -> io::Result<()> {
        writeln!(io::stdout(), "{line}")
    }

    /// Prints one JSON value.
    pub fn value(&self, value: &impl Serialize) -> io::Result<()> {
        self.line(&serde_json::to_string(value)?)
    }

    /// Says why a command ends.
    pub fn failure(&self, failure: &Failure) {
        // Where no one can be told, there is no one to tell that either.
        drop(failure.write(&mut self.stderr()));
    }

    /// What the events of a run go to: its journal and metrics, and what the user sees of it.
    pub fn sink(
        &self,
        journal: impl Write + Send + 'static,
        metrics: impl Write + Send + 'static,
        start: Instant,
    ) -> Sinks {
        let mut sinks = Sinks::new(start);
        sinks.add(Journal::new(journal, metrics));
        if self.json {
            sinks.add(Json::new(io::stdout()));
            // What the lines say is in the JSON; for people there remains what goes wrong.
            sinks.add(Lines::new(self.stderr(), Volume::Quiet));
        } else if self.bars {
            sinks.add(Bars::new(self.volume, self.color));
        } else {
            sinks.add(Lines::new(self.stderr(), self.volume));
        }
        sinks
    }

    fn stderr(&self) -> AutoStream<io::Stderr> {
        AutoStream::new(io::stderr(), self.color)
    }
}
