//! From the named stages of a graph to the steps that are cached and run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use artifacts::BlobRef;
use indexmap::IndexMap;

use crate::{
    download::Kind,
    edge::{Artifact, In},
    error::Result,
    federate::Own,
    kinds::{Adapter, File, Shards},
    node::Node,
    parts::Parts,
    prefix::Below,
    seed,
    stage::{Stage, Work},
    stop::Stop,
};

/// One step of the unrolled DAG.
pub struct Step {
    /// `fed/round-003/client-007`. Shown to people, never part of a key.
    pub name: String,
    /// What it does, with its fields.
    pub work: Arc<dyn Work>,
    /// The round it belongs to, from 1; 0 is what comes before the first.
    pub round: Option<u32>,
    /// The client it belongs to, from 0.
    pub client: Option<u32>,
    /// The moving name on the Hub that it depends on, if it does.
    pub moving: Option<Revision>,
    /// Whether that name must be resolved to a commit before this step has a key.
    pub unresolved: bool,
}

/// A moving name on the Hub: a branch or a tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision {
    /// Model or dataset.
    pub kind: Kind,
    /// `owner/name`.
    pub repo: String,
    /// `main`.
    pub revision: String,
}

/// What unrolling may ask about the world outside the graph.
pub trait Sources {
    /// Digest and length of a local file.
    fn digest(&self, path: &Path) -> Result<BlobRef>;
    /// The commit that a revision was resolved to, if that is known without the network.
    fn commit(&self, revision: &Revision) -> Option<String>;
    /// Where a file of a repository at a commit lies, if it is cached.
    fn cached(&self, kind: Kind, repo: &str, commit: &str, file: &str) -> Option<PathBuf>;
    /// The folder from which the relative paths in a field of a stage start.
    fn folder(&self, stage: &str, field: &str) -> PathBuf;
}

/// What there is after a round.
#[derive(Clone, Debug)]
pub struct RoundOf {
    /// Its number; 0 is what comes before the first.
    pub round: u32,
    /// The global adapter.
    pub adapter: In<Adapter>,
    /// The clients' own adapters, where they keep something to themselves.
    pub own: Vec<Own>,
    /// What they keep.
    pub keeps: Parts,
}

impl RoundOf {
    /// A round after which there is one adapter for all.
    pub fn plain(round: u32, adapter: &In<Adapter>) -> Self {
        Self { round, adapter: adapter.clone(), own: Vec::new(), keeps: Parts::NONE }
    }
}

/// Collects steps while nodes unroll, in an order in which every edge leads backwards.
pub struct Unroll<'a> {
    nodes: &'a IndexMap<String, Node>,
    sources: &'a dyn Sources,
    seed: u64,
    steps: Vec<Step>,
    outputs: BTreeMap<String, usize>,
    rounds: BTreeMap<String, Vec<RoundOf>>,
    skews: BTreeMap<String, In<File>>,
    prefixes: BTreeMap<String, Below>,
    stops: Vec<Stop>,
}

impl<'a> Unroll<'a> {
    /// Nothing unrolled yet. `seed` is the graph's own.
    pub fn new(nodes: &'a IndexMap<String, Node>, seed: u64, sources: &'a dyn Sources) -> Self {
        Self {
            nodes,
            sources,
            seed,
            steps: Vec::new(),
            outputs: BTreeMap::new(),
            rounds: BTreeMap::new(),
            skews: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            stops: Vec::new(),
        }
    }

    /// Unrolls one node; those that it has edges to must have come before.
    pub fn node(&mut self, name: &str) -> Result<()> {
        let nodes = self.nodes;
        match nodes.get(name) {
            Some(node) => node.unroll(name, self),
            None => Ok(()),
        }
    }

    /// All nodes of the graph.
    pub fn nodes(&self) -> &'a IndexMap<String, Node> {
        self.nodes
    }

    /// The world outside the graph.
    pub fn sources(&self) -> &'a dyn Sources {
        self.sources
    }

    /// A seed for one purpose: the one that was set for it, or one derived by name.
    pub fn seed(&self, purpose: &str, set: Option<u64>) -> u64 {
        seed::of_purpose(self.seed, purpose, set)
    }

    /// Adds a step and gives the edge to what it makes.
    pub fn add<S: Stage>(&mut self, name: impl Into<String>, stage: S) -> In<S::Output> {
        self.add_for(name, stage, None, None)
    }

    /// Adds a step that belongs to a round, and perhaps to a client.
    pub fn add_for<S: Stage>(
        &mut self,
        name: impl Into<String>,
        stage: S,
        round: Option<u32>,
        client: Option<u32>,
    ) -> In<S::Output> {
        let name = name.into();
        self.outputs.insert(name.clone(), self.steps.len());
        self.steps.push(Step {
            name: name.clone(),
            work: Arc::new(stage),
            round,
            client,
            moving: None,
            unresolved: false,
        });
        In::named(name)
    }

    /// Says that the step added last depends on a moving name, and whether it is resolved.
    pub fn last_moves_with(&mut self, revision: Revision, resolved: bool) {
        if let Some(step) = self.steps.last_mut() {
            step.moving = Some(revision);
            step.unresolved = !resolved;
        }
    }

    /// Lets `name` stand for what `edge` leads to: `fed` for its last round.
    pub fn alias<T: Artifact>(&mut self, name: &str, edge: &In<T>) {
        if let Some(&at) = self.outputs.get(edge.name()) {
            self.outputs.insert(name.to_owned(), at);
        }
    }

    /// Records what `name` has after a round.
    pub fn round(&mut self, name: &str, round: RoundOf) {
        self.rounds.entry(name.to_owned()).or_default().push(round);
    }

    /// What a stage has after each round, round 0 first, or nothing if it has no rounds.
    pub fn rounds_of(&self, name: &str) -> Vec<RoundOf> {
        self.rounds.get(name).cloned().unwrap_or_default()
    }

    /// Records that the clients of `name` have these shards.
    pub fn skew(&mut self, name: &str, shards: &In<Shards>) {
        self.skews.insert(name.to_owned(), shards.part("skew.json"));
    }

    /// Which labels the clients of a stage have, if it has clients.
    pub fn skew_of(&self, name: &str) -> Option<In<File>> {
        self.skews.get(name).cloned()
    }

    /// Records that the adapters of `name` leave the blocks below as they are, and that hidden states are kept there.
    pub fn keep_prefix(&mut self, name: &str, below: Below) {
        self.prefixes.insert(name.to_owned(), below);
    }

    /// Where hidden states are kept for the adapters of a stage, if they are.
    pub fn prefix_of(&self, name: &str) -> Option<Below> {
        self.prefixes.get(name).copied()
    }

    /// Says that the rounds of a federation may end early, by a rule.
    pub fn stop(&mut self, stop: Stop) {
        self.stops.push(stop);
    }

    /// The rules by which rounds may end early.
    pub fn stops(&self) -> &[Stop] {
        &self.stops
    }

    /// The steps, and which of them each name stands for.
    pub fn finish(self) -> (Vec<Step>, BTreeMap<String, usize>) {
        (self.steps, self.outputs)
    }
}
