//! `fedpipe why`

use clap::Args;
use serde_json::json;

use super::{Desk, GraphArgs};
use crate::{
    cause::{Cause, Causes},
    failure::{Exit, Failure},
    graph::near,
    history,
    plan::Plan,
    project::Project,
};

/// Say why a step would run
#[derive(Debug, Args)]
pub(super) struct Why {
    /// The step, as `fedpipe plan` names it
    #[arg(value_name = "STEP")]
    step: String,
    #[command(flatten)]
    graph: GraphArgs,
}

impl Why {
    pub(super) fn run(self, desk: &Desk) -> Result<Exit, Failure> {
        let world = desk.world(true)?;
        let project = Project::open(&self.graph.graph, &self.graph.sets, &world)?;
        let plan = project.plan(&world, "cpu")?;
        let at = find(&plan, &self.step)?;
        let states = plan.states(world.store())?;
        let past = match world.store() {
            Some(store) => history::runs(store)?,
            None => Vec::new(),
        };
        let causes = Causes::new(&plan, &states, world.store(), &past).of(at)?;
        if desk.out.json() {
            let all: Vec<_> = causes.iter().map(Cause::json).collect();
            desk.out.value(&json!({ "step": plan.steps[at].name, "causes": all }))?;
            return Ok(Exit::Done);
        }
        for cause in &causes {
            desk.out.line(&cause.to_string())?;
        }
        Ok(Exit::Done)
    }
}

/// The step of that name, or the one that a stage's name stands for.
fn find(plan: &Plan, name: &str) -> Result<usize, Failure> {
    let exact = plan.steps.iter().position(|step| step.name == name);
    // `fed` alone means its last step.
    let within = |step: &str| step.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'));
    let last = || plan.steps.iter().rposition(|step| within(&step.name));
    exact.or_else(last).ok_or_else(|| {
        let names: Vec<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
        let failure = Failure::usage(format!("no step is called `{name}`"));
        match near(name, &names) {
            Some(meant) => failure.hint(format!("did you mean `{meant}`?")),
            None => failure.hint("`fedpipe plan GRAPH` lists the steps"),
        }
    })
}
