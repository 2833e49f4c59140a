//! Plain lines, one after the other: what is seen in a log, in a pipe, or with `-q` and `-v`.

use super::Volume;
use super::wording::Wording;
use crate::event::{Event, Observer};
use std::io::Write;

/// Writes lines with colours; a stream that takes none is to strip them.
pub struct Lines<W> {
    out: W,
    wording: Wording,
}

impl<W: Write> Lines<W> {
    /// Lines into `out`, which is the standard error.
    pub fn new(out: W, volume: Volume) -> Self {
        Self { out, wording: Wording::new(volume) }
    }
}

impl<W: Write + Send> Observer for Lines<W> {
    fn see(&mut self, event: &Event, at: f64) {
        for line in self.wording.lines(event, at) {
            // Where no one can be told, there is no one to tell that either.
            drop(writeln!(self.out, "{line}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insta::assert_snapshot;

    /// A run as the executor tells it: one event a line, `event step [stage]`, one second each.
    fn told(volume: Volume, script: &str) -> String {
        let mut lines = Lines::new(Vec::new(), volume);
        for (at, line) in script.trim().lines().enumerate() {
            let words: Vec<_> = line.split_whitespace().collect();
            lines.see(&event(&words), at as f64);
        }
        anstream::adapter::strip_bytes(&lines.out).into_vec().try_into().unwrap()
    }

    fn event(words: &[&str]) -> Event {
        let text = |i: usize| words.get(i).copied().unwrap_or_default().to_owned();
        let number = |i: usize| text(i).parse().unwrap_or_default();
        let (step, key, stage) = (text(1), String::new(), text(2));
        match words[0] {
            "reused" => Event::Reused { step, key, stage },
            "started" => Event::Started { step, key, stage, device: None },
            "finished" => Event::Finished { step, key, stage, seconds: 2.0, bytes: 4_200_000 },
            "metric" => Event::Metric {
                round: step.rsplit_once('-').and_then(|(_, round)| round.parse().ok()),
                step,
                name: text(2),
                value: text(3).parse().unwrap(),
                client: text(4).parse().ok(),
                variant: None,
            },
            "failed" => Event::Failed {
                step,
                message: "no room".to_owned(),
                hint: Some("make some".to_owned()),
            },
            "note" => Event::Note { step: Some(step), text: text(2) },
            _ => Event::Ended {
                run: "r-1".to_owned(),
                steps: number(1) + number(2) + number(3) + number(4) + number(6),
                reused: number(1),
                ran: number(2),
                failed: number(3),
                not_run: number(4),
                unwanted: number(6),
                seconds: 61.4,
                stopped: text(5) == "stopped",
            },
        }
    }

    const RUN: &str = "
        reused tokens tokenize
        reused shards partition
        started base model
        finished base model
        started fed/round-001/client-000 train
        started fed/round-001/client-001 train
        note base old
        finished fed/round-001/client-001 train
        metric fed/round-001/client-001 loss 0.7
        finished fed/round-001/client-000 train
        started fed/round-001 aggregate
        finished fed/round-001 aggregate
        started score/round-001 evaluate
        finished score/round-001 evaluate
        metric score/round-001 accuracy 0.8125
        metric score/round-001 accuracy 0.125 7
        metric score/round-001 loss 0.663
        metric score/round-001 macro_f1 0.5
        reused fed/round-002/client-000 train
        started fed/round-002 aggregate
        finished fed/round-002 aggregate
        started score/round-002 evaluate
        finished score/round-002 evaluate
        metric score/round-002 accuracy 0.75
        ended 3 7 0 0";

    #[test]
    fn a_round_is_one_line_and_reused_steps_are_one_line() {
        assert_snapshot!(told(Volume::Normal, RUN), @r"
              Reused 2 steps
             Fetched base, 4.2 MB, 2.0 s
                Note base: old
             Trained fed/round-001, 2 clients, 5.0 s
              Scored score/round-001 accuracy 0.812 loss 0.663
            Averaged fed/round-002, 2.0 s
              Scored score/round-002 accuracy 0.750
            Finished 10 steps in 61 s, run r-1
                   7 done
                   3 reused
               0.750 last accuracy, score/round-002
               0.812 best accuracy, score/round-001
        ");
    }

    #[test]
    fn verbose_is_a_line_for_each_step_and_quiet_is_the_last_line() {
        assert_snapshot!(told(Volume::Verbose, RUN), @r"
              Reused tokens
              Reused shards
             Fetched base, 4.2 MB, 2.0 s
                Note base: old
             Trained fed/round-001/client-001, 4.2 MB, 2.0 s loss 0.700
             Trained fed/round-001/client-000, 4.2 MB, 2.0 s
            Averaged fed/round-001, 4.2 MB, 2.0 s
              Scored score/round-001, 4.2 MB accuracy 0.812 loss 0.663 macro_f1 0.500
              Reused fed/round-002/client-000
            Averaged fed/round-002, 4.2 MB, 2.0 s
              Scored score/round-002, 4.2 MB accuracy 0.750
            Finished 10 steps in 61 s, run r-1
                   7 done
                   3 reused
               0.750 last accuracy, score/round-002
               0.812 best accuracy, score/round-001
        ");
        assert_snapshot!(told(Volume::Quiet, RUN), @"    Finished 10 steps in 61 s, run r-1");
    }

    #[test]
    fn what_failed_or_was_stopped_is_told_at_any_volume() {
        let failed = "
            started fed/round-001/client-000 train
            started fed/round-001/client-001 train
            finished fed/round-001/client-000 train
            failed fed/round-001/client-001
            ended 0 1 1 4";
        assert_snapshot!(told(Volume::Normal, failed), @r"
              Failed fed/round-001/client-001: no room
                Hint make some
             Trained fed/round-001, 1 client, 2.0 s
              Failed 6 steps in 61 s, run r-1
                   1 done
                   1 failed
                   4 not run
        ");
        assert_snapshot!(told(Volume::Quiet, "failed a\nended 0 0 1 0"), @r"
              Failed a: no room
                Hint make some
              Failed 1 step in 61 s, run r-1
        ");
        assert_snapshot!(told(Volume::Quiet, "ended 2 0 0 5 stopped"), @"     Stopped 7 steps in 61 s, run r-1");
    }
}
