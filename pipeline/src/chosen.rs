//! Which adapter of a run is to be exported.

use anyhow::Context as _;
use stages::{
    export::{self, Trees},
    parts::Parts,
};

use crate::{failure::Failure, lineage::Lineage};

/// An adapter by the steps that it comes from.
pub struct Chosen {
    /// The step that made it, or that ended the round which it belongs to.
    pub at: usize,
    /// The step in which a client trained what it keeps to itself, and which parts of its adapter these are.
    pub own: Option<(usize, Parts)>,
}

impl Chosen {
    /// What the step `at` made.
    ///
    /// # Errors
    /// It is no adapter of anyone's.
    pub fn step(lineage: &Lineage, at: usize) -> Result<Self, Failure> {
        let made = &lineage.steps()[at];
        if let Some(why) = export::refusal(&made.record.manifest) {
            return Err(Failure::usage(format!("`{}` is not exported: {why}", made.name))
                .hint("`--client K` exports what client K has"));
        }
        Ok(Self { at, own: None })
    }

    /// What `client` has after the round that the step `at` ended: the round's adapter with the client's own parts of
    /// its last training, or, where a client keeps nothing to itself, what it trained in that round.
    ///
    /// # Errors
    /// The step ends no round, or the client has trained nothing that counts.
    pub fn of_client(lineage: &Lineage, at: usize, client: u32) -> Result<Self, Failure> {
        let round = &lineage.steps()[at];
        let Some(parts) = export::personal(&round.record.manifest) else {
            let message =
                format!("`{}` ends no round of a federation: it has no clients", round.name);
            return Err(Failure::usage(message).hint("name a round with `--step`: `fed/round-003`"));
        };
        let names = || lineage.steps().iter().map(|made| made.name.as_str());
        let trained = export::trainings(names(), &round.name, client);
        let Some(&(last, step)) = trained.first() else {
            let message = format!("no client {client} has trained by `{}`", round.name);
            return Err(Failure::usage(message)
                .hint("`fedpipe plan GRAPH` lists the steps; clients count from 0"));
        };
        let index = |step: &str| names().position(|name| name == step);
        let own = index(step).context("a step is among its own run's")?;
        if !parts.is_none() {
            return Ok(Self { at, own: Some((own, parts)) });
        }
        let in_round = format!("{}/", round.name);
        if step.starts_with(&in_round) {
            return Ok(Self { at: own, own: None });
        }
        let message =
            format!("client {client} took no part in `{}`, and keeps nothing", round.name);
        let mut rounds: Vec<String> = trained.iter().map(|(round, _)| round.to_string()).collect();
        rounds.reverse();
        let hint = format!(
            "it trained in round {}: name one with `--step`, or export what all have after round {last}",
            rounds.join(", ")
        );
        Err(Failure::usage(message).hint(hint))
    }

    /// The artifacts that it is put together from.
    ///
    /// # Errors
    /// The run does not say what its base was changed by.
    pub fn trees(&self, lineage: &Lineage, base: usize) -> Result<Trees, Failure> {
        let tree = |at: usize| lineage.steps()[at].record.found.tree;
        let made = &lineage.steps()[self.at];
        let start = export::start(&made.record.manifest).map(|digest| {
            lineage.tree(digest).with_context(|| {
                format!("the run does not say which adapter `{}` started from", made.name)
            })
        });
        Ok(Trees {
            adapter: tree(self.at),
            start: start.transpose()?,
            own: self.own.map(|(at, parts)| (tree(at), parts)),
            needs_stand_in: export::needs_stand_in(&lineage.steps()[self.at].record.manifest),
            base: tree(base),
        })
    }
}
