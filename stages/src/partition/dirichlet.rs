//! Label skew by a Dirichlet distribution, as Flower's `DirichletPartitioner` defines it.
//!
//! For each class one draw over the clients says which share of the class each client gets; the
//! class's examples are then cut in data set order (see [`cut`]). With few classes this skews how
//! many examples a client has at least as much as which labels: see [`Skew`](super::Skew).
//!
//! Random numbers are not NumPy's, so a seed of Flower's gives another partition here.

use rand::RngExt;
use rand::distr::Open01;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma};
use serde::{Deserialize, Serialize};

use super::{Outcome, Partition, Rule, cut};
use crate::{Error, Result, shuffle};

/// Below it the shares of all clients but one are zero in every draw.
const LEAST_ALPHA: f64 = 1e-6;

/// Shares drawn from a symmetric Dirichlet distribution, one draw a class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dirichlet {
    /// The concentration: 0.1 is very uneven, 100 nearly even.
    pub alpha: f64,
    /// The least number of examples of a client, at least 1.
    #[serde(default = "ten", skip_serializing_if = "is_ten")]
    pub min: usize,
    /// What to do when a draw leaves a client with fewer.
    #[serde(default, skip_serializing_if = "OnFail::is_default")]
    pub on_fail: OnFail,
}

/// What to do when a draw leaves a client with fewer than `min` examples.
///
/// The default is Flower's: `Retry(10)`, eleven draws in all, and then an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFail {
    /// Give up.
    Error,
    /// Draw again, at most so many times, and then give up.
    Retry(u32),
    /// Move examples, drawn at random, from whichever client has the most.
    TopUp,
}

impl Default for OnFail {
    fn default() -> Self {
        Self::Retry(10)
    }
}

impl OnFail {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes fields by reference"
    )]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn ten() -> usize {
    10
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_ten(min: &usize) -> bool {
    *min == ten()
}

impl Dirichlet {
    /// With `alpha`, and the defaults for the rest.
    pub fn new(alpha: f64) -> Self {
        Self {
            alpha,
            min: ten(),
            on_fail: OnFail::default(),
        }
    }
}

impl Rule for Dirichlet {
    fn check(&self) -> Result<()> {
        let alpha = self.alpha;
        if !alpha.is_finite() || alpha < LEAST_ALPHA {
            return Err(Error::input(format!(
                "alpha is {alpha}, and must be a number from {LEAST_ALPHA} up"
            ))
            .with_hint("0.1 is very uneven, 100 nearly even; use Iid for even parts"));
        }
        if self.min == 0 {
            return Err(Error::input("min is 0, and must be at least 1")
                .with_hint("a client without examples cannot train"));
        }
        Ok(())
    }

    fn split(&self, labels: &[i32], clients: usize, rng: &mut ChaCha8Rng) -> Result<Partition> {
        if labels.contains(&crate::corpus::UNLABELLED) {
            return Err(
                Error::input("a split without labels cannot be shared out by label")
                    .with_hint("use Iid, or a split that has labels"),
            );
        }
        if clients.saturating_mul(self.min) > labels.len() {
            return Err(self.infeasible(clients, labels.len(), 0));
        }
        let mut classes: Vec<i32> = labels.to_vec();
        classes.sort_unstable();
        classes.dedup();
        let draws = match self.on_fail {
            OnFail::Error | OnFail::TopUp => 1,
            OnFail::Retry(more) => more.saturating_add(1),
        };
        for attempts in 1..=draws {
            let class = |_: &i32| draw(rng, self.alpha, clients);
            let proportions: Vec<Vec<f64>> = classes.iter().map(class).collect();
            let mut shards = cut(labels, &proportions);
            let moved = match self.on_fail {
                OnFail::TopUp => top_up(&mut shards, self.min, rng),
                OnFail::Error | OnFail::Retry(_) => 0,
            };
            if shards.iter().all(|shard| shard.len() >= self.min) {
                let outcome = Outcome { attempts, moved };
                return Ok(Partition { shards, outcome });
            }
        }
        Err(self.infeasible(clients, labels.len(), draws))
    }
}

impl Dirichlet {
    fn infeasible(&self, clients: usize, examples: usize, draws: u32) -> Error {
        let Self { alpha, min, .. } = self;
        if draws == 0 {
            return Error::input(format!(
                "{examples} examples cannot give {clients} clients at least {min} each"
            ))
            .with_hint("lower `min:` or `clients:`");
        }
        let draws = match draws {
            1 => "one draw".to_owned(),
            more => format!("{more} draws"),
        };
        Error::input(format!(
            "Dirichlet(alpha: {alpha}) left one of {clients} clients with fewer than {min} of \
             {examples} examples in {draws}"
        ))
        .with_hint("raise `alpha:`, lower `min:` or `clients:`, or set `on_fail: TopUp` or `on_fail: Retry(1000)`")
    }
}

/// One draw from the symmetric Dirichlet distribution: a share for each client, in all 1.
///
/// `alpha` is positive and finite. Shares are normalised in the logarithm: as plain numbers all the
/// Gamma variates of a small `alpha` are zero often enough, and their ratios nothing.
pub fn draw(rng: &mut ChaCha8Rng, alpha: f64, clients: usize) -> Vec<f64> {
    // Gamma(a) is distributed as Gamma(a + 1) * U^(1/a).
    let gamma = Gamma::new(alpha + 1.0, 1.0).expect("alpha is positive and finite");
    let logs: Vec<f64> = (0..clients)
        .map(|_| {
            let variate: f64 = gamma.sample(rng);
            let uniform: f64 = rng.sample(Open01);
            variate.ln() + uniform.ln() / alpha
        })
        .collect();
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|log| (log - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// Moves examples to clients that have fewer than `min`; gives how many it moved.
///
/// There are enough examples for all.
fn top_up(shards: &mut [Vec<usize>], min: usize, rng: &mut ChaCha8Rng) -> usize {
    let mut moved = 0;
    for poor in 0..shards.len() {
        while shards[poor].len() < min {
            // The first of the largest, so that the choice does not depend on the search.
            let rich = (0..shards.len()).rev().max_by_key(|&i| shards[i].len());
            let Some(rich) = rich.filter(|&i| shards[i].len() > min) else {
                return moved;
            };
            let at = shuffle::below(rng, shards[rich].len());
            let example = shards[rich].swap_remove(at);
            shards[poor].push(example);
            moved += 1;
        }
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::super::By;
    use super::*;
    use crate::seed;

    /// Mean 1/K and variance (1/K)(1 − 1/K)/(Kα + 1), within four standard errors or so.
    #[test]
    fn draws_have_the_moments_of_a_dirichlet() {
        for (alpha, clients) in [(0.1, 5), (0.5, 10), (1.0, 3), (20.0, 4)] {
            let mut rng = seed::rng(5, &["test"]);
            let draws: Vec<Vec<f64>> = (0..20_000)
                .map(|_| draw(&mut rng, alpha, clients))
                .collect();
            let count = draws.len() as f64;
            let share = 1.0 / clients as f64;
            let variance = share * (1.0 - share) / (clients as f64 * alpha + 1.0);
            for client in 0..clients {
                let mean = draws.iter().map(|row| row[client]).sum::<f64>() / count;
                let square = |row: &Vec<f64>| (row[client] - share).powi(2);
                let spread = draws.iter().map(square).sum::<f64>() / count;
                assert!(
                    (mean - share).abs() < 4.0 * (variance / count).sqrt(),
                    "{mean} {share}"
                );
                assert!(
                    (spread / variance - 1.0).abs() < 0.08,
                    "{spread} {variance}"
                );
            }
            assert!(
                draws
                    .iter()
                    .all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-12)
            );
        }
    }

    #[test]
    fn the_least_and_a_huge_alpha_are_still_shares() {
        let mut rng = seed::rng(5, &["test"]);
        for _ in 0..100 {
            let one = draw(&mut rng, LEAST_ALPHA, 8);
            assert!(
                (one.iter().copied().fold(0.0, f64::max) - 1.0).abs() < 1e-9,
                "{one:?}"
            );
            let even = draw(&mut rng, 1e12, 8);
            assert!(
                even.iter().all(|share| (share - 0.125).abs() < 1e-4),
                "{even:?}"
            );
        }
    }

    fn by(alpha: f64, min: usize, on_fail: OnFail) -> By {
        By::Dirichlet(Dirichlet {
            alpha,
            min,
            on_fail,
        })
    }

    #[test]
    fn a_draw_that_falls_short_follows_the_policy() {
        let labels: Vec<i32> = (0..400).map(|i| i32::from(i % 2 == 0)).collect();
        let split = |alpha, min, on_fail| by(alpha, min, on_fail).split(&labels, 10, 4);

        let fault = split(0.05, 10, OnFail::Error).unwrap_err().to_string();
        assert!(
            fault.contains("fewer than 10 of 400 examples in one draw"),
            "{fault}"
        );
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
        assert!(
            fault.contains("400 examples cannot give 10 clients at least 41"),
            "{fault}"
        );
    }

    #[test]
    fn wrong_numbers_are_refused() {
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-9] {
            let error = by(alpha, 10, OnFail::Error)
                .check()
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("alpha is"), "{error}");
        }
        assert!(by(1.0, 0, OnFail::Error).check().is_err());
        let unlabelled = by(1.0, 1, OnFail::Error).split(&[-1; 20], 2, 1);
        assert!(
            unlabelled
                .unwrap_err()
                .to_string()
                .contains("without labels")
        );
    }
}
