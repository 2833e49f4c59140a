//! What a run's results were made from, told by the digests in their records.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use artifacts::{Digest, Record, Store};
use serde_json::Value;

use crate::history::Past;

/// A step of a run with its record.
pub struct Made {
    /// Its name.
    pub name: String,
    /// Its record.
    pub record: Record,
    inputs: BTreeSet<Digest>,
}

/// All steps of a run that have records, and how they hang together.
pub struct Lineage {
    steps: Vec<Made>,
    /// The steps whose tree, or one of whose entries, has a digest.
    makers: BTreeMap<Digest, Vec<usize>>,
}

impl Lineage {
    /// Reads the records of a run.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn of(run: &Past, store: &Store) -> Result<Self> {
        let mut steps = Vec::with_capacity(run.keys.len());
        for (name, key) in &run.keys {
            let record = store.record(key).with_context(|| format!("the record of `{name}`"))?;
            if let Some(record) = record {
                let mut inputs = BTreeSet::new();
                digests(&record.manifest, &mut inputs);
                steps.push(Made { name: name.clone(), record, inputs });
            }
        }
        let mut makers: BTreeMap<Digest, Vec<usize>> = BTreeMap::new();
        for (at, made) in steps.iter().enumerate() {
            let found = &made.record.found;
            makers.entry(found.tree.digest).or_default().push(at);
            for (_, entry) in found.listing.iter().flat_map(artifacts::Tree::iter) {
                makers.entry(entry.digest).or_default().push(at);
            }
        }
        Ok(Self { steps, makers })
    }

    /// The steps, by name.
    pub fn steps(&self) -> &[Made] {
        &self.steps
    }

    /// The results of `kind` that no other result of that kind was made from: what the run came to.
    pub fn last_of(&self, kind: &str) -> Vec<usize> {
        let of_kind = |made: &&Made| made.record.found.kind == kind;
        let used: BTreeSet<Digest> =
            self.steps.iter().filter(of_kind).flat_map(|made| &made.inputs).copied().collect();
        let is_last = |&at: &usize| {
            let found = &self.steps[at].record.found;
            found.kind == kind && !used.contains(&found.tree.digest)
        };
        (0..self.steps.len()).filter(is_last).collect()
    }

    /// The step itself and all that it was made from.
    pub fn ancestry(&self, at: usize) -> BTreeSet<usize> {
        let (mut met, mut left) = (BTreeSet::from([at]), vec![at]);
        while let Some(at) = left.pop() {
            for input in &self.steps[at].inputs {
                for &maker in self.makers.get(input).into_iter().flatten() {
                    if met.insert(maker) {
                        left.push(maker);
                    }
                }
            }
        }
        met
    }

    /// All results of `kind`.
    pub fn all_of(&self, kind: &str) -> Vec<usize> {
        (0..self.steps.len()).filter(|&at| self.steps[at].record.found.kind == kind).collect()
    }

    /// The result of `kind` in `ancestry` that a step there was made from as a whole, rather than from an entry that
    /// another result may have as well.
    pub fn base(&self, kind: &str, ancestry: &BTreeSet<usize>) -> Option<usize> {
        let of_kind = |at: &&usize| self.steps[**at].record.found.kind == kind;
        let is_whole = |at: &&usize| {
            let tree = self.steps[**at].record.found.tree.digest;
            ancestry.iter().any(|&other| self.steps[other].inputs.contains(&tree))
        };
        let candidates = || ancestry.iter().filter(of_kind);
        candidates().find(is_whole).or_else(|| candidates().next()).copied()
    }

    /// The results of `kind` that were made straight from a result of kind `of` in `ancestry`.
    pub fn about(&self, kind: &str, of: &str, ancestry: &BTreeSet<usize>) -> Vec<usize> {
        let trees: BTreeSet<Digest> = ancestry
            .iter()
            .map(|&at| &self.steps[at].record.found)
            .filter(|found| found.kind == of)
            .map(|found| found.tree.digest)
            .collect();
        let is_about = |&at: &usize| {
            let made = &self.steps[at];
            made.record.found.kind == kind && made.inputs.iter().any(|input| trees.contains(input))
        };
        (0..self.steps.len()).filter(is_about).collect()
    }
}

/// The content digests that a manifest names.
fn digests(value: &Value, found: &mut BTreeSet<Digest>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get("$blake3") {
                found.extend(text.parse::<Digest>());
                return;
            }
            map.values().for_each(|inner| digests(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| digests(inner, found)),
        _ => {}
    }
}
