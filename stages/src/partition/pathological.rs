//! A few classes for each client.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::cut::{classes, even_parts};
use super::{Examples, Outcome, Partition, Rule};
use crate::{Error, Result, shuffle};

/// Sorts the examples by label, cuts them into `labels` pieces for each client, and deals these out at
/// random: the split that the paper of FedAvg calls pathological (arXiv:1602.05629).
///
/// Sizes of pieces differ by at most one. A piece may have the end of one class and the beginning of
/// the next, so a client can have more classes than pieces.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pathological {
    /// How many pieces each client gets: with many classes of one size, how many labels it has.
    #[serde(default = "two")]
    pub labels: usize,
}

fn two() -> usize {
    2
}

impl Rule for Pathological {
    fn check(&self, _clients: usize) -> Result<()> {
        if self.labels == 0 {
            return Err(Error::input("labels is 0, and must be at least 1")
                .with_hint("the paper gives each client 2"));
        }
        Ok(())
    }

    fn split(&self, of: &Examples<'_>, clients: usize, rng: &mut ChaCha8Rng) -> Result<Partition> {
        of.require_labels()?;
        let (each, examples) = (self.labels, of.labels.len());
        let pieces = clients.saturating_mul(each);
        if pieces > examples {
            return Err(Error::input(format!(
                "{examples} examples cannot be cut into {pieces} pieces, {each} for each of {clients} clients"
            ))
            .with_hint("lower `labels:` or `clients:`"));
        }
        let order: Vec<usize> = classes(of.labels).into_values().flatten().collect();
        let mut pieces = even_parts(&order, pieces);
        shuffle::shuffle(rng, &mut pieces);
        let shards = pieces.chunks(each).map(<[_]>::concat).collect();
        Ok(Partition { shards, outcome: Outcome::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{By, Skew};
    use super::*;

    fn split(each: usize, labels: &[i32], clients: usize, seed: u64) -> Result<Partition> {
        let by = By::Pathological(Pathological { labels: each });
        by.split(&Examples::labelled(labels), clients, seed)
    }

    /// Ten classes of 60 in 20 pieces of 30: no piece has two classes.
    #[test]
    fn a_client_has_at_most_so_many_labels() {
        let labels: Vec<i32> = (0..600).map(|i| i % 10).collect();
        let mut with_two = 0;
        for seed in 0..20 {
            let skew = Skew::of(&split(2, &labels, 10, seed).unwrap().shards, &labels);
            assert!(skew.sizes.iter().all(|&size| size == 60));
            for counts in &skew.label_table {
                let has = counts.iter().filter(|&&count| count > 0).count();
                assert!((1..=2).contains(&has), "{counts:?}");
                assert!(counts.iter().all(|count| count % 30 == 0), "{counts:?}");
                with_two += usize::from(has == 2);
            }
        }
        // The other piece of the first one's class is one of 19: 189.5 of 200, give or take 3.
        assert!((175..200).contains(&with_two), "{with_two}");
    }

    #[test]
    fn pieces_that_do_not_come_out_even_differ_by_one() {
        let labels: Vec<i32> = (0..103).map(|i| i % 2).collect();
        let shards = split(2, &labels, 4, 1).unwrap().shards;
        // Seven pieces of 13 and one of 12.
        let mut sizes: Vec<usize> = shards.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [25, 26, 26, 26]);
    }

    #[test]
    fn what_cannot_be_dealt_is_refused() {
        let fault = split(3, &[0, 1, 0, 1, 0], 2, 1).unwrap_err().to_string();
        assert!(fault.contains("5 examples cannot be cut into 6 pieces"), "{fault}");
        assert!(split(0, &[0, 1], 2, 1).unwrap_err().to_string().starts_with("labels is 0"));
        assert!(split(1, &[-1; 9], 2, 1).unwrap_err().to_string().contains("without labels"));
    }
}
