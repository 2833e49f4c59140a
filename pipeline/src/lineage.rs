//! What a run's results were made from, told by the digests in their records.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use artifacts::{BlobRef, Digest, Record, Store};
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

    /// The result that is called `digest` as a whole.
    pub fn tree(&self, digest: &str) -> Option<BlobRef> {
        let digest: Digest = digest.parse().ok()?;
        let mut trees = self.steps.iter().map(|made| made.record.found.tree);
        trees.find(|tree| tree.digest == digest)
    }

    /// What the run came to: the results of `kind` that no other result of that kind was made from; those of which
    /// `is_part` holds are only on the way. Where a stage changed nothing from one step to the next, and several of
    /// its steps have the same result, it is the last of them.
    pub fn last_of(&self, kind: &str, is_part: impl Fn(&str) -> bool) -> Vec<usize> {
        let whole = |at: &usize| {
            let made = &self.steps[*at];
            made.record.found.kind == kind && !is_part(&made.name)
        };
        let whole: Vec<usize> = (0..self.steps.len()).filter(whole).collect();
        let tree = |at: usize| self.steps[at].record.found.tree.digest;
        let used: BTreeSet<Digest> = whole
            .iter()
            .flat_map(|&at| self.steps[at].inputs.iter().filter(move |&&input| input != tree(at)))
            .copied()
            .collect();
        // The longer of two names has the later round.
        let stage = |at: usize| self.steps[at].name.rsplit_once('/').map(|(stage, _)| stage);
        let order = |at: usize| (self.steps[at].name.len(), &self.steps[at].name);
        let is_same =
            |one: usize, other: usize| tree(one) == tree(other) && stage(one) == stage(other);
        let is_last = |&at: &usize| {
            let is_later = |&other: &usize| is_same(at, other) && order(other) > order(at);
            !used.contains(&tree(at)) && !whole.iter().any(is_later)
        };
        whole.iter().copied().filter(is_last).collect()
    }

    /// The step itself and all that it was made from.
    ///
    /// An entry that several results have alike (the names of classes, say) leads to one that is there for another
    /// reason, if there is one.
    pub fn ancestry(&self, at: usize) -> BTreeSet<usize> {
        let mut met = BTreeSet::new();
        let mut shared: Vec<&[usize]> = Vec::new();
        let mut left = vec![at];
        loop {
            while let Some(at) = left.pop() {
                if !met.insert(at) {
                    continue;
                }
                for input in &self.steps[at].inputs {
                    let makers = self.makers.get(input).map_or(&[][..], Vec::as_slice);
                    // A step that changed nothing has the very result that it was made from: there, who made it first
                    // is meant.
                    if let Some(first) = makers.first().filter(|first| **first < at)
                        && makers.contains(&at)
                    {
                        left.push(*first);
                        continue;
                    }
                    match makers {
                        [maker] => left.push(*maker),
                        several => shared.push(several),
                    }
                }
            }
            let is_open = |makers: &&[usize]| !makers.iter().any(|maker| met.contains(maker));
            let Some(makers) = shared.iter().copied().find(is_open).filter(|m| !m.is_empty())
            else {
                return met;
            };
            left.push(makers[0]);
        }
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

    /// The results of `kind` whose `subject`, by their manifests, is a result in `ancestry`.
    pub fn about(
        &self,
        kind: &str,
        subject: impl Fn(&Value) -> Option<&str>,
        ancestry: &BTreeSet<usize>,
    ) -> Vec<usize> {
        let trees: BTreeSet<String> = ancestry
            .iter()
            .map(|&at| self.steps[at].record.found.tree.digest.to_string())
            .collect();
        let is_about = |&at: &usize| {
            let record = &self.steps[at].record;
            record.found.kind == kind
                && subject(&record.manifest).is_some_and(|it| trees.contains(it))
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
