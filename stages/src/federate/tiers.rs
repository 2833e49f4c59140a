//! Kinds of client: what sets some clients apart from the others.

use serde::{Deserialize, Serialize};

use super::clock::Pace;
use crate::{
    check::Check,
    local_train::{LocalNumbers, MOST_BATCH, Optimizer},
    model::LoraConfig,
};

/// What some clients have otherwise; what is not set is as for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tier {
    /// The share of all clients that are of this kind; drawn by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// The rank of their adapters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
    /// The alpha that goes with that rank; the one that keeps the scale of all unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// Passes over the shard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// Optimiser steps, instead of `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Examples in a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// The learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Tokens that they train on in a second of the virtual clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
    /// Bytes that they send in a second of the virtual clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uplink: Option<f64>,
    /// Bytes that they receive in a second of the virtual clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downlink: Option<f64>,
}

/// Rank and alpha of one client's adapter, where they are not those of all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnLora {
    /// The rank of modules that no pattern gives another.
    pub rank: usize,
    /// Its alpha.
    pub alpha: f64,
}

impl OwnLora {
    /// The settings of an adapter that are otherwise `lora`. With the alpha that keeps the scale, alphas of single
    /// modules follow the rank, too.
    pub fn of(self, lora: &LoraConfig) -> LoraConfig {
        LoraConfig { alpha: self.alpha, ..lora.of_other_rank(self.rank) }
    }
}

impl Tier {
    /// These settings, and where they leave one open that of `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        // Rank and alpha are one choice, and so are epochs and steps.
        let (rank, alpha) = match (self.rank, self.alpha) {
            (None, None) => (other.rank, other.alpha),
            (rank, alpha) => (rank.or(other.rank), alpha),
        };
        let (epochs, steps) = match (self.epochs, self.steps) {
            (None, None) => (other.epochs, other.steps),
            own => own,
        };
        Self {
            share: self.share,
            rank,
            alpha,
            epochs,
            steps,
            batch: self.batch.or(other.batch),
            lr: self.lr.or(other.lr),
            speed: self.speed.or(other.speed),
            uplink: self.uplink.or(other.uplink),
            downlink: self.downlink.or(other.downlink),
        }
    }

    /// The numbers of local training that are otherwise `numbers`.
    pub fn numbers(&self, numbers: LocalNumbers) -> LocalNumbers {
        let (epochs, steps) = match (self.epochs, self.steps) {
            (None, None) => (numbers.epochs, numbers.steps),
            (_, Some(steps)) => (None, Some(steps)),
            (epochs, None) => (epochs, None),
        };
        let optimizer = match self.lr {
            Some(lr) => numbers.optimizer.with_lr(lr),
            None => numbers.optimizer,
        };
        LocalNumbers {
            epochs,
            steps,
            batch: self.batch.unwrap_or(numbers.batch),
            optimizer,
            ..numbers
        }
    }

    /// Rank and alpha, unless they are those of `lora`.
    pub fn own_lora(&self, lora: &LoraConfig) -> Option<OwnLora> {
        let rank = self.rank.unwrap_or(lora.rank);
        let alpha = self.alpha.unwrap_or_else(|| lora.alpha_for(rank));
        #[expect(clippy::float_cmp, reason = "the very number that was copied")]
        let same = rank == lora.rank && alpha == lora.alpha;
        (!same).then_some(OwnLora { rank, alpha })
    }

    /// How fast they are.
    pub fn pace(&self, slowdown: f64) -> Pace {
        Pace { speed: self.speed, uplink: self.uplink, downlink: self.downlink, slowdown }
    }

    /// Says what is wrong with the settings at `path`.
    pub fn check(&self, path: &str, optimizer: Optimizer, check: &mut Check<'_>) {
        let at = |field: &str| format!("{path}.{field}");
        check.require(self.rank != Some(0), at("rank"), "a rank is at least 1");
        check.require(self.batch != Some(0), at("batch"), "a batch must hold at least one example");
        let fine = self.batch.is_none_or(|batch| batch <= MOST_BATCH);
        check.require(fine, at("batch"), format!("it is at most {MOST_BATCH}"));
        check.require(
            self.epochs != Some(0),
            at("epochs"),
            "a client must train for at least one epoch",
        );
        check.require(
            self.steps != Some(0),
            at("steps"),
            "a client must train for at least one step",
        );
        if self.epochs.is_some() && self.steps.is_some() {
            check.complain(at("steps"), "give `epochs` or `steps`, not both", None);
        }
        if let Some(lr) = self.lr
            && let Err(wrong) = optimizer.with_lr(lr).check()
        {
            check.complain(at("lr"), wrong.to_string(), None);
        }
        for (field, value, what) in [
            ("alpha", self.alpha, "alpha"),
            ("speed", self.speed, "tokens in a second"),
            ("uplink", self.uplink, "bytes in a second"),
            ("downlink", self.downlink, "bytes in a second"),
        ] {
            let fine = value.is_none_or(|value| value.is_finite() && value > 0.0);
            check.require(fine, at(field), format!("{what} must be a number above 0"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_of_its_own_keeps_the_scale_unless_told_otherwise() {
        let lora = LoraConfig { alpha: 16.0, ..LoraConfig::of_rank(8) };
        let own = |tier: Tier, lora: &LoraConfig| tier.own_lora(lora);
        let rank = |rank| Tier { rank: Some(rank), ..Tier::default() };
        assert_eq!(own(rank(8), &lora), None);
        assert_eq!(own(rank(4), &lora), Some(OwnLora { rank: 4, alpha: 8.0 }));
        let rslora = LoraConfig { rslora: true, ..lora.clone() };
        assert_eq!(own(rank(2), &rslora), Some(OwnLora { rank: 2, alpha: 8.0 }));
        let given = Tier { alpha: Some(16.0), ..rank(4) };
        assert_eq!(own(given, &lora), Some(OwnLora { rank: 4, alpha: 16.0 }));
    }

    #[test]
    fn what_is_open_is_filled_in() {
        let all = Tier { epochs: Some(3), speed: Some(5.0), rank: Some(4), ..Tier::default() };
        let own = Tier { steps: Some(7), alpha: Some(2.0), ..Tier::default() };
        let both = own.or(all);
        assert_eq!((both.epochs, both.steps, both.speed), (None, Some(7), Some(5.0)));
        assert_eq!((both.rank, both.alpha), (Some(4), Some(2.0)));
        assert_eq!(Tier::default().or(all), all);
    }
}
