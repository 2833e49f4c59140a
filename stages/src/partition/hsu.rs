//! Label skew alone: every client has as many examples, of classes drawn for it.

use rand::RngExt;
use rand::distr::Open01;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::alpha::check_alpha;
use super::cut::classes;
use super::{Examples, Outcome, Partition, Rule, draw};
use crate::{Result, shuffle};

/// For each client one draw from a Dirichlet distribution over the classes (Hsu, Qi and Brown 2019,
/// arXiv:1909.06335).
///
/// Every client gets N/K examples, cut to a whole number, one client after the other: a class by the
/// client's shares, then an example of it without replacement. A class that is used up has no share
/// any more, so the last clients get what the first have left. What is left of the division has no
/// client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hsu {
    /// The concentration: at 0.1 a client has hardly more than one class, at 100 the prior. As in the
    /// paper the prior adds up to 1, so this is the sum over the classes: code that draws with `a` for
    /// each of C classes means C·a.
    pub alpha: f64,
    /// What the shares are on average.
    #[serde(default, skip_serializing_if = "Prior::is_uniform")]
    pub prior: Prior,
}

/// What the shares of the classes are on average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prior {
    /// The same for all classes that occur.
    #[default]
    Uniform,
    /// Those of the data.
    Data,
}

impl Prior {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    fn is_uniform(&self) -> bool {
        *self == Self::Uniform
    }

    /// The share of each of `groups`, in all 1.
    fn shares(self, groups: &[Vec<usize>]) -> Vec<f64> {
        let all = groups.iter().map(Vec::len).sum::<usize>() as f64;
        let share = |group: &Vec<usize>| match self {
            Self::Uniform => 1.0 / groups.len() as f64,
            Self::Data => group.len() as f64 / all,
        };
        groups.iter().map(share).collect()
    }
}

impl Rule for Hsu {
    fn check(&self, _clients: usize) -> Result<()> {
        check_alpha("alpha", self.alpha)
    }

    fn split(&self, of: &Examples<'_>, clients: usize, rng: &mut ChaCha8Rng) -> Result<Partition> {
        of.require_labels()?;
        let mut left: Vec<Vec<usize>> = classes(of.labels).into_values().collect();
        let prior = self.prior.shares(&left);
        let alphas: Vec<f64> = prior.into_iter().map(|share| self.alpha * share).collect();
        for class in &mut left {
            shuffle::shuffle(rng, class);
        }
        let size = of.labels.len() / clients;
        let mut shards = Vec::with_capacity(clients);
        let mut outcome = Outcome::default();
        for _ in 0..clients {
            let weights = draw(rng, &alphas);
            let mut shard = Vec::with_capacity(size);
            let mut is_evened = false;
            while shard.len() < size {
                let Some(class) = pick(rng, &weights, &left) else {
                    is_evened = true;
                    shard.extend(any(rng, &mut left));
                    continue;
                };
                shard.extend(left[class].pop());
            }
            outcome.evened += usize::from(is_evened);
            shards.push(shard);
        }
        Ok(Partition { shards, outcome })
    }
}

/// A class that is not used up, with the weights of those that are not; `None` where they have none.
fn pick(rng: &mut ChaCha8Rng, weights: &[f64], left: &[Vec<usize>]) -> Option<usize> {
    let open = || (0..left.len()).filter(|&class| !left[class].is_empty() && weights[class] > 0.0);
    let sum: f64 = open().map(|class| weights[class]).sum();
    // With one class left there is nothing to draw.
    let last = open().next_back()?;
    let mut at = rng.sample::<f64, _>(Open01) * sum;
    for class in open() {
        at -= weights[class];
        if at < 0.0 {
            return Some(class);
        }
    }
    // Rounding can leave a trace of the sum.
    Some(last)
}

/// An example of one of the classes that are left, each as likely as the others.
fn any(rng: &mut ChaCha8Rng, left: &mut [Vec<usize>]) -> Option<usize> {
    let mut open: Vec<&mut Vec<usize>> =
        left.iter_mut().filter(|class| !class.is_empty()).collect();
    let at = shuffle::below(rng, open.len());
    open[at].pop()
}

#[cfg(test)]
mod tests {
    use super::super::{By, Skew};
    use super::*;

    fn split(alpha: f64, prior: Prior, labels: &[i32], clients: usize, seed: u64) -> Partition {
        let by = By::Hsu(Hsu { alpha, prior });
        by.split(&Examples::labelled(labels), clients, seed).unwrap()
    }

    /// No class is used up before the first client is done, so its counts are beta-binomial: mean p
    /// and variance p(1 − p)(α + n) / (n(α + 1)) of the share.
    #[test]
    fn the_first_clients_classes_have_the_moments_of_the_prior() {
        let labels: Vec<i32> = (0..200).map(|i| i32::from(i % 10 >= 3)).collect();
        for (alpha, prior, clients, expected) in
            [(1.0, Prior::Uniform, 4, 0.5), (0.5, Prior::Data, 4, 0.3), (10.0, Prior::Data, 5, 0.3)]
        {
            let draws = 3000_u32;
            let (size, count) = (200.0 / clients as f64, f64::from(draws));
            let shares: Vec<f64> = (0..draws)
                .map(|seed| {
                    let shards = split(alpha, prior, &labels, clients, seed.into()).shards;
                    let bad = shards[0].iter().filter(|&&at| labels[at] == 0).count();
                    bad as f64 / size
                })
                .collect();
            let mean = shares.iter().sum::<f64>() / count;
            let spread = shares.iter().map(|x| (x - expected).powi(2)).sum::<f64>() / count;
            let variance = expected * (1.0 - expected) * (alpha + size) / (size * (alpha + 1.0));
            assert!((mean - expected).abs() < 4.0 * (variance / count).sqrt(), "{mean}");
            assert!((spread / variance - 1.0).abs() < 0.1, "{spread} {variance}");
        }
    }

    #[test]
    fn sizes_are_equal_and_the_remainder_is_left_out() {
        let labels: Vec<i32> = (0..1003).map(|i| i % 3).collect();
        for seed in 0..20 {
            let partition = split(0.1, Prior::Uniform, &labels, 10, seed);
            assert_eq!(partition.outcome.left_out, 3);
            assert!(partition.shards.iter().all(|shard| shard.len() == 100));
            let mut all = partition.shards.concat();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 1000, "no example has two clients");
        }
        let uneven = Skew::of(&split(0.1, Prior::Data, &labels, 10, 1).shards, &labels);
        let even = Skew::of(&split(1e6, Prior::Data, &labels, 10, 1).shards, &labels);
        assert!(uneven.label_tv > 3.0 * even.label_tv, "{} {}", uneven.label_tv, even.label_tv);
        assert!(uneven.size_gini.abs() < 1e-12);
    }

    /// Each client wants one class only. There are three examples of the first and nine of the
    /// second, and four clients get three each: whoever comes after the only client that can have the
    /// first class has no share left, if it wants it too.
    #[test]
    fn a_client_whose_classes_are_used_up_gets_what_is_left() {
        let labels = [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1];
        let mut evened = Vec::new();
        for seed in 0..60 {
            let partition = split(1e-6, Prior::Uniform, &labels, 4, seed);
            let one_class =
                |shard: &Vec<usize>| shard.iter().all(|&at| labels[at] == labels[shard[0]]);
            assert!(partition.shards.iter().all(one_class));
            evened.push(partition.outcome.evened);
        }
        // All want the first class: three get the other. All want the other: the last gets the first.
        assert!(evened.contains(&0) && evened.contains(&1) && evened.contains(&3), "{evened:?}");
        assert!(evened.iter().all(|&clients| clients <= 3));
    }

    #[test]
    fn wrong_numbers_are_refused() {
        let rule = Hsu { alpha: 0.0, prior: Prior::Data };
        assert!(rule.check(3).unwrap_err().to_string().starts_with("alpha is 0"));
        let fault = By::Hsu(Hsu { alpha: 1.0, prior: Prior::Data })
            .split(&Examples::labelled(&[-1; 9]), 3, 1)
            .unwrap_err();
        assert!(fault.to_string().contains("without labels"));
    }
}
