//! `fedpipe completions`

use clap::{Args, CommandFactory};

use super::{Cli, Desk};
use crate::failure::{Exit, Failure};

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "fedpipe", &mut script);
        desk.out.line(String::from_utf8_lossy(&script).trim_end())?;
        Ok(Exit::Done)
    }
}
