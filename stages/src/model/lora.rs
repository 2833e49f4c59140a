//! What a user says of a LoRA adapter, and whether a base can take it.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::config::Config;

/// Why a base cannot take an adapter.
#[derive(Debug, Error, PartialEq)]
pub enum LoraError {
    /// A number lies outside its range.
    #[error("`{field}` is {value}; {expected}")]
    Range {
        /// The field's name.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// A target does not exist in the base.
    #[error("the base has no module `{target}`{}; its modules are {}", hint(nearest.as_deref()), known.join(", "))]
    Target {
        /// The unknown target.
        target: String,
        /// The most similar target that exists.
        nearest: Option<String>,
        /// All targets that exist.
        known: Vec<&'static str>,
    },
    /// No target, or one twice.
    #[error("`targets` {0}")]
    Targets(String),
    /// More blocks than the base has.
    #[error("`layers: Last({last})` does not fit a base of {layers} blocks")]
    Layers {
        /// The number of blocks asked for.
        last: usize,
        /// The number of blocks of the base.
        layers: usize,
    },
}

impl LoraError {
    /// The field of [`LoraConfig`] that is to blame.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Range { field, .. } => field,
            Self::Target { .. } | Self::Targets(_) => "targets",
            Self::Layers { .. } => "layers",
        }
    }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

/// Which blocks are adapted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layers {
    /// Every block.
    #[default]
    All,
    /// The last so many blocks.
    Last(usize),
}

/// How the factor A begins; B always begins at zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Init {
    /// Uniform in ±1/√in, whatever the rank is (PEFT's default).
    #[default]
    Kaiming,
    /// Normal with deviation 1/rank.
    Gaussian,
}

/// A LoRA adapter: `y = x·W + s·(x·Aᵀ)·Bᵀ`, with A `[rank, in]`, B `[out, rank]` and `s = alpha / rank`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Lora", deny_unknown_fields)]
pub struct LoraConfig {
    /// The inner width of the factors.
    pub rank: usize,
    /// The numerator of the scale.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// The linear modules that are adapted.
    #[serde(default = "targets")]
    pub targets: Vec<String>,
    /// The share of A's input that is dropped in training.
    #[serde(default)]
    pub dropout: f64,
    /// Whether the scale is `alpha / √rank` instead.
    #[serde(default)]
    pub rslora: bool,
    /// The blocks that are adapted.
    #[serde(default)]
    pub layers: Layers,
    /// How A begins.
    #[serde(default)]
    pub init: Init,
}

fn alpha() -> f64 {
    16.0
}

fn targets() -> Vec<String> {
    ["q_proj", "v_proj"].map(str::to_owned).to_vec()
}

impl LoraConfig {
    /// An adapter of this rank, all else at its default.
    pub fn of_rank(rank: usize) -> Self {
        Self {
            rank,
            alpha: alpha(),
            targets: targets(),
            dropout: 0.0,
            rslora: false,
            layers: Layers::All,
            init: Init::Kaiming,
        }
    }

    /// The factor `s` between the adapter's product and what it adds.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Whether a base of `config` can take this adapter.
    pub fn check(&self, config: &Config) -> Result<(), LoraError> {
        self.check_numbers()?;
        match self.layers {
            Layers::Last(last) if last == 0 || last > config.layers => {
                return Err(LoraError::Layers { last, layers: config.layers });
            }
            _ => {}
        }
        self.check_targets(config.family.targets())
    }

    /// Whether the numbers lie in their ranges, whatever the base is.
    pub fn check_numbers(&self) -> Result<(), LoraError> {
        let range = |field, value, expected| Err(LoraError::Range { field, value, expected });
        if self.rank == 0 {
            return range("rank", 0.0, "it is at least 1");
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return range("alpha", self.alpha, "it is above 0");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return range("dropout", self.dropout, "it is at least 0 and below 1");
        }
        Ok(())
    }

    fn check_targets(&self, known: &'static [&'static str]) -> Result<(), LoraError> {
        if self.targets.is_empty() {
            return Err(LoraError::Targets("is empty; an adapter needs at least one".to_owned()));
        }
        for (at, target) in self.targets.iter().enumerate() {
            if !known.contains(&target.as_str()) {
                let near = known.iter().map(|name| (strsim::jaro_winkler(name, target), *name));
                let near = near.filter(|(score, _)| *score > 0.7);
                let nearest =
                    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name.to_owned());
                let target = target.clone();
                return Err(LoraError::Target { target, nearest, known: known.to_vec() });
            }
            if self.targets[..at].contains(target) {
                return Err(LoraError::Targets(format!("names `{target}` twice")));
            }
        }
        Ok(())
    }

    /// The adapted blocks of a base of `layers` blocks.
    pub fn adapted(&self, layers: usize) -> std::ops::Range<usize> {
        match self.layers {
            Layers::All => 0..layers,
            Layers::Last(last) => layers.saturating_sub(last)..layers,
        }
    }
}
