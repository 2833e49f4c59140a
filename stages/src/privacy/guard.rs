//! What a graph asks for, and what it comes to in a round.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Accountant, Conversion, Sampling, add_noise, clip};
use crate::seed;

/// Who adds the noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Where {
    /// The server, once, to the mean: it is trusted with the clients' updates.
    #[default]
    Central,
    /// Each client, to what it sends.
    Local,
}

/// Differential privacy of clients, as a graph writes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    /// C, the bound on the norm of what a client sends; none, or `inf`, is no bound.
    #[serde(default, deserialize_with = "finite", skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// z, the deviation of the noise as a multiple of C.
    pub noise: f64,
    /// The δ that ε is told for.
    #[serde(default = "delta")]
    pub delta: f64,
    /// Who adds the noise.
    #[serde(default)]
    pub at: Where,
}

fn delta() -> f64 {
    1e-5
}

/// An infinite bound is none.
fn finite<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    let bound = Option::<f64>::deserialize(from)?;
    Ok(bound.filter(|bound| *bound != f64::INFINITY))
}

impl Privacy {
    /// What is wrong with the numbers: the field, and a sentence.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if !self.clip.is_none_or(|bound| bound.is_finite() && bound > 0.0) {
            return Err(("clip", "the bound on the norm of an update must be above 0"));
        }
        if !(self.noise.is_finite() && self.noise >= 0.0) {
            return Err(("noise", "the noise is a multiple of `clip` that is not below 0"));
        }
        if self.noise > 0.0 && self.clip.is_none() {
            return Err(("clip", "noise without a bound hides nothing: give `clip`"));
        }
        if !(self.delta > 0.0 && self.delta < 1.0) {
            return Err(("delta", "δ must lie between 0 and 1"));
        }
        Ok(())
    }
}

/// Privacy in one round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Guard {
    /// What was asked for.
    pub privacy: Privacy,
    /// q, the chance of a client to take part in a round.
    pub rate: f64,
    /// K, the number of clients that a mean is taken over, fixed before they are drawn.
    pub expected: f64,
    /// Whether each client takes part by a draw of its own.
    pub poisson: bool,
    /// Seed of the noise.
    pub seed: u64,
}

/// What has been spent after a round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// ε of all rounds so far; none without noise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f64>,
    /// δ.
    pub delta: f64,
    /// The order of the divergence that gave ε.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<u32>,
    /// What ε means.
    pub assumes: String,
}

impl Guard {
    /// What a client sends: its update from `received` clipped, and noised if it does that itself. Where nothing has to
    /// be done the bits stay.
    #[must_use]
    pub fn protect(&self, values: Vec<f32>, received: &[f32], round: u32, client: u32) -> Vec<f32> {
        let Privacy { clip: bound, noise, at, .. } = self.privacy;
        let sigma = match at {
            Where::Local => noise * bound.unwrap_or(0.0),
            Where::Central => 0.0,
        };
        let update: Vec<f32> = values.iter().zip(received).map(|(new, old)| new - old).collect();
        let mut protected = update.clone();
        clip(&mut protected, bound);
        let (round, client) = (round.to_string(), client.to_string());
        add_noise(&mut protected, sigma, self.seed, &["round", &round, "client", &client]);
        if protected == update {
            return values;
        }
        protected.iter().zip(received).map(|(update, old)| old + update).collect()
    }

    /// What was decoded, clipped once more where the server is the one to bound it.
    #[must_use]
    pub fn bounded(&self, values: Vec<f32>, received: &[f32]) -> Vec<f32> {
        let Privacy { clip: bound, at, .. } = self.privacy;
        if at == Where::Local {
            return values;
        }
        let mut update: Vec<f32> =
            values.iter().zip(received).map(|(new, old)| new - old).collect();
        if bound.is_none_or(|bound| clip(&mut update, Some(bound)) <= bound) {
            return values;
        }
        update.iter().zip(received).map(|(update, old)| old + update).collect()
    }

    /// Whether the server must do something to the mean over `present` clients: add noise, or take it over the fixed
    /// number of clients that a bound is for.
    pub fn acts_on_mean(&self, present: usize) -> bool {
        let Privacy { clip, noise, at, .. } = self.privacy;
        #[expect(clippy::float_cmp, reason = "the very number of clients, or another")]
        let other = present as f64 != self.expected;
        at == Where::Central && (noise > 0.0 || (clip.is_some() && other))
    }

    /// What the server goes on with instead of `mean`, taken over `present` clients that had `received`: the sum of
    /// the updates over the fixed K, with noise of deviation z·C/K.
    #[must_use]
    pub fn release(&self, mean: &[f32], received: &[f32], present: usize, round: u32) -> Vec<f32> {
        let share = present as f64 / self.expected;
        let mut update: Vec<f32> = mean
            .iter()
            .zip(received)
            .map(|(new, old)| narrow((f64::from(*new) - f64::from(*old)) * share))
            .collect();
        let sigma = self.privacy.noise * self.privacy.clip.unwrap_or(0.0) / self.expected;
        add_noise(&mut update, sigma, self.seed, &["round", &round.to_string()]);
        update.iter().zip(received).map(|(update, old)| old + update).collect()
    }

    /// What the rounds up to `round` have spent.
    pub fn spent(&self, round: u32) -> Statement {
        let Privacy { noise, delta, at, .. } = self.privacy;
        let (rate, multiplier, assumes) = match at {
            Where::Central => {
                let sampling = if self.poisson {
                    Sampling::Poisson
                } else if self.rate >= 1.0 {
                    Sampling::Everyone
                } else {
                    Sampling::FixedSize
                };
                (self.rate, noise, sampling.to_string())
            }
            Where::Local => (
                1.0,
                noise / 2.0,
                "ε holds for another update in one client's place, against the server, for a client that took part in \
                 every round"
                    .to_owned(),
            ),
        };
        let mut accountant = Accountant::new();
        let spent = accountant
            .compose(rate, multiplier, round)
            .and_then(|()| accountant.spent(delta, Conversion::CanonneKamathSteinke))
            .ok();
        Statement {
            epsilon: spent.map(|spent| spent.epsilon).filter(|epsilon| epsilon.is_finite()),
            delta,
            order: spent.map(|spent| spent.order),
            assumes,
        }
    }
}

impl Privacy {
    /// Privacy in a round of a federation whose clients take part at `rate`, `expected` of them.
    pub fn guard(self, rate: f64, expected: f64, poisson: bool, noise_seed: u64) -> Guard {
        let seed = seed::derive(noise_seed, &["privacy"]);
        Guard { privacy: self, rate, expected, poisson, seed }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "updates are f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(privacy: Privacy) -> Guard {
        privacy.guard(1.0, 2.0, false, 7)
    }

    fn of(clip: Option<f64>, noise: f64, at: Where) -> Privacy {
        Privacy { clip, noise, delta: 1e-5, at }
    }

    #[test]
    fn nothing_to_do_leaves_the_bits() {
        let (values, received) = (vec![0.1_f32, 0.3, -0.7], [0.3_f32, 0.1, 1e-9]);
        for at in [Where::Central, Where::Local] {
            let open = guard(of(None, 0.0, at));
            assert_eq!(open.protect(values.clone(), &received, 1, 0), values);
            assert!(!open.acts_on_mean(2));
        }
        let wide = guard(of(Some(9.0), 0.0, Where::Central));
        assert_eq!(wide.protect(values.clone(), &received, 1, 0), values);
    }

    #[test]
    fn an_update_is_clipped_and_noise_is_where_it_was_asked_for() {
        let clipped = guard(of(Some(1.0), 0.5, Where::Central));
        assert_eq!(clipped.protect(vec![4.0, 4.0], &[1.0, 0.0], 1, 0), [1.6, 0.8]);
        assert!(clipped.acts_on_mean(2));
        let released = |round| clipped.release(&[1.6, 0.8], &[1.0, 0.0], 2, round);
        assert_ne!(released(1), released(2));
        assert_ne!(released(1), [1.6, 0.8]);
        let local = guard(of(Some(1.0), 0.5, Where::Local));
        let sent = |client| local.protect(vec![4.0, 4.0], &[1.0, 0.0], 1, client);
        assert_ne!(sent(0), sent(1));
        assert!(!local.acts_on_mean(2));
        // Half of the clients are missing: their updates count as nothing.
        let bounded = guard(of(Some(9.0), 0.0, Where::Central));
        assert!(bounded.acts_on_mean(1) && !guard(of(None, 0.0, Where::Central)).acts_on_mean(1));
        assert_eq!(bounded.bounded(vec![4.0, 0.0], &[1.0, 0.0]), [4.0, 0.0]);
        assert_eq!(clipped.bounded(vec![4.0, 0.0], &[1.0, 0.0]), [2.0, 0.0]);
        assert_eq!(bounded.release(&[3.0, 2.0], &[1.0, 0.0], 1, 1), [2.0, 1.0]);
    }

    #[test]
    fn epsilon_grows_by_round_and_says_what_it_means() {
        // The golden value: q 1, z 4, 20 rounds, δ 1e-5.
        let all = guard(of(Some(1.0), 4.0, Where::Central));
        assert!((all.spent(20).epsilon.unwrap() - 5.3777).abs() < 1e-4);
        assert!(all.spent(1).epsilon < all.spent(2).epsilon);
        assert!(all.spent(1).assumes.contains("all of them take part"));
        assert_eq!(guard(of(Some(1.0), 0.0, Where::Central)).spent(3).epsilon, None);
        // A local release is one of twice the sensitivity, by every client.
        let local = guard(of(Some(1.0), 8.0, Where::Local));
        assert!((local.spent(20).epsilon.unwrap() - 5.3777).abs() < 1e-4);
        let fixed = of(Some(1.0), 1.0, Where::Central).guard(0.1, 2.0, false, 7);
        assert!(fixed.spent(1).assumes.contains("no guarantee"));
    }
}
