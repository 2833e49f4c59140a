//! What a user says of a LoRA adapter, and whether a base can take it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::config::Config;
use super::targets::{Meant, Targets, is_idle, of_patterns};

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
    /// A pattern is not a regular expression.
    #[error("`{pattern}` is no regular expression: {reason}")]
    Regex {
        /// The field that has it.
        field: &'static str,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A pattern that nothing matches.
    #[error("`{pattern}` matches no module; the path of one is `{example}`")]
    NoMatch {
        /// The field that has it.
        field: &'static str,
        /// The pattern.
        pattern: String,
        /// What such a pattern is matched with.
        example: String,
    },
    /// A pattern that matches a module which cannot be adapted here.
    #[error(
        "`{pattern}` also matches `{path}`, which is not adapted here; let it match linear modules of the blocks only"
    )]
    Beyond {
        /// The pattern.
        pattern: String,
        /// The module.
        path: &'static str,
    },
    /// Two patterns for one module.
    #[error("two patterns match `{path}`; let only one of them match it")]
    TwoMatch {
        /// The field that has them.
        field: &'static str,
        /// The module.
        path: String,
    },
    /// More blocks than the base has.
    #[error("`layers: Last({last})` does not fit a base of {layers} blocks")]
    Layers {
        /// The number of blocks asked for.
        last: usize,
        /// The number of blocks of the base.
        layers: usize,
    },
    /// A block that the base does not have, or none.
    #[error("`layers` {what}; the blocks of the base are 0 to {}", layers.saturating_sub(1))]
    Only {
        /// What is wrong.
        what: String,
        /// The number of blocks of the base.
        layers: usize,
    },
}

impl LoraError {
    /// The field of [`LoraConfig`] that is to blame.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Range { field, .. }
            | Self::Regex { field, .. }
            | Self::NoMatch { field, .. }
            | Self::TwoMatch { field, .. } => field,
            Self::Target { .. } | Self::Targets(_) | Self::Beyond { .. } => "targets",
            Self::Layers { .. } | Self::Only { .. } => "layers",
        }
    }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean `{name}`?)")).unwrap_or_default()
}

/// Which blocks are adapted: PEFT's `layers_to_transform`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Layers {
    /// Every block.
    #[default]
    All,
    /// The last so many blocks.
    Last(usize),
    /// These blocks, counted from 0.
    Only(Vec<usize>),
}

impl Layers {
    /// Whether the block `layer` of `layers` is meant.
    pub fn has(&self, layer: usize, layers: usize) -> bool {
        match self {
            Self::All => true,
            Self::Last(last) => layer + last >= layers,
            Self::Only(list) => list.contains(&layer),
        }
    }

    fn check(&self, layers: usize) -> Result<(), LoraError> {
        let wrong = |what: String| Err(LoraError::Only { what, layers });
        match self {
            Self::Last(last) if *last == 0 || *last > layers => {
                Err(LoraError::Layers { last: *last, layers })
            }
            Self::Only(list) if list.is_empty() => wrong("is empty".to_owned()),
            Self::Only(list) => match list.iter().find(|&&layer| layer >= layers) {
                Some(layer) => wrong(format!("names block {layer}")),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
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

/// A LoRA adapter: `y = x·W + s·(x·Aᵀ)·Bᵀ`, with A `[rank, in]`, B `[out, rank]` and `s = alpha / rank` (Hu et al.
/// 2021, 2106.09685), as PEFT has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Lora", deny_unknown_fields)]
pub struct LoraConfig {
    /// The inner width of the factors.
    pub rank: usize,
    /// The numerator of the scale.
    #[serde(default = "alpha")]
    pub alpha: f64,
    /// The linear modules that are adapted; what PEFT takes for the family unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// Other ranks for the modules whose path ends in a match of a pattern.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas, likewise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// The share of A's input that is dropped in training.
    #[serde(default)]
    pub dropout: f64,
    /// Whether the scale is `alpha / √rank` instead (Kalajdzievski 2023, 2312.03732).
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

/// A module of a base that is adapted.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// The block.
    pub layer: usize,
    /// The module's place among the family's targets.
    pub slot: usize,
    /// Its path in the base: `model.layers.3.self_attn.q_proj`.
    pub path: String,
    /// Its own rank.
    pub rank: usize,
    /// The factor `s` between the product of its factors and what that adds.
    pub scale: f64,
}

impl LoraConfig {
    /// An adapter of this rank, all else at its default.
    pub fn of_rank(rank: usize) -> Self {
        Self {
            rank,
            alpha: alpha(),
            targets: None,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            dropout: 0.0,
            rslora: false,
            layers: Layers::All,
            init: Init::Kaiming,
        }
    }

    /// The modules that are adapted, block after block, each block's in the order of the family's targets.
    ///
    /// # Errors
    /// A base of `config` cannot take this adapter.
    pub fn modules(&self, config: &Config) -> Result<Vec<Module>, LoraError> {
        self.check_numbers()?;
        self.layers.check(config.layers)?;
        let (all, known) = (places(config), config.family.targets());
        let paths: Vec<String> = all.iter().map(|(.., path)| path.clone()).collect();
        let default = Targets::names(config.family.default_targets());
        let targets = self.targets.as_ref().unwrap_or(&default);
        let meant = targets.of(&paths, known, &config.family.other_modules())?;
        let kept = all.into_iter().zip(meant).filter(|((layer, ..), meant)| match meant {
            Meant::Not => false,
            Meant::ByRule => self.layers.has(*layer, config.layers),
            Meant::ByPath => true,
        });
        let kept: Vec<(usize, usize, String)> = kept.map(|(place, _)| place).collect();
        if kept.is_empty() {
            let what = "leaves no block in which there is a target".to_owned();
            return Err(LoraError::Only { what, layers: config.layers });
        }
        let paths: Vec<String> = kept.iter().map(|(.., path)| path.clone()).collect();
        let ranks = of_patterns("rank_pattern", self.rank_pattern.clone(), &paths)?;
        let alphas = of_patterns("alpha_pattern", self.alpha_pattern.clone(), &paths)?;
        let own = ranks.into_iter().zip(alphas);
        let modules = kept.into_iter().zip(own).map(|((layer, slot, path), (rank, alpha))| {
            let rank = rank.unwrap_or(self.rank);
            let scale = self.scale(rank, alpha.unwrap_or(self.alpha));
            Module { layer, slot, path, rank, scale }
        });
        Ok(modules.collect())
    }

    /// The same settings without names and patterns that match no module of a base of `config`: PEFT passes over
    /// them, and its users have folders with such.
    #[must_use]
    pub fn fitted(&self, config: &Config) -> Self {
        let paths: Vec<String> = places(config).into_iter().map(|(.., path)| path).collect();
        let mut fitted = self.clone();
        fitted.targets = fitted.targets.map(|targets| targets.fitted(&paths));
        let adapted = Self {
            targets: fitted.targets.clone(),
            layers: self.layers.clone(),
            ..Self::of_rank(1)
        };
        if let Ok(modules) = adapted.modules(config) {
            let paths: Vec<String> = modules.into_iter().map(|module| module.path).collect();
            fitted.rank_pattern.retain(|pattern, _| !is_idle(pattern, &paths));
            fitted.alpha_pattern.retain(|pattern, _| !is_idle(pattern, &paths));
        }
        fitted
    }

    /// The alpha with which an adapter of another rank has this one's scale.
    pub fn alpha_for(&self, rank: usize) -> f64 {
        let ratio = rank as f64 / self.rank as f64;
        self.alpha * if self.rslora { ratio.sqrt() } else { ratio }
    }

    /// The same settings at another rank, with the alphas that keep the scales. Modules with ranks of their own keep
    /// these, and their alphas.
    #[must_use]
    pub fn of_other_rank(&self, rank: usize) -> Self {
        if rank == self.rank {
            return self.clone();
        }
        let ratio = self.alpha_for(rank) / self.alpha;
        let mut other = Self { rank, alpha: self.alpha_for(rank), ..self.clone() };
        for (pattern, alpha) in &mut other.alpha_pattern {
            if !self.rank_pattern.contains_key(pattern) {
                *alpha *= ratio;
            }
        }
        // A rank of its own goes with the alpha of all, unless there is one for it.
        for pattern in self.rank_pattern.keys() {
            other.alpha_pattern.entry(pattern.clone()).or_insert(self.alpha);
        }
        other
    }

    /// The scales of the modules at `paths`, which are all that are adapted, with their ranks.
    ///
    /// # Errors
    /// A pattern matches none of them, or two match one.
    pub fn scales(&self, paths: &[String], ranks: &[usize]) -> Result<Vec<f64>, LoraError> {
        let alphas = of_patterns("alpha_pattern", self.alpha_pattern.clone(), paths)?;
        let scale =
            |(alpha, &rank): (Option<f64>, &usize)| self.scale(rank, alpha.unwrap_or(self.alpha));
        Ok(alphas.into_iter().zip(ranks).map(scale).collect())
    }

    /// The ranks of the modules at `paths`, which are all that are adapted.
    ///
    /// # Errors
    /// A pattern matches none of them, or two match one.
    pub fn ranks(&self, paths: &[String]) -> Result<Vec<usize>, LoraError> {
        let ranks = of_patterns("rank_pattern", self.rank_pattern.clone(), paths)?;
        Ok(ranks.into_iter().map(|rank| rank.unwrap_or(self.rank)).collect())
    }

    fn scale(&self, rank: usize, alpha: f64) -> f64 {
        let rank = rank as f64;
        alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Whether a base of `config` can take this adapter.
    pub fn check(&self, config: &Config) -> Result<(), LoraError> {
        self.modules(config).map(drop)
    }

    /// Whether the numbers lie in their ranges, whatever the base is.
    pub fn check_numbers(&self) -> Result<(), LoraError> {
        let range = |field, value, expected| Err(LoraError::Range { field, value, expected });
        let ranks = |field, rank| match rank {
            0 => range(field, 0.0, "it is at least 1"),
            _ => Ok(()),
        };
        let alphas = |field, alpha: f64| {
            if alpha.is_finite() && alpha > 0.0 {
                return Ok(());
            }
            range(field, alpha, "it is above 0")
        };
        ranks("rank", self.rank)?;
        self.rank_pattern.values().try_for_each(|&rank| ranks("rank_pattern", rank))?;
        alphas("alpha", self.alpha)?;
        self.alpha_pattern.values().try_for_each(|&alpha| alphas("alpha_pattern", alpha))?;
        if !(0.0..1.0).contains(&self.dropout) {
            return range("dropout", self.dropout, "it is at least 0 and below 1");
        }
        Ok(())
    }
}

/// Every module that could be adapted: its block, its slot and its path.
pub(super) fn places(config: &Config) -> Vec<(usize, usize, String)> {
    let known = config.family.targets();
    let places =
        (0..config.layers).flat_map(|layer| (0..known.len()).map(move |slot| (layer, slot)));
    places
        .filter_map(|(layer, slot)| Some((layer, slot, config.module(layer, known[slot])?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tiny;

    #[test]
    fn every_module_has_its_own_rank_and_scale() {
        let lora = LoraConfig {
            targets: Some(Targets::names(&["q_proj", "v_proj"])),
            rank_pattern: [("v_proj".to_owned(), 4)].into(),
            alpha_pattern: [(r"layers\.2\..*".to_owned(), 32.0)].into(),
            layers: Layers::Only(vec![2, 0]),
            ..LoraConfig::of_rank(8)
        };
        let modules = lora.modules(&tiny::config()).unwrap();
        let found: Vec<_> = modules.iter().map(|m| (m.layer, m.slot, m.rank, m.scale)).collect();
        assert_eq!(found, [(0, 0, 8, 2.0), (0, 2, 4, 4.0), (2, 0, 8, 4.0), (2, 2, 4, 8.0)]);
        let paths: Vec<String> = modules.iter().map(|module| module.path.clone()).collect();
        let scales = lora.scales(&paths, &[8, 4, 8, 4]).unwrap();
        assert_eq!(scales, [2.0, 4.0, 4.0, 8.0], "without a base, too");
        assert_eq!(lora.ranks(&paths).unwrap(), [8, 4, 8, 4]);
        let path = "model.layers.1.mlp.up_proj";
        let by_path = LoraConfig {
            targets: Some(Targets::names(&["q_proj", path])),
            layers: Layers::Last(1),
            ..LoraConfig::of_rank(2)
        };
        let modules = by_path.modules(&tiny::config()).unwrap();
        let paths: Vec<&str> = modules.iter().map(|module| module.path.as_str()).collect();
        assert_eq!(
            paths,
            [path, "model.layers.2.self_attn.q_proj"],
            "a whole path is meant in any block"
        );
        let rslora = LoraConfig { rslora: true, ..lora };
        let scale = rslora.modules(&tiny::config()).unwrap()[1].scale;
        assert!((scale - 8.0).abs() < 1e-12);
    }

    #[test]
    fn what_the_base_cannot_take_is_refused() {
        let fault = |lora: LoraConfig| {
            let fault = lora.check(&tiny::config()).unwrap_err();
            (fault.field(), fault.to_string())
        };
        let of = || LoraConfig::of_rank(8);
        let (field, text) = fault(LoraConfig { layers: Layers::Only(vec![3]), ..of() });
        assert_eq!(
            (field, text.as_str()),
            ("layers", "`layers` names block 3; the blocks of the base are 0 to 2")
        );
        assert_eq!(fault(LoraConfig { layers: Layers::Only(vec![]), ..of() }).0, "layers");
        assert_eq!(fault(LoraConfig { layers: Layers::Last(4), ..of() }).0, "layers");
        let ranks = [("q_proj".to_owned(), 0)].into();
        assert_eq!(fault(LoraConfig { rank_pattern: ranks, ..of() }).0, "rank_pattern");
        let ranks = [("k_proj".to_owned(), 2)].into();
        let (field, text) = fault(LoraConfig { rank_pattern: ranks, ..of() });
        assert_eq!(field, "rank_pattern");
        assert!(text.contains("`k_proj` matches no module"), "{text}");
    }

    #[test]
    fn settings_of_peft_are_fitted_to_the_base() {
        let lora = LoraConfig {
            targets: Some(Targets::names(&["q_proj", "query_key_value"])),
            rank_pattern: [("q_proj".to_owned(), 4), ("dense".to_owned(), 2)].into(),
            ..LoraConfig::of_rank(8)
        };
        assert!(lora.check(&tiny::config()).is_err());
        let fitted = lora.fitted(&tiny::config());
        let ranks: Vec<usize> =
            fitted.modules(&tiny::config()).unwrap().iter().map(|module| module.rank).collect();
        assert_eq!(ranks, [4, 4, 4]);
    }
}
