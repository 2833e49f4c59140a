//! Says what happens in a run, in lines: a verb, right-aligned, and what it was done to.

use super::Volume;
use super::scores::Scores;
use super::style::{BAD, GOOD, NOTE, count, duration, size};
use super::table;
use crate::event::Event;
use crate::table::Table;
use anstyle::Style;
use indexmap::IndexMap;
use stages::export;
use std::collections::BTreeSet;

/// Turns events into lines. Local training of a round's clients is one line.
#[derive(Default)]
pub(super) struct Wording {
    volume: Volume,
    /// Reused steps of which nothing was said yet; `None` once it was.
    reused: Option<usize>,
    /// Rounds whose clients train, by the name of the round's step.
    rounds: IndexMap<String, Round>,
    /// Rounds of which the training has been told.
    trained: BTreeSet<String>,
    /// A step that is done, but whose metrics may still come.
    held: Option<Held>,
    scores: Scores,
    /// What the variants of a sweep came to, told instead of the scores.
    table: Option<Table>,
}

struct Round {
    clients: u64,
    begun: f64,
    done: f64,
}

struct Held {
    step: String,
    stage: String,
    details: Vec<String>,
    metrics: Vec<(String, f64)>,
}

impl Wording {
    pub(super) fn new(volume: Volume) -> Self {
        Self { volume, reused: Some(0), ..Self::default() }
    }

    /// What is to be said now that `event` happened, `at` seconds into the run.
    pub(super) fn lines(&mut self, event: &Event, at: f64) -> Vec<String> {
        let mut lines = Vec::new();
        match (&mut self.held, event) {
            (Some(held), Event::Metric { step, .. }) if *step == held.step => {}
            _ => lines.extend(self.let_go()),
        }
        if matches!(event, Event::Started { .. } | Event::Failed { .. } | Event::Ended { .. }) {
            lines.extend(self.all_reused());
        }
        match event {
            Event::Planned { .. } | Event::Progress { .. } => {}
            Event::Reused { step, .. } => lines.extend(self.reused(step)),
            Event::Started { step, stage, .. } => lines.extend(self.started(step, stage, at)),
            Event::Metric { step, name, value, round, client, .. } => {
                if name == "accuracy" && client.is_none() {
                    self.scores.add(step, *round, *value);
                }
                // Those of single clients would flood a score's line.
                let is_own = client.is_none() || export::is_of_client(step);
                if let Some(held) = self.held.as_mut().filter(|_| is_own) {
                    held.metrics.push((name.clone(), *value));
                }
            }
            Event::Note { step, text } => {
                let step = step.as_ref().map(|step| format!("{step}: ")).unwrap_or_default();
                lines.extend(self.say(Volume::Normal, NOTE, "Note", &format!("{step}{text}")));
            }
            Event::Finished { step, stage, seconds, bytes, .. } => {
                self.finished(step, stage, *seconds, *bytes, at);
            }
            Event::Failed { step, message, hint } => {
                lines.push(verb(BAD, "Failed", &format!("{step}: {message}")));
                lines.extend(hint.as_ref().map(|hint| verb(NOTE, "Hint", hint)));
            }
            Event::Table(table) => self.table = Some(table.clone()),
            Event::Ended { .. } => lines.extend(self.ended(event)),
        }
        lines
    }

    fn say(&self, from: Volume, style: Style, word: &str, what: &str) -> Option<String> {
        (self.volume >= from).then(|| verb(style, word, what))
    }

    fn reused(&mut self, step: &str) -> Option<String> {
        if self.volume < Volume::Verbose {
            self.reused = self.reused.map(|reused| reused + 1);
        }
        self.say(Volume::Verbose, GOOD, "Reused", step)
    }

    /// One line for all steps that were reused before the first that runs.
    fn all_reused(&mut self) -> Option<String> {
        let reused = self.reused.take().filter(|reused| *reused > 0)?;
        self.say(Volume::Normal, GOOD, "Reused", &count(reused as u64, "step"))
    }

    fn started(&mut self, step: &str, stage: &str, at: f64) -> Option<String> {
        if self.volume == Volume::Verbose {
            return None;
        }
        if let Some(round) = round_of(step, stage) {
            self.rounds.entry(round.to_owned()).or_insert(Round {
                clients: 0,
                begun: at,
                done: at,
            });
        }
        (stage == "aggregate").then(|| self.round(step)).flatten()
    }

    fn finished(&mut self, step: &str, stage: &str, seconds: f64, bytes: u64, at: f64) {
        let known = round_of(step, stage).and_then(|round| self.rounds.get_mut(round));
        if let Some(round) = known {
            round.clients += 1;
            round.done = at;
        } else if is_aside(step, stage) && self.volume != Volume::Verbose {
            // A part of the round, as its clients' training is.
        } else if stage != "aggregate" || !self.trained.contains(step) {
            let sized = matches!(stage, "model" | "dataset") || self.volume == Volume::Verbose;
            let mut details = Vec::new();
            details.extend((sized && bytes > 0).then(|| size(bytes)));
            details.extend((stage != "evaluate").then(|| duration(seconds)));
            let (step, stage) = (step.to_owned(), stage.to_owned());
            self.held = Some(Held { step, stage, details, metrics: Vec::new() });
        }
    }

    /// The line of a round whose clients have trained.
    fn round(&mut self, name: &str) -> Option<String> {
        let round = self.rounds.shift_remove(name).filter(|round| round.clients > 0)?;
        self.trained.insert(name.to_owned());
        let clients = count(round.clients, "client");
        let what = format!("{name}, {clients}, {}", duration(round.done - round.begun));
        self.say(Volume::Normal, GOOD, "Trained", &what)
    }

    /// The line of the step that was held back for its metrics.
    fn let_go(&mut self) -> Option<String> {
        let Held { step, stage, details, metrics } = self.held.take()?;
        let shown: &[&str] = match stage.as_str() {
            _ if self.volume == Volume::Verbose => &[],
            "evaluate" => &["accuracy", "loss"],
            "train" => &["loss"],
            _ => {
                return self.say(Volume::Normal, GOOD, done_word(&stage), &listed(&step, &details));
            }
        };
        let mut what = listed(&step, &details);
        for (name, value) in &metrics {
            if shown.is_empty() || shown.contains(&name.as_str()) {
                what = format!("{what} {name} {value:.3}");
            }
        }
        self.say(Volume::Normal, GOOD, done_word(&stage), &what)
    }

    fn ended(&mut self, event: &Event) -> Vec<String> {
        let Event::Ended { run, steps, reused, ran, failed, not_run, unwanted, seconds, stopped } =
            event
        else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        let open: Vec<_> = self.rounds.keys().cloned().collect();
        lines.extend(open.iter().filter_map(|round| self.round(round)));
        let (style, word) = match () {
            () if *stopped => (NOTE, "Stopped"),
            () if *failed > 0 => (BAD, "Failed"),
            () => (GOOD, "Finished"),
        };
        let steps = count(*steps as u64, "step");
        lines.push(verb(style, word, &format!("{steps} in {}, run {run}", duration(*seconds))));
        if self.volume > Volume::Quiet {
            let counts = [
                (ran, "done"),
                (reused, "reused"),
                (failed, "failed"),
                (not_run, "not run"),
                (unwanted, "not wanted, stopped early"),
            ];
            let counts = counts.into_iter().filter(|(count, _)| **count > 0);
            lines.extend(counts.map(|(count, what)| format!("{count:>12} {what}")));
            if let Some(table) = &self.table {
                lines.extend(table::lines(table));
            } else {
                let scores = self.scores.rows().into_iter();
                lines.extend(scores.map(|(value, what)| format!("{value:>12} {what}")));
            }
        }
        lines
    }
}

/// Whether a step is a part of its round, and not told apart from it.
fn is_aside(step: &str, stage: &str) -> bool {
    stage == "shard loss" || stage == "prefix" && step.contains("/client-")
}

/// The round in which a client's local training takes part.
fn round_of<'a>(step: &'a str, stage: &str) -> Option<&'a str> {
    let (round, _) = step.rsplit_once("/client-")?;
    (stage == "train").then_some(round)
}

/// The verb for a step of this stage.
fn done_word(stage: &str) -> &'static str {
    match stage {
        "model" | "dataset" => "Fetched",
        "tokenize" => "Tokenized",
        "partition" => "Split",
        "init" | "init core" => "Prepared",
        "train" => "Trained",
        "aggregate" => "Averaged",
        "evaluate" => "Scored",
        "prefix" => "Computed",
        "shard loss" => "Measured",
        _ => "Made",
    }
}

fn listed(step: &str, details: &[String]) -> String {
    [&[step.to_owned()], details].concat().join(", ")
}

fn verb(style: Style, word: &str, what: &str) -> String {
    format!("{style}{word:>12}{style:#} {what}")
}
