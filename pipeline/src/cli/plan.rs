//! `fedpipe plan`

use artifacts::Digest;
use clap::{Args, ValueEnum};
use serde::Serialize;
use stages::device;

use super::{Desk, GraphArgs, hardware::HardwareArgs};
use crate::{
    failure::{Exit, Failure},
    memory::Line,
    plan::{self, State},
    project::Project,
};

/// Show what a run would do
#[derive(Debug, Args)]
pub(super) struct Plan {
    #[command(flatten)]
    graph: GraphArgs,
    #[command(flatten)]
    hardware: HardwareArgs,
    /// Draw the graph of steps instead
    #[arg(long = "graph", value_name = "FORMAT", id = "format")]
    drawn: Option<Format>,
    /// Print the effective graph instead: `extends`, `set` and `--set` resolved
    #[arg(long, conflicts_with = "format")]
    effective: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Dot,
    Mermaid,
}

impl Plan {
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        let world = desk.world(true)?;
        let project = Project::open(&self.graph.graph, &self.graph.sets, &world)?;
        if self.effective {
            return effective(&project, desk);
        }
        let asked = &self.hardware.device;
        let named = !asked.is_auto() || project.exact();
        let found = if named { device::choose_all(asked)? } else { Vec::new() };
        let device: Vec<&str> = found.iter().map(|found| found.name.as_str()).collect();
        let plan = project.plan(&world, &device.join(","))?;
        let states = plan.states(world.store())?;
        if let Some(store) = world.store() {
            // Only a cache: where it cannot be written, files are hashed again.
            drop(store.stat_cache().save());
        }
        let mut memory: Vec<Line> = Vec::new();
        // No device is looked for where nothing is left to do on one.
        if self.drawn.is_none() && !plan.is_idle(&states) {
            let hardware = self.hardware.on(self.hardware.session(&world).device()?);
            let needs = project.memory(&world, &plan, &states, hardware.path());
            memory.extend(needs.iter().map(|(stage, need)| Line::new(stage, need, &hardware)));
        }
        if let Some(format) = self.drawn {
            desk.out.line(&drawn(&plan, &states, format))?;
        } else if desk.out.json() {
            desk.out.value(&summary(&plan, &states, memory))?;
        } else {
            list(&plan, &states, desk)?;
            for line in memory {
                desk.out.line(&format!("memory of {}", line.text()))?;
            }
        }
        // The process ends here, and to give ten thousand steps back one by one takes a while.
        std::mem::forget((project, plan, states));
        Ok(Exit::Done)
    }
}

/// Steps by what would become of them.
#[derive(Default)]
struct Counts {
    reused: usize,
    run: usize,
    after: usize,
    unwanted: usize,
}

fn counts(states: &[State]) -> Counts {
    let mut counts = Counts::default();
    for state in states {
        match state {
            State::Reused { .. } => counts.reused += 1,
            State::ToRun { .. } => counts.run += 1,
            State::After => counts.after += 1,
            State::Unwanted => counts.unwanted += 1,
        }
    }
    counts
}

fn effective(project: &Project, desk: &Desk) -> Result<Exit, Failure> {
    for (label, text) in project.texts() {
        if !label.is_empty() {
            desk.out.line(&format!("// {label}"))?;
        }
        desk.out.line(text.source.trim_end())?;
    }
    Ok(Exit::Done)
}

fn word(state: &State) -> &'static str {
    match state {
        State::Reused { .. } => "reused",
        State::ToRun { .. } => "to run",
        State::After => "after",
        State::Unwanted => "not wanted, stopped early",
    }
}

/// What `--json` prints. It borrows, as ten thousand steps are many.
#[derive(Serialize)]
struct Summary<'a> {
    steps: usize,
    reused: usize,
    run: usize,
    after: usize,
    unwanted: usize,
    memory: Vec<Line>,
    list: Vec<Entry<'a>>,
}

/// One step of it.
#[derive(Serialize)]
struct Entry<'a> {
    step: &'a str,
    stage: &'static str,
    state: &'static str,
    key: Option<Digest>,
    after: Vec<&'a str>,
}

fn summary<'a>(plan: &'a plan::Plan, states: &'a [State], memory: Vec<Line>) -> Summary<'a> {
    let counts = counts(states);
    let list = plan.steps.iter().zip(states).map(|(step, state)| Entry {
        step: &step.name,
        stage: step.work.stage(),
        state: match state {
            State::ToRun { .. } => "to_run",
            State::Unwanted => "unwanted",
            state => word(state),
        },
        key: state.key(),
        after: match state {
            State::After => plan.blockers(step, states).map(|(_, name)| name).collect(),
            _ => Vec::new(),
        },
    });
    let list = list.collect();
    let Counts { reused, run, after, unwanted } = counts;
    Summary { steps: plan.steps.len(), reused, run, after, unwanted, memory, list }
}

/// One line a stage or round, so that a plan of a thousand steps fits on a screen.
fn list(plan: &plan::Plan, states: &[State], desk: &Desk) -> Result<(), Failure> {
    let mut at = 0;
    while at < plan.steps.len() {
        let step = &plan.steps[at];
        let mut end = at + 1;
        if step.client.is_some() {
            let same = |i: usize| {
                let other = &plan.steps[i];
                other.client.is_some()
                    && group(&other.name) == group(&step.name)
                    && word(&states[i]) == word(&states[at])
            };
            while end < plan.steps.len() && same(end) {
                end += 1;
            }
        }
        let name = match end - at {
            1 => step.name.clone(),
            n => format!("{}, {n} clients", group(&step.name)),
        };
        let why = match &states[at] {
            // Of the steps that it waits for, the one that will be done last.
            State::After => match plan.blockers(step, states).max_by_key(|(at, _)| *at) {
                Some((_, last)) => format!("after {last}"),
                None => "after its revision is resolved".to_owned(),
            },
            state => word(state).to_owned(),
        };
        desk.out.line(&format!("{name:<44} {why}"))?;
        at = end;
    }
    let counts = counts(states);
    let unwanted = match counts.unwanted {
        0 => String::new(),
        unwanted => format!(", {unwanted} not wanted"),
    };
    desk.out.line(&format!(
        "{} steps: {} reused, {} to run, {} after those{unwanted}",
        plan.steps.len(),
        counts.reused,
        counts.run,
        counts.after
    ))?;
    Ok(())
}

/// `fed/round-001` of `fed/round-001/client-007`.
fn group(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(group, _)| group)
}

fn drawn(plan: &plan::Plan, states: &[State], format: Format) -> String {
    let mut lines = Vec::new();
    let (head, tail) = match format {
        Format::Dot => ("digraph fedpipe {\n  rankdir=LR;\n  node [shape=box];", "}"),
        Format::Mermaid => ("flowchart LR", ""),
    };
    lines.push(head.to_owned());
    for (i, (step, state)) in plan.steps.iter().zip(states).enumerate() {
        let name = step.name.replace('"', "'");
        let reused = matches!(state, State::Reused { .. });
        lines.push(match format {
            Format::Dot => {
                let style = if reused { ", style=filled" } else { "" };
                format!("  s{i} [label=\"{name}\"{style}];")
            }
            Format::Mermaid => format!("  s{i}[\"{name}\"]"),
        });
        for dep in &step.deps {
            let arrow = if matches!(format, Format::Dot) { "->" } else { "-->" };
            let end = if matches!(format, Format::Dot) { ";" } else { "" };
            lines.push(format!("  s{} {arrow} s{i}{end}", dep.step));
        }
    }
    lines.push(tail.to_owned());
    lines.join("\n").trim_end().to_owned()
}
