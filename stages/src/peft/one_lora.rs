//! What was added to the base and the adapter on top of it, as one adapter.

use std::collections::{BTreeMap, BTreeSet};

use super::delta::{below, beside};
use super::sum::narrow;
use super::{AdapterError, AdapterTensors, Matrix, factor_names};
use crate::error::Result;
use crate::kinds::Adapter;
use crate::model::{Config, Layers, LoraConfig, Module, Targets, check_delta};
use crate::parts::Parts;

/// One plain LoRA adapter of the base as it was, whose product for each module is what a rule has added to the base
/// plus the adapter's own: PEFT's tensors, and the settings that go with them.
///
/// Factors are put side by side (`[delta_A; A]` and `[delta_B, s·B]`), so that a module's rank is the sum of both, at
/// a scale of 1. A change that is one matrix has an identity beside it. Factors with a B of zeros, such as those that
/// `FLoRA` starts each round with, are left out, unless a module would have none. An adapter without a delta stays as it
/// is, but that its cores are folded into B.
///
/// # Errors
/// The adapter does not fit the base.
pub fn one_lora(adapter: &Adapter, config: &Config) -> Result<(AdapterTensors, LoraConfig)> {
    let tensors = adapter.tensors.clone().folded()?;
    let lora = &adapter.config.lora;
    let Some(delta) = adapter.delta.as_ref().filter(|delta| !delta.is_empty()) else {
        return Ok((tensors, lora.clone()));
    };
    check_delta(config, delta)?;
    let mut pairs: BTreeMap<String, (Matrix, Matrix)> = BTreeMap::new();
    for (path, change) in delta.iter() {
        pairs.insert(path.to_owned(), change.factors());
    }
    let modules = lora.modules(config)?;
    for module in &modules {
        let ([a, b], is_zero) = scaled(&tensors, module, config)?;
        let pair = match pairs.remove(&module.path) {
            Some(first) if is_zero => first,
            Some((first_a, first_b)) => (below(first_a, a), beside(&first_b, &b)),
            None => (a, b),
        };
        pairs.insert(module.path.clone(), pair);
    }
    let ranks = pairs.iter().map(|(path, (a, _))| (path.clone(), a.0[0])).collect();
    let settings = settings(lora, &modules, &ranks);
    let mut one = tensors.only(!Parts::FACTORS);
    for (path, factors) in pairs {
        for (name, (shape, values)) in factor_names(&path).iter().zip([factors.0, factors.1]) {
            one = one.with(name, shape, values);
        }
    }
    Ok((one, settings))
}

/// A and `s·B` of a module, and whether B is all zeros.
fn scaled(
    tensors: &AdapterTensors,
    module: &Module,
    config: &Config,
) -> Result<([Matrix; 2], bool), AdapterError> {
    let [a_name, b_name] = factor_names(&module.path);
    let (inputs, outputs) = config.linear(config.family.targets()[module.slot]).unwrap_or_default();
    let factor = |name: &str, wanted: [usize; 2]| match tensors.get(name) {
        Some((shape, values)) if shape == wanted => Ok(values),
        Some((shape, _)) => {
            Err(AdapterError::Mismatch(format!("`{name}` is {shape:?}, not {wanted:?}")))
        }
        None => Err(AdapterError::Mismatch(format!("`{name}` is missing"))),
    };
    let (a_shape, b_shape) = ([module.rank, inputs], [outputs, module.rank]);
    let (a, b) = (factor(&a_name, a_shape)?, factor(&b_name, b_shape)?);
    let is_zero = b.iter().all(|value| *value == 0.0);
    let b = b.iter().map(|value| narrow(module.scale * f64::from(*value))).collect();
    Ok(([(a_shape, a.to_vec()), (b_shape, b)], is_zero))
}

/// The settings of an adapter of these ranks, each at a scale of 1; `modules` are those of `lora`.
fn settings(lora: &LoraConfig, modules: &[Module], ranks: &BTreeMap<String, usize>) -> LoraConfig {
    let usual = usual(ranks);
    let rank_pattern = patterns(ranks, usual);
    let alpha_pattern =
        rank_pattern.iter().map(|(pattern, rank)| (pattern.clone(), *rank as f64)).collect();
    let own: BTreeSet<&String> = modules.iter().map(|module| &module.path).collect();
    let is_own = own.into_iter().eq(ranks.keys());
    let (targets, layers) = if is_own {
        (lora.targets.clone(), lora.layers.clone())
    } else {
        (Some(Targets::Names(ranks.keys().cloned().collect())), Layers::All)
    };
    LoraConfig {
        rank: usual,
        alpha: usual as f64,
        rank_pattern,
        alpha_pattern,
        rslora: false,
        targets,
        layers,
        ..lora.clone()
    }
}

/// The rank that most modules have, and the largest such.
fn usual(ranks: &BTreeMap<String, usize>) -> usize {
    let count = |rank: usize| ranks.values().filter(|other| **other == rank).count();
    ranks.values().copied().max_by_key(|rank| (count(*rank), *rank)).unwrap_or_default()
}

/// The patterns by which PEFT gives the modules with another rank than `usual` their own: the last part of their
/// paths where all that share it have the same rank, else the path.
fn patterns(ranks: &BTreeMap<String, usize>, usual: usize) -> BTreeMap<String, usize> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let mut met: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (path, rank) in ranks {
        met.entry(last(path)).or_default().insert(*rank);
    }
    let others = ranks.iter().filter(|(_, rank)| **rank != usual);
    let pattern = |path: &str| {
        let target = last(path);
        let is_shared = met.get(&target).is_some_and(|ranks| ranks.len() == 1);
        if is_shared { target } else { path.replace('.', r"\.") }
    };
    others.map(|(path, rank)| (pattern(path), *rank)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::AdapterConfig;
    use crate::model::tiny::{self, BLOOM};
    use crate::peft::{Delta, SCORE, init_adapter};

    fn matrix(rows: usize, columns: usize, of: impl Fn(usize) -> f32) -> Matrix {
        ([rows, columns], (0..rows * columns).map(of).collect())
    }

    #[test]
    fn fresh_factors_are_left_out_unless_a_module_would_have_none() {
        let lora = LoraConfig { rslora: true, ..LoraConfig::of_rank(4) };
        let tensors = init_adapter(&tiny::config(), &lora, 2, 3).unwrap();
        let mut delta = Delta::new();
        let changed = "model.layers.1.self_attn.q_proj";
        let (a, b) = (matrix(6, 48, |i| i as f32), matrix(48, 6, |i| -(i as f32)));
        delta.add(changed, a.clone(), b.clone());
        let config = AdapterConfig { lora, labels: vec!["bad".to_owned(), "good".to_owned()] };
        let adapter = Adapter { config, tensors, trained: None, delta: Some(delta) };
        let (one, settings) = one_lora(&adapter, &tiny::config()).unwrap();
        let [a_name, b_name] = factor_names(changed);
        assert_eq!(one.get(&a_name), Some((a.0, a.1.as_slice())));
        assert_eq!(one.get(&b_name), Some((b.0, b.1.as_slice())));
        assert_eq!(one.get(SCORE), adapter.tensors.get(SCORE));
        let [other, _] = factor_names("model.layers.0.self_attn.q_proj");
        assert_eq!(one.get(&other), adapter.tensors.get(&other), "the others have only these");
        assert_eq!((settings.rank, settings.alpha.to_bits()), (4, 4.0_f64.to_bits()));
        assert!(!settings.rslora);
        assert_eq!(settings.rank_pattern, [(changed.replace('.', r"\."), 6)].into());
        let modules = settings.modules(&tiny::config()).unwrap();
        assert!(modules.iter().all(|module| (module.scale - 1.0).abs() < 1e-15));
        assert_eq!(
            modules.iter().map(|module| module.rank).collect::<Vec<_>>(),
            [4, 4, 6, 4, 4, 4]
        );
    }

    #[test]
    fn patterns_are_names_of_targets_where_these_say_enough() {
        let of = |ranks: &[(&str, usize)]| {
            let ranks = ranks.iter().map(|&(path, rank)| (path.to_owned(), rank)).collect();
            (usual(&ranks), patterns(&ranks, usual(&ranks)))
        };
        let ranks = [("a.0.q", 4), ("a.0.v", 8), ("a.1.q", 4), ("a.1.v", 8), ("a.2.q", 4)];
        assert_eq!(of(&ranks), (4, [("v".to_owned(), 8)].into()));
        let ranks = [("a.0.q", 4), ("a.1.q", 5), ("a.2.q", 4)];
        assert_eq!(of(&ranks), (4, [(r"a\.1\.q".to_owned(), 5)].into()));
        assert_eq!(of(&[("a.0.q", 4), ("a.1.q", 5)]).0, 5);
    }

    #[test]
    fn what_does_not_fit_the_base_is_named() {
        let lora = LoraConfig::of_rank(2);
        let config = AdapterConfig { lora: lora.clone(), labels: Vec::new() };
        let path = "transformer.h.0.self_attention.query_key_value";
        let refused = |tensors: AdapterTensors, path: &str, outputs: usize| {
            let mut delta = Delta::new();
            delta.add(path, matrix(1, 64, |_| 1.0), matrix(outputs, 1, |_| 1.0));
            let config = config.clone();
            let adapter = Adapter { config, tensors, trained: None, delta: Some(delta) };
            one_lora(&adapter, &BLOOM.config()).unwrap_err().to_string()
        };
        let tensors = init_adapter(&BLOOM.config(), &lora, 0, 3).unwrap();
        let text = refused(tensors.clone(), "lm_head", 64);
        assert!(text.contains("`lm_head` is of no module"), "{text}");
        let text = refused(tensors.clone(), path, 64);
        assert!(text.contains("its weight is [192, 64]"), "{text}");
        let [a, _] = factor_names(path);
        let text = refused(tensors.without(&a), path, 192);
        assert!(text.ends_with("lora_A.weight` is missing"), "{text}");
    }
}
