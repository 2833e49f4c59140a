//! What rounds of noisy means cost: the Rényi differential privacy of the subsampled Gaussian mechanism.
//!
//! Neighbours differ by adding or removing one client. In each round every client takes part by a draw of its own with
//! probability q (Poisson sampling), updates have norm at most C, and the noise on their sum has deviation z·C. Another
//! sampling has another bound: see [`Sampling`](super::Sampling).

use super::{PrivacyError, positive, probability};

/// The highest of the integer orders; the lowest is 2. Between integers ε may be a little smaller, so what comes out is
/// an upper bound.
const HIGHEST: u32 = 256;

/// From Rényi divergences to (ε, δ).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// Canonne, Kamath and Steinke 2020 (arXiv:2004.00010), proposition 12: the tighter one.
    CanonneKamathSteinke,
    /// Mironov 2017 (arXiv:1702.07476), proposition 3: what older figures were made with.
    Mironov,
}

/// What was spent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spent {
    /// ε.
    pub epsilon: f64,
    /// The order that gave it. At either end of 2..=256 a wider range might give less.
    pub order: u32,
}

/// Adds up rounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Accountant {
    /// The divergence of all rounds so far at each order, 2 first.
    divergences: Vec<f64>,
    /// `ln k!` for k = 0 to 256.
    factorials: Vec<f64>,
}

impl Default for Accountant {
    fn default() -> Self {
        Self::new()
    }
}

impl Accountant {
    /// No round yet.
    pub fn new() -> Self {
        let mut factorials = vec![0.0];
        let mut sum = 0.0;
        for k in 1..=HIGHEST {
            sum += f64::from(k).ln();
            factorials.push(sum);
        }
        Self { divergences: vec![0.0; HIGHEST as usize - 1], factorials }
    }

    /// Adds `rounds` rounds at the sampling rate `rate` (q, 1 for all clients) and the noise multiplier `multiplier` (z).
    /// Divergences add up, so rounds with other numbers may follow.
    ///
    /// # Errors
    /// The rate does not lie in [0, 1], or the multiplier is not above 0.
    pub fn compose(&mut self, rate: f64, multiplier: f64, rounds: u32) -> Result<(), PrivacyError> {
        if !(0.0..=1.0).contains(&rate) {
            let expected = "it must lie between 0 and 1";
            return Err(PrivacyError { field: "rate", value: rate, expected });
        }
        positive("multiplier", multiplier)?;
        for order in 2..=HIGHEST {
            let one = self.divergence(rate, multiplier, order);
            self.divergences[order as usize - 2] += f64::from(rounds) * one;
        }
        Ok(())
    }

    /// The divergence of one round at an integer order: Mironov, Talwar and Zhang 2019 (arXiv:1908.10530), section 3.3,
    /// `1/(α−1) · ln Σ_k C(α,k) (1−q)^(α−k) q^k exp((k²−k)/(2z²))`.
    fn divergence(&self, rate: f64, multiplier: f64, order: u32) -> f64 {
        let variance = multiplier.powi(2);
        if rate == 0.0 {
            return 0.0;
        }
        if rate >= 1.0 {
            return f64::from(order) / (2.0 * variance);
        }
        let (log_in, log_out) = (rate.ln(), (-rate).ln_1p());
        let ln_factorial = |k: u32| self.factorials[k as usize];
        let terms: Vec<f64> = (0..=order)
            .map(|k| {
                let choose = ln_factorial(order) - ln_factorial(k) - ln_factorial(order - k);
                let (k, rest) = (f64::from(k), f64::from(order - k));
                choose + k * log_in + rest * log_out + (k * k - k) / (2.0 * variance)
            })
            .collect();
        log_sum(&terms) / f64::from(order - 1)
    }

    /// The ε of all rounds so far, least over the orders.
    ///
    /// # Errors
    /// δ does not lie between 0 and 1.
    pub fn spent(&self, delta: f64, conversion: Conversion) -> Result<Spent, PrivacyError> {
        probability("delta", delta)?;
        let mut least = Spent { epsilon: f64::INFINITY, order: 2 };
        for (order, divergence) in (2..).zip(&self.divergences) {
            let alpha = f64::from(order);
            let added = match conversion {
                Conversion::CanonneKamathSteinke => {
                    (-1.0 / alpha).ln_1p() - (delta.ln() + alpha.ln()) / (alpha - 1.0)
                }
                Conversion::Mironov => -delta.ln() / (alpha - 1.0),
            };
            let epsilon = (divergence + added).max(0.0);
            if epsilon < least.epsilon {
                least = Spent { epsilon, order };
            }
        }
        Ok(least)
    }
}

/// `ln Σ exp(term)`, however large the terms are.
fn log_sum(terms: &[f64]) -> f64 {
    let most = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + terms.iter().map(|term| (term - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// For each conversion ε and its order.
    type Golden = BTreeMap<String, BTreeMap<String, (f64, u32)>>;

    const MNIST: f64 = 256.0 / 60_000.0;

    /// What each name stands for: q, z, T, δ.
    const RECORDED: [(&str, f64, f64, u32, f64); 6] = [
        ("q=0.00426667 z=1.1 T=14062 delta=1e-05", MNIST, 1.1, 14_062, 1e-5),
        ("q=0.1 z=1.0 T=15 delta=1e-05", 0.1, 1.0, 15, 1e-5),
        ("q=0.1 z=1.0 T=100 delta=1e-05", 0.1, 1.0, 100, 1e-5),
        ("q=1 z=1.0 T=10 delta=1e-05", 1.0, 1.0, 10, 1e-5),
        ("q=1 z=4.0 T=20 delta=1e-05", 1.0, 4.0, 20, 1e-5),
        ("q=0.01 z=1.0 T=1000 delta=1e-06", 0.01, 1.0, 1000, 1e-6),
    ];

    fn after(rate: f64, multiplier: f64, rounds: u32) -> Accountant {
        let mut accountant = Accountant::new();
        accountant.compose(rate, multiplier, rounds).unwrap();
        accountant
    }

    fn both(rate: f64, multiplier: f64, rounds: u32, delta: f64) -> [Spent; 2] {
        let accountant = after(rate, multiplier, rounds);
        [Conversion::CanonneKamathSteinke, Conversion::Mironov]
            .map(|conversion| accountant.spent(delta, conversion).unwrap())
    }

    #[test]
    fn every_recorded_epsilon_is_met() {
        let text = include_str!("../../../tests/data/privacy/rdp.json");
        let golden: Golden = serde_json::from_str(text).unwrap();
        assert_eq!(golden.len(), RECORDED.len());
        for (name, rate, multiplier, rounds, delta) in RECORDED {
            let found = both(rate, multiplier, rounds, delta);
            for (conversion, found) in ["ckS20", "mironov17"].into_iter().zip(found) {
                let (epsilon, order) = golden[name][conversion];
                let apart = (found.epsilon / epsilon - 1.0).abs();
                assert!(apart < 1e-9, "{name}, {conversion}: {found:?}, {apart:e}");
                assert_eq!(found.order, order, "{name}, {conversion}");
            }
        }
    }

    #[test]
    fn published_figures_come_out() {
        let figures = [
            ((MNIST, 1.1, 14_062, 1e-5), [2.5970, 3.0091]),
            ((0.1, 1.0, 15, 1e-5), [3.9680, 4.7177]),
            ((0.1, 1.0, 100, 1e-5), [7.9729, 8.9277]),
            ((1.0, 4.0, 20, 1e-5), [5.3777, 6.0032]),
            ((0.01, 1.0, 1000, 1e-6), [2.4367, 2.8673]),
        ];
        for ((rate, multiplier, rounds, delta), expected) in figures {
            for (found, expected) in both(rate, multiplier, rounds, delta).iter().zip(expected) {
                assert!(
                    (found.epsilon - expected).abs() < 5.1e-5,
                    "{rate} {multiplier}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn rounds_add_up_and_the_rate_of_all_is_the_limit() {
        let mut parts = after(0.1, 1.0, 10);
        parts.compose(0.1, 1.0, 5).unwrap();
        let epsilon = |accountant: &Accountant| {
            accountant.spent(1e-5, Conversion::CanonneKamathSteinke).unwrap().epsilon
        };
        assert!((epsilon(&parts) / epsilon(&after(0.1, 1.0, 15)) - 1.0).abs() < 1e-14);
        let limit = epsilon(&after(1.0, 2.0, 10));
        let near = epsilon(&after(1.0 - 1e-12, 2.0, 10));
        assert!((near / limit - 1.0).abs() < 1e-9, "{near} {limit}");
        assert!(epsilon(&after(0.5, 2.0, 10)) < limit);
        assert!(epsilon(&after(0.5, 3.0, 10)) < epsilon(&after(0.5, 2.0, 10)));
        assert_eq!(after(0.0, 1.0, 10), Accountant::new());
    }

    #[test]
    fn logarithms_of_factorials_are_exact_enough() {
        // ln 20! of the exact integer, and ln 256! by Stirling's series (its next term is below 1e-19).
        let factorials = Accountant::new().factorials;
        assert!((factorials[20] / 2_432_902_008_176_640_000_f64.ln() - 1.0).abs() < 1e-15);
        let n = 256.0_f64;
        let stirling = n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + 1.0 / (12.0 * n)
            - 1.0 / (360.0 * n.powi(3))
            + 1.0 / (1260.0 * n.powi(5));
        assert!((factorials[256] / stirling - 1.0).abs() < 1e-14, "{}", factorials[256]);
        // 1 = (1−q + q)^α: the sum of the binomial terms alone.
        let terms: Vec<f64> = (0..=256_u32)
            .map(|k| factorials[256] - factorials[k as usize] - factorials[256 - k as usize])
            .map(|choose| choose - 256.0 * 2.0_f64.ln())
            .collect();
        assert!(log_sum(&terms).abs() < 1e-12, "{}", log_sum(&terms));
    }

    #[test]
    fn numbers_outside_their_range_are_named() {
        let mut accountant = Accountant::new();
        let field = |result: Result<(), PrivacyError>| result.unwrap_err().field;
        assert_eq!(field(accountant.compose(1.5, 1.0, 1)), "rate");
        assert_eq!(field(accountant.compose(f64::NAN, 1.0, 1)), "rate");
        assert_eq!(field(accountant.compose(0.5, 0.0, 1)), "multiplier");
        assert_eq!(accountant.spent(0.0, Conversion::Mironov).unwrap_err().field, "delta");
        assert_eq!(accountant, Accountant::new(), "what was refused is not counted");
    }
}
