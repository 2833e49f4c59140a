//! Why a step would run: the difference between its manifest now and the one of an earlier run,
//! followed backwards to the field that made it.

use std::{collections::BTreeSet, fmt};

use anyhow::Result;
use artifacts::{Digest, Store};
use serde_json::{Value, json};

use crate::{
    history::Past,
    plan::{Plan, State, Step},
};

/// One reason.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// Its result is there.
    Reused {
        /// The step.
        step: String,
        /// What is known of how it was made.
        made: String,
    },
    /// No run that the store remembers had a step of this name.
    New {
        /// The step.
        step: String,
    },
    /// It was begun, or planned, but never ended.
    Unfinished {
        /// The step.
        step: String,
    },
    /// A field has another value than in the last run.
    Field {
        /// The step whose field it is: the earliest, where it changed for several of a stage.
        step: String,
        /// The name of its stage.
        stage: &'static str,
        /// `lora.rank`.
        field: String,
        /// The value of the last run, as JSON.
        before: Value,
        /// The value now.
        now: Value,
    },
    /// The stage's code changed what it makes.
    Version {
        /// The step.
        step: String,
        /// The version of the last run.
        before: Value,
        /// The version now.
        now: u32,
    },
    /// A revision on the Hub is not resolved yet.
    Unresolved {
        /// The step.
        step: String,
    },
    /// Its federation stopped before its round.
    Unwanted {
        /// The step.
        step: String,
        /// Where the federation stopped, and why.
        sentence: String,
    },
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reused { step, made } => write!(f, "`{step}` is reused: {made}"),
            Self::New { step } => write!(f, "`{step}` is new: no earlier run had it"),
            Self::Unfinished { step } => {
                write!(f, "`{step}` has the same key as before, but no run finished it")
            }
            Self::Field { step, field, before, now, .. } => {
                write!(f, "{field} {} -> {} in {step}", shown(before), shown(now))
            }
            Self::Version { step, before, now } => {
                write!(f, "`{step}` is made by version {now} of its stage; before, by {before}")
            }
            Self::Unresolved { step } => {
                write!(f, "`{step}` waits for the Hub to say which commit its revision means")
            }
            Self::Unwanted { step, sentence } => write!(f, "`{step}` is not wanted: {sentence}"),
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "(not set)".to_owned(),
        other => other.to_string(),
    }
}

impl Cause {
    fn step(&self) -> &str {
        match self {
            Self::Reused { step, .. }
            | Self::New { step }
            | Self::Unfinished { step }
            | Self::Field { step, .. }
            | Self::Version { step, .. }
            | Self::Unresolved { step }
            | Self::Unwanted { step, .. } => step,
        }
    }

    /// Whether both tell the same change, be it of different steps.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            // The values may differ, as derived seeds do.
            (
                Self::Field { stage, field, .. },
                Self::Field { stage: stage2, field: field2, .. },
            ) => (stage, field) == (stage2, field2),
            (Self::New { .. }, Self::New { .. })
            | (Self::Unfinished { .. }, Self::Unfinished { .. }) => true,
            _ => self == other,
        }
    }

    /// As one JSON value.
    pub fn json(&self) -> Value {
        match self {
            Self::Reused { step, made } => json!({ "cause": "reused", "step": step, "made": made }),
            Self::New { step } => json!({ "cause": "new", "step": step }),
            Self::Unfinished { step } => json!({ "cause": "unfinished", "step": step }),
            Self::Field { step, field, before, now, .. } => json!({
                "cause": "field", "step": step, "field": field, "before": before, "now": now,
            }),
            Self::Version { step, before, now } => {
                json!({ "cause": "version", "step": step, "before": before, "now": now })
            }
            Self::Unresolved { step } => json!({ "cause": "unresolved", "step": step }),
            Self::Unwanted { step, sentence } => {
                json!({ "cause": "unwanted", "step": step, "why": sentence })
            }
        }
    }
}

/// Finds causes in one plan.
pub struct Causes<'a> {
    plan: &'a Plan,
    states: &'a [State],
    store: Option<&'a Store>,
    past: &'a [Past],
    seen: BTreeSet<usize>,
}

impl<'a> Causes<'a> {
    /// `past` is newest first.
    pub fn new(
        plan: &'a Plan,
        states: &'a [State],
        store: Option<&'a Store>,
        past: &'a [Past],
    ) -> Self {
        Self { plan, states, store, past, seen: BTreeSet::new() }
    }

    /// Why step `at` would run, or that it would not.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn of(mut self, at: usize) -> Result<Vec<Cause>> {
        let mut causes = Vec::new();
        if let State::Reused { key, .. } = &self.states[at] {
            let step = self.plan.steps[at].name.clone();
            causes.push(Cause::Reused { step, made: self.provenance(key)? });
        } else if let State::Unwanted = &self.states[at] {
            causes.push(self.unwanted(at));
        } else {
            self.follow(at, &mut causes)?;
        }
        Ok(first_of_each(causes))
    }

    fn unwanted(&self, at: usize) -> Cause {
        let step = &self.plan.steps[at];
        let sentence = self.plan.stopped(step, self.states).unwrap_or_default();
        Cause::Unwanted { step: step.name.clone(), sentence }
    }

    fn provenance(&self, key: &Digest) -> Result<String> {
        let record = match self.store {
            Some(store) => store.record(key)?,
            None => None,
        };
        Ok(match record {
            Some(record) => {
                let how = &record.provenance;
                let on = how.device.as_deref().map(|d| format!(" on {d}")).unwrap_or_default();
                format!(
                    "made{on} in {:.1} s at {} by fedpipe {}",
                    how.seconds, how.created, how.version
                )
            }
            None => "made by an earlier run".to_owned(),
        })
    }

    fn follow(&mut self, at: usize, causes: &mut Vec<Cause>) -> Result<()> {
        if !self.seen.insert(at) {
            return Ok(());
        }
        let plan = self.plan;
        let step = &plan.steps[at];
        if step.unresolved {
            causes.push(Cause::Unresolved { step: step.name.clone() });
            return Ok(());
        }
        let before = causes.len();
        if let Some(manifest) = self.manifest_before(step)? {
            Self::differences(step, &manifest, causes);
        }
        for (blocker, _) in plan.blockers(step, self.states) {
            self.follow(blocker, causes)?;
        }
        for dep in &step.deps {
            if causes.len() == before && self.moved(dep.step) {
                self.follow_moved(dep.step, causes)?;
            }
        }
        if causes.len() == before {
            causes.push(self.nothing_changed(step));
        }
        Ok(())
    }

    /// A reused input is still a cause if no earlier run used it in this place.
    fn moved(&self, at: usize) -> bool {
        let name = &self.plan.steps[at].name;
        let mut before = self.past.iter().filter_map(|run| run.keys.get(name)).peekable();
        let now = self.states[at].key();
        before.peek().is_some() && before.all(|key| Some(*key) != now)
    }

    fn follow_moved(&mut self, at: usize, causes: &mut Vec<Cause>) -> Result<()> {
        if !self.seen.insert(at) {
            return Ok(());
        }
        let plan = self.plan;
        let step = &plan.steps[at];
        if let Some(manifest) = self.manifest_before(step)? {
            Self::differences(step, &manifest, causes);
        }
        for dep in &step.deps {
            if self.moved(dep.step) {
                self.follow_moved(dep.step, causes)?;
            }
        }
        Ok(())
    }

    fn nothing_changed(&self, step: &Step) -> Cause {
        let name = step.name.clone();
        if self.was_there(&name) {
            Cause::Unfinished { step: name }
        } else {
            Cause::New { step: name }
        }
    }

    fn was_there(&self, name: &str) -> bool {
        self.past.iter().any(|run| run.keys.contains_key(name))
    }

    /// Of the manifests that earlier runs had for this step, the one that is nearest to today's;
    /// the newest of several.
    fn manifest_before(&self, step: &Step) -> Result<Option<Value>> {
        let Some(store) = self.store else { return Ok(None) };
        let mut looked_at = BTreeSet::new();
        let mut nearest: Option<(usize, Value)> = None;
        for key in self.past.iter().filter_map(|run| run.keys.get(&step.name)) {
            if looked_at.len() < LOOK_BACK
                && looked_at.insert(*key)
                && let Some(record) = store.record(key)?
            {
                let mut causes = Vec::new();
                Self::differences(step, &record.manifest, &mut causes);
                if nearest.as_ref().is_none_or(|(least, _)| causes.len() < *least) {
                    nearest = Some((causes.len(), record.manifest));
                }
            }
        }
        Ok(nearest.map(|(_, manifest)| manifest))
    }

    fn differences(step: &Step, before: &Value, causes: &mut Vec<Cause>) {
        let now = step.work.version();
        if before["version"] != json!(now) {
            let name = step.name.clone();
            causes.push(Cause::Version { step: name, before: before["version"].clone(), now });
        }
        let mut fields = Vec::new();
        differing("", &before["with"], &step.with, &mut fields);
        causes.extend(fields.into_iter().map(|(field, before, now)| Cause::Field {
            step: step.name.clone(),
            stage: step.work.stage(),
            field,
            before,
            now,
        }));
    }
}

/// How many different manifests of a step are compared at most.
const LOOK_BACK: usize = 20;

/// What a list of edges of another length is told as.
const NUMBER_OF: &str = "number of ";

/// The causes without repetition. A field that changed for many steps alike is told once, for the
/// earliest of them; that a step is not finished is told only if nothing else is.
fn first_of_each(mut causes: Vec<Cause>) -> Vec<Cause> {
    let weak = |cause: &Cause| match cause {
        Cause::New { .. } | Cause::Unfinished { .. } => true,
        // Another number of clients often follows from a field that is told too.
        Cause::Field { field, .. } => field.starts_with(NUMBER_OF),
        _ => false,
    };
    if causes.iter().any(|cause| !weak(cause)) {
        causes.retain(|cause| !weak(cause));
    }
    // Steps of one stage are named in the order in which they run.
    causes.sort_by_key(|cause| cause.step().to_owned());
    let mut kept: Vec<Cause> = Vec::new();
    for cause in causes {
        if !kept.iter().any(|other| other.is_like(&cause)) {
            kept.push(cause);
        }
    }
    kept
}

/// The leaves in which two values differ. Edges are left out: what changed behind them is told as
/// the cause in the step that made it.
fn differing(path: &str, before: &Value, now: &Value, out: &mut Vec<(String, Value, Value)>) {
    let is_edge = |v: &Value| v.get("$blake3").is_some() || stages::edge::as_edge(v).is_some();
    if is_edge(before) && is_edge(now) || before == now {
        return;
    }
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (a, b) =
                    (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                differing(&join(key), a, b, out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.iter().chain(b).all(is_edge) => {
            if a.len() != b.len() {
                out.push((format!("{NUMBER_OF}{path}"), json!(a.len()), json!(b.len())));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differing(&join(&i.to_string()), a, b, out);
            }
        }
        _ => out.push((path.to_owned(), before.clone(), now.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::differing;
    use serde_json::json;

    #[test]
    fn only_changed_leaves_are_named_and_edges_are_not() {
        let before = json!({ "lora": { "rank": 64, "alpha": 8.0 }, "base": { "$blake3": "aa" } });
        let now = json!({ "lora": { "rank": 16, "alpha": 8.0 }, "base": { "$in": "base", "$kind": "model" } });
        let mut out = Vec::new();
        differing("", &before, &now, &mut out);
        assert_eq!(out, [("lora.rank".to_owned(), json!(64), json!(16))]);
    }
}
