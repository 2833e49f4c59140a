//! `fedpipe check`

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use stages::node::Node;

use super::Desk;
use crate::{
    failure::{Exit, Failure},
    graph::Set,
    project::Project,
};

/// Check graphs, or list the stages
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The graph files
    #[arg(value_name = "GRAPH", required_unless_present = "stages")]
    graphs: Vec<PathBuf>,
    /// Set a field first, in every graph
    #[arg(long = "set", value_name = "PATH=RON")]
    sets: Vec<Set>,
    /// List the stages that a graph can use
    #[arg(long)]
    stages: bool,
}

impl Check {
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        if self.stages {
            return list(desk);
        }
        let world = desk.world(true)?;
        let mut exit = Exit::Done;
        let mut checked = Vec::new();
        for graph in &self.graphs {
            let plan = Project::open(graph, &self.sets, &world)
                .and_then(|project| Ok(project.plan(&world, "cpu")?));
            match plan {
                Ok(plan) => {
                    let steps = plan.steps.len();
                    checked.push(json!({ "graph": graph, "fine": true, "steps": steps }));
                    if !desk.out.json() {
                        desk.out.line(&format!("{}: fine, {steps} steps", graph.display()))?;
                    }
                }
                Err(failure) => {
                    checked.push(json!({ "graph": graph, "fine": false }));
                    desk.out.failure(&failure);
                    exit = failure.kind;
                }
            }
        }
        if desk.out.json() {
            desk.out.value(&json!(checked))?;
        }
        Ok(exit)
    }
}

fn list(desk: &Desk) -> Result<Exit, Failure> {
    if desk.out.json() {
        let all = Node::ALL.iter().map(|(name, about)| json!({ "stage": name, "about": about }));
        desk.out.value(&all.collect::<Vec<_>>())?;
    } else {
        for (name, about) in Node::ALL {
            desk.out.line(&format!("{name:<10} {about}"))?;
        }
    }
    Ok(Exit::Done)
}
