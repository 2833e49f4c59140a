//! How the examples are shared out among the clients.
//!
//! A partitioner is one file with one [`Rule`], and a line for it in [`By`] and in `By::rule`.

mod cut;
mod dirichlet;
mod iid;
mod skew;

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

pub use cut::cut;
pub use dirichlet::{Dirichlet, OnFail, draw};
pub use iid::Iid;
pub use skew::Skew;

use crate::{Error, Result, seed};

/// The rule by which examples are shared out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum By {
    /// At random, in equal parts.
    Iid,
    /// By label, in proportions drawn from a Dirichlet distribution.
    Dirichlet(Dirichlet),
}

impl By {
    fn rule(&self) -> &dyn Rule {
        match self {
            Self::Iid => &Iid,
            Self::Dirichlet(rule) => rule,
        }
    }

    /// What is wrong with the rule's own numbers, before any data are there.
    pub fn check(&self) -> Result<()> {
        self.rule().check()
    }

    /// Shares the examples with these labels out among `clients`.
    ///
    /// Every example goes to exactly one client, and every client gets at least one. The same
    /// labels, rule, number and seed give the same partition.
    pub fn split(&self, labels: &[i32], clients: usize, seed: u64) -> Result<Partition> {
        self.check()?;
        if clients == 0 {
            return Err(
                Error::input("there must be at least one client").with_hint("such as clients: 10")
            );
        }
        if clients > labels.len() {
            return Err(Error::input(format!(
                "{clients} clients cannot share {} examples",
                labels.len()
            ))
            .with_hint(format!("at most {} clients: each needs one", labels.len())));
        }
        let mut rng = seed::rng(seed, &["partition"]);
        let mut partition = self.rule().split(labels, clients, &mut rng)?;
        for shard in &mut partition.shards {
            // One client's shard is then the whole set, in its own order.
            shard.sort_unstable();
        }
        Ok(partition)
    }
}

/// One way of sharing examples out.
trait Rule {
    /// What is wrong with its own numbers.
    fn check(&self) -> Result<()>;

    /// The examples of each client, in any order; there are at least as many labels as clients.
    fn split(&self, labels: &[i32], clients: usize, rng: &mut ChaCha8Rng) -> Result<Partition>;
}

/// Who has which examples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// For each client the positions of its examples, rising.
    pub shards: Vec<Vec<usize>>,
    /// How it came to be.
    pub outcome: Outcome,
}

/// How a partition came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// How many times the proportions were drawn until every client had enough.
    pub attempts: u32,
    /// How many examples were moved so that every client had enough.
    pub moved: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(count: usize) -> Vec<i32> {
        (0..count).map(|i| i32::from(i % 3 == 0)).collect()
    }

    fn rules() -> [By; 3] {
        let dirichlet = Dirichlet::new(0.5);
        let top_up = Dirichlet {
            on_fail: OnFail::TopUp,
            ..Dirichlet::new(0.05)
        };
        [By::Iid, By::Dirichlet(dirichlet), By::Dirichlet(top_up)]
    }

    #[test]
    fn every_example_has_one_client() {
        let labels = labels(500);
        for by in rules() {
            let partition = by.split(&labels, 7, 3).unwrap();
            assert_eq!(partition.shards.len(), 7);
            let mut all: Vec<usize> = partition.shards.concat();
            all.sort_unstable();
            assert_eq!(all, (0..500).collect::<Vec<_>>(), "{by:?}");
            for shard in &partition.shards {
                assert!(!shard.is_empty() && shard.is_sorted(), "{by:?}");
            }
            assert_eq!(by.split(&labels, 7, 3).unwrap(), partition);
            assert_ne!(by.split(&labels, 7, 4).unwrap(), partition);
            let alone = by.split(&labels, 1, 3).unwrap().shards;
            assert_eq!(alone, [(0..500).collect::<Vec<_>>()], "{by:?}");
        }
    }

    #[test]
    fn what_cannot_be_shared_is_a_sentence() {
        for by in rules() {
            let fault = |n, clients| by.split(&labels(n), clients, 1).unwrap_err().to_string();
            assert!(fault(5, 6).contains("6 clients cannot share 5 examples"));
            assert!(fault(0, 1).contains("1 clients cannot share 0"));
            assert!(fault(5, 0).contains("at least one client"));
        }
    }

    #[test]
    fn a_rule_reads_and_writes_only_what_is_set() {
        for (text, back) in [
            (r#""Iid""#, r#""Iid""#),
            (
                r#"{"Dirichlet":{"alpha":0.5}}"#,
                r#"{"Dirichlet":{"alpha":0.5}}"#,
            ),
            (
                r#"{"Dirichlet":{"alpha":1.0,"min":10,"on_fail":{"Retry":10}}}"#,
                r#"{"Dirichlet":{"alpha":1.0}}"#,
            ),
            (
                r#"{"Dirichlet":{"alpha":1.0,"min":3,"on_fail":"TopUp"}}"#,
                r#"{"Dirichlet":{"alpha":1.0,"min":3,"on_fail":"TopUp"}}"#,
            ),
        ] {
            let by: By = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&by).unwrap(), back);
        }
        assert!(serde_json::from_str::<By>(r#"{"Dirichlet":{"alpa":0.5}}"#).is_err());
    }
}
