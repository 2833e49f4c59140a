//! Complaints about a graph that can be had before any work starts.

use std::{collections::BTreeMap, rc::Rc};

use indexmap::IndexMap;

use crate::{
    corpus::Corpus,
    error::{Error, Result},
    memory::{Need, Scene},
    model::Config,
    node::Node,
    seed,
    unroll::Sources,
};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Dotted path from the stages: `fed.lora.rank`.
    pub path: String,
    /// What is wrong, as a sentence without its full stop.
    pub message: String,
    /// A few words at the caret.
    pub label: String,
    /// The mend.
    pub help: Option<String>,
}

/// What a node may look at while it is checked, and where it complains.
pub struct Check<'a> {
    /// All nodes of the graph. Edges lead to nodes of the right kind: that was checked before.
    pub nodes: &'a IndexMap<String, Node>,
    /// The world outside the graph.
    pub sources: &'a dyn Sources,
    /// The graph's own seed.
    pub seed: u64,
    complaints: Vec<Complaint>,
    configs: BTreeMap<String, Option<Config>>,
    corpora: BTreeMap<String, Option<Rc<Corpus>>>,
}

impl<'a> Check<'a> {
    fn new(nodes: &'a IndexMap<String, Node>, seed: u64, sources: &'a dyn Sources) -> Self {
        let (configs, corpora) = (BTreeMap::new(), BTreeMap::new());
        Self { nodes, sources, seed, complaints: Vec::new(), configs, corpora }
    }

    /// Checks all nodes of a graph with this seed and gives what was found, in the order of the graph.
    pub fn all(
        nodes: &'a IndexMap<String, Node>,
        seed: u64,
        sources: &'a dyn Sources,
    ) -> Vec<Complaint> {
        let mut check = Self::new(nodes, seed, sources);
        for (name, node) in nodes {
            node.check(name, &mut check);
        }
        check.complaints
    }

    /// Looks into the data of those nodes that are `pending`: what takes longer than a plan may,
    /// and is still better known before work starts than in its midst.
    pub fn data(
        nodes: &'a IndexMap<String, Node>,
        seed: u64,
        sources: &'a dyn Sources,
        pending: &dyn Fn(&str) -> bool,
    ) -> Vec<Complaint> {
        let mut check = Self::new(nodes, seed, sources);
        for (name, node) in nodes.iter().filter(|(name, _)| pending(name)) {
            node.check_data(name, &mut check);
        }
        check.complaints
    }

    /// What those nodes that are `pending` take of the memory, as far as that is known; in this scene.
    pub fn memory(
        nodes: &'a IndexMap<String, Node>,
        seed: u64,
        sources: &'a dyn Sources,
        pending: &dyn Fn(&str) -> bool,
        scene: &Scene<'_>,
    ) -> Vec<(String, Need)> {
        let mut check = Self::new(nodes, seed, sources);
        let pending = nodes.iter().filter(|(name, _)| pending(name));
        let needs =
            pending.map(|(name, node)| (name.clone(), node.memory(name, &mut check, scene)));
        needs.filter(|(_, need)| *need != Need::Nothing).collect()
    }

    /// A seed for one purpose, as [`crate::unroll::Unroll::seed`] gives it.
    pub fn seed(&self, purpose: &str, set: Option<u64>) -> u64 {
        seed::of_purpose(self.seed, purpose, set)
    }

    /// Complains about a field.
    pub fn complain(&mut self, path: String, message: impl Into<String>, help: Option<String>) {
        self.complaints.push(Complaint {
            path,
            message: message.into(),
            label: String::new(),
            help,
        });
    }

    /// Complains unless `holds`.
    pub fn require(&mut self, holds: bool, path: String, message: impl Into<String>) {
        if !holds {
            self.complain(path, message, None);
        }
    }

    /// Complains with the text of an error.
    pub fn refuse(&mut self, path: String, error: &Error) {
        self.complain(path, error.to_string(), error.hint().map(str::to_owned));
    }

    /// The config of a base, if it lies on this machine and can be read: what is wrong with it is
    /// complained about at the `Model` itself.
    pub fn config(&mut self, base: &str) -> Option<Config> {
        if let Some(known) = self.configs.get(base) {
            return known.clone();
        }
        let config = match self.nodes.get(base) {
            Some(Node::Model(model)) => model.config(base, self.sources).ok().flatten(),
            _ => None,
        };
        self.configs.insert(base.to_owned(), config.clone());
        config
    }

    /// The corpus of a `Dataset` whose files are local, if they can be read: what is wrong with
    /// them is complained about at the `Dataset` itself.
    pub fn corpus(&mut self, dataset: &str) -> Option<Rc<Corpus>> {
        if let Some(known) = self.corpora.get(dataset) {
            return known.clone();
        }
        let corpus = match self.nodes.get(dataset) {
            Some(Node::Dataset(it)) => {
                it.read_local(dataset, self).and_then(Result::ok).map(Rc::new)
            }
            _ => None,
        };
        self.corpora.insert(dataset.to_owned(), corpus.clone());
        corpus
    }
}
