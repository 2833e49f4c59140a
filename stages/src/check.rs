//! Complaints about a graph that can be had before any work starts.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use crate::{
    error::Error,
    model::Config,
    node::Node,
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
    complaints: Vec<Complaint>,
    configs: BTreeMap<String, Option<Config>>,
}

impl<'a> Check<'a> {
    /// Checks all nodes and gives what was found, in the order of the graph.
    pub fn all(nodes: &'a IndexMap<String, Node>, sources: &'a dyn Sources) -> Vec<Complaint> {
        let mut check = Self { nodes, sources, complaints: Vec::new(), configs: BTreeMap::new() };
        for (name, node) in nodes {
            node.check(name, &mut check);
        }
        check.complaints
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
}
