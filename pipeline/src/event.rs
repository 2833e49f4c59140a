//! What happens in a run. Events drive all that a user sees: bars, lines, `--json`, the journal and the
//! report, which replays the journal. Each is one JSON object, tagged by `"event"`, and says last, as
//! `"at"`, how many seconds after the run's start it happened.

use crate::table::Table;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::time::Instant;

/// Something that happened in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// What is to be done is known; once a run, first of all.
    Planned {
        /// The run's id.
        run: String,
        /// All steps: the sum of the next four.
        steps: usize,
        /// Those whose result is there.
        reused: usize,
        /// Those that are to run.
        to_run: usize,
        /// Those that wait for another step before their key is known.
        after: usize,
        /// Those of rounds after the one at which their federation stopped.
        #[serde(default, skip_serializing_if = "is_zero")]
        unwanted: usize,
    },
    /// A step's result was there already.
    Reused {
        /// The step's name, `fed/round-003/client-007`.
        step: String,
        /// Its action key, in hexadecimal digits.
        key: String,
        /// The name of its stage, `train`.
        stage: String,
    },
    /// A step begins.
    Started {
        /// The step's name.
        step: String,
        /// Its action key.
        key: String,
        /// The name of its stage.
        stage: String,
        /// The device that it runs on, where it needs one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<String>,
    },
    /// How far a step has got. Sent often, and not kept in the journal.
    Progress {
        /// The step's name.
        step: String,
        /// What is done, in units.
        done: u64,
        /// What there is to do, in units; 0 where it is not known.
        total: u64,
        /// What is counted: `bytes`, `examples`.
        unit: String,
    },
    /// A number was measured; the same line stands in `metrics.jsonl`. Those of a step follow its
    /// [`Event::Finished`] or [`Event::Reused`].
    Metric {
        /// The step that measured it.
        step: String,
        /// What it is: `accuracy`, `loss`.
        name: String,
        /// The number; `null` where it is infinite or not a number.
        #[serde(serialize_with = "finite", deserialize_with = "maybe_finite")]
        value: f64,
        /// The round it is about, counted from 1.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        round: Option<u32>,
        /// The client it is about, counted from 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<u32>,
        /// The label of the sweep's variant it is of, `fed.lora.rank=16`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        variant: Option<String>,
    },
    /// Something that the user should know.
    Note {
        /// The step it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// A sentence without its full stop.
        text: String,
    },
    /// A step is done.
    Finished {
        /// The step's name.
        step: String,
        /// Its action key.
        key: String,
        /// The name of its stage.
        stage: String,
        /// How long it took.
        seconds: f64,
        /// The size of what it made.
        bytes: u64,
    },
    /// A step failed.
    Failed {
        /// The step's name.
        step: String,
        /// Why, a sentence without its full stop.
        message: String,
        /// What could help.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// What the variants of a sweep came to; once a run that has any, just before its end.
    Table(Table),
    /// The run is over; once a run, last of all.
    Ended {
        /// The run's id.
        run: String,
        /// All steps: the sum of the next five.
        steps: usize,
        /// Those whose result was there.
        reused: usize,
        /// Those that ran and are done.
        ran: usize,
        /// Those that failed.
        failed: usize,
        /// Those that were not begun, or were stopped.
        not_run: usize,
        /// Those of rounds after the one at which their federation stopped.
        #[serde(default, skip_serializing_if = "is_zero")]
        unwanted: usize,
        /// How long the run took.
        seconds: f64,
        /// Whether the user stopped it.
        stopped: bool,
    },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn finite<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    value.is_finite().then_some(value).serialize(serializer)
}

fn maybe_finite<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// An event and when it happened: what a line of the journal holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// Seconds since the run's start.
    pub at: f64,
    /// What happened.
    pub event: Event,
}

impl Moment {
    /// Reads a line as [`line()`] writes it.
    ///
    /// # Errors
    /// The line is no event.
    pub fn parse(line: &str) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Stamp {
            at: f64,
        }
        let Stamp { at } = serde_json::from_str(line)?;
        Ok(Self { at, event: serde_json::from_str(line)? })
    }
}

/// An event as one JSON line, to the millisecond and with its line end, ready to be written in one go.
///
/// # Errors
/// None is known: events hold texts and numbers only.
pub fn line(event: &Event, at: f64) -> serde_json::Result<String> {
    let mut line = serde_json::to_string(event)?;
    // Every event has fields, so that the stamp can follow them before the closing brace.
    line.pop();
    let at = (at * 1e3).round() / 1e3;
    Ok(format!("{line},\"at\":{at}}}\n"))
}

/// Something to tell events to, in the order in which they happen.
pub trait Sink: Send {
    /// Takes one event in.
    fn event(&mut self, event: &Event);
}

/// Something that shows or keeps events.
pub trait Observer: Send {
    /// Sees one event, `at` seconds after the run's start. What goes wrong here (a full disk) is kept and
    /// told by [`Observer::close`]: an observer does not stop a run.
    fn see(&mut self, event: &Event, at: f64);

    /// Writes out what is held back.
    ///
    /// # Errors
    /// The first thing that went wrong.
    fn close(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Hands each event to every observer, with the time.
pub struct Sinks {
    start: Instant,
    observers: Vec<Box<dyn Observer>>,
}

impl Sinks {
    /// No observers yet, for a run that began at `start`.
    pub fn new(start: Instant) -> Self {
        Self { start, observers: Vec::new() }
    }

    /// Adds an observer, which sees what happens from now on.
    pub fn add(&mut self, observer: impl Observer + 'static) {
        self.observers.push(Box::new(observer));
    }

    /// Closes all observers.
    ///
    /// # Errors
    /// What went wrong with the first of them with which something did.
    pub fn close(&mut self) -> anyhow::Result<()> {
        let closed: Vec<_> = self.observers.iter_mut().map(|o| o.close()).collect();
        closed.into_iter().collect()
    }
}

impl Sink for Sinks {
    fn event(&mut self, event: &Event) {
        let at = self.start.elapsed().as_secs_f64();
        for observer in &mut self.observers {
            observer.see(event, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(value: f64) -> Event {
        Event::Metric {
            step: "score/round-003".to_owned(),
            name: "accuracy".to_owned(),
            value,
            round: Some(3),
            client: None,
            variant: None,
        }
    }

    #[test]
    fn a_metric_has_the_documented_form() {
        assert_eq!(
            line(&metric(0.61), 1.50012).unwrap(),
            "{\"event\":\"metric\",\"step\":\"score/round-003\",\"name\":\"accuracy\",\
             \"value\":0.61,\"round\":3,\"at\":1.5}\n"
        );
    }

    #[test]
    fn the_last_line_counts_all_steps() {
        let (run, seconds, stopped) = ("r1".to_owned(), 0.5, false);
        let (steps, reused, ran, failed, not_run, unwanted) = (3, 1, 2, 0, 0, 0);
        let ended =
            Event::Ended { run, steps, reused, ran, failed, not_run, unwanted, seconds, stopped };
        assert_eq!(
            line(&ended, 2.0).unwrap(),
            "{\"event\":\"ended\",\"run\":\"r1\",\"steps\":3,\"reused\":1,\"ran\":2,\"failed\":0,\
             \"not_run\":0,\"seconds\":0.5,\"stopped\":false,\"at\":2}\n"
        );
        assert_eq!(
            Moment::parse(&line(&ended, 2.0).unwrap()).unwrap(),
            Moment { at: 2.0, event: ended }
        );
    }

    #[test]
    fn a_journal_can_be_replayed_even_where_training_diverged() {
        let line = line(&metric(f64::INFINITY), 0.0).unwrap();
        assert!(line.contains(r#""value":null"#));
        let Event::Metric { value, .. } = Moment::parse(&line).unwrap().event else {
            panic!("{line}")
        };
        assert!(value.is_nan());
        assert!(Moment::parse("{\"event\":\"metric\"}").is_err());
    }
}
