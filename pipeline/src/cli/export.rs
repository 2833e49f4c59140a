//! `fedpipe export`

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use stages::{
    export::{self, ADAPTER, BASE, DATA, SCORES},
    metric,
    peft::{Card, Figures},
};

use super::Desk;
use crate::{
    chosen::Chosen,
    failure::{Exit, Failure},
    graph::near,
    history::{self, Past},
    lineage::Lineage,
};

/// Write a run's adapter as a folder that PEFT loads, or merged into its base
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The run, as `fedpipe log` names it (its first characters are enough), or `last`
    #[arg(value_name = "RUN")]
    run: String,
    /// The folder to write: a new one
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The step whose adapter is meant, where the run came to several, or an earlier round:
    /// `fed/round-003`
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// Write what client K (counted from 0) has after the round: the adapter with what the client keeps to itself, or
    /// else what it trained in that round
    #[arg(long, value_name = "K")]
    client: Option<u32>,
    /// Write a whole checkpoint, with the adapter merged into the base, that transformers loads
    #[arg(long)]
    merge: bool,
}

impl Export {
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        let store = desk.store()?;
        // What is found from here on stays.
        let _lease = store.lease()?;
        let run = self.find(history::runs(&store)?)?;
        let lineage = Lineage::of(&run, &store)?;
        let at = self.adapter(&run, &lineage)?;
        let chosen = match self.client {
            Some(client) => Chosen::of_client(&lineage, at, client)?,
            None => Chosen::step(&lineage, at)?,
        };
        let made = &lineage.steps()[chosen.at];
        let mut ancestry = lineage.ancestry(chosen.at);
        let own = chosen.own.map(|(at, parts)| {
            ancestry.append(&mut lineage.ancestry(at));
            let step = &lineage.steps()[at].name;
            format!("{parts} of `{step}`")
        });
        let base = lineage.base(BASE, &ancestry).with_context(|| {
            format!("the run does not say which base `{}` stands on", made.name)
        })?;
        let trees = chosen.trees(&lineage, base)?;
        let name = export::base_name(&store, trees.base, &lineage.steps()[base].record.manifest);
        let mut data: Vec<String> = Vec::new();
        let mut devices: Vec<String> = Vec::new();
        for &at in &ancestry {
            let record = &lineage.steps()[at].record;
            if record.found.kind == DATA {
                data.push(export::data_name(&record.manifest));
            }
            devices.extend(record.provenance.device.clone());
        }
        devices.sort_unstable();
        devices.dedup();
        let scored = lineage.about(SCORES, export::subject, &ancestry).into_iter();
        let figures = scored.map(|at| &lineage.steps()[at]).map(|made| Figures {
            step: made.name.clone(),
            values: of_all(&made.record.found.metrics),
        });
        let card = Card {
            step: made.name.clone(),
            run: run.id.clone(),
            started: run.started.clone(),
            about: run.about.clone(),
            version: made.record.provenance.version.clone(),
            devices,
            data,
            figures: figures.collect(),
            graph: run.graph_of(&made.name).to_owned(),
            base: name.map_err(|error| pruned(error, &run))?,
            merged: self.merge,
            client: match (self.client, &own) {
                (Some(client), Some(own)) => format!("{client}, with its own {own}"),
                (Some(client), None) => client.to_string(),
                (None, _) => String::new(),
            },
            warning: export::warning(&made.record.manifest).filter(|_| own.is_none()),
            ..Card::default()
        };
        export::export(&self.folder, &store, &trees, &card).map_err(|error| pruned(error, &run))?;
        let warning = card.warning.as_deref().or(run.warning());
        if desk.out.json() {
            desk.out.value(&json!({
                "run": run.id, "step": made.name, "client": self.client, "own": own,
                "folder": self.folder, "merged": self.merge, "warning": warning,
            }))?;
            return Ok(Exit::Done);
        }
        let what = if self.merge { "merged into its base" } else { "as a PEFT adapter" };
        let own = own.map(|own| format!(" with {own}")).unwrap_or_default();
        desk.out.line(&format!(
            "`{}` of run {}{own}, {what}, is in {}",
            made.name,
            run.id,
            self.folder.display()
        ))?;
        if let Some(warning) = warning {
            desk.out.line(&format!("note: {warning}"))?;
        }
        Ok(Exit::Done)
    }

    /// The run that is meant.
    fn find(&self, runs: Vec<Past>) -> Result<Past, Failure> {
        let wanted = self.run.as_str();
        let ids: Vec<String> = runs.iter().map(|run| run.id.clone()).collect();
        let is_meant = |run: &Past| match wanted {
            "last" => true,
            wanted => run.id.starts_with(wanted),
        };
        let mut meant: Vec<Past> = runs.into_iter().filter(is_meant).collect();
        if let Some(exact) = meant.iter().position(|run| run.id == wanted) {
            return Ok(meant.swap_remove(exact));
        }
        match (wanted, meant.len()) {
            ("last", 1..) | (_, 1) => Ok(meant.swap_remove(0)),
            ("last", 0) => {
                Err(Failure::usage("the store has no runs").hint("`fedpipe run GRAPH` makes one"))
            }
            (_, 0) => {
                let names: Vec<&str> = ids.iter().map(String::as_str).collect();
                let failure = Failure::usage(format!("no run is called `{wanted}`"));
                Err(match near(wanted, &names) {
                    Some(close) => failure.hint(format!("did you mean `{close}`?")),
                    None => failure.hint("`fedpipe log` lists the runs"),
                })
            }
            (_, several) => Err(Failure::usage(format!("{several} runs begin with `{wanted}`"))
                .hint("give more of its name; `fedpipe log` lists the runs")),
        }
    }

    /// The step whose adapter is meant.
    fn adapter(&self, run: &Past, lineage: &Lineage) -> Result<usize, Failure> {
        let name = |at: usize| lineage.steps()[at].name.as_str();
        if let Some(wanted) = &self.step {
            let adapters: Vec<usize> = lineage.all_of(ADAPTER);
            let found = adapters.iter().copied().find(|&at| name(at) == wanted);
            return found.ok_or_else(|| {
                let names: Vec<&str> = adapters.iter().map(|&at| name(at)).collect();
                let failure =
                    Failure::usage(format!("run {} has no adapter called `{wanted}`", run.id));
                match near(wanted, &names) {
                    Some(close) => failure.hint(format!("did you mean `{close}`?")),
                    None => failure.hint("`fedpipe plan GRAPH` lists the steps"),
                }
            });
        }
        match lineage.last_of(ADAPTER, export::is_of_client).as_slice() {
            [at] => Ok(*at),
            [] => Err(Failure::usage(format!("run {} has no adapter", run.id))
                .hint("its graph trains none, or it was stopped before it had one")),
            several => {
                let names: Vec<&str> = several.iter().map(|&at| name(at)).collect();
                Err(Failure::usage(format!("run {} came to {} adapters", run.id, several.len()))
                    .hint(format!("name one with `--step`: {}", names.join(", "))))
            }
        }
    }
}

/// The metrics that are not about a single client.
fn of_all(metrics: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let all = metrics.iter().filter(|(name, _)| metric::split(name).0.is_none());
    all.map(|(name, value)| (name.clone(), *value)).collect()
}

/// Says how to get bytes back that were pruned.
fn pruned(error: stages::Error, run: &Past) -> Failure {
    let is_pruned = matches!(error, stages::Error::Store(artifacts::Error::Pruned { .. }));
    let failure = Failure::from(error);
    if is_pruned {
        let sets: Vec<String> = run.set.iter().map(|set| format!(" --set '{set}'")).collect();
        let again = format!("fedpipe run {}{}", run.graph, sets.concat());
        return failure.hint(format!("`{again}` makes what is missing again"));
    }
    failure
}
