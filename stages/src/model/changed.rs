//! A base whose weights a rule has added to.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use burn::tensor::{Device, Tensor, TensorData};

use super::block::Block;
use super::config::Config;
use super::linear::on_host;
use super::lora::places;
use super::{Base, Blocks, Checkpoint, fuse};
use crate::error::Result as StepResult;
use crate::peft::{AdapterError, Change, Delta, Matrix};

impl Base {
    /// The base with `delta` added to its weights. All tensors that do not change are shared with this one.
    ///
    /// The product of two factors is formed in f32 on the CPU, whatever the base's device is: accelerators may take
    /// fewer digits for f32 (TF32), and a rule that adds to the base does so to be exact.
    ///
    /// # Errors
    /// A change is of a module that this base does not have, or of another shape than its weight.
    ///
    /// # Panics
    /// Where the weights are rounded: then [`Base::with_delta_of`] knows what they were.
    pub fn with_delta(&self, delta: &Delta) -> Result<Self, AdapterError> {
        assert!(self.precision.is_f32(), "what is added to rounded weights would be rounded apart");
        let mut blocks = self.blocks.clone();
        for (layer, slot, change) in changed_modules(&self.config, delta)? {
            let change = self.placed(change);
            match &mut blocks {
                Blocks::Stock(blocks) => blocks[layer].add(slot, &change),
                Blocks::Fused(decoder) => decoder.add(layer, slot, &on_host(change)),
            }
        }
        Ok(self.with_blocks(blocks))
    }

    /// [`Base::with_delta`] for a base of any precision: the changed blocks are read again from the checkpoint that
    /// the base was read from, the delta is added in f32, and the sum is rounded once.
    ///
    /// # Errors
    /// As [`Base::with_delta`]; or the checkpoint can no longer be read.
    pub fn with_delta_of(&self, delta: &Delta, checkpoint: Checkpoint<'_>) -> StepResult<Self> {
        let rules = self.config.family.rules();
        let checkpoint = checkpoint.of_family(self.config.family);
        let mut anew: BTreeMap<usize, Block> = BTreeMap::new();
        for (layer, slot, change) in changed_modules(&self.config, delta)? {
            let block = match anew.entry(layer) {
                Entry::Occupied(block) => block.into_mut(),
                Entry::Vacant(place) => {
                    place.insert(rules.block(&self.config, &checkpoint, layer, &self.device)?)
                }
            };
            block.add(slot, &self.placed(change));
        }
        let mut blocks = self.blocks.clone();
        for (layer, mut block) in anew {
            block.round(self.precision);
            match &mut blocks {
                Blocks::Stock(blocks) => blocks[layer] = block,
                Blocks::Fused(decoder) => decoder.replace(layer, fuse::parts(&block)),
            }
        }
        Ok(self.with_blocks(blocks))
    }

    /// The base with other blocks, which shares all else.
    fn with_blocks(&self, blocks: Blocks) -> Self {
        Self {
            config: self.config.clone(),
            precision: self.precision,
            device: self.device.clone(),
            embeddings: self.embeddings.clone(),
            embedding_norm: self.embedding_norm.clone(),
            blocks,
            final_norm: self.final_norm.clone(),
            causal_head: self.causal_head.clone(),
            positions: self.positions.clone(),
        }
    }

    /// A change as a matrix `[out, in]` on the base's device.
    fn placed(&self, change: &Change) -> Tensor<2> {
        match change {
            Change::Dense(matrix) => on_device(matrix, &self.device),
            Change::Factors { a, b } => {
                let host = Device::flex();
                let product = on_device(b, &host).matmul(on_device(a, &host));
                Tensor::from_data(product.into_data(), &self.device)
            }
        }
    }
}

fn on_device((shape, values): &Matrix, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.clone(), *shape), device)
}

/// Checks that each change of `delta` has the shape `[out, in]` of a module of a base of `config`.
///
/// # Errors
/// The first that has not is named.
pub(crate) fn check_delta(config: &Config, delta: &Delta) -> Result<(), AdapterError> {
    changed_modules(config, delta).map(drop)
}

/// The changes with the blocks and slots of their modules.
fn changed_modules<'a>(
    config: &Config,
    delta: &'a Delta,
) -> Result<Vec<(usize, usize, &'a Change)>, AdapterError> {
    let places = places(config);
    let place = |(path, change): (&str, &'a Change)| {
        let wrong = |what: String| AdapterError::Mismatch(format!("the change of `{path}` {what}"));
        let found = places.iter().find(|(.., known)| known == path);
        let Some(&(layer, slot, _)) = found else {
            return Err(wrong("is of no module of the base".to_owned()));
        };
        let widths = config.linear(config.family.targets()[slot]);
        let shape = widths.map(|(inputs, outputs)| [outputs, inputs]);
        if shape != Some(change.shape()) {
            let shape = shape.unwrap_or_default();
            return Err(wrong(format!("is {:?}, and its weight is {shape:?}", change.shape())));
        }
        Ok((layer, slot, change))
    };
    delta.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recorded::{self, apart};
    use crate::model::tiny::{BLOOM, LLAMA, Tiny};
    use crate::model::{Checkpoint, Factors, Layout, LoraConfig, NamedFile, SINGLE_FILE, Targets};
    use crate::peft::{AdapterTensors, factor_names, init_adapter};
    use crate::seed::Draws;

    /// Six query heads share two key and value heads.
    const GROUPED: Tiny = Tiny("families/llama-gqa-llama3");

    fn settings() -> LoraConfig {
        LoraConfig {
            targets: Some(Targets::Pattern("all-linear".to_owned())),
            alpha: 6.0,
            ..LoraConfig::of_rank(3)
        }
    }

    /// An adapter of every linear module, with no zero in it.
    fn adapter(config: &Config, seed: u64) -> AdapterTensors {
        let fresh = init_adapter(config, &settings(), 0, 1).unwrap();
        let mut draws = Draws::named(seed, "test", &["changed"]);
        #[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
        let flat: Vec<f32> =
            (0..fresh.length()).map(|_| (0.4 * draws.unit() - 0.2) as f32).collect();
        fresh.with_values(&flat)
    }

    /// The same as a change of the base; each second module's as one matrix.
    fn delta(config: &Config, adapter: &AdapterTensors) -> Delta {
        let mut delta = Delta::new();
        for (at, module) in settings().modules(config).unwrap().iter().enumerate() {
            let [a, b] = factor_names(&module.path).map(|name| {
                let (shape, values) = adapter.get(&name).unwrap();
                (shape, values.to_vec())
            });
            let b = (b.0, b.1.iter().map(|value| 2.0 * value).collect());
            delta.add(&module.path, a.clone(), b);
            if at % 2 == 0 {
                // Zeros of so high a rank that the matrix itself is smaller.
                let ([rank, inputs], outputs) = (a.0, delta.get(&module.path).unwrap().shape()[0]);
                let wide = inputs.max(outputs) * 2 + rank;
                let zeros = |shape: [usize; 2]| (shape, vec![0.0; shape[0] * shape[1]]);
                delta.add(&module.path, zeros([wide, inputs]), zeros([outputs, wide]));
                assert!(matches!(delta.get(&module.path), Some(Change::Dense(_))));
            }
        }
        delta
    }

    fn logits(base: &Base, adapters: Option<&AdapterTensors>) -> Vec<f32> {
        let rows: Vec<Vec<u32>> = (1..5_u32)
            .map(|row| (0..4 + row).map(|at| 4 + (at * 7 + row * 3) % 40).collect())
            .collect();
        let batch = recorded::batch(&rows, &vec![0; rows.len()], base);
        let layout = Layout::new(base.config(), &settings(), 0).unwrap();
        let factors = adapters.map(|adapter| {
            let flat = layout.stack(&[layout.pack(adapter, &layout).unwrap()], base.device());
            Factors::new(&[(&layout, &layout.split(&flat))], &[&layout], base.device())
        });
        let hidden = base.read(&batch, factors.as_ref(), None);
        hidden.matmul(base.causal_head().clone().transpose()).try_into_vec_as().unwrap()
    }

    #[test]
    fn a_changed_base_says_what_the_base_with_an_adapter_says() {
        for model in [LLAMA, GROUPED, BLOOM] {
            let base = model.base();
            let first = adapter(base.config(), 1);
            let changed = base.with_delta(&delta(base.config(), &first)).unwrap();
            let (plain, wanted) = (logits(&base, None), logits(&base, Some(&first)));
            let far = apart(&logits(&changed, None), &wanted);
            let moved = apart(&plain, &wanted);
            assert!(far < 1e-5 && moved > 0.05, "{model:?}: {far}, moved {moved}");
            assert_eq!(logits(&base, None), plain, "the base itself stays");

            // An adapter on top, and one change after the other.
            let second = adapter(base.config(), 2);
            let twice = changed.with_delta(&delta(base.config(), &second)).unwrap();
            let far = apart(&logits(&changed, Some(&second)), &logits(&twice, None));
            assert!(far < 1e-5, "{model:?}: {far}");
            let mut sum = delta(base.config(), &first);
            for (path, change) in delta(base.config(), &second).iter() {
                let (a, b) = change.factors();
                sum.add(path, a, b);
            }
            let at_once = base.with_delta(&sum).unwrap();
            let far = apart(&logits(&at_once, None), &logits(&twice, None));
            assert!(far < 1e-5, "{model:?}: {far}");
        }
    }

    #[test]
    fn the_product_of_factors_is_as_exact_as_f32_is() {
        let mut draws = Draws::named(3, "test", &["product"]);
        #[expect(clippy::cast_possible_truncation, reason = "factors are f32")]
        let mut matrix = |shape: [usize; 2]| -> Matrix {
            (shape, (0..shape[0] * shape[1]).map(|_| draws.normal() as f32).collect())
        };
        let (a, b) = (matrix([160, 200]), matrix([300, 160]));
        let wanted = Change::Factors { a: a.clone(), b: b.clone() }.dense().1;
        let base = LLAMA.base();
        let found: Vec<f32> = base.placed(&Change::Factors { a, b }).try_into_vec_as().unwrap();
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
        let error = norm(&mut found.iter().zip(&wanted).map(|(a, b)| f64::from(a - b)));
        let error = error / norm(&mut wanted.iter().map(|x| f64::from(*x)));
        assert!(error < 1e-6, "{error}");
    }

    #[test]
    fn a_change_of_another_base_is_refused_by_name() {
        let base = LLAMA.base();
        let refused = |path: &str, [outputs, inputs]: [usize; 2]| {
            let mut delta = Delta::new();
            delta.add(path, ([1, inputs], vec![0.0; inputs]), ([outputs, 1], vec![0.0; outputs]));
            base.with_delta(&delta).err().expect("it is refused").to_string()
        };
        let text = refused("model.layers.7.self_attn.q_proj", [48, 48]);
        assert!(text.contains("`model.layers.7.self_attn.q_proj` is of no module"), "{text}");
        let text = refused("model.layers.0.self_attn.q_proj", [48, 47]);
        assert!(text.ends_with("is [48, 47], and its weight is [48, 48]"), "{text}");
    }

    #[test]
    fn a_causal_head_that_is_loaded_later_is_there_for_changed_bases() {
        let bytes = LLAMA.bytes(SINGLE_FILE);
        let file = [NamedFile { name: SINGLE_FILE, bytes: &bytes }];
        let open = || Checkpoint::open(&file).unwrap();
        let base = Base::load(LLAMA.config(), open(), &Device::flex()).unwrap();
        let changed = base.with_delta(&Delta::new()).unwrap();
        assert!(!changed.has_causal_head());
        base.load_causal_head(&open()).unwrap();
        assert!(changed.has_causal_head());
    }
}
