//! A graph file made ready: edits applied, every variant parsed and checked, all steps laid out.

use std::{collections::BTreeSet, path};

use anyhow::{Result, anyhow};
use indexmap::IndexMap;
use stages::{
    check::Check,
    memory::{Demand, Need, Path, Scene},
    node::Node,
    unroll::Unroll,
};

use crate::{
    failure::Failure,
    graph::{self, Loaded, Set, Text, check},
    memory,
    plan::{self, Plan, State},
    world::World,
};

/// A graph with all its variants.
pub struct Project {
    /// The graph file after its edits.
    pub loaded: Loaded,
    variants: Vec<Graph>,
}

/// One variant, parsed.
struct Graph {
    label: String,
    settings: Vec<(String, String)>,
    text: Text,
    nodes: IndexMap<String, Node>,
    seed: u64,
    exact: bool,
}

impl Project {
    /// Reads and checks a graph file.
    ///
    /// # Errors
    /// It cannot be read, or something in it is wrong: all of it is told at once.
    pub fn open(path: &path::Path, sets: &[Set], world: &World) -> Result<Self, Failure> {
        let loaded = graph::load(path, sets)?;
        let mut variants = Vec::new();
        for variant in graph::variants(&loaded)? {
            let parsed = graph::parse::<Node>(&variant.text)?;
            let nodes = parsed.stages.0;
            let mut wrong = check::edges(&nodes);
            if wrong.is_empty() {
                let seen = world.seen_from(&variant.text);
                wrong = Check::all(&nodes, parsed.seed, &seen);
            }
            if !wrong.is_empty() {
                return Err(graph::complain(&variant.text, &wrong));
            }
            let (seed, exact) = (parsed.seed, parsed.exact);
            let graph::Variant { label, settings, text } = variant;
            variants.push(Graph { label, settings, text, nodes, seed, exact });
        }
        Ok(Self { loaded, variants })
    }

    /// The effective text of each variant, with its label.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &Text)> {
        self.variants.iter().map(|graph| (graph.label.as_str(), &graph.text))
    }

    /// Lays out all steps. `device` is the training device's name, for graphs that say `exact`.
    ///
    /// # Errors
    /// A local file cannot be read.
    pub fn plan(&self, world: &World, device: &str) -> Result<Plan> {
        let mut variants = Vec::with_capacity(self.variants.len());
        for graph in &self.variants {
            let order = check::order(&graph.nodes).map_err(|circle| anyhow!(circle.message))?;
            let seen = world.seen_from(&graph.text);
            let mut unroll = Unroll::new(&graph.nodes, graph.seed, &seen);
            for name in &order {
                unroll.node(name)?;
            }
            let rules = unroll.stops().to_vec();
            let (steps, outputs) = unroll.finish();
            variants.push(plan::Variant {
                label: graph.label.clone(),
                settings: graph.settings.clone(),
                steps,
                outputs,
                stops: rules,
                device: graph.exact.then(|| device.to_owned()),
            });
        }
        Plan::new(variants)
    }

    /// Looks into the data that steps of the plan are still to work on.
    ///
    /// # Errors
    /// Something in them is wrong, or a split of them cannot be made: all of it is told at once.
    pub fn check_data(&self, world: &World, plan: &Plan, states: &[State]) -> Result<(), Failure> {
        let pending = pending(plan, states);
        for graph in &self.variants {
            let seen = world.seen_from(&graph.text);
            let is_pending = |node: &str| pending.contains(node);
            let wrong = Check::data(&graph.nodes, graph.seed, &seen, &is_pending);
            if !wrong.is_empty() {
                return Err(graph::complain(&graph.text, &wrong));
            }
        }
        Ok(())
    }

    /// What the stages that still have something to do take of the memory, each once for all variants: the most of any.
    pub fn memory(
        &self,
        world: &World,
        plan: &Plan,
        states: &[State],
        path: Path,
    ) -> Vec<(String, Need)> {
        let pending = pending(plan, states);
        let texts = |node: &str| memory::texts(plan, states, world.store(), node);
        let scene = Scene { texts: &texts, path };
        let mut all: Vec<(String, Need)> = Vec::new();
        for graph in &self.variants {
            let seen = world.seen_from(&graph.text);
            let is_pending = |node: &str| pending.contains(node);
            for (stage, need) in Check::memory(&graph.nodes, graph.seed, &seen, &is_pending, &scene)
            {
                let known = all.iter_mut().find(|(known, _)| *known == stage);
                match known {
                    Some((_, most)) if total(&need) > total(most) => *most = need,
                    Some(_) => {}
                    None => all.push((stage, need)),
                }
            }
        }
        all
    }

    /// Whether any variant puts the device into its keys.
    pub fn exact(&self) -> bool {
        self.variants.iter().any(|graph| graph.exact)
    }
}

/// The names in the names of the steps that are still to be done: a composite has steps below its name, and a variant
/// stands before it.
fn pending<'a>(plan: &'a Plan, states: &[State]) -> BTreeSet<&'a str> {
    let open = plan.steps.iter().zip(states);
    let open = open.filter(|(_, state)| !matches!(state, State::Reused { .. } | State::Unwanted));
    open.flat_map(|(step, _)| step.name.split('/')).collect()
}

/// The bytes with one step at a time; what is not known counts nothing.
fn total(need: &Need) -> u64 {
    match need {
        Need::Known(demand) => Demand::total(demand, 1),
        Need::Nothing | Need::Unknown => 0,
    }
}
