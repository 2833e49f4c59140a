//! The DAG of steps, and what of it is done already.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Write as _,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use artifacts::{BlobRef, Digest, Found, Store, Tree};
use serde_json::Value;
use stages::{
    edge::{self},
    stage::{Needs, Place, Work},
    stop::Stop,
    unroll::{self, Revision},
};

use crate::{
    key::Action,
    stopping::{Gate, Members, Stopping, Verdicts},
};

/// A step with its place in the DAG.
pub struct Step {
    /// Shown to people: `fed/round-003/client-007`, before it the variant of a sweep.
    pub name: String,
    /// What it does.
    pub work: Arc<dyn Work>,
    /// Its fields, edges marked.
    pub with: Value,
    /// Its edges.
    pub deps: Vec<Dep>,
    /// The round it belongs to.
    pub round: Option<u32>,
    /// The client it belongs to.
    pub client: Option<u32>,
    /// The variant of a sweep, if the step is not the same in all of them.
    pub variant: Option<String>,
    /// The moving name on the Hub that it depends on, if it does.
    pub moving: Option<Revision>,
    /// Whether that name must be resolved before the step has a key.
    pub unresolved: bool,
    /// The device's name, in a graph that says `exact: true`.
    pub device: Option<String>,
    /// The rules of the plan that it is under, by place, with its round; none where a variant wants it in any case.
    pub stops: Vec<(usize, u32)>,
}

/// An edge of a step.
pub struct Dep {
    /// As the step's own fields name it: `shards#client-003`.
    pub edge: String,
    /// The index of the step that it leads to, smaller than the step's own.
    pub step: usize,
    /// The entry, if it is not the whole tree.
    pub part: Option<String>,
}

impl Step {
    /// Its identity for keys.
    pub fn action(&self) -> Action<'_> {
        Action {
            stage: self.work.stage(),
            version: self.work.version(),
            with: &self.with,
            device: self.device.as_deref(),
        }
    }
}

/// One graph of a sweep, unrolled.
pub struct Variant {
    /// `fed.lora.rank=16, seed=1`; empty where there is no sweep.
    pub label: String,
    /// The paths that are swept, with this variant's values as written.
    pub settings: Vec<(String, String)>,
    /// Its steps.
    pub steps: Vec<unroll::Step>,
    /// Which step each name stands for.
    pub outputs: BTreeMap<String, usize>,
    /// The rules by which its rounds may end early.
    pub stops: Vec<Stop>,
    /// The device's name, if the graph says `exact: true`.
    pub device: Option<String>,
}

/// The steps of one variant in a plan.
pub struct Branch {
    /// The paths that are swept, with this variant's values as written; none where there is no sweep.
    pub settings: Vec<(String, String)>,
    /// Its steps, by their places in the plan.
    pub steps: Vec<usize>,
    /// Its rules, by their places in the plan.
    pub stops: Vec<usize>,
}

/// All steps of a run, each edge leading backwards.
#[derive(Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// The rules by which rounds may end early.
    pub stops: Vec<Stopping>,
    /// The variants.
    pub branches: Vec<Branch>,
}

impl Plan {
    /// One plan of all variants, in which what is the same in several is there once.
    ///
    /// # Errors
    /// A step's fields cannot be written, or an edge leads nowhere.
    pub fn new(variants: Vec<Variant>) -> Result<Self> {
        let many = variants.len();
        let mut plan = Self::default();
        let mut known: BTreeMap<Digest, usize> = BTreeMap::new();
        let mut used: Vec<usize> = Vec::new();
        let mut labels: Vec<String> = Vec::new();
        // Steps that some variant wants in any case.
        let mut free: Vec<bool> = Vec::new();
        for variant in variants {
            let mut members = Members::new(&variant.stops);
            let mut places: Vec<usize> = Vec::with_capacity(variant.steps.len());
            for step in variant.steps {
                let step = Self::placed(step, &variant.outputs, &places, variant.device.clone())?;
                let mut at = plan.steps.len();
                if many > 1 {
                    let identity = Digest::of(step.identity()?.as_bytes());
                    at = *known.entry(identity).or_insert(at);
                }
                let is_under = members.add(&step, &variant.outputs, at);
                if at == plan.steps.len() {
                    plan.steps.push(step);
                    used.push(0);
                    free.push(false);
                    labels.push(variant.label.clone());
                }
                used[at] += 1;
                free[at] |= !is_under;
                places.push(at);
            }
            let stops = plan.put_under(members.finish());
            plan.branches.push(Branch { settings: variant.settings, steps: places, stops });
        }
        for ((step, used), label) in plan.steps.iter_mut().zip(used).zip(labels) {
            if used < many {
                step.name = format!("{label}/{}", step.name);
                step.variant = Some(label);
            }
        }
        for (step, _) in plan.steps.iter_mut().zip(free).filter(|(_, free)| *free) {
            step.stops.clear();
        }
        Ok(plan)
    }

    /// Keeps the rules of a variant, each once, and tells the steps of them. Gives their places.
    fn put_under(&mut self, rules: Vec<Stopping>) -> Vec<usize> {
        let mut put = |rule: Stopping| {
            if let Some(known) = self.stops.iter().position(|known| known.is_like(&rule)) {
                return known;
            }
            for &(round, at) in &rule.under {
                self.steps[at].stops.push((self.stops.len(), round));
            }
            self.stops.push(rule);
            self.stops.len() - 1
        };
        rules.into_iter().map(&mut put).collect()
    }

    fn placed(
        step: unroll::Step,
        outputs: &BTreeMap<String, usize>,
        places: &[usize],
        device: Option<String>,
    ) -> Result<Step> {
        let with = step.work.with().with_context(|| format!("step `{}`", step.name))?;
        let mut deps: Vec<Dep> = Vec::new();
        let mut lost = None;
        edge::names(&with, &mut |name| {
            if deps.iter().any(|dep| dep.edge == name) {
                return;
            }
            let (stage, part) = match name.split_once('#') {
                Some((stage, part)) => (stage, Some(part.to_owned())),
                None => (name, None),
            };
            match outputs.get(stage).and_then(|&at| places.get(at)) {
                Some(&step) => deps.push(Dep { edge: name.to_owned(), step, part }),
                None => lost = Some(stage.to_owned()),
            }
        });
        if let Some(lost) = lost {
            anyhow::bail!("step `{}` needs `{lost}`, which no earlier step makes", step.name);
        }
        let device = device.filter(|_| step.work.needs() == Needs::Device);
        Ok(Step {
            name: step.name,
            work: step.work,
            with,
            deps,
            round: step.round,
            client: step.client,
            variant: None,
            moving: step.moving,
            unresolved: step.unresolved,
            device,
            stops: Vec::new(),
        })
    }
}

impl Step {
    /// What makes two steps of two variants the same: the action, with edges by the step that they
    /// lead to.
    fn identity(&self) -> Result<String> {
        let mut text = self
            .action()
            .canonical(&mut |name, out| {
                let dep = self.deps.iter().find(|dep| dep.edge == name);
                let dep = dep.with_context(|| format!("`{name}` is no edge of `{}`", self.name))?;
                write!(out, "{{\"$step\":{},\"part\":{:?}}}", dep.step, dep.part)?;
                Ok(())
            })
            .with_context(|| format!("step `{}`", self.name))?;
        if let Some(revision) = &self.moving {
            write!(text, "{revision:?}")?;
        }
        Ok(text)
    }
}

/// What is known of a step before anything is run.
#[derive(Clone, Debug)]
pub enum State {
    /// Done by an earlier run.
    Reused {
        /// Its key.
        key: Digest,
        /// The head of its record.
        found: Arc<Found>,
    },
    /// Its key is known and has no record.
    ToRun {
        /// Its key.
        key: Digest,
    },
    /// Its key, or whether it is wanted at all, waits for another step's result.
    After,
    /// Its federation stopped before its round.
    Unwanted,
}

impl State {
    /// The key, if it is known.
    pub fn key(&self) -> Option<Digest> {
        match self {
            Self::Reused { key, .. } | Self::ToRun { key } => Some(*key),
            Self::After | Self::Unwanted => None,
        }
    }
}

/// Finds where edges lead, remembering the listings that it read.
pub struct Places<'a> {
    store: Option<&'a Store>,
    listings: BTreeMap<Digest, Option<Tree>>,
}

/// Where an edge leads, or why that is not known.
pub enum Leads {
    /// There.
    To(Place),
    /// The artifact has no such entry.
    NoEntry {
        /// The entries that it has.
        entries: Vec<String>,
    },
    /// The listing was pruned.
    Pruned,
}

impl<'a> Places<'a> {
    /// Listings are read from `store`.
    pub fn new(store: Option<&'a Store>) -> Self {
        Self { store, listings: BTreeMap::new() }
    }

    /// Where `part` of the tree `at` lies; `listing` is used if the record held it.
    pub fn find(
        &mut self,
        at: BlobRef,
        listing: Option<&Tree>,
        part: Option<&str>,
    ) -> Result<Leads> {
        let Some(part) = part else { return Ok(Leads::To(Place::Tree(at))) };
        let tree = match listing {
            Some(tree) => Some(tree),
            None => self.listing(at)?,
        };
        Ok(match tree {
            None => Leads::Pruned,
            Some(tree) => match tree.get(part) {
                Some(entry) => Leads::To(Place::Entry(entry)),
                None => {
                    Leads::NoEntry { entries: tree.iter().map(|(n, _)| n.to_owned()).collect() }
                }
            },
        })
    }

    fn listing(&mut self, at: BlobRef) -> Result<Option<&Tree>> {
        let tree = match self.listings.entry(at.digest) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let tree = match self.store {
                    Some(store) => store.tree(&at)?,
                    None => None,
                };
                unknown.insert(tree)
            }
        };
        Ok(tree.as_ref())
    }
}

impl Plan {
    /// The moving names on the Hub that steps depend on, each once.
    pub fn revisions(&self) -> Vec<Revision> {
        let mut all: Vec<_> = self.steps.iter().filter_map(|step| step.moving.clone()).collect();
        all.sort();
        all.dedup();
        all
    }

    /// What of the plan is done already, by the records of `store`.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn states(&self, store: Option<&Store>) -> Result<Vec<State>> {
        let mut places = Places::new(store);
        let mut states: Vec<State> = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let state = step.state(&states, store, &mut places)?;
            states.push(state);
        }
        self.heed_stops(&mut states);
        Ok(states)
    }

    /// Whether no step that is left needs a device.
    pub fn is_idle(&self, states: &[State]) -> bool {
        self.steps.iter().zip(states).all(|(step, state)| {
            step.work.needs() != Needs::Device
                || matches!(state, State::Reused { .. } | State::Unwanted)
        })
    }

    /// Marks what is not wanted, by the scores that there are, and what waits for a score.
    fn heed_stops(&self, states: &mut [State]) {
        let verdicts = self.verdicts(states);
        for (step, state) in self.steps.iter().zip(states) {
            match verdicts.gate(&step.stops) {
                Gate::Open => {}
                Gate::Waits(_) => *state = State::After,
                Gate::Closed => *state = State::Unwanted,
            }
        }
    }

    /// What the scores that there are say of which rounds are wanted.
    fn verdicts(&self, states: &[State]) -> Verdicts<'_> {
        let mut verdicts = Verdicts::new(&self.stops);
        for (_, at) in self.stops.iter().flat_map(|rule| &rule.scores) {
            if let State::Reused { found, .. } = &states[*at] {
                // Where the metric is missing, the run says so.
                drop(verdicts.take(*at, &found.metrics));
            }
        }
        verdicts
    }

    /// Where the federation of a step stopped and why, if it did before the step's round.
    pub fn stopped(&self, step: &Step, states: &[State]) -> Option<String> {
        let verdicts = self.verdicts(states);
        let sentence = |&(rule, _): &(usize, u32)| {
            Some(self.stops[rule].sentence(verdicts.stopped_after()[rule]?))
        };
        step.stops.iter().find_map(sentence)
    }

    /// The steps that `step` waits for: index and name. The last of them is a score where that decides whether the step
    /// is wanted.
    pub fn blockers<'a>(
        &'a self,
        step: &Step,
        states: &'a [State],
    ) -> impl Iterator<Item = (usize, &'a str)> {
        let is_open = |at: &usize| !matches!(states[*at], State::Reused { .. });
        let scores = step.stops.iter().filter_map(|&(rule, round)| {
            let before = self.stops[rule].scores.iter().filter(|(scored, _)| *scored < round);
            before.map(|(_, at)| *at).rfind(is_open)
        });
        let needed = step.deps.iter().map(|dep| dep.step).filter(is_open).chain(scores);
        let needed: Vec<usize> = needed.collect();
        needed.into_iter().map(|at| (at, self.steps[at].name.as_str()))
    }
}

impl Step {
    /// What of this step is done already. `states` holds at least those of the steps before it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn state(
        &self,
        states: &[State],
        store: Option<&Store>,
        places: &mut Places<'_>,
    ) -> Result<State> {
        if self.unresolved {
            return Ok(State::After);
        }
        let mut leads: Vec<(&str, Digest)> = Vec::with_capacity(self.deps.len());
        for dep in &self.deps {
            let State::Reused { found, .. } = &states[dep.step] else { return Ok(State::After) };
            match places.find(found.tree, found.listing.as_ref(), dep.part.as_deref())? {
                Leads::To(place) => leads.push((&dep.edge, place.digest())),
                Leads::NoEntry { .. } | Leads::Pruned => return Ok(State::After),
            }
        }
        let resolve = |name: &str| leads.iter().find(|(edge, _)| *edge == name).map(|(_, d)| *d);
        let key = self.action().key(&resolve).with_context(|| format!("step `{}`", self.name))?;
        let found = match store {
            Some(store) => store.find(&key)?,
            None => None,
        };
        Ok(match found {
            Some(found) => State::Reused { key, found: Arc::new(found) },
            None => State::ToRun { key },
        })
    }
}
