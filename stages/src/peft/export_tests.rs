//! Exported folders and checkpoints against what their adapters say, for all that an adapter may carry.

use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::kinds::{Adapter, AdapterConfig};
use crate::model::recorded::Recorded;
use crate::model::tiny::{BLOOM, LLAMA, Tiny};
use crate::model::{Checkpoint, Config, Layers, LoraConfig, NamedFile, SINGLE_FILE, Targets};
use crate::parts::Parts;
use crate::seed::Draws;

/// A base whose query and value modules have different widths.
const GROUPED: Tiny = Tiny("families/mistral");

struct Case {
    model: Tiny,
    adapter: Adapter,
}

fn draw(draws: &mut Draws, shape: [usize; 2]) -> Matrix {
    #[expect(clippy::cast_possible_truncation, reason = "adapters are f32")]
    let value = |_| (0.3 * draws.normal()) as f32;
    (shape, (0..shape[0] * shape[1]).map(value).collect())
}

impl Case {
    /// An adapter with no zero in it; `rank` is that of the change of the module at a place, 0 for none.
    fn new(model: Tiny, lora: LoraConfig, rank: impl Fn(usize) -> usize) -> Self {
        let config = model.config();
        let mut draws = Draws::named(7, "test", &["export", model.0]);
        let fresh = init_adapter(&config, &lora, 2, 1).unwrap();
        let flat = draw(&mut draws, [1, fresh.length()]).1;
        let mut delta = Delta::new();
        for (at, module) in lora.modules(&config).unwrap().iter().enumerate() {
            let (inputs, outputs) = config.linear(config.family.targets()[module.slot]).unwrap();
            if rank(at) > 0 {
                let a = draw(&mut draws, [rank(at), inputs]);
                delta.add(&module.path, a, draw(&mut draws, [outputs, rank(at)]));
            }
        }
        let labels = ["bad", "good"].map(str::to_owned).to_vec();
        let (tensors, config) = (fresh.with_values(&flat), AdapterConfig { lora, labels });
        Self { model, adapter: Adapter { config, tensors, trained: None, delta: Some(delta) } }
    }

    /// What is added to each module's weight, in f64: the delta and `s·B·R·A`.
    fn added(&self) -> BTreeMap<String, Vec<f64>> {
        let config = self.model.config();
        let mut added = BTreeMap::new();
        for module in self.adapter.config.lora.modules(&config).unwrap() {
            let [a, b] = factor_names(&module.path);
            let (b_shape, b) = self.adapter.tensors.get(&b).unwrap();
            let mut b: Vec<f64> = b.iter().map(|value| f64::from(*value)).collect();
            let core = format!("base_model.model.{}.lora_R.weight", module.path);
            if let Some((shape, core)) = self.adapter.tensors.get(&core) {
                b = product((b_shape, &b), (shape, &widened(core)));
            }
            let (a_shape, a) = self.adapter.tensors.get(&a).unwrap();
            let own = product((b_shape, &b), (a_shape, &widened(a)));
            let own: Vec<f64> = own.into_iter().map(|value| module.scale * value).collect();
            added.insert(module.path, own);
        }
        for (path, change) in self.adapter.delta.iter().flat_map(Delta::iter) {
            let change = match change {
                Change::Dense((_, values)) => widened(values),
                Change::Factors { a, b } => product((b.0, &widened(&b.1)), (a.0, &widened(&a.1))),
            };
            match added.get_mut(path) {
                Some(own) => own.iter_mut().zip(change).for_each(|(own, more)| *own += more),
                None => drop(added.insert(path.to_owned(), change)),
            }
        }
        added
    }

    /// The folder that PEFT gets, read back, and the merged checkpoint, both against [`Case::added`].
    fn follow(&self) -> (LoraConfig, AdapterTensors) {
        let (folder, config) = (tempfile::tempdir().unwrap(), self.model.config());
        let written =
            write_adapter(folder.path(), &self.adapter, &config, &BaseName::default()).unwrap();
        let settings = read_settings(folder.path()).unwrap();
        assert_eq!(settings.modules(&config).unwrap(), written.modules(&config).unwrap());
        let tensors = fs::read(folder.path().join(TENSORS_FILE)).unwrap();
        let tensors = AdapterTensors::from_safetensors(&tensors).unwrap();
        assert_eq!(tensors.get(SCORE), self.adapter.tensors.get(SCORE));
        let wanted = self.added();
        let modules = settings.modules(&config).unwrap();
        assert_eq!(modules.len(), wanted.len());
        assert_eq!(tensors.iter().count(), 2 * modules.len() + 1, "and nothing else");
        for module in modules {
            let [a, b] = factor_names(&module.path);
            let ((a_shape, a), (b_shape, b)) = (tensors.get(&a).unwrap(), tensors.get(&b).unwrap());
            assert_eq!((a_shape[0], b_shape[1]), (module.rank, module.rank));
            let found = product((b_shape, &widened(b)), (a_shape, &widened(a)));
            let error = norm(
                found
                    .iter()
                    .zip(&wanted[&module.path])
                    .map(|(found, wanted)| module.scale * found - wanted),
            ) / norm(wanted[&module.path].iter().copied());
            assert!(error < 1e-6, "{:?}, {}: {error}", self.model, module.path);
        }
        self.follow_merged(&config, &wanted);
        (settings, tensors)
    }

    fn follow_merged(&self, config: &Config, added: &BTreeMap<String, Vec<f64>>) {
        let folder = tempfile::tempdir().unwrap();
        let bytes = self.model.bytes(SINGLE_FILE);
        let open = || Checkpoint::open(&[NamedFile { name: SINGLE_FILE, bytes: &bytes }]).unwrap();
        let json = self.model.bytes("config.json");
        write_merged(folder.path(), &self.adapter, &json, open()).unwrap();
        let has_cores = self.adapter.tensors.only(Parts::CORE).length() > 0;
        let merged = Recorded::open(&folder.path().join(SINGLE_FILE));
        let base = open().of_family(config.family);
        for (name, _) in base.tensors(config, false).unwrap() {
            let (before, found) = (base.values(&name).unwrap(), merged.floats(&name).1);
            let Some(added) = name.strip_suffix(".weight").and_then(|path| added.get(path)) else {
                assert_eq!(found, before, "`{name}` stays");
                continue;
            };
            let largest = added.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
            for ((before, added), found) in before.iter().zip(added).zip(found) {
                let wanted = f64::from(*before) + added;
                let error = (f64::from(found) - wanted).abs();
                // Half a place of f32, and what f64 loses on the way, or where a core was folded into B, f32.
                let lost = if has_cores { 1e-6 * largest } else { 1e-14 };
                assert!(error <= 6.0e-8 * wanted.abs() + lost, "`{name}`: {found}, not {wanted}");
            }
        }
    }
}

fn widened(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

fn product(b: ([usize; 2], &[f64]), a: ([usize; 2], &[f64])) -> Vec<f64> {
    let (([outputs, rank], b), ([same, inputs], a)) = (b, a);
    assert_eq!(rank, same);
    let value = |at: usize| {
        let (row, column) = (at / inputs, at % inputs);
        (0..rank).map(|r| b[row * rank + r] * a[r * inputs + column]).sum()
    };
    (0..outputs * inputs).map(value).collect()
}

fn is_dense(case: &Case) -> Vec<bool> {
    let delta = case.adapter.delta.as_ref().unwrap();
    delta.iter().map(|(_, change)| matches!(change, Change::Dense(_))).collect()
}

#[test]
fn factors_are_put_side_by_side() {
    let case = Case::new(LLAMA, LoraConfig::of_rank(4), |_| 6);
    assert!(!is_dense(&case).contains(&true));
    let (settings, _) = case.follow();
    assert_eq!((settings.rank, settings.alpha.to_bits()), (10, 10.0_f64.to_bits()));
    assert!(settings.rank_pattern.is_empty() && settings.targets.is_some());
}

#[test]
fn a_dense_change_has_an_identity_beside_it() {
    let case = Case::new(BLOOM, LoraConfig::of_rank(4), |_| 50);
    assert!(!is_dense(&case).contains(&false));
    assert_eq!(case.follow().0.rank, 64 + 4);
}

#[test]
fn changes_may_differ_from_module_to_module() {
    // Of these, only some are so large that they are dense, and some modules have none.
    let all = Targets::Pattern("all-linear".to_owned());
    for model in [LLAMA, GROUPED, BLOOM] {
        let lora = LoraConfig { targets: Some(all.clone()), ..LoraConfig::of_rank(3) };
        let case = Case::new(model, lora, |at| [0, 3, 60][at % 3]);
        assert!(is_dense(&case).contains(&true) && is_dense(&case).contains(&false));
        let (settings, _) = case.follow();
        assert!(settings.rank_pattern.len() > 2, "{:?}", settings.rank_pattern);
    }
}

#[test]
fn modules_with_ranks_of_their_own_keep_apart() {
    let lora = LoraConfig {
        rank_pattern: [("v_proj".to_owned(), 2)].into(),
        alpha_pattern: [(r"layers\.0\..*".to_owned(), 5.0)].into(),
        layers: Layers::Only(vec![0, 1]),
        rslora: true,
        ..LoraConfig::of_rank(7)
    };
    let case = Case::new(GROUPED, lora, |at| 1 + at);
    let (settings, _) = case.follow();
    assert!(!settings.rslora && settings.layers == Layers::Only(vec![0, 1]));
}

#[test]
fn a_change_of_a_module_without_factors_is_adapted_as_well() {
    let mut case = Case::new(LLAMA, LoraConfig::of_rank(4), |_| 3);
    let other = "model.layers.2.mlp.down_proj";
    let mut draws = Draws::named(1, "test", &["other"]);
    let (a, b) = (draw(&mut draws, [3, 132]), draw(&mut draws, [48, 3]));
    case.adapter.delta.as_mut().unwrap().add(other, a, b);
    let (settings, _) = case.follow();
    assert_eq!(settings.rank_pattern, [("down_proj".to_owned(), 3)].into());
}

#[test]
fn fresh_factors_do_not_raise_the_rank() {
    let mut case = Case::new(BLOOM, LoraConfig::of_rank(4), |_| 5);
    let fresh = init_adapter(&BLOOM.config(), &LoraConfig::of_rank(4), 2, 9).unwrap();
    case.adapter.tensors = fresh;
    assert_eq!(case.follow().0.rank, 5);
}

#[test]
fn cores_are_folded_with_a_delta_and_without_one() {
    for rank in [0, 3] {
        let mut case = Case::new(LLAMA, LoraConfig::of_rank(4), |_| rank);
        let mut draws = Draws::named(2, "test", &["cores"]);
        for module in case.adapter.config.lora.modules(&LLAMA.config()).unwrap() {
            let name = format!("base_model.model.{}.lora_R.weight", module.path);
            let (shape, values) = draw(&mut draws, [4, 4]);
            case.adapter.tensors = case.adapter.tensors.with(&name, shape, values);
        }
        assert_eq!(case.follow().0.rank, 4 + rank);
    }
}
