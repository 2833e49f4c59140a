//! When a federation ends before its last round: a rule over the scores that come in.
//!
//! The rule is in no key. It says which of the rounds are wanted, and never what is in one.

use serde::{Deserialize, Serialize, Serializer};

use crate::{
    check::Check,
    edge::{self, In},
    kinds::Scores,
    node::Node,
};

/// Which way of a metric is better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Mode {
    /// More, as of accuracy.
    #[default]
    Max,
    /// Less, as of loss.
    Min,
}

/// Ends a federation once its scores have not got better for a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRule {
    /// The evaluation whose scores count: one of the federation itself. It is a name and no edge, as the evaluation has
    /// an edge to the federation.
    #[serde(serialize_with = "name")]
    pub on: In<Scores>,
    /// Which of its metrics.
    #[serde(default = "accuracy")]
    pub metric: String,
    /// How many scored rounds may follow one another without a better score. The untrained adapter's score, where there
    /// is one, is the first to be beaten.
    pub patience: u32,
    /// By how much more than this a score must be better than the best one so far.
    #[serde(default)]
    pub min_delta: f64,
    /// Which way is better.
    #[serde(default)]
    pub mode: Mode,
}

fn accuracy() -> String {
    "accuracy".to_owned()
}

fn name<S: Serializer>(edge: &In<Scores>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(edge.name())
}

/// The rule of one federation.
#[derive(Clone, Debug)]
pub struct Stop {
    /// The federation's name.
    pub of: String,
    /// Its rule.
    pub rule: StopRule,
}

impl StopRule {
    /// The round after which to stop, by the scores of the first so many scored rounds, in their order.
    pub fn after(&self, scores: impl IntoIterator<Item = (u32, f64)>) -> Option<u32> {
        let mut best: Option<f64> = None;
        let mut in_vain = 0;
        for (round, score) in scores {
            if best.is_none_or(|best| self.is_better(score, best)) && !score.is_nan() {
                best = Some(score);
                in_vain = 0;
            } else {
                in_vain += 1;
            }
            if in_vain >= self.patience {
                return Some(round);
            }
        }
        None
    }

    fn is_better(&self, score: f64, best: f64) -> bool {
        match self.mode {
            Mode::Max => score > best + self.min_delta,
            Mode::Min => score < best - self.min_delta,
        }
    }

    /// Says what is wrong with the rule of the federation `of`.
    pub(crate) fn check(&self, of: &str, check: &mut Check<'_>) {
        let at = |field: &str| format!("{of}.stop.{field}");
        check.require(self.patience > 0, at("patience"), "a patience of 0 would stop at once");
        let delta = self.min_delta >= 0.0 && self.min_delta.is_finite();
        check.require(delta, at("min_delta"), "`min_delta` must be a number from 0");
        let is_of_it = |node: &Node| match node {
            Node::Evaluate(score) => score.adapter.as_ref().is_some_and(|it| it.name() == of),
            _ => false,
        };
        let on = self.on.name();
        if !check.nodes.get(on).is_some_and(is_of_it) {
            let fit = check.nodes.iter().filter(|(_, node)| is_of_it(node));
            let fit: Vec<String> = fit.map(|(name, _)| format!("`{name}`")).collect();
            let help = match fit.as_slice() {
                [] => format!("there is none yet: add an `Evaluate` with `adapter: {of}`"),
                fit => format!("its evaluations: {}", fit.join(", ")),
            };
            let message = format!("`{on}` is no evaluation of `{of}`");
            check.complain(at("on"), message, Some(help));
        }
        for (name, node) in check.nodes {
            if !matches!(node, Node::Evaluate(_)) && hangs_on(node, of) {
                let message = format!(
                    "`{name}` needs what `{of}` comes to, and with `stop` no one knows which round that is before it ran"
                );
                let help = "leave `stop` out, and set `rounds` to where it stopped";
                check.complain(format!("{of}.stop"), message, Some(help.to_owned()));
            }
        }
    }
}

fn hangs_on(node: &Node, name: &str) -> bool {
    let fields = node.fields();
    let mut found = false;
    edge::names(&fields, &mut |to| found |= to.split('#').next() == Some(name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(patience: u32, min_delta: f64, mode: Mode) -> StopRule {
        StopRule { on: In::named("score"), metric: accuracy(), patience, min_delta, mode }
    }

    fn after(rule: &StopRule, scores: &[f64]) -> Option<u32> {
        rule.after((1..).zip(scores.iter().copied()))
    }

    #[test]
    fn it_stops_after_so_many_scores_in_vain() {
        let more = rule(3, 0.0, Mode::Max);
        assert_eq!(after(&more, &[0.5, 0.5, 0.4, 0.5]), Some(4));
        assert_eq!(after(&more, &[0.5, 0.5, 0.4]), None);
        assert_eq!(after(&more, &[0.5, 0.5, 0.4, 0.6, 0.6, 0.6, 0.6]), Some(7));
        assert_eq!(after(&more, &[]), None);
        let less = rule(1, 0.0, Mode::Min);
        assert_eq!(after(&less, &[0.5, 0.4, 0.3, 0.3]), Some(4));
        assert_eq!(after(&less, &[0.5, 0.6]), Some(2));
    }

    #[test]
    fn what_comes_later_does_not_change_where_it_stops() {
        let more = rule(2, 0.0, Mode::Max);
        let scores = [0.5, 0.4, 0.4, 0.9, 0.9];
        for known in 3..=5 {
            assert_eq!(after(&more, &scores[..known]), Some(3));
        }
    }

    #[test]
    fn a_little_better_is_not_better() {
        let more = rule(2, 0.1, Mode::Max);
        // 0.59 is better than 0.5, but not by more than 0.1; 0.61 is, as the best is still 0.5.
        assert_eq!(after(&more, &[0.5, 0.59, 0.61, 0.62]), None);
        assert_eq!(after(&more, &[0.5, 0.59, 0.6]), Some(3));
    }

    #[test]
    fn a_score_that_is_no_number_is_never_better() {
        let more = rule(2, 0.0, Mode::Max);
        assert_eq!(after(&more, &[f64::NAN, f64::NAN]), Some(2));
        assert_eq!(after(&more, &[f64::NAN, 0.5, 0.6, f64::NAN]), None);
    }

    #[test]
    fn rounds_between_scores_do_not_count() {
        let more = rule(2, 0.0, Mode::Max);
        assert_eq!(more.after([(0, 0.5), (5, 0.4), (10, 0.4)]), Some(10));
    }

    #[test]
    fn the_evaluation_is_a_name_and_no_edge() {
        let text = serde_json::to_value(rule(2, 0.0, Mode::Max)).unwrap();
        assert_eq!(text["on"], "score");
        let mut edges = 0;
        edge::names(&text, &mut |_| edges += 1);
        assert_eq!(edges, 0);
    }
}
