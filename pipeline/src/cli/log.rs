//! `fedpipe log`

use clap::Args;
use serde_json::json;

use super::Desk;
use crate::{
    failure::{Exit, Failure},
    history::{self, Past},
};

/// List the runs of the store, newest first
#[derive(Debug, Args)]
pub(super) struct Log {
    /// Show at most N runs
    #[arg(short, long, value_name = "N")]
    number: Option<usize>,
}

impl Log {
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        let store = desk.store()?;
        let mut runs = history::runs(&store)?;
        runs.truncate(self.number.unwrap_or(usize::MAX));
        if desk.out.json() {
            let all = runs.iter().map(|run| {
                json!({
                    "run": run.id, "graph": run.graph, "set": run.set, "started": run.started,
                    "state": state(run), "steps": run.steps, "reused": run.reused, "ran": run.ran,
                    "failed": run.failed, "seconds": run.seconds,
                })
            });
            desk.out.value(&all.collect::<Vec<_>>())?;
            return Ok(Exit::Done);
        }
        for run in &runs {
            let sets: Vec<String> = run.set.iter().map(|set| format!(" --set {set}")).collect();
            desk.out.line(&format!(
                "{}  {:<8} {:>5} steps, {:>5} reused, {:>5} ran  {:>7.1} s  {}{}",
                run.id,
                state(run),
                run.steps,
                run.reused,
                run.ran,
                run.seconds,
                run.graph,
                sets.concat(),
            ))?;
        }
        Ok(Exit::Done)
    }
}

fn state(run: &Past) -> &'static str {
    match run {
        Past { ended: false, .. } => "cut off",
        Past { stopped: true, .. } => "stopped",
        Past { failed, .. } if !failed.is_empty() => "failed",
        _ => "done",
    }
}
