//! Label skew by a Dirichlet distribution over the clients, one draw a class.
//!
//! Each draw says which share of the class each client gets (Yurochkin et al. 2019, PFNM,
//! arXiv:1905.12022); the class's examples are then cut at the running sums (see [`super::cut`]).
//! With few classes this skews how many examples a client has at least as much as which labels: see
//! [`Skew`](super::Skew), and [`Hsu`](super::Hsu) for labels alone.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::cut::{Balance, Cuts, classes};
use super::policy::{Policy, is_ten, ten};
use super::{Alpha, Examples, OnFail, Partition, Rule, draw};
use crate::{Error, Result, shuffle};

/// Shares drawn from a Dirichlet distribution, one draw a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dirichlet {
    /// The concentration: 0.1 is very uneven, 100 nearly even. One number, or one for each client.
    pub alpha: Alpha,
    /// The least number of examples of a client, at least 1.
    #[serde(default = "ten", skip_serializing_if = "is_ten")]
    pub min: usize,
    /// What to do when a draw leaves a client with fewer.
    #[serde(default, skip_serializing_if = "OnFail::is_default")]
    pub on_fail: OnFail,
    /// Whose procedure cuts the classes.
    #[serde(default, skip_serializing_if = "Procedure::is_flower")]
    pub cut: Procedure,
    /// Flower's `self_balancing`: who has more than an even share gets nothing of the classes that
    /// follow. With two classes it changes little.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub balance: bool,
}

/// Whose procedure cuts the classes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Procedure {
    /// Flower's `DirichletPartitioner`: a class is cut in data set order.
    #[default]
    Flower,
    /// That of PFNM and of NIID-Bench's `noniid-labeldir` (Li et al. 2022, arXiv:2102.02079): a class
    /// is shuffled first, and who has an even share already gets nothing of the classes that follow.
    NiidBench,
}

impl Procedure {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    fn is_flower(&self) -> bool {
        *self == Self::Flower
    }
}

impl Dirichlet {
    /// With one `alpha` for all clients, and the defaults for the rest.
    pub fn new(alpha: f64) -> Self {
        Self {
            alpha: Alpha::Same(alpha),
            min: ten(),
            on_fail: OnFail::default(),
            cut: Procedure::Flower,
            balance: false,
        }
    }

    fn policy(&self) -> Policy {
        let rule = format!("Dirichlet(alpha: {})", self.alpha);
        Policy { min: self.min, on_fail: self.on_fail, rule, evener: "alpha" }
    }

    /// One draw for each class, cut; `sizes` counts the examples of each.
    fn draw(&self, rng: &mut ChaCha8Rng, sizes: &[usize], alphas: &[f64]) -> Cuts {
        let proportions: Vec<Vec<f64>> = sizes.iter().map(|_| draw(rng, alphas)).collect();
        let balance = match (self.cut, self.balance) {
            (Procedure::NiidBench, _) => Balance::Reached,
            (Procedure::Flower, true) => Balance::Above,
            (Procedure::Flower, false) => Balance::Off,
        };
        Cuts::new(sizes, &proportions, balance)
    }
}

impl Rule for Dirichlet {
    fn check(&self, clients: usize) -> Result<()> {
        self.alpha.check(clients)?;
        if self.balance && self.cut == Procedure::NiidBench {
            return Err(Error::input("cut: NiidBench always balances, and by a rule of its own")
                .with_hint("leave `balance:` out, or use `cut: Flower`"));
        }
        self.policy().check()
    }

    fn split(&self, of: &Examples<'_>, clients: usize, rng: &mut ChaCha8Rng) -> Result<Partition> {
        of.require_labels()?;
        let mut groups: Vec<Vec<usize>> = classes(of.labels).into_values().collect();
        if self.cut == Procedure::NiidBench {
            for group in &mut groups {
                shuffle::shuffle(rng, group);
            }
        }
        let sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
        let alphas = self.alpha.of_clients(clients);
        self.policy().split(&groups, clients, rng, |rng| self.draw(rng, &sizes, &alphas))
    }
}

#[cfg(test)]
mod tests {
    use super::super::By;
    use super::*;
    use crate::seed;

    fn with(alpha: f64, min: usize, on_fail: OnFail) -> Dirichlet {
        Dirichlet { min, on_fail, ..Dirichlet::new(alpha) }
    }

    fn split(rule: Dirichlet, labels: &[i32], clients: usize, seed: u64) -> Result<Partition> {
        By::Dirichlet(rule).split(&Examples::labelled(labels), clients, seed)
    }

    #[test]
    fn a_draw_that_falls_short_follows_the_policy() {
        let labels: Vec<i32> = (0..400).map(|i| i32::from(i % 2 == 0)).collect();
        let split = |alpha, min, on_fail| split(with(alpha, min, on_fail), &labels, 10, 4);

        let fault = split(0.05, 10, OnFail::Error).unwrap_err().to_string();
        assert!(fault.contains("fewer than 10 of 400 examples in one draw"), "{fault}");
        let fault = split(0.05, 10, OnFail::default()).unwrap_err().to_string();
        assert!(fault.contains("in 11 draws"), "{fault}");

        let retried = split(0.5, 10, OnFail::Retry(1000)).unwrap();
        assert!(retried.outcome.attempts > 1 && retried.outcome.moved == 0);
        assert!(retried.shards.iter().all(|shard| shard.len() >= 10));

        let filled = split(0.05, 10, OnFail::TopUp).unwrap();
        assert!(filled.outcome.moved > 0 && filled.outcome.attempts == 1);
        assert!(filled.shards.iter().all(|shard| shard.len() >= 10));
        let whole = split(0.05, 40, OnFail::TopUp).unwrap();
        assert!(whole.shards.iter().all(|shard| shard.len() == 40));

        let fault = split(1.0, 41, OnFail::TopUp).unwrap_err().to_string();
        assert!(fault.contains("400 examples cannot give 10 clients at least 41"), "{fault}");
    }

    /// SST-2's training split.
    const SST2: [usize; 2] = [29_780, 37_569];

    /// The share of `draws` draws, or runs of draws, that leave every client of SST-2 with ten examples.
    fn enough(rule: &Dirichlet, clients: usize, draws: u32) -> f64 {
        let policy = rule.policy();
        let alphas = rule.alpha.of_clients(clients);
        let mut rng = seed::rng(11, &["test"]);
        let mut enough = 0;
        for _ in 0..draws {
            let draw = |rng: &mut ChaCha8Rng| rule.draw(rng, &SST2, &alphas);
            let found = policy.draw(SST2.iter().sum(), clients, &mut rng, draw);
            enough += u32::from(found.is_ok());
        }
        f64::from(enough) / f64::from(draws)
    }

    /// The expected shares are those of 400,000 draws of `NumPy`'s generator with the same cuts.
    #[test]
    fn draws_of_sst2_fail_as_often_as_numpys() {
        for (alpha, clients, expected) in [
            (0.1, 10, 0.116_76),
            (0.3, 10, 0.868_45),
            (0.5, 10, 0.988_01),
            (0.1, 20, 0.004_18),
            (0.5, 100, 0.245_55),
        ] {
            let near = |found: f64, expected: f64, draws: u32| {
                let error = (expected * (1.0 - expected) / f64::from(draws)).sqrt();
                assert!((found - expected).abs() <= 4.0 * error, "{alpha} {clients}: {found}");
            };
            near(enough(&with(alpha, 10, OnFail::Error), clients, 4000), expected, 4000);
            // Flower's eleven draws fail all alike.
            let eleven = 1.0 - (1.0 - expected).powi(11);
            near(enough(&with(alpha, 10, OnFail::default()), clients, 1000), eleven, 1000);
        }
        let never = enough(&with(0.1, 10, OnFail::Error), 50, 4000);
        assert!(never == 0.0, "{never}");
    }

    /// The labels of SST-2's training split, in an order of their own.
    fn sst2() -> Vec<i32> {
        let mut labels = [vec![0; SST2[0]], vec![1; SST2[1]]].concat();
        shuffle::shuffle(&mut seed::rng(1, &["test"]), &mut labels);
        labels
    }

    #[test]
    fn sst2_at_a_tenth_follows_each_policy() {
        let labels = sst2();
        let (mut failed, mut moved) = (0, 0);
        for seed in 0..40 {
            let once = split(with(0.1, 10, OnFail::Error), &labels, 10, seed);
            let filled = split(with(0.1, 10, OnFail::TopUp), &labels, 10, seed).unwrap();
            // Both see the same first draw.
            assert_eq!(once.is_err(), filled.outcome.moved > 0);
            if let Ok(once) = once {
                assert_eq!(once, filled);
            } else {
                failed += 1;
            }
            moved += filled.outcome.moved;
            assert!(filled.shards.iter().all(|shard| shard.len() >= 10));
            assert!(filled.outcome.moved <= 90, "no more than nine clients lack ten");
        }
        // 35.3 of 40 on average, with a standard deviation of 2.
        assert!((28..=40).contains(&failed), "{failed}");
        assert!(moved > 0);
        let retried = split(with(0.1, 10, OnFail::Retry(1000)), &labels, 10, 2).unwrap();
        assert!(retried.outcome.attempts > 1, "{:?}", retried.outcome);
        assert!(retried.shards.iter().all(|shard| shard.len() >= 10));
        let fault = split(with(0.1, 10, OnFail::Retry(100)), &labels, 50, 2).unwrap_err();
        assert!(fault.to_string().ends_with("of 67349 examples in 101 draws"), "{fault}");
    }

    #[test]
    fn a_client_with_twice_the_alpha_gets_twice_as_much() {
        let labels = vec![0; 3000];
        let rule = Dirichlet { alpha: Alpha::Each(vec![200.0, 400.0]), ..Dirichlet::new(1.0) };
        let sizes: Vec<f64> = (0..200)
            .map(|seed| split(rule.clone(), &labels, 2, seed).unwrap().shards[0].len() as f64)
            .collect();
        // The share's variance is (1/3)(2/3) / 601, so its mean of 200 has an error of 0.00136.
        let mean = sizes.iter().sum::<f64>() / 200.0 / 3000.0;
        assert!((mean - 1.0 / 3.0).abs() < 4.0 * 0.00136 + 1.0 / 3000.0, "{mean}");
        let fault = split(rule, &labels, 3, 1).unwrap_err().to_string();
        assert!(fault.contains("a list of 2, but there are 3 clients"), "{fault}");
    }

    #[test]
    fn balance_keeps_the_largest_client_smaller() {
        let labels: Vec<i32> = (0..4000).map(|i| i % 10).collect();
        let plain = with(0.1, 1, OnFail::TopUp);
        let flower = Dirichlet { balance: true, ..plain.clone() };
        let niid = Dirichlet { cut: Procedure::NiidBench, ..plain.clone() };
        let largest = |rule: &Dirichlet| -> Vec<usize> {
            let largest = |seed| {
                let shards = split(rule.clone(), &labels, 5, seed).unwrap().shards;
                shards.iter().map(Vec::len).max().unwrap()
            };
            (0..30).map(largest).collect()
        };
        let [plain, flower, niid] = [&plain, &flower, &niid].map(largest);
        // Who has an even share of 800 gets no more, but one class of 400 may go over it; and the last
        // client takes what rounding leaves of the other classes.
        assert!(flower.iter().all(|&most| most <= 800 + 400 + 9), "{flower:?}");
        assert!(niid.iter().all(|&most| most < 800 + 400 + 9), "{niid:?}");
        assert!(plain.iter().filter(|&&most| most > 1209).count() > 10, "{plain:?}");
    }

    /// At so small an alpha one client has all of each class, and it is often the same one.
    #[test]
    fn nothing_left_of_a_draw_is_recorded() {
        let labels: Vec<i32> = (0..300).map(|i| i32::from(i >= 200)).collect();
        let rule = Dirichlet { balance: true, ..with(1e-6, 1, OnFail::TopUp) };
        let outcomes: Vec<_> = (0..60)
            .map(|seed| split(rule.clone(), &labels, 3, seed).unwrap().outcome.evened)
            .collect();
        // A third of the draws on average, with a standard deviation of 3.7 of 60.
        let evened = outcomes.iter().sum::<usize>();
        assert!((6..=34).contains(&evened), "{outcomes:?}");
    }

    #[test]
    fn niid_bench_shuffles_what_flower_cuts_in_order() {
        let labels = vec![0; 100];
        let is_run = |rule: Dirichlet| {
            let shards = split(rule, &labels, 2, 1).unwrap().shards;
            shards.iter().all(|shard| shard.windows(2).all(|pair| pair[1] == pair[0] + 1))
        };
        assert!(is_run(with(5.0, 1, OnFail::Error)));
        assert!(!is_run(Dirichlet { cut: Procedure::NiidBench, ..with(5.0, 1, OnFail::Error) }));
    }

    #[test]
    fn wrong_numbers_are_refused() {
        assert!(with(0.0, 10, OnFail::Error).check(3).is_err());
        assert!(with(1.0, 0, OnFail::Error).check(3).is_err());
        let both =
            Dirichlet { cut: Procedure::NiidBench, balance: true, ..Dirichlet::new(1.0) }.check(3);
        assert!(both.unwrap_err().to_string().contains("always balances"));
        let unlabelled = split(with(1.0, 1, OnFail::Error), &[-1; 20], 2, 1);
        assert!(unlabelled.unwrap_err().to_string().contains("without labels"));
    }
}
