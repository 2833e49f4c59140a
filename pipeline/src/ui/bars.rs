//! A bar at the bottom of a terminal: how many steps are done, and what runs now.

use super::Volume;
use super::style::size;
use super::wording::Wording;
use crate::event::{Event, Observer};
use anstream::{AutoStream, ColorChoice};
use indexmap::IndexMap;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::thread;
use std::time::Duration;

/// A run that is over sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(250);
const TICK: Duration = Duration::from_millis(100);

/// The lines of [`Lines`](super::Lines), with a bar below them.
pub struct Bars {
    wording: Wording,
    color: ColorChoice,
    bar: ProgressBar,
    /// Running steps, each with how far it is.
    running: IndexMap<String, String>,
}

impl Bars {
    /// A bar on the standard error, a terminal.
    pub fn new(volume: Volume, color: ColorChoice) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_style(style(color));
        bar.set_prefix("Running");
        show_later(&bar);
        Self { wording: Wording::new(volume), color, bar, running: IndexMap::new() }
    }

    fn count(&mut self, event: &Event) {
        match event {
            Event::Planned { steps, unwanted, .. } => {
                self.bar.set_length((*steps - *unwanted) as u64);
            }
            Event::Reused { .. } => self.bar.inc(1),
            Event::Started { step, .. } => {
                self.running.insert(step.clone(), String::new());
            }
            Event::Progress { step, done, total, unit } => {
                if let Some(progress) = self.running.get_mut(step) {
                    *progress = progress_of(*done, *total, unit);
                }
            }
            Event::Finished { step, .. } | Event::Failed { step, .. } => {
                self.running.shift_remove(step);
                self.bar.inc(1);
            }
            Event::Ended { .. } => self.bar.finish_and_clear(),
            Event::Metric { .. } | Event::Note { .. } | Event::Table(_) => return,
        }
        let running: Vec<_> =
            self.running.iter().map(|(step, far)| format!("{step}{far}")).collect();
        self.bar.set_message(running.join(", "));
    }
}

impl Observer for Bars {
    fn see(&mut self, event: &Event, at: f64) {
        self.count(event);
        let lines = self.wording.lines(event, at);
        if lines.is_empty() {
            return;
        }
        self.bar.suspend(|| {
            let mut out = AutoStream::new(std::io::stderr(), self.color).lock();
            for line in lines {
                // Where no one can be told, there is no one to tell that either.
                drop(writeln!(out, "{line}"));
            }
        });
    }

    fn close(&mut self) -> anyhow::Result<()> {
        self.bar.finish_and_clear();
        Ok(())
    }
}

/// Draws the bar from a thread of its own once the patience is over: no event may come for hours.
fn show_later(bar: &ProgressBar) {
    let bar = bar.downgrade();
    thread::spawn(move || {
        thread::sleep(PATIENCE);
        if let Some(bar) = bar.upgrade().filter(|bar| !bar.is_finished()) {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TICK);
        }
    });
}

fn style(color: ColorChoice) -> ProgressStyle {
    let template = if color == ColorChoice::Never {
        "{prefix:>12} [{bar:24}] {pos}/{len} {elapsed} {wide_msg}"
    } else {
        "{prefix:>12.cyan.bold} [{bar:24}] {pos}/{len} {elapsed} {wide_msg:.dim}"
    };
    let style =
        ProgressStyle::with_template(template).expect("the template is one of two, both tested");
    style.progress_chars("=> ")
}

/// ` 320/800 examples`, ` 1.2 GB of 13.5 GB`.
fn progress_of(done: u64, total: u64, unit: &str) -> String {
    match (unit, total) {
        ("bytes", 0) => format!(" {}", size(done)),
        ("bytes", total) => format!(" {} of {}", size(done), size(total)),
        (unit, 0) => format!(" {done} {unit}"),
        (unit, total) => format!(" {done}/{total} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_counts_steps_and_names_those_that_run() {
        let mut bars = Bars::new(Volume::Quiet, ColorChoice::Never);
        let step = |name: &str| name.to_owned();
        let started = |name: &str| Event::Started {
            step: step(name),
            key: String::new(),
            stage: "train".to_owned(),
            device: None,
        };
        let (run, key, stage) = (String::new(), String::new(), "train".to_owned());
        bars.see(
            &Event::Planned { run, steps: 4, reused: 1, to_run: 2, after: 1, unwanted: 0 },
            0.0,
        );
        bars.see(
            &Event::Reused { step: step("base"), key: key.clone(), stage: stage.clone() },
            0.0,
        );
        bars.see(&started("a"), 0.1);
        bars.see(&started("b"), 0.1);
        bars.see(
            &Event::Progress { step: step("b"), done: 1, total: 8, unit: "examples".into() },
            0.2,
        );
        bars.see(&Event::Finished { step: step("a"), key, stage, seconds: 1.0, bytes: 1 }, 0.3);
        assert_eq!((bars.bar.position(), bars.bar.length()), (2, Some(4)));
        assert_eq!(bars.bar.message(), "b 1/8 examples");
    }

    #[test]
    fn both_templates_are_valid_and_progress_is_readable() {
        style(ColorChoice::Never);
        style(ColorChoice::Always);
        assert_eq!(progress_of(1_200_000_000, 13_500_000_000, "bytes"), " 1.2 GB of 13.5 GB");
        assert_eq!(progress_of(3, 0, "rows"), " 3 rows");
    }
}
