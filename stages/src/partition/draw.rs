//! Shares drawn from a Dirichlet distribution.
//!
//! Random numbers are not `NumPy`'s, so a seed of Flower's gives other shares here.

use rand::RngExt;
use rand::distr::Open01;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Gamma};

/// One draw from the Dirichlet distribution with these concentrations: as many shares, in all 1.
///
/// The concentrations are positive and finite. Shares are normalised in the logarithm: as plain
/// numbers all the Gamma variates of small ones are zero often enough, and their ratios nothing.
#[expect(
    clippy::missing_panics_doc,
    reason = "the Gamma distribution takes every positive finite shape"
)]
pub fn draw(rng: &mut ChaCha8Rng, alphas: &[f64]) -> Vec<f64> {
    let logs: Vec<f64> = alphas
        .iter()
        .map(|&alpha| {
            // Gamma(a) is distributed as Gamma(a + 1) * U^(1/a).
            let gamma = Gamma::new(alpha + 1.0, 1.0).expect("alpha is positive and finite");
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

#[cfg(test)]
mod tests {
    use super::super::alpha::LEAST_ALPHA;
    use super::*;
    use crate::seed;

    /// With `a` the sum of all: mean `a_i / a` and variance `mean (1 - mean) / (a + 1)`, which are
    /// 1/K and (1/K)(1 − 1/K)/(Kα + 1) where all are alike; within four standard errors or so.
    #[test]
    fn draws_have_the_moments_of_a_dirichlet() {
        let even = [(0.1, 5), (0.5, 10), (1.0, 3), (20.0, 4)].map(|(alpha, n)| vec![alpha; n]);
        let uneven = vec![0.2, 1.0, 4.0];
        for alphas in even.into_iter().chain([uneven]) {
            let mut rng = seed::rng(5, &["test"]);
            let draws: Vec<Vec<f64>> = (0..20_000).map(|_| draw(&mut rng, &alphas)).collect();
            let count = draws.len() as f64;
            let all: f64 = alphas.iter().sum();
            for (i, alpha) in alphas.iter().enumerate() {
                let share = alpha / all;
                let variance = share * (1.0 - share) / (all + 1.0);
                let mean = draws.iter().map(|row| row[i]).sum::<f64>() / count;
                let square = |row: &Vec<f64>| (row[i] - share).powi(2);
                let spread = draws.iter().map(square).sum::<f64>() / count;
                assert!((mean - share).abs() < 4.0 * (variance / count).sqrt(), "{mean} {share}");
                assert!((spread / variance - 1.0).abs() < 0.08, "{spread} {variance}");
            }
            assert!(draws.iter().all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-12));
        }
    }

    #[test]
    fn the_least_and_a_huge_alpha_are_still_shares() {
        let mut rng = seed::rng(5, &["test"]);
        for _ in 0..100 {
            let one = draw(&mut rng, &[LEAST_ALPHA; 8]);
            assert!((one.iter().copied().fold(0.0, f64::max) - 1.0).abs() < 1e-9, "{one:?}");
            let even = draw(&mut rng, &[1e12; 8]);
            assert!(even.iter().all(|share| (share - 0.125).abs() < 1e-4), "{even:?}");
        }
    }
}
