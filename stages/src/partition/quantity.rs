//! Quantity skew: how many examples a client has, and nothing else.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::alpha::check_alpha;
use super::cut::{Balance, Cuts};
use super::policy::{Policy, is_ten, ten};
use super::{Examples, OnFail, Partition, Rule, draw};
use crate::{Result, shuffle};

/// One draw from a Dirichlet distribution says which share of all examples, shuffled, each client
/// gets: NIID-Bench's quantity skew (Li et al. 2022, arXiv:2102.02079). Labels are in each part as in
/// the whole.
///
/// NIID-Bench asks `min` of the shares before they are cut, and this of the parts: they differ by less
/// than one example.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantity {
    /// The concentration: 0.1 is very uneven, 100 nearly even.
    pub beta: f64,
    /// The least number of examples of a client, at least 1.
    #[serde(default = "ten", skip_serializing_if = "is_ten")]
    pub min: usize,
    /// What to do when a draw leaves a client with fewer.
    #[serde(default, skip_serializing_if = "OnFail::is_default")]
    pub on_fail: OnFail,
}

impl Quantity {
    fn policy(&self) -> Policy {
        let rule = format!("Quantity(beta: {})", self.beta);
        Policy { min: self.min, on_fail: self.on_fail, rule, evener: "beta" }
    }

    fn draw(&self, rng: &mut ChaCha8Rng, examples: usize, clients: usize) -> Cuts {
        Cuts::new(&[examples], &[draw(rng, &vec![self.beta; clients])], Balance::Off)
    }
}

impl Rule for Quantity {
    fn check(&self, _clients: usize) -> Result<()> {
        check_alpha("beta", self.beta)?;
        self.policy().check()
    }

    fn split(&self, of: &Examples<'_>, clients: usize, rng: &mut ChaCha8Rng) -> Result<Partition> {
        let examples = of.labels.len();
        let mut order: Vec<usize> = (0..examples).collect();
        shuffle::shuffle(rng, &mut order);
        self.policy().split(&[order], clients, rng, |rng| self.draw(rng, examples, clients))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{By, Skew};
    use super::*;
    use crate::seed;

    fn split(rule: &Quantity, labels: &[i32], clients: usize, seed: u64) -> Result<Partition> {
        By::Quantity(rule.clone()).split(&Examples::labelled(labels), clients, seed)
    }

    /// Mean 1/K and variance (1/K)(1 − 1/K)/(Kβ + 1).
    #[test]
    fn sizes_have_the_moments_of_a_dirichlet() {
        let (clients, examples, draws) = (8, 67_349, 20_000);
        let rule = Quantity { beta: 0.5, min: 1, on_fail: OnFail::Error };
        let mut rng = seed::rng(6, &["test"]);
        let sizes: Vec<Vec<usize>> =
            (0..draws).map(|_| rule.draw(&mut rng, examples, clients).sizes).collect();
        let (share, count) = (1.0 / clients as f64, f64::from(draws));
        let variance = share * (1.0 - share) / (clients as f64 * 0.5 + 1.0);
        for client in 0..clients {
            let shares = || sizes.iter().map(|row| row[client] as f64 / examples as f64);
            let mean = shares().sum::<f64>() / count;
            let spread = shares().map(|own| (own - share).powi(2)).sum::<f64>() / count;
            assert!((mean - share).abs() < 4.0 * (variance / count).sqrt(), "{mean} {share}");
            assert!((spread / variance - 1.0).abs() < 0.06, "{spread} {variance}");
        }
    }

    #[test]
    fn sizes_are_skewed_and_labels_are_not() {
        let labels: Vec<i32> = (0..20_000).map(|i| i32::from(i % 5 == 0)).collect();
        let rule = Quantity { beta: 0.5, min: 100, on_fail: OnFail::Retry(1000) };
        let partition = split(&rule, &labels, 10, 3).unwrap();
        let skew = Skew::of(&partition.shards, &labels);
        assert!(skew.sizes.iter().all(|&size| size >= 100));
        assert!(skew.size_gini > 0.2, "{skew:?}");
        // A share of 1/5 of 100 examples has a standard error of 0.04.
        assert!(skew.label_tv < 0.04, "{skew:?}");
    }

    #[test]
    fn a_draw_that_falls_short_follows_the_policy() {
        let rule = |on_fail| Quantity { beta: 0.05, min: 10, on_fail };
        let fault = split(&rule(OnFail::Error), &[0; 400], 10, 1).unwrap_err();
        let says = "Quantity(beta: 0.05) left one of 10 clients with fewer than 10 of 400";
        assert!(fault.to_string().starts_with(says), "{fault}");
        assert!(fault.hint().unwrap().starts_with("raise `beta:`"));
        let filled = split(&rule(OnFail::TopUp), &[-1; 400], 10, 1).unwrap();
        assert!(filled.outcome.moved > 0);
        assert!(filled.shards.iter().all(|shard| shard.len() >= 10));
        let fault = split(&rule(OnFail::TopUp), &[0; 99], 10, 1).unwrap_err().to_string();
        assert!(fault.contains("99 examples cannot give 10 clients"), "{fault}");
        let wrong = Quantity { beta: -1.0, ..rule(OnFail::Error) };
        assert!(wrong.check(3).unwrap_err().to_string().starts_with("beta is -1"));
    }
}
