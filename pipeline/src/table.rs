//! What the variants of a sweep came to: a row for each combination of settings, over its seeds.

use std::collections::BTreeSet;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use stages::export::SCORES;

use crate::{
    execute::{Figures, Tally},
    plan::{Branch, Plan, Step},
};

/// The figures of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What `score` is: `accuracy`, or `token_accuracy` where no variant has that.
    pub metric: String,
    /// One row for each combination of settings and each evaluation.
    pub rows: Vec<Row>,
}

/// One combination of settings. Each figure is the mean over the seeds whose runs have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The swept paths that are no seeds, with their values as written.
    pub settings: IndexMap<String, String>,
    /// The evaluation: `score`.
    pub evaluation: String,
    /// How many seeds came to their last score.
    pub n: usize,
    /// The score of the last round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Its standard deviation over the seeds (n − 1); none of one seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_sd: Option<f64>,
    /// The accuracy of the client that fares worst in the last round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_client_accuracy: Option<f64>,
    /// How far the last aggregation is from the mean of the clients' products, as a share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub e_agg: Option<f64>,
    /// Bytes from the clients, over all rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<f64>,
    /// Bytes to the clients, over all rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<f64>,
    /// Seconds of the virtual clock, over all rounds, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simulated_seconds: Option<f64>,
    /// Wall time of local training and aggregation, over all rounds, whenever they were run (seconds).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_seconds: Option<f64>,
}

/// The figures of one variant and one evaluation.
#[derive(Clone, Debug, Default)]
struct Trial {
    accuracy: Option<f64>,
    token_accuracy: Option<f64>,
    worst_client_accuracy: Option<f64>,
    e_agg: Option<f64>,
    bytes_up: Option<f64>,
    bytes_down: Option<f64>,
    simulated_seconds: Option<f64>,
    train_seconds: Option<f64>,
}

/// What sets a row apart: its settings and its evaluation.
type Place = (Vec<(String, String)>, String);

impl Table {
    /// The table of a run; none of a graph without a sweep, or where no variant came to a score.
    pub fn of(plan: &Plan, tally: &Tally) -> Option<Self> {
        if plan.branches.iter().all(|branch| branch.settings.is_empty()) {
            return None;
        }
        let mut places: IndexMap<Place, Vec<Trial>> = IndexMap::new();
        for branch in &plan.branches {
            let others = branch.settings.iter().filter(|(path, _)| !is_seed(path)).cloned();
            let settings: Vec<(String, String)> = others.collect();
            for (evaluation, last) in last_scores(plan, branch, tally) {
                let place = (settings.clone(), evaluation.to_owned());
                let trials = places.entry(place).or_default();
                trials.extend(trial(plan, last, &tally.figures));
            }
        }
        let all = || places.values().flatten();
        all().next()?;
        let is_of_tokens = all().all(|trial| trial.accuracy.is_none());
        let (metric, score): (_, fn(&Trial) -> Option<f64>) = if is_of_tokens {
            ("token_accuracy", |trial| trial.token_accuracy)
        } else {
            ("accuracy", |trial| trial.accuracy)
        };
        let rows = places.into_iter().map(|(place, trials)| row(place, &trials, score));
        Some(Self { metric: metric.to_owned(), rows: rows.collect() })
    }
}

/// Whether a swept path is a seed: `seed`, `shards.seed`, `fed.seeds.local`.
fn is_seed(path: &str) -> bool {
    let mut parts = path.rsplit('.');
    matches!(parts.next(), Some("seed" | "seeds")) || parts.next() == Some("seeds")
}

/// The last score that a variant wants of each of its evaluations, in the order of the plan.
fn last_scores<'a>(plan: &'a Plan, branch: &Branch, tally: &Tally) -> IndexMap<&'a str, usize> {
    let unwanted: BTreeSet<usize> = branch
        .stops
        .iter()
        .filter_map(|&rule| Some((&plan.stops[rule], tally.stopped_after[rule]?)))
        .flat_map(|(rule, last)| rule.under.iter().filter(move |(round, _)| *round > last))
        .map(|(_, at)| *at)
        .collect();
    let mut last: IndexMap<&str, usize> = IndexMap::new();
    for &at in branch.steps.iter().filter(|at| !unwanted.contains(at)) {
        let step = &plan.steps[at];
        if step.work.kind() == SCORES {
            let known = last.entry(node(step)).or_insert(at);
            if step.round >= plan.steps[*known].round {
                *known = at;
            }
        }
    }
    last
}

/// The name of the graph's stage that a step is of: `score` of `fed.lora.rank=2/score/round-003`.
fn node(step: &Step) -> &str {
    let own = step.variant.as_deref().and_then(|label| step.name.strip_prefix(label));
    let own = own.map_or(step.name.as_str(), |rest| rest.trim_start_matches('/'));
    own.split('/').next().unwrap_or(own)
}

/// The figures of a score and of all that it was made from; none where it was not made.
fn trial(plan: &Plan, score: usize, figures: &[Option<Figures>]) -> Option<Trial> {
    let scored = figures[score].as_ref()?;
    let metric = |name: &str| scored.metrics.get(name).copied();
    let mut trial = Trial {
        accuracy: metric("accuracy"),
        token_accuracy: metric("token_accuracy"),
        worst_client_accuracy: metric("worst_client_accuracy"),
        ..Trial::default()
    };
    let add = |sum: &mut Option<f64>, more: Option<f64>| {
        if let Some(more) = more {
            *sum = Some(sum.unwrap_or(0.0) + more);
        }
    };
    let mut last_aggregation = None;
    for at in ancestry(plan, score) {
        let (step, Some(made)) = (&plan.steps[at], &figures[at]) else { continue };
        add(&mut trial.bytes_up, made.metrics.get("bytes_up").copied());
        add(&mut trial.bytes_down, made.metrics.get("bytes_down").copied());
        add(&mut trial.simulated_seconds, made.metrics.get("simulated_seconds").copied());
        if matches!(step.work.stage(), "train" | "aggregate") {
            add(&mut trial.train_seconds, Some(made.seconds));
        }
        if step.work.stage() == "aggregate" && last_aggregation <= Some(step.round) {
            last_aggregation = Some(step.round);
            trial.e_agg = made.metrics.get("e_agg").copied();
        }
    }
    Some(trial)
}

/// The step and all that it was made from, in the order of the plan, so that sums never vary.
fn ancestry(plan: &Plan, at: usize) -> BTreeSet<usize> {
    let mut met = BTreeSet::new();
    let mut left = vec![at];
    while let Some(at) = left.pop() {
        if met.insert(at) {
            left.extend(plan.steps[at].deps.iter().map(|dep| dep.step));
        }
    }
    met
}

fn row((settings, evaluation): Place, trials: &[Trial], score: fn(&Trial) -> Option<f64>) -> Row {
    let values = |of: fn(&Trial) -> Option<f64>| trials.iter().filter_map(of).collect::<Vec<f64>>();
    let mean_of = |of| mean(&values(of));
    let scores = values(score);
    Row {
        settings: settings.into_iter().collect(),
        evaluation,
        n: trials.len(),
        score: mean(&scores),
        score_sd: deviation(&scores),
        worst_client_accuracy: mean_of(|trial| trial.worst_client_accuracy),
        e_agg: mean_of(|trial| trial.e_agg),
        bytes_up: mean_of(|trial| trial.bytes_up),
        bytes_down: mean_of(|trial| trial.bytes_down),
        simulated_seconds: mean_of(|trial| trial.simulated_seconds),
        train_seconds: mean_of(|trial| trial.train_seconds),
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation of a sample.
fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn seeds_are_known_by_their_paths() {
        let all = ["seed", "shards.seed", "fed.seeds.local", "stages.fed.seeds.init", "fed.seeds"];
        assert!(all.into_iter().all(is_seed));
        assert!(
            ["fed.lora.rank", "fed.seeds_of", "seeds.a.b"].into_iter().all(|path| !is_seed(path))
        );
    }

    /// Two seeds and two rules, two rounds of one client; a score of a step is by its place.
    fn sweep(rounds: u32) -> Plan {
        let rules = [("1", "a"), ("1", "b"), ("2", "a"), ("2", "b")];
        let settings = |(seed, rule): (&str, &str)| {
            vec![("seed".to_owned(), seed.to_owned()), ("fed.rule".to_owned(), rule.to_owned())]
        };
        Plan::new(rules.map(|one| toy::variant(settings(one), rounds)).into()).unwrap()
    }

    fn tally(plan: &Plan) -> Tally {
        let figures = plan.steps.iter().enumerate().map(|(at, step)| {
            let round = f64::from(step.round.unwrap_or(0));
            let (seconds, metrics) = match step.work.stage() {
                "train" => (1.0, vec![]),
                "aggregate" => {
                    (10.0, vec![("bytes_up", 100.0), ("bytes_down", 7.0), ("e_agg", round / 8.0)])
                }
                _ => (1000.0, vec![("accuracy", at as f64), ("worst_client_accuracy", round)]),
            };
            let metrics = metrics.into_iter().map(|(name, value)| (name.to_owned(), value));
            Some(Figures { metrics: metrics.collect(), seconds })
        });
        let stopped_after = vec![None; plan.stops.len()];
        Tally { figures: figures.collect(), stopped_after, ..Tally::default() }
    }

    fn place(plan: &Plan, name: &str) -> usize {
        let found = plan.steps.iter().position(|step| step.name == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    }

    #[test]
    fn a_row_is_the_mean_over_its_seeds_and_shared_steps_count_for_each() {
        let plan = sweep(2);
        // Round 1's training is the same for both rules, and is once in the plan for each seed.
        assert_eq!(plan.steps.len(), 2 + 4 * 5);
        let table = Table::of(&plan, &tally(&plan)).unwrap();
        assert_eq!((table.metric.as_str(), table.rows.len()), ("accuracy", 2));
        for (row, rule) in table.rows.iter().zip(["a", "b"]) {
            assert_eq!(row.settings, [("fed.rule".to_owned(), rule.to_owned())].into());
            let [first, second] = ["1", "2"].map(|seed| {
                place(&plan, &format!("seed={seed}, fed.rule={rule}/score/round-002")) as f64
            });
            assert_eq!((row.evaluation.as_str(), row.n), ("score", 2));
            assert_eq!(row.score, Some(f64::midpoint(first, second)));
            let sd = (second - first) / 2.0_f64.sqrt();
            assert!((row.score_sd.unwrap() - sd).abs() < 1e-12);
            assert_eq!(row.train_seconds, Some(2.0 * (1.0 + 10.0)));
            assert_eq!((row.bytes_up, row.bytes_down), (Some(200.0), Some(14.0)));
            assert_eq!((row.e_agg, row.worst_client_accuracy), (Some(0.25), Some(2.0)));
        }
    }

    #[test]
    fn what_was_not_scored_does_not_count() {
        let plan = sweep(2);
        let mut tally = tally(&plan);
        tally.figures[place(&plan, "seed=1, fed.rule=b/score/round-002")] = None;
        let table = Table::of(&plan, &tally).unwrap();
        assert_eq!((table.rows[0].n, table.rows[1].n), (2, 1));
        assert!(table.rows[1].score.is_some() && table.rows[1].score_sd.is_none());
        for row in table.rows {
            assert!(row.score.is_some_and(|score| score > 0.0));
        }
        tally.figures.iter_mut().for_each(|figures| *figures = None);
        assert_eq!(Table::of(&plan, &tally), None);
    }

    #[test]
    fn a_variant_that_stopped_early_has_the_score_of_its_last_round() {
        let plan = sweep(3);
        let mut tally = tally(&plan);
        // All of them have a rule; that of seed 2 and rule a stops, though all has been run.
        assert_eq!(plan.stops.len(), 4);
        tally.stopped_after[2] = Some(2);
        let table = Table::of(&plan, &tally).unwrap();
        let expected = ["1, fed.rule=a/score/round-003", "2, fed.rule=a/score/round-002"]
            .map(|name| place(&plan, &format!("seed={name}")) as f64);
        assert_eq!(table.rows[0].score, Some(f64::midpoint(expected[0], expected[1])));
        assert_eq!(table.rows[0].train_seconds, Some(11.0 * 2.5));
    }

    #[test]
    fn a_graph_without_a_sweep_has_no_table() {
        let plan = Plan::new(vec![toy::variant(Vec::new(), 2)]).unwrap();
        assert_eq!(Table::of(&plan, &tally(&plan)), None);
    }

    #[test]
    fn a_deviation_is_that_of_a_sample() {
        assert_eq!(mean(&[]), None);
        assert_eq!(deviation(&[0.5]), None);
        let sd = deviation(&[0.2, 0.4, 0.6]).unwrap();
        assert!((sd - 0.2).abs() < 1e-12, "{sd}");
    }
}
