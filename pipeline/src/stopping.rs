//! Which rounds a federation with a `stop` rule still wants, by the scores that are known.
//!
//! All rounds are laid out, and a step of round q is *under* the rule of its federation. It waits for every score of a round
//! before q, whatever it could do in the meantime: so what is run, and what is not, never depends on which of two
//! steps ended first. Where the rule stops after a round before q, the step is not wanted, be there a record of it or not.
//!
//! Variants of a sweep may share a step under different rules, or with one that has none. It is wanted if any of them wants
//! it.

use std::collections::BTreeMap;

use stages::{
    error::{Error, Result},
    metric,
    stop::Stop,
};

use crate::plan::Step;

/// A rule of one variant of a plan, and the steps that it is about.
#[derive(Clone, Debug)]
pub struct Stopping {
    /// The rule.
    pub stop: Stop,
    /// The scored rounds with the steps that score them, in order.
    pub scores: Vec<(u32, usize)>,
    /// The steps under the rule with their rounds, in the order of the rounds.
    pub under: Vec<(u32, usize)>,
}

impl Stopping {
    /// Whether both are one rule over the same steps, as two variants have it.
    pub fn is_like(&self, other: &Self) -> bool {
        let (a, b) = (&self.stop.rule, &other.stop.rule);
        // The bounds are numbers that someone wrote, and written alike they have the same bits.
        let same_bound = a.min_delta.to_bits() == b.min_delta.to_bits();
        (&a.metric, a.patience, a.mode) == (&b.metric, b.patience, b.mode)
            && same_bound
            && self.scores == other.scores
            && self.under == other.under
    }

    /// The last round.
    pub fn rounds(&self) -> u32 {
        self.under.last().map_or(0, |(round, _)| *round)
    }

    /// What is to be said where it stops after a round before the last.
    pub fn sentence(&self, round: u32) -> String {
        let (rule, rounds) = (&self.stop.rule, self.rounds());
        let plural = if rule.patience == 1 { "" } else { "s" };
        format!(
            "stopped early after round {round} of {rounds}: {} round{plural} without a better {}",
            rule.patience, rule.metric
        )
    }
}

/// Finds which steps of one variant are under its rules.
pub struct Members<'a> {
    stops: &'a [Stop],
    /// For each step so far, in the variant's own order: the rule and the round.
    under: Vec<Option<(usize, u32)>>,
    found: Vec<Stopping>,
}

impl<'a> Members<'a> {
    /// No step yet.
    pub fn new(stops: &'a [Stop]) -> Self {
        let empty =
            |stop: &Stop| Stopping { stop: stop.clone(), scores: Vec::new(), under: Vec::new() };
        Self { stops, under: Vec::new(), found: stops.iter().map(empty).collect() }
    }

    /// Takes in the variant's next step, which is the plan's step `place`, by the name and the edges that it has in the
    /// variant. Says whether it is under a rule.
    pub fn add(&mut self, step: &Step, outputs: &BTreeMap<String, usize>, place: usize) -> bool {
        if self.stops.is_empty() {
            return false;
        }
        let is_of =
            |node: &str| step.name.strip_prefix(node).is_some_and(|rest| rest.starts_with('/'));
        let mut under = None;
        for (at, stop) in self.stops.iter().enumerate() {
            if is_of(&stop.of) {
                under = step.round.filter(|round| *round > 0).map(|round| (at, round));
            }
            if is_of(stop.rule.on.name())
                && let Some(round) = step.round
            {
                self.found[at].scores.push((round, place));
            }
        }
        // What is made from a step under a rule is under it too: the scores of its round.
        let from = step.deps.iter().filter_map(|dep| {
            let node = dep.edge.split('#').next()?;
            *self.under.get(*outputs.get(node)?)?
        });
        let under = under.or(from.max_by_key(|(_, round)| *round));
        if let Some((at, round)) = under {
            self.found[at].under.push((round, place));
        }
        self.under.push(under);
        under.is_some()
    }

    /// The rules with their steps.
    pub fn finish(mut self) -> Vec<Stopping> {
        for stopping in &mut self.found {
            stopping.scores.sort_unstable();
            stopping.under.sort_unstable();
            // Steps of several names may be one step of the plan.
            stopping.under.dedup();
        }
        self.found
    }
}

/// Whether a step may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It is wanted.
    Open,
    /// It is not known yet: the score that this step makes decides.
    Waits(usize),
    /// No variant wants it.
    Closed,
}

/// What is known of the scores of all rules of a plan.
pub struct Verdicts<'a> {
    rules: &'a [Stopping],
    values: BTreeMap<(usize, u32), f64>,
    /// For each rule how many of its scores are known, without a gap.
    known: Vec<usize>,
    /// For each rule the round after which it stops.
    after: Vec<Option<u32>>,
}

/// What one more score decided.
#[derive(Debug, Default)]
pub struct News {
    /// Rules that now stop, by their places in the plan, with the round.
    pub stopped: Vec<(usize, u32)>,
    /// Steps that waited for it.
    pub decided: Vec<usize>,
}

impl<'a> Verdicts<'a> {
    /// No score is known.
    pub fn new(rules: &'a [Stopping]) -> Self {
        let (known, after) = (vec![0; rules.len()], vec![None; rules.len()]);
        Self { rules, values: BTreeMap::new(), known, after }
    }

    /// Takes in the metrics of a step.
    ///
    /// # Errors
    /// A rule goes by a metric that the step does not have.
    pub fn take(&mut self, step: usize, metrics: &BTreeMap<String, f64>) -> Result<News> {
        let mut news = News::default();
        for (at, stopping) in self.rules.iter().enumerate() {
            let Some((round, _)) = stopping.scores.iter().find(|(_, score)| *score == step) else {
                continue;
            };
            let metric = &stopping.stop.rule.metric;
            let value = metrics.get(metric);
            let value = value.ok_or_else(|| no_metric(metric, metrics))?;
            self.values.insert((at, *round), *value);
            self.judge(at, &mut news);
        }
        Ok(news)
    }

    fn judge(&mut self, at: usize, news: &mut News) {
        let Stopping { stop, scores, under } = &self.rules[at];
        let value = |round: &u32| Some((*round, *self.values.get(&(at, *round))?));
        let known: Vec<(u32, f64)> = scores.iter().map_while(|(round, _)| value(round)).collect();
        let after = stop.rule.after(known.iter().copied());
        if let Some(round) = after.filter(|_| self.after[at] != after) {
            news.stopped.push((at, round));
        }
        // Those waited that come after the last score known before; those wait on that come after the next unknown one.
        let round_of = |count: usize| scores.get(count).map(|(round, _)| *round);
        let least = round_of(self.known[at]).map_or(0, |round| round + 1);
        let most = round_of(known.len()).unwrap_or(u32::MAX);
        let waited = under.iter().filter(|(round, _)| (least..=most).contains(round));
        news.decided.extend(waited.map(|(_, step)| *step));
        self.known[at] = known.len();
        self.after[at] = after;
    }

    /// For each rule the round after which it stops, by what is known.
    pub fn stopped_after(&self) -> &[Option<u32>] {
        &self.after
    }

    /// Whether a step may be looked at, by the rules and rounds that it is under.
    pub fn gate(&self, stops: &[(usize, u32)]) -> Gate {
        let gates = stops.iter().map(|&(at, round)| self.gate_of(at, round));
        // Of several variants any may want it.
        let rank = |gate: &Gate| match gate {
            Gate::Open => 0,
            Gate::Waits(_) => 1,
            Gate::Closed => 2,
        };
        gates.min_by_key(rank).unwrap_or(Gate::Open)
    }

    fn gate_of(&self, at: usize, round: u32) -> Gate {
        let scores = &self.rules[at].scores;
        let before = scores.partition_point(|(scored, _)| *scored < round);
        match self.after[at] {
            Some(last) if round > last => Gate::Closed,
            None if before > self.known[at] => Gate::Waits(scores[before - 1].1),
            _ => Gate::Open,
        }
    }
}

fn no_metric(wanted: &str, metrics: &BTreeMap<String, f64>) -> Error {
    let own = metrics.keys().filter(|name| metric::split(name).0.is_none());
    let names: Vec<String> = own.map(|name| format!("`{name}`")).collect();
    let message = format!("`stop` goes by the metric `{wanted}`, and this evaluation has no such");
    Error::input(message).with_hint(format!("it has {}", names.join(", ")))
}

/// The name of the federation that a rule is of, as its steps have it: with its variant, if they are not the same in all.
pub fn subject(stopping: &Stopping, steps: &[Step]) -> String {
    let variant = stopping.under.last().and_then(|(_, at)| steps[*at].variant.as_deref());
    let of = &stopping.stop.of;
    variant.map_or_else(|| of.clone(), |label| format!("{label}/{of}"))
}
