//! The journal of a run, from which it can be replayed, and its metrics by themselves.

use crate::event::{Event, Observer, line};
use anyhow::Context;
use std::io::{self, Write};

/// Writes events as JSON lines: all but [`Event::Progress`] into the journal, metrics into a second
/// file too, from which a notebook reads them. Each line is handed on at once, so that a killed run has
/// a journal up to its end.
pub struct Journal<J, M> {
    events: J,
    metrics: M,
    failed: Option<io::Error>,
}

impl<J: Write, M: Write> Journal<J, M> {
    /// A journal that writes into what it is given, `journal.jsonl` and `metrics.jsonl` of a run.
    pub fn new(events: J, metrics: M) -> Self {
        Self {
            events,
            metrics,
            failed: None,
        }
    }

    fn write(&mut self, event: &Event, at: f64) -> io::Result<()> {
        if matches!(event, Event::Progress { .. }) {
            return Ok(());
        }
        let line = line(event, at)?;
        self.events.write_all(line.as_bytes())?;
        self.events.flush()?;
        if matches!(event, Event::Metric { .. }) {
            self.metrics.write_all(line.as_bytes())?;
            self.metrics.flush()?;
        }
        Ok(())
    }
}

impl<J: Write + Send, M: Write + Send> Observer for Journal<J, M> {
    fn see(&mut self, event: &Event, at: f64) {
        if self.failed.is_none() {
            self.failed = self.write(event, at).err();
        }
    }

    fn close(&mut self) -> anyhow::Result<()> {
        match self.failed.take() {
            Some(error) => Err(error).context("cannot write the journal of the run"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Sink, Sinks};
    use std::time::Instant;

    fn note() -> Event {
        Event::Note {
            step: None,
            text: "é".to_owned(),
        }
    }

    #[test]
    fn metrics_stand_in_both_files_and_progress_in_none() {
        let (step, name) = ("score".to_owned(), "loss".to_owned());
        let (round, client, variant) = (None, None, None);
        let metric = Event::Metric {
            step: step.clone(),
            name,
            value: 0.5,
            round,
            client,
            variant,
        };
        let progress = Event::Progress {
            step,
            done: 1,
            total: 2,
            unit: "examples".to_owned(),
        };
        let mut journal = Journal::new(Vec::new(), Vec::new());
        for event in [note(), metric, progress] {
            journal.see(&event, 0.25);
        }
        assert!(journal.close().is_ok());
        let lines = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).unwrap().lines().count();
        assert_eq!((lines(&journal.events), lines(&journal.metrics)), (2, 1));
        assert!(journal.events.ends_with(&journal.metrics));
    }

    #[test]
    fn a_full_disk_is_told_at_the_end() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut sinks = Sinks::new(Instant::now());
        sinks.add(Journal::new(Full, io::sink()));
        sinks.event(&note());
        let told = format!("{:#}", sinks.close().unwrap_err());
        assert!(
            told.starts_with("cannot write the journal of the run: "),
            "{told}"
        );
    }
}
