//! What earlier runs left: their descriptions, newest first.

use std::{collections::BTreeMap, fs};

use anyhow::{Context as _, Result};
use artifacts::{Digest, Store};
use serde::Deserialize;

/// `run.json`, as far as commands look at it.
#[derive(Debug, Deserialize)]
pub struct Past {
    /// The run's name.
    pub id: String,
    /// The graph file, as it was given.
    #[serde(default)]
    pub graph: String,
    /// The edits of the command line.
    #[serde(default)]
    pub set: Vec<String>,
    /// What the graph says of itself.
    #[serde(default)]
    pub about: String,
    /// When it began.
    #[serde(default)]
    pub started: String,
    /// Whether it came to its end, be that success or not.
    #[serde(default)]
    pub ended: bool,
    /// How many steps it had.
    #[serde(default)]
    pub steps: usize,
    /// How many were reused.
    #[serde(default)]
    pub reused: usize,
    /// How many it ran.
    #[serde(default)]
    pub ran: usize,
    /// Which failed.
    #[serde(default)]
    pub failed: Vec<String>,
    /// Whether the user stopped it.
    #[serde(default)]
    pub stopped: bool,
    /// Seconds it took.
    #[serde(default)]
    pub seconds: f64,
    /// The key of each step.
    #[serde(default)]
    pub keys: BTreeMap<String, Digest>,
    /// The whole text of the graph, for each variant of a sweep by its label.
    #[serde(default)]
    pub effective: BTreeMap<String, String>,
}

impl Past {
    /// What to know before its results are used.
    pub fn warning(&self) -> Option<&'static str> {
        let is_whole = self.ended && !self.stopped && self.failed.is_empty();
        (!is_whole).then_some("the run did not come to its end: this is how far it got")
    }

    /// The text of the graph that a step belongs to.
    pub fn graph_of(&self, step: &str) -> &str {
        let own = self.effective.iter().find(|(label, _)| {
            step.strip_prefix(label.as_str()).is_some_and(|rest| rest.starts_with('/'))
        });
        own.or_else(|| self.effective.iter().next()).map_or("", |(_, text)| text)
    }
}

/// All runs of a store, newest first.
pub fn runs(store: &Store) -> Result<Vec<Past>> {
    let mut runs = Vec::new();
    for run in store.runs()? {
        let file = run.path.join("run.json");
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut past: Past = serde_json::from_slice(&text)
            .with_context(|| format!("{} is damaged", file.display()))?;
        if !past.ended {
            past.keys.extend(journalled(&run.path.join("journal.jsonl")));
        }
        runs.push(past);
    }
    Ok(runs)
}

/// The keys that a run wrote down before it was cut off.
fn journalled(file: &std::path::Path) -> BTreeMap<String, Digest> {
    #[derive(Deserialize)]
    struct Line {
        step: String,
        key: Digest,
    }
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.map(|line| (line.step, line.key)).collect()
}
