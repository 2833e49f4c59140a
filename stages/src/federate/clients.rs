//! The clients of a federation: who takes part in which round, and who does not come back.
//!
//! Every draw is named by its purpose, the round and the client, so that round 3 has the same clients however many
//! rounds there are, and one client's luck never depends on another's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tiers::Tier;
use crate::{check::Check, local_train::Optimizer, seed, seed::Draws};

/// Clients whose training takes longer than that of others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stragglers {
    /// The chance of a client to be one, in each round anew.
    pub chance: f64,
    /// What their training takes longer.
    #[serde(default = "five")]
    pub slowdown: f64,
}

fn five() -> f64 {
    5.0
}

/// Which clients there are, and which of them take part in a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// The share of all clients in a round, rounded, at least one; all of them unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// The number of clients in a round, instead of the share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_round: Option<u32>,
    /// The chance of each client to take part, by itself (Poisson sampling), instead of a share: a round may then
    /// have any number of clients, and none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub poisson: Option<f64>,
    /// The chance of a client that takes part not to come back.
    #[serde(skip_serializing_if = "is_zero")]
    pub dropout: f64,
    /// Clients that are slow for a round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stragglers: Option<Stragglers>,
    /// Seconds of the virtual clock after which the server goes on without those that are not back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<f64>,
    /// Kinds of client, each a share of all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tiers: Vec<Tier>,
    /// Settings of single clients, by their number; they go before those of a tier.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub each: BTreeMap<u32, Tier>,
    /// What holds for all clients on the virtual clock, unless their tier says otherwise: tokens in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
    /// Bytes sent in a second, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<f64>,
    /// Bytes received in a second, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downlink: Option<f64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

/// The clients of one round, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roll {
    /// Those that train and come back.
    pub present: Vec<u32>,
    /// Those that receive the adapter and never come back.
    pub lost: Vec<u32>,
}

impl Clients {
    /// How many of `all` clients a round has, as far as that is fixed: with Poisson sampling it is the mean.
    pub fn expected(&self, all: u32) -> f64 {
        match self.poisson {
            Some(chance) => chance * f64::from(all),
            None => f64::from(self.number(all)),
        }
    }

    /// The chance of one client to be in a round.
    pub fn rate(&self, all: u32) -> f64 {
        self.expected(all) / f64::from(all.max(1))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a u32 is one"
    )]
    fn number(&self, all: u32) -> u32 {
        let wanted = match (self.per_round, self.fraction) {
            (Some(number), _) => number,
            (None, Some(share)) => (share * f64::from(all)).round() as u32,
            (None, None) => all,
        };
        wanted.clamp(1, all.max(1))
    }

    /// The clients of `round` among `all`, by the seed of sampling.
    pub fn roll(&self, all: u32, round: u32, sampling: u64) -> Roll {
        let sampled = self.sampled(all, round, sampling);
        let comes_back = |&client: &u32| {
            self.dropout <= 0.0 || luck(sampling, "dropout", round, client) >= self.dropout
        };
        let (present, lost) = sampled.into_iter().partition(comes_back);
        Roll { present, lost }
    }

    fn sampled(&self, all: u32, round: u32, sampling: u64) -> Vec<u32> {
        if let Some(chance) = self.poisson {
            return (0..all).filter(|&k| luck(sampling, "poisson", round, k) < chance).collect();
        }
        let number = self.number(all);
        if number == all {
            return (0..all).collect();
        }
        let mut drawn: Vec<(u64, u32)> = (0..all)
            .map(|k| (seed::derive(sampling, &["sample", &round.to_string(), &k.to_string()]), k))
            .collect();
        drawn.sort_unstable();
        let mut clients: Vec<u32> =
            drawn.into_iter().take(number as usize).map(|(_, k)| k).collect();
        clients.sort_unstable();
        clients
    }

    /// What a client's training takes longer in a round.
    pub fn slowdown(&self, round: u32, client: u32, sampling: u64) -> f64 {
        match self.stragglers {
            Some(Stragglers { chance, slowdown })
                if luck(sampling, "straggler", round, client) < chance =>
            {
                slowdown
            }
            _ => 1.0,
        }
    }

    /// The settings of each of `all` clients: its own, then those of its tier, then those of all.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a u32 is one"
    )]
    pub fn settings(&self, all: u32, sampling: u64) -> Vec<Tier> {
        let common = Tier {
            speed: self.speed,
            uplink: self.uplink,
            downlink: self.downlink,
            ..Tier::default()
        };
        let mut settings = vec![common; all as usize];
        // Who is of which tier is drawn by client, so that another client more moves as few as can be.
        let mut order: Vec<(u64, u32)> =
            (0..all).map(|k| (seed::derive(sampling, &["tier", &k.to_string()]), k)).collect();
        order.sort_unstable();
        let (mut taken, mut share) = (0_usize, 0.0);
        for tier in &self.tiers {
            share += tier.share.unwrap_or(0.0);
            let until = ((share * f64::from(all)).round() as usize).clamp(taken, all as usize);
            for &(_, client) in &order[taken..until] {
                settings[client as usize] = tier.or(common);
            }
            taken = until;
        }
        for (&client, own) in self.each.range(..all) {
            settings[client as usize] = own.or(settings[client as usize]);
        }
        settings
    }

    /// Says what is wrong with the fields at `path`, for `all` clients if that is known.
    pub fn check(&self, path: &str, all: Option<u32>, optimizer: Optimizer, check: &mut Check<'_>) {
        let at = |field: &str| format!("{path}.{field}");
        let given = [
            ("fraction", self.fraction.is_some()),
            ("per_round", self.per_round.is_some()),
            ("poisson", self.poisson.is_some()),
        ];
        let given: Vec<&str> =
            given.iter().filter(|(_, is)| *is).map(|(field, _)| *field).collect();
        if let [_, second, ..] = given.as_slice() {
            let both = "give one of `fraction`, `per_round` and `poisson`";
            check.complain(at(second), both, None);
        }
        let share = |value: f64| value > 0.0 && value <= 1.0;
        let message = "the share of clients must be above 0 and at most 1";
        check.require(self.fraction.is_none_or(share), at("fraction"), message);
        let message = "the chance of a client must be above 0 and at most 1";
        check.require(self.poisson.is_none_or(share), at("poisson"), message);
        let chance = |value: f64| (0.0..1.0).contains(&value);
        let message = "the chance not to come back is at least 0 and below 1";
        check.require(chance(self.dropout), at("dropout"), message);
        if let Some(Stragglers { chance, slowdown }) = self.stragglers {
            let message = "the chance to be slow is at least 0 and at most 1";
            check.require((0.0..=1.0).contains(&chance), at("stragglers.chance"), message);
            let fine = slowdown.is_finite() && slowdown >= 1.0;
            check.require(fine, at("stragglers.slowdown"), "a straggler takes at least as long");
        }
        if let Some(deadline) = self.deadline {
            let fine = deadline.is_finite() && deadline > 0.0;
            check.require(fine, at("deadline"), "a deadline is a number of seconds above 0");
        }
        self.check_tiers(path, all, optimizer, check);
        let Some(all) = all else { return };
        let number = self.per_round.is_none_or(|n| n > 0 && n <= all);
        let message =
            format!("the clients of a round must be between 1 and {all}, the number of shards");
        check.require(number, at("per_round"), message);
    }

    fn check_tiers(
        &self,
        path: &str,
        all: Option<u32>,
        optimizer: Optimizer,
        check: &mut Check<'_>,
    ) {
        let at = |field: &str| format!("{path}.{field}");
        let common = Tier {
            speed: self.speed,
            uplink: self.uplink,
            downlink: self.downlink,
            ..Tier::default()
        };
        common.check(path, optimizer, check);
        for (number, tier) in self.tiers.iter().enumerate() {
            let here = at(&format!("tiers.{number}"));
            tier.check(&here, optimizer, check);
            let fine = tier.share.is_some_and(|share| share > 0.0 && share <= 1.0);
            let message = "a tier has a share of the clients, above 0 and at most 1";
            check.require(fine, format!("{here}.share"), message);
        }
        let sum: f64 = self.tiers.iter().filter_map(|tier| tier.share).sum();
        check.require(
            sum <= 1.0 + 1e-9,
            at("tiers"),
            "the shares of the tiers come to more than 1",
        );
        for (client, own) in &self.each {
            let here = at(&format!("each.{client}"));
            own.check(&here, optimizer, check);
            let message = "one client has no share";
            check.require(own.share.is_none(), format!("{here}.share"), message);
            let there = all.is_none_or(|all| *client < all);
            let message = format!(
                "there is no client {client}: they are counted from 0 to {}",
                all.unwrap_or(1).saturating_sub(1)
            );
            check.require(there, at("each"), message);
        }
        let timed = |tier: &Tier| tier.pace(1.0).is_timed();
        let is_timed =
            timed(&common) || self.tiers.iter().any(timed) || self.each.values().any(timed);
        let message = "there is no virtual clock without `speed`, `uplink` or `downlink`";
        check.require(self.deadline.is_none() || is_timed, at("deadline"), message);
        check.require(self.stragglers.is_none() || is_timed, at("stragglers"), message);
    }
}

/// A number in `[0, 1)` for one client in one round.
fn luck(sampling: u64, purpose: &str, round: u32, client: u32) -> f64 {
    Draws::named(sampling, purpose, &[&round.to_string(), &client.to_string()]).unit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_the_clients_that_were_asked_for() {
        let all = Clients::default();
        assert_eq!(all.roll(4, 1, 9), Roll { present: vec![0, 1, 2, 3], lost: vec![] });
        let some = Clients { per_round: Some(3), ..Clients::default() };
        for round in 1..20 {
            let roll = some.roll(10, round, 9);
            assert!(roll.present.len() == 3 && roll.present.is_sorted() && roll.lost.is_empty());
            assert_eq!(roll, some.roll(10, round, 9));
        }
        let met: std::collections::BTreeSet<u32> =
            (1..20).flat_map(|round| some.roll(10, round, 9).present).collect();
        assert_eq!(met.len(), 10, "everybody is drawn sooner or later");
    }

    /// The number of clients over many rounds is that of a binomial, within four standard errors.
    #[test]
    fn poisson_sampling_and_dropout_are_by_chance_alone() {
        let rounds = 2000;
        let near = |count: usize, chance: f64| {
            let (all, mean) = (f64::from(rounds) * 20.0, f64::from(rounds) * 20.0 * chance);
            assert!((count as f64 - mean).abs() < 4.0 * (all * chance * (1.0 - chance)).sqrt());
        };
        let poisson = Clients { poisson: Some(0.2), ..Clients::default() };
        let sizes: Vec<usize> =
            (1..=rounds).map(|round| poisson.roll(20, round, 3).present.len()).collect();
        near(sizes.iter().sum(), 0.2);
        assert!(sizes.contains(&0) && sizes.iter().any(|&size| size > 8));
        let lossy = Clients { dropout: 0.1, ..Clients::default() };
        near((1..=rounds).map(|round| lossy.roll(20, round, 3).lost.len()).sum(), 0.1);
        let slow = Clients {
            stragglers: Some(Stragglers { chance: 0.3, slowdown: 5.0 }),
            ..Clients::default()
        };
        let is_slow = |round, k| slow.slowdown(round, k, 3) > 1.0;
        let count = (1..=rounds).flat_map(|round| (0..20).map(move |k| (round, k)));
        near(count.filter(|&(round, k)| is_slow(round, k)).count(), 0.3);
    }

    #[test]
    fn tiers_are_shares_of_the_clients_and_single_clients_go_first() {
        let rank = |share, rank| Tier { share, rank: Some(rank), ..Tier::default() };
        let clients = Clients {
            tiers: vec![rank(Some(0.3), 4), rank(Some(0.2), 2)],
            each: [(7, rank(None, 1))].into(),
            speed: Some(10.0),
            ..Clients::default()
        };
        let settings = clients.settings(10, 5);
        let count = |rank| settings.iter().filter(|tier| tier.rank == rank).count();
        assert_eq!(settings[7].rank, Some(1));
        assert_eq!(count(Some(4)) + count(Some(2)) + count(None) + 1, 10);
        assert!((2..=3).contains(&count(Some(4))) && (1..=2).contains(&count(Some(2))));
        assert!(settings.iter().all(|tier| tier.speed == Some(10.0)));
        assert_eq!(settings, clients.settings(10, 5));
    }
}
